"""Takes one delivery from READY to ARRIVED: look through the source, list it, seal the list, carry, record."""

import json
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from lading.agent.edge import foreseen
from lading.agent.locks import held
from lading.agent.outbox import Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.agent.taking import look_back
from lading.delivery import Cargo, DeliveryId, Slot, Stage
from lading.errors import (
    AccessDenied,
    Corrupted,
    EngineError,
    LadingError,
    OutOfSpace,
    Rejected,
    SourceAway,
    SourceChanged,
    Unreachable,
)
from lading.filters import FileRules
from lading.findings import Finding, refuses
from lading.glance import glance
from lading.listing.names import NameLimits
from lading.listing.survey import survey
from lading.manifest import Manifest, make, unchanged
from lading.ports import PLANNED, Journal, Progress, Transport
from lading.seal import Seal, is_sealed, label_findings, read_seal, seal

log = structlog.get_logger()

FIRST_BACK_OFF_S = 2.0
LONGEST_BACK_OFF_S = 300.0
SPACE_CHECK_S = 60.0
"""A full disk is somebody's to empty; whether somebody did is asked once a minute."""
CORRUPTED_ATTEMPTS = 8
LOCKED_FILE_ATTEMPTS = 6
"""A file that another program holds locked is tried so often, about two minutes in all, before a person is asked."""

