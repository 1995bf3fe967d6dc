"""Brings a session out of the prearchive: waits for it, builds it, has it archived, believes the state and not the answer.

Archiving answers 500 for every failure and also when it merely takes longer than the server cares to wait, and goes on. So
after each answer the session itself is looked at: gone means archived, CONFLICT and ERROR come with a log.
"""

import time

from lading.errors import Refused, TargetMissing, TargetUnavailable
from xnat_importer import errors
from xnat_importer.errand import Errand, Pace
from xnat_importer.target import Waiting

_FAILED = ("CONFLICT", "ERROR")
_XNAT_WAITS_S = 330.0
_MAY_BE_FULL = ("no space left", "disk full", "quota")


def settle(errand: Errand, waiting: Waiting, *, joins: bool, sent_by_us: bool) -> None:
    """Return when `waiting` is archived, or READY where the policy leaves it to a person.

    `joins`: the archive holds the session already and it is ours, so this part is appended to it. `sent_by_us`: it came by
    the upload route, where XNAT waits for us. Raises Refused with the log's words, TargetUnavailable when it is stuck.
    """
    step = _Step(errand, joins)
    pace = Pace()
    while True:
        now = _again(errand, waiting)
        if now is None:
            return
        quiet = pace.quiet_for((now.status, now.changed))
        status = now.status.upper()
        if status in _FAILED:
            step.try_once_more(now)
        elif status == "READY":
            if errand.route.archive == "never":
                return
            patient = now.auto_archives and errand.route.archive == "auto" and not sent_by_us and not joins
            if (not patient or quiet > errand.server.grace) and step.may_ask_again() and step.archive(now):
                return
        elif status.startswith("RECEIVING") and quiet > _sender_is_silent_after(errand, sent_by_us=sent_by_us):
            step.build(now)
        if quiet > errand.server.patience:
            raise TargetUnavailable(
                f"importing {errand.target}: the prearchive session {now.uri} has been {now.status} for {quiet:.0f} s",
                safe="The data is in XNAT's prearchive and in the inbox.",
                next_command="lading retry",
            )
        pace.wait()


def _sender_is_silent_after(errand: Errand, *, sent_by_us: bool) -> float:
    if sent_by_us:
        return 0.0
    # What we did not send may still be coming from a scanner; XNAT itself waits for five minutes.
    return min(errand.server.grace, 5.0) if errand.claimed else _XNAT_WAITS_S


class _Step:
    """The requests that change a prearchive session, and what came of them so far."""

    def __init__(self, errand: Errand, joins: bool) -> None:  # noqa: FBT001 - a private class
        self._errand, self._joins = errand, joins
        self._asked_at = 0.0
        self._tried_failed = False
        self._said = ""
        self._built_at = 0.0

    def may_ask_again(self) -> bool:
        """After a time-out XNAT may be at work without showing it; it gets the grace period before we repeat."""
        return not self._asked_at or time.monotonic() - self._asked_at > self._errand.server.grace

    def build(self, now: Waiting) -> None:
        """Have XNAT write the session's description. A lock (409) is waited for."""
        if self._built_at and time.monotonic() - self._built_at < self._errand.server.grace:
            return
        self._built_at = time.monotonic()
        doing = f"building {now.uri}"
        response = self._errand.session.post(
            now.path, doing=doing, query=[("action", "build")], timeout=self._errand.server.archive_timeout
        )
        if response.status_code not in (200, 301, 404, 409, 423) and response.status_code < 500:
            raise errors.from_response(response, doing=doing, url=self._errand.session.url)

    def try_once_more(self, now: Waiting) -> None:
        """A failure may be from an attempt before somebody put things right: one attempt of our own decides."""
        if self._tried_failed or (self._asked_at and now.status.upper() == "CONFLICT"):
            raise self._refusal(now)
        self._tried_failed = True
        if now.status.upper() == "ERROR":
            self._built_at = 0.0
            self.build(now)
        self.archive(now)

    def archive(self, now: Waiting) -> bool:
        """Ask for archiving; True when XNAT says that it is done. Raises Refused for a conflict found beforehand."""
        self._demand_no_conflict(now)
        doing = f"archiving {now.uri}"
        query = [("src", now.uri)] + ([("overwrite", "append")] if self._joins else [])
        self._asked_at = time.monotonic()
        try:
            response = self._errand.session.post(
                "/data/services/archive", doing=doing, query=query, timeout=self._errand.server.archive_timeout
            )
        except TargetUnavailable as exc:
            self._said = exc.message
            return False
        if response.status_code in (200, 301, 303):
            return True
        self._said = errors.reason(response)
        if response.status_code == 403 and "in progress" not in self._said:
            raise TargetMissing(
                f"{doing}: our account may not archive in project {now.project} (“{self._said}”)",
                safe="The data is in XNAT's prearchive and in the inbox.",
                next_command="lading doctor",
            )
        if response.status_code in (400, 405, 417):
            raise errors.from_response(response, doing=doing, url=self._errand.session.url)
        return False

    def _demand_no_conflict(self, now: Waiting) -> None:
        doing = f"checking {now.uri} for conflicts"
        query = [("src", now.uri)] + ([("overwrite", "append")] if self._joins else [])
        response = self._errand.session.post(
            "/data/services/validate-archive", doing=doing, query=[*query, ("format", "json")]
        )
        if response.status_code != 200:
            return  # only advice: archiving itself will say it, if less clearly
        try:
            rows = response.json()["ResultSet"]["Result"]
            found = [(str(row["type"]).upper(), f"{row['message']} [{row['code']}]") for row in rows]
        except (ValueError, KeyError, TypeError):
            return
        fatal = [text for kind, text in found if kind == "FAIL" or (kind == "CONFLICT" and not self._joins)]
        if fatal:
            raise Refused(
                f"archiving {now.uri} as {self._errand.target}: {'; '.join(fatal)}",
                safe="The data is in XNAT's prearchive and in the inbox.",
                next_command="lading retry",
            )

    def _refusal(self, now: Waiting) -> Refused | TargetUnavailable:
        said = self._errand.repository.waiting_log(now) or self._said or "no reason is given"
        kind = TargetUnavailable if any(word in said.lower() for word in _MAY_BE_FULL) else Refused
        return kind(
            f"archiving {now.uri} as {self._errand.target}: {now.status}, XNAT says “{said}”",
            safe="The data is in XNAT's prearchive and in the inbox.",
            next_command="lading retry",
        )


def _again(errand: Errand, waiting: Waiting) -> Waiting | None:
    target = errand.target
    found = errand.repository.look(target.project, waiting.name, "")
    return next((other for other in found.waiting if other.uri == waiting.uri), None)
