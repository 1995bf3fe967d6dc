"""Turns what a source calls complete into deliveries: each acquisition once, and nothing that comes later unnoticed."""

import getpass
import os
import socket
from pathlib import Path

import structlog

from lading.agent.edge import foreseen
from lading.agent.outbox import Outbox, Outgoing, WatchReport
from lading.agent.parts import AgentParts
from lading.config import WatchConfig
from lading.delivery import Stage
from lading.errors import EngineError, LadingError
from lading.filters import FileRules
from lading.findings import Finding, error, warning
from lading.glance import glance
from lading.listing.names import NameLimits
from lading.listing.survey import survey
from lading.manifest import Manifest, unchanged
from lading.ports import Acquisition, Explaining, Source
from lading.seal import is_sealed, read_seal

log = structlog.get_logger()

DAY_S = 86_400.0
_NAMED = 3
_UNKNOWN = "(its papers are gone, nothing to compare with)"
_LOOK_BACK = "look-back"
"""The note on a delivery whose folder looked different before it arrived: what is new may have come after the list was made."""


def scan(outbox: Outbox, parts: AgentParts, watch: WatchConfig, source: Source) -> float | None:
    """One look at one watched folder. Seconds until another look is worthwhile, or None for the usual.

    A folder that cannot be looked at is reported in the outbox, and found again when it is back.
    """
    findings: list[Finding] = []
    try:
        with foreseen(f"looking into {watch.path}"):
            ready = list(source.ready())
        for acquisition in ready:
            findings += acquisition.findings
            findings += _take(outbox, parts, watch, acquisition)
    except LadingError as exc:
        _report(outbox, WatchReport(watch.path, outbox.clock(), exc.message, exc.next_command or "lading doctor"))
        return None
    waiting = list(source.waiting()) if isinstance(source, Explaining) else []
    _report(
        outbox,
        WatchReport(
            watch.path,
            outbox.clock(),
            waiting=tuple((str(w.root), w.reason) for w in waiting),
            findings=tuple(findings),
        ),
    )
    return min((w.again_in for w in waiting if w.again_in is not None), default=None)


def this_sender() -> str:
    """user@host of this process: what the server is fair between."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in containers
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


def named_sender(person: str) -> str:
    """The person whom the folder's path names, at this computer."""
    return f"{person}@{socket.gethostname()}" if person else this_sender()


def look_again(outbox: Outbox, rules: FileRules, item: Outgoing, fingerprint: str) -> Outgoing:
    """The folder of `item` does not look as it did. Gives back the delivery that stands for it now.

    Before it has arrived only a note is made: its list may or may not know what is new, and `look_back` compares when it has
    arrived. Once it was refused, the sender has acted and it is sent again. Later, and once it was cancelled, files that are new
    or different make a new delivery, HELD for a person to decide; files that went are remarked.
    """
    if item.stage is Stage.FOUND:  # the carrier waits for it to come to rest, and compares with what it saw
        return item
    if item.stage is Stage.REJECTED:
        return _mended(outbox, item, fingerprint)
    if not item.arrived_at and item.stage is not Stage.CANCELLED:
        if not outbox.journal(item.id).recall(_LOOK_BACK):
            outbox.journal(item.id).note(_LOOK_BACK, "1")
        item = outbox.get(item.id)
        if not item.arrived_at:  # else it arrived just now, perhaps without having seen the note
            return item
    new, gone = _differences(outbox, rules, item)
    if gone and not new and item.stage not in (Stage.CLEANABLE, Stage.CLEANED):
        outbox.remark(item.id, f"{len(gone)} files left the source, {gone[0]} among them")
    if not new:
        outbox.seen_again(item, fingerprint)
        return item
    return _late(outbox, item, new, fingerprint)


def look_back(outbox: Outbox, parts: AgentParts, item: Outgoing) -> None:
    """After `item` arrived: compare its folder with its list, if it looked different meanwhile. Raises EngineError only.

    The fingerprint of the folder is left as it was when it was taken: a scan compares as well, and whoever is first has done it.
    """
    journal = outbox.journal(item.id)
    if not journal.recall(_LOOK_BACK):
        return
    try:
        with foreseen(f"comparing {item.root} with what was sent"):
            rules = parts.rules(item.delivery.route)
            seen = glance(item.root, rules)
            if seen.unreadable:
                return
            look_again(outbox, rules, outbox.get(item.id), seen.fingerprint)
    except EngineError:
        raise
    except LadingError as exc:
        log.warning("not compared yet", delivery=item.id, code=exc.code, error=exc.message)
        return
    journal.note(_LOOK_BACK, "")


