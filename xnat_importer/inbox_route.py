"""Asks XNAT to import a folder that it can read itself, and follows the request.

A request that reads `Processed` proves nothing: files that failed are only in the server's log. So `cleanupAfterImport` is
always false, and what arrived is read back later. One study per request, final labels always given.
"""

import json
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from lading.errors import Refused, TargetMissing, TargetUnavailable
from xnat_importer import errors
from xnat_importer.errand import ASKING, REQUEST, Errand, Pace
from xnat_importer.target import demand

LOST = "Lost"
_FINAL = ("Completed", "Failed", LOST)
# Clocks are shown to the second.
_CLOCK_MARGIN_S = 2.0
_UNITS = {"Days": 86400.0, "Hours": 3600.0, "Mins": 60.0, "Sec": 1.0}


@dataclass(frozen=True, slots=True)
class Request:
    """The state of an import request. `created` is seconds since the epoch by the server's clock, 0 when unknown.

    `status` is XNAT's word, or LOST: XNAT does not know it any more, or has been restarted and forgot to work on it.
    """

    id: str
    status: str
    resolution: str = ""
    created: float = 0.0


class LabelTaken(Exception):
    """XNAT says that the label exists in the project."""


def submit(errand: Errand) -> str:
    """Hand the folder over and note the request's id before anything else. Returns the id.

    Raises LabelTaken, TargetMissing, Refused, TargetUnavailable (then the request may exist: `adopt` finds it).
    """
    target = errand.target
    errand.journal.note(ASKING, target.server_path)
    doing = f"asking XNAT to import {target.server_path} as {target}"
    response = errand.session.post(
        "/data/services/import",
        doing=doing,
        query=[
            ("import-handler", "inbox"),
            ("PROJECT_ID", target.project),
            ("SUBJECT_ID", target.subject),
            ("EXPT_LABEL", target.session),
            ("path", target.server_path),
            ("cleanupAfterImport", "false"),
        ],
    )
    if response.status_code == 409:
        raise LabelTaken
    if response.status_code == 400:
        raise _refusal(errors.reason(response), doing, errand)
    demand(response, doing, errand.session.url)
    number = response.text.strip().rstrip("/").rpartition("/")[2]
    if "/xapi/dicom/" not in response.text or not number:
        raise Refused(f"{doing}: XNAT answered 200 without a request to follow: {errors.reason(response)!r}")
    errand.journal.note(REQUEST, number)
    return number


def adopt(errand: Errand) -> str | None:
    """The request of an earlier attempt: the one we noted, or one that XNAT took while we were cut off; None if none."""
    noted = errand.journal.recall(REQUEST)
    if noted:
        return noted
    if errand.journal.recall(ASKING) != errand.target.server_path or not errand.target.server_path:
        return None
    doing = "looking for the import request that we may have made"
    response = errand.session.get("/xapi/dicom/list/all", doing=doing)
    if response.status_code == 404:
        return None
    demand(response, doing, errand.session.url)
    ours = [
        str(row["id"])
        for row in _objects(response.text)
        if row.get("sessionPath") == errand.target.server_path
        and _parameter(row, "EXPT_LABEL") == errand.target.session
    ]
    if not ours:
        return None
    newest = max(ours, key=int)
    errand.journal.note(REQUEST, newest)
    return newest


def forget(errand: Errand) -> None:
    """The noted request is over; the next attempt begins anew."""
    errand.journal.note(REQUEST, "")
    errand.journal.note(ASKING, "")


def follow(errand: Errand, number: str, *, from_before: bool = False) -> Request:
    """Wait until XNAT has read the whole folder, and, where the project archives by itself, until that is over too.

    `from_before`: an earlier attempt made the request, so XNAT may have been restarted since. Raises TargetUnavailable when
    nothing changes for the repository's `patience`.
    """
    pace = Pace()
    doubts = from_before
    began, asked = time.monotonic(), 0
    if not from_before:
        time.sleep(errand.habit.seconds)
    while True:
        now = _read(errand, number)
        asked += 1
        if now.status in _FINAL:
            if not from_before:
                errand.habit.learn(asked, time.monotonic() - began)
            return now
        quiet = pace.quiet_for(now.status)
        if doubts or quiet > errand.server.grace:
            doubts = False
            if now.status != "Processed" and _was_restarted_since(errand, now):
                return replace(now, status=LOST)
        waits_for_archive = errand.target.auto_archives and errand.route.archive == "auto"
        if now.status == "Processed" and (not waits_for_archive or quiet > errand.server.grace):
            return now
        if quiet > errand.server.patience:
            raise TargetUnavailable(
                f"importing {errand.target}: XNAT's request {number} has been {now.status} for {quiet:.0f} s",
                safe="The files are in the inbox.",
                next_command="lading retry",
            )
        pace.wait()


def _read(errand: Errand, number: str) -> Request:
    doing = f"following import request {number}"
    response = errand.session.get(f"/xapi/dicom/{number}", doing=doing)
    if response.status_code == 404:
        return Request(number, LOST)
    demand(response, doing, errand.session.url)
    found = _objects(f"[{response.text}]")
    if not found:
        raise TargetUnavailable(f"{doing}: the answer cannot be read", next_command="lading retry")
    row = found[0]
    created = row.get("created")
    return Request(
        number,
        str(row.get("status", "")),
        str(row.get("resolution") or ""),
        created / 1000 if isinstance(created, int | float) else 0.0,
    )


def _was_restarted_since(errand: Errand, request: Request) -> bool:
    """Whether the server began to run after the request was made: what waited in its memory is lost then."""
    response = errand.session.get("/xapi/siteConfig/uptime", doing="asking since when XNAT runs")
    rows = _objects(f"[{response.text}]") if response.status_code == 200 else []
    date = response.headers.get("Date", "")
    if not rows or not date or not request.created:
        return False
    try:
        up = sum(float(str(rows[0].get(unit, 0))) * seconds for unit, seconds in _UNITS.items())
        started = parsedate_to_datetime(date).timestamp() - up
    except ValueError:
        return False
    return request.created < started - _CLOCK_MARGIN_S


def _objects(text: str) -> list[dict[str, object]]:
    try:
        rows = json.loads(text)
    except ValueError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _parameter(row: dict[str, object], name: str) -> str:
    parameters = row.get("parameters")
    return str(parameters.get(name, "")) if isinstance(parameters, dict) else ""


def _refusal(said: str, doing: str, errand: Errand) -> Refused | TargetMissing:
    if "permission to edit the specified destination" in said:
        return TargetMissing(
            f"{doing}: our account may not edit project {errand.target.project} (“{said}”)",
            safe="The files are in the inbox.",
            next_command="lading doctor",
        )
    return Refused(
        f"{doing}: XNAT refused (“{said}”). Either it does not see the folder under that path (inbox_path), or our account "
        f"may not edit project {errand.target.project}",
        safe="The files are in the inbox.",
        next_command="lading doctor",
    )