RESEND = "resend"
REPLANNED_FROM = "replanned-from"
_PROGRESS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a look through the source found: how much there is to send, and findings that do not refuse it."""

    files: int
    bytes: int
    findings: tuple[Finding, ...]


def carry(outbox: Outbox, parts: AgentParts, delivery: DeliveryId) -> bool:
    """One attempt at one delivery. False when somebody else is at it, or it is not its time; its failures are recorded.

    May be called again after any crash. Raises EngineError when the outbox cannot record what happens.
    """
    with held(outbox.lock(delivery)) as ours:
        if not ours:
            return False
        item = outbox.get(delivery)
        if not _may_go(item, outbox.clock()):
            return False
        try:
            with foreseen(f"carrying {delivery} from {item.root}", next_command=f"lading retry {delivery}"):
                _attempt(outbox, parts, item)
        except EngineError:
            raise
        except LadingError as exc:
            _failed(outbox, parts, outbox.get(delivery), exc)
        return True


def look_through(root: Path, rules: FileRules, limits: NameLimits) -> Load:
    """Names and sizes of everything below `root`. Raises Rejected with all findings when it may not be sent as it is."""
    look = survey(root, rules=rules, limits=limits)
    for _ in look:
        pass
    if refuses(look.findings):
        first = next(f for f in look.findings if refuses((f,)))
        raise Rejected(f"{root} cannot be sent: {first.message}", findings=look.findings, safe="nothing was sent")
    return Load(look.files, look.bytes, look.findings)


def _may_go(item: Outgoing, now: float) -> bool:
    going = item.stage in (Stage.FOUND, Stage.READY, Stage.SENDING)
    waiting_for_space = item.stage is Stage.HELD and item.not_before > 0
    return (going or waiting_for_space) and item.is_due(now)


def _attempt(outbox: Outbox, parts: AgentParts, item: Outgoing) -> None:
    route, papers = item.delivery.route, outbox.papers(item.id)
    transport, journal = parts.transport(route), outbox.journal(item.id)
    rules, algorithms = parts.rules(route), parts.algorithms(route)
    if item.stage is Stage.FOUND and not _came_to_rest(outbox, item, rules):
        return
    outbox.amend(item.id, attempt=item.attempt + 1)
    log.info("start", delivery=item.id, attempt=item.attempt + 1, labels=str(item.delivery.labels), root=str(item.root))
    if item.stage is Stage.SENDING and _was_taken_already(transport, item, papers):
        _arrived(outbox, item, read_seal(papers), journal)
        look_back(outbox, parts, item)
        return
    cargo = Cargo(item.delivery, item.root, papers, rules, algorithms)
    _list(outbox, cargo, transport, item)
    outbox.move(item.id, Stage.SENDING, f"attempt {item.attempt + 1}")
    progress = _Counter(outbox, item.id)
    transport.carry(cargo, Slot(item.id), _Journal(outbox, item.id), progress)
    _arrived(outbox, item, read_seal(papers), journal)
    look_back(outbox, parts, item)


def _came_to_rest(outbox: Outbox, item: Outgoing, rules: FileRules) -> bool:
    """Whether a source that changed under our hands looks the same as one quiet period ago."""
    seen = glance(item.root, rules)
    if seen.unreadable:
        raise Unreachable(
            f"cannot look through {item.root}: {seen.unreadable}; is the disk or share mounted?",
            safe="nothing was sent",
        )
    taken = outbox.taken(item.delivery.route, item.root)
    if taken and taken[1] == seen.fingerprint and not seen.unfinished:
        outbox.move(item.id, Stage.READY, f"quiet again for {item.quiet:g} s", not_before=0.0, attempt=0)
        return True
    outbox.seen_again(item, seen.fingerprint)
    outbox.amend(item.id, not_before=outbox.clock() + item.quiet)
    return False


def _was_taken_already(transport: Transport, item: Outgoing, papers: Path) -> bool:
    """Whether the power went between the last byte and our note of it, and the inbox has answered meanwhile."""
    if not is_sealed(papers):
        return False
    receipt = transport.fetch_receipt(item.id)
    return (
        receipt is not None
        and receipt.stage is not Stage.SENDING
        and receipt.digest == read_seal(papers).summary.digest
    )


def _list(outbox: Outbox, cargo: Cargo, transport: Transport, item: Outgoing) -> None:
    """Papers in place as far as the transport needs them, and room for the load at the other end."""
    if is_sealed(cargo.papers):
        summary = read_seal(cargo.papers).summary
        # While SENDING, all of it may be there already; then only carry can say whether the source still matters.
        if item.stage is not Stage.SENDING:
            _still_equal(cargo, Manifest.trusted(cargo.papers, summary))
        _room(transport, cargo, item, summary.bytes)
        return
    _labels_usable(cargo)
    load = look_through(cargo.root, cargo.rules, transport.traits.names)
    outbox.record(item.id, load.findings)
    outbox.amend(item.id, files=load.files, bytes=load.bytes)
    _room(transport, cargo, item, load.bytes)
    if not transport.traits.lists_on_the_way:
        manifest = make(
            cargo.root,
            cargo.papers,
            rules=cargo.rules,
            limits=transport.traits.names,
            algorithms=cargo.algorithms,
        )
        seal(cargo.papers, cargo.delivery, manifest)


def _room(transport: Transport, cargo: Cargo, item: Outgoing, total: int) -> None:
    """Room for what is still missing over there: after a first attempt that may be much less than everything."""
    transport.probe(total if item.attempt == 0 else 0)
    if item.attempt > 0:
        transport.probe(transport.plan(cargo, Slot(item.id)).bytes)


def _labels_usable(cargo: Cargo) -> None:
    findings = label_findings(cargo.delivery.labels)
    if findings:
        raise Rejected(
            f"{cargo.delivery.labels} cannot name a session: {findings[0].message}",
            findings=findings,
            safe="nothing was sent",
            next_command=f"lading cancel {cargo.delivery.id}",
        )


def _still_equal(cargo: Cargo, manifest: Manifest) -> None:
    different = unchanged(cargo.root, manifest)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise SourceChanged(
            f"{different[0]}{more} in {cargo.root} changed after it was listed",
            safe="nothing of it is under its final name",
        )


def _arrived(outbox: Outbox, item: Outgoing, sealed: Seal, journal: Journal) -> None:
    summary = sealed.summary
    before = journal.recall(REPLANNED_FROM)
    if before:
        log.info("re-planned", delivery=item.id, before=before, after=summary.digest)
        outbox.remark(item.id, f"re-planned: the digest was {before}, is {summary.digest}")
        journal.note(REPLANNED_FROM, "")
    if journal.recall(RESEND):
        journal.note(RESEND, "")
    outbox.move(
        item.id, Stage.ARRIVED, f"{summary.files} files, {summary.bytes} bytes in the inbox", digest=summary.digest,
        files=summary.files, bytes=summary.bytes, sent_files=summary.files, sent_bytes=summary.bytes,
        attempt=0, not_before=0.0, error_code="", error="", next_command="", arrived_at=outbox.clock(),
    )  # fmt: skip
    log.info("arrived", delivery=item.id, files=summary.files, bytes=summary.bytes, digest=summary.digest)


# -- what a failure means -------------------------------------------------------------------------------------------


def _failed(outbox: Outbox, parts: AgentParts, item: Outgoing, error: LadingError) -> None:
    if isinstance(error, Unreachable):
        error = _source_away(item) or error
    log.warning("attempt failed", delivery=item.id, code=error.code, attempt=item.attempt, error=error.message)
    if isinstance(error, SourceChanged):
        _start_again(outbox, parts, item, error)
    elif isinstance(error, Rejected):
        outbox.record(item.id, error.findings)
        outbox.fail(item.id, Stage.REJECTED, _with_command(error, f"lading retry {item.id}"))
    elif isinstance(error, OutOfSpace):
        outbox.fail(
            item.id, Stage.HELD, _with_command(error, "lading doctor"), again_in=SPACE_CHECK_S, resume=Stage.READY
        )
    elif _is_worth_another_try(parts, item, error):
        # The stage stays what it was: SENDING files are in the slot already.
        stage = Stage.READY if item.stage is Stage.HELD else item.stage
        outbox.fail(item.id, stage, _with_command(error, "lading doctor"), again_in=back_off(item.attempt))
    else:
        outbox.fail(item.id, Stage.HELD, _with_command(error, f"lading retry {item.id}"), resume=Stage.READY)


def _source_away(item: Outgoing) -> SourceAway | None:
    """Whether it is the source that cannot be reached: then nothing is the matter with the inbox."""
    try:
        os.scandir(item.root).close()
    except PermissionError:
        return None
    except OSError as exc:
        return SourceAway(
            f"{item.root} is not there ({exc.strerror}); is the disk or share mounted?",
            safe="it goes on once the folder is back; one that was renamed is found under its new name",
            next_command=f"lading cancel {item.id}   (if it was renamed or removed)",
        )
    return None


def back_off(attempt: int) -> float:
    """Seconds to wait after that many attempts: doubling from 2 s to 5 min, spread by a fifth so that senders do not crowd."""
    doubled = FIRST_BACK_OFF_S * 2.0 ** min(max(attempt - 1, 0), 20)
    return min(doubled, LONGEST_BACK_OFF_S) * random.uniform(0.8, 1.2)  # noqa: S311


def _is_worth_another_try(parts: AgentParts, item: Outgoing, error: LadingError) -> bool:
    if isinstance(error, Corrupted):
        return item.attempt < CORRUPTED_ATTEMPTS
    if isinstance(error, AccessDenied):
        # Wrong credentials must not be tried again and again: accounts get locked. A locked file passes by itself.
        return item.attempt < LOCKED_FILE_ATTEMPTS and not _source_is_readable(
            item.root, parts.rules(item.delivery.route)
        )
    return error.retried


def _source_is_readable(root: Path, rules: FileRules) -> bool:
    try:
        for seen in survey(root, rules=rules, limits=NameLimits.EXACT):
            if rules.reason_to_filter(seen.path) is None:
                with (root / seen.path).open("rb"):
                    pass
    except (LadingError, OSError):
        return False
    return True


def _start_again(outbox: Outbox, parts: AgentParts, item: Outgoing, error: SourceChanged) -> None:
    """The list is void. Wait until the source has come to rest, then make a new one."""
    papers = outbox.papers(item.id)
    before = read_seal(papers).summary.digest if is_sealed(papers) else ""
    outbox.drop_papers(item.id)
    if before:
        outbox.journal(item.id).note(REPLANNED_FROM, before)
    outbox.seen_again(item, glance(item.root, parts.rules(item.delivery.route)).fingerprint)
    outbox.fail(item.id, Stage.FOUND, error, again_in=max(item.quiet, FIRST_BACK_OFF_S))
    log.warning("source changed", delivery=item.id, digest=before or "not known yet", error=error.message)


def _with_command(error: LadingError, command: str) -> LadingError:
    error.next_command = error.next_command or command
    return error


class _Journal:
    """The journal of a delivery; a plan that is noted there is an event too, so that people see what the run must equal."""

    def __init__(self, outbox: Outbox, delivery: DeliveryId) -> None:
        self._outbox, self._delivery = outbox, delivery
        self._inner = outbox.journal(delivery)

    def note(self, key: str, value: str) -> None:
        """Remember, durably."""
        self._inner.note(key, value)
        if key == PLANNED:
            plan = json.loads(value)
            told = f"plan: {plan['files']} files, {plan['bytes']} bytes from host to host; a run that moves others is not sealed"
            self._outbox.remark(self._delivery, told)

    def recall(self, key: str) -> str | None:
        """The last value, or None."""
        return self._inner.recall(key)


class _Counter(Progress):
    """Writes how far the carry has come into the outbox, once a second, for whoever looks."""

    def __init__(self, outbox: Outbox, delivery: DeliveryId) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._lock = threading.Lock()
        self._files = self._bytes = 0
        self._written = outbox.clock()

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """So much more is done."""
        with self._lock:
            self._files += files
            self._bytes += bytes
            now = self._outbox.clock()
            if abs(now - self._written) < _PROGRESS_EVERY_S:  # a clock may be set back
                return
            self._written = now
            files_done, bytes_done = self._files, self._bytes
        try:
            self._outbox.amend(self._delivery, sent_files=files_done, sent_bytes=bytes_done)
        except EngineError:
            # Only a display; the attempt itself will meet the same trouble and report it.
            log.debug("progress not recorded", delivery=self._delivery)