def _mended(outbox: Outbox, item: Outgoing, fingerprint: str) -> Outgoing:
    """A refused folder was changed: look at it again. One that lies in quarantine is left there, and a new one is sent."""
    if not item.arrived_at:
        outbox.seen_again(item, fingerprint)
        outbox.retry(item.id, "the source was changed")
        return outbox.get(item.id)
    anew = outbox.take(
        item.root, item.delivery.route, item.delivery.labels, fingerprint=fingerprint, sender=item.delivery.sender,
        priority=item.delivery.priority, quiet=item.quiet, clean=item.clean, grace_s=item.grace_s,
        after=item.id,
    )  # fmt: skip
    outbox.remark(item.id, f"the source was changed; it is sent again as {anew.id}")
    log.info("taken", delivery=anew.id, after=item.id, root=str(item.root))
    return anew


def _take(outbox: Outbox, parts: AgentParts, watch: WatchConfig, found: Acquisition) -> list[Finding]:
    """Take one acquisition, unless it is taken. What is wrong with it is a finding: the others must not wait for it."""
    if found.labels is None:
        return []
    try:
        with foreseen(f"taking {found.root}"):
            root, rules = taken_root(found.root), parts.rules(watch.route)
            fingerprint = found.fingerprint or glance(root, rules).fingerprint
            taken = outbox.taken(watch.route, root)
            if taken is None:
                _take_new(outbox, watch, root, found, fingerprint)
            elif taken[1] != fingerprint:
                look_again(outbox, rules, outbox.get(taken[0]), fingerprint)
    except EngineError:
        raise
    except LadingError as exc:
        return [warning(exc.code, exc.message, path=found.root.name, hint=exc.next_command)]
    return []


def _take_new(outbox: Outbox, watch: WatchConfig, root: Path, found: Acquisition, fingerprint: str) -> None:
    if found.labels is None:
        return
    item = outbox.take(
        root,
        watch.route,
        found.labels,
        fingerprint=fingerprint,
        sender=named_sender(found.sender),
        quiet=watch.quiet,
        clean=watch.clean,
        grace_s=watch.grace_days * DAY_S,
    )
    log.info("taken", delivery=item.id, root=str(root), labels=str(found.labels))


def _differences(outbox: Outbox, rules: FileRules, item: Outgoing) -> tuple[list[str], list[str]]:
    """Files that are new or different since the list was made, and files that are gone."""
    papers = outbox.papers(item.id)
    if not is_sealed(papers):
        return [_UNKNOWN], []
    manifest = Manifest.trusted(papers, read_seal(papers).summary)
    changed = unchanged(item.root, manifest)
    gone = [path for path in changed if not os.path.lexists(item.root / path)]
    known = {entry.path for entry in manifest}
    seen = (s.path for s in survey(item.root, rules=rules, limits=NameLimits.EXACT) if _belongs(rules, s.path))
    new = [path for path in seen if path not in known]
    return [path for path in changed if path not in set(gone)] + new, gone


def _belongs(rules: FileRules, path: str) -> bool:
    return rules.reason_to_filter(path) is None


def _late(outbox: Outbox, item: Outgoing, paths: list[str], fingerprint: str) -> Outgoing:
    named = ", ".join(paths[:_NAMED]) + (" …" if len(paths) > _NAMED else "")
    then = "taken, which is cancelled" if item.stage is Stage.CANCELLED else "sent"
    hint = "`lading retry` sends the folder again as it is now; `lading cancel` leaves the new files behind"
    if paths != [_UNKNOWN]:
        finding = error(
            "late-files",
            f"{len(paths)} files in {item.root} are new or different since {item.id} was {then}: {named}",
            path=paths[0],
            hint=hint,
        )
    else:
        finding = error(
            "late-files",
            f"{item.root} is not as it was when {item.id} was {then}; no list tells what is new",
            hint=hint,
        )
    late = outbox.take(
        item.root, item.delivery.route, item.delivery.labels, fingerprint=fingerprint, sender=item.delivery.sender,
        quiet=item.quiet, clean=item.clean, grace_s=item.grace_s, late=finding, after=item.id,
    )  # fmt: skip
    outbox.remark(item.id, f"files came later; they wait as {late.id}")
    log.warning("late files", delivery=late.id, after=item.id, files=len(paths))
    return late


def _report(outbox: Outbox, report: WatchReport) -> None:
    if outbox.report_watch(report):
        for finding in report.findings:
            log.warning("not taken", watch=str(report.path), code=finding.code, message=finding.message)
        if report.error:
            log.warning("cannot scan", watch=str(report.path), error=report.error)
        else:
            log.info("scanned", watch=str(report.path), waiting=len(report.waiting))


def taken_root(path: Path) -> Path:
    """`path` as the outbox remembers it: absolute, without links on the way."""
    return path.resolve()
