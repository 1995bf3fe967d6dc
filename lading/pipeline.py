"""The straight line: what happens to a delivery between its arrival and its receipt, one function per stage.

    ARRIVED ──accept──► ACCEPTED ──check──► QUEUED ──(admission)──► IMPORTING ──import──► IMPORTED ──verify──► VERIFIED

Every function may run again at any time, after any crash; the second run finds its work done. What it returns is
committed together with the job for the next stage; what it raises decides who must act (`lading.engine.judge`).
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from lading.delivery import Delivery, FileOutcome, Outcome, Parcel, Receipt, Stage
from lading.errors import Corrupted, NotVerified, Rejected, UnexpectedFault, Unreachable
from lading.findings import Finding, Severity, error, refuses, skips
from lading.inbox import Inbox
from lading.ports import Check, Importer, ImportRecord, Journal, Rereading

IMPORT_RECORD = "import-record"
_SPOOLED_BYTES = 1 << 20
_NAMED = 200
"""So many files are named one by one in findings; the receipt's list has them all."""


class Route(Protocol):
    """The parts of the delivery's route. They may be made when they are first asked for, and raise ConfigError."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """The rules, in order."""

    @property
    def importer(self) -> Importer:
        """The way into the repository."""


@dataclass(frozen=True, slots=True)
class Work:
    """One delivery and what works on it. `known` asks for the findings of earlier stages."""

    delivery: Delivery
    inbox: Inbox
    route: Route
    journal: Journal
    receipt_key: bytes
    known: Callable[[], tuple[Finding, ...]]


class Unproven(NotVerified):
    """Reading back disagreed; `findings` names the files."""

    def __init__(self, message: str, *, findings: tuple[Finding, ...], safe: str = "", next_command: str = "") -> None:
        super().__init__(message, safe=safe, next_command=next_command)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage came to: the next stage, a word for the event, what was found, and how long it took.

    `notes` go into the journal, in the transaction that moves the delivery.
    """

    to: Stage
    note: str = ""
    findings: tuple[Finding, ...] = ()
    delivery: Delivery | None = None
    seconds: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)


def accept(work: Work) -> Step:
    """Every byte is read again and equals the manifest. Raises Rejected for hostile papers, Corrupted for damage."""
    try:
        parcel = work.inbox.accept(work.delivery.id)
    except Unreachable as exc:
        Inbox.open(work.inbox.root)
        # The inbox is there, so it is the seal that is missing: we died after giving the slot back for its damage.
        raise Corrupted(exc.message) from exc
    found = parcel.delivery
    return Step(Stage.ACCEPTED, f"{found.files} files, {found.bytes} bytes equal the manifest", delivery=found)


def check(work: Work) -> Step:
    """The checks agree, and the delivery lies under PROJECT/participant/SESSION. Raises Rejected with every finding."""
    try:
        parcel = work.inbox.parcel(work.delivery.id)
    except UnexpectedFault:
        Inbox.open(work.inbox.root)
        if not work.inbox.awaits_acceptance(work.delivery.id):
            raise
        # What we found touched, we took for unproven, and died or had to wait before the end of that.
        return Step(Stage.ARRIVED, "changed after it had been accepted: every byte is read again")
    findings = tuple(finding for check in work.route.checks for finding in check.check(parcel))
    if refuses(findings):
        count = sum(finding.severity is Severity.ERROR for finding in findings)
        raise Rejected(f"{count} finding{'s' if count > 1 else ''} in {work.delivery.labels}", findings=findings)
    try:
        published = work.inbox.publish(parcel)
    except Rejected as exc:
        raise Rejected(exc.message, findings=(*findings, *exc.findings)) from exc
    except Corrupted as damage:
        return ask_again(work, damage)  # touched since it was accepted; the slot is its sender's again
    notes = work.inbox.notes(work.delivery.id)
    return Step(Stage.QUEUED, f"published as {published.delivery.labels}", (*findings, *notes))


def import_(work: Work) -> Step:
    """The repository says it has the delivery. It is asked first; only what it lacks is sent."""
    parcel = work.inbox.parcel(work.delivery.id)
    plan = work.route.importer.plan(parcel, skips(work.known()))
    if refuses(plan.findings):
        raise Rejected("the repository would not take it", findings=plan.findings)
    record = work.route.importer.run(parcel, plan, work.journal)
    noted = json.dumps({"target": dict(record.target), "already_there": record.already_there})
    word = "was there already" if record.already_there else ""
    return Step(Stage.IMPORTED, word, plan.findings, notes={IMPORT_RECORD: noted})


def verify(work: Work, *, reread: bool = False) -> Step:
    """Every file was read back, and the receipt is in the inbox: it is there before anybody is told VERIFIED.

    With `reread` the repository reads its disk again, if it is one that can (`ports.Rereading`). Raises Unproven naming the
    files when the repository disagrees, or gives nothing to compare.
    """
    parcel = work.inbox.parcel(work.delivery.id)
    record = _import_record(work.journal)
    with Outcomes() as outcomes:
        importer = work.route.importer
        if reread and isinstance(importer, Rereading):
            outcomes.collect(importer.reread(parcel, record))
        else:
            outcomes.collect(importer.verify(parcel, record))
        unproven = (*outcomes.unproven(), *_unaccounted(parcel, outcomes))
        outcomes.collect(_left_behind(parcel))
        stage = Stage.HELD if unproven else Stage.VERIFIED
        write_receipt(work, stage, (*work.known(), *unproven), record.target, outcomes)
        if unproven:
            raise Unproven(
                f"reading {work.delivery.labels} back: {outcomes.summary()}{_also(unproven)}",
                findings=unproven,
                safe=(
                    "the files are in the inbox"
                    if parcel.root.is_dir()
                    else "the copy in the inbox was withdrawn; what is missing can come from the source only"
                ),
                next_command=f"lading show {work.delivery.id}",
            )
        return Step(Stage.VERIFIED, outcomes.summary())


def _unaccounted(parcel: Parcel, outcomes: "Outcomes") -> Iterator[Finding]:
    """An importer that forgot a file, or told another one twice, has proven nothing, however good its verdicts are."""
    number = outcomes.counts.total()
    if number != parcel.manifest.summary.files or outcomes.paths != sum(_mark(one.path) for one in parcel.manifest):
        yield error(
            "verdicts-incomplete",
            f"{number} verdicts on {parcel.manifest.summary.files} files, and not one on each",
            hint="this is a fault of the importer; the repository may well hold them all",
        )


def _also(unproven: Iterable[Finding]) -> str:
    return "".join(f"; {one.message}" for one in unproven if one.code == "verdicts-incomplete")


def _mark(path: str) -> int:
    """A number for a path. The sum of many stands for all of them in any order, without remembering any."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _left_behind(parcel: Parcel) -> Iterator[FileOutcome]:
    """What the sender's rules filtered never travelled; the receipt names it all the same."""
    for left in parcel.manifest.filtered():
        yield FileOutcome(left.path, left.size, "", Outcome.FILTERED, left.reason)


def refuse(work: Work, findings: Iterable[Finding]) -> Step:
    """The slot is set aside with its findings, and the sender can read why. Nothing is deleted."""
    found = tuple(findings)
    work.inbox.quarantine(work.delivery.id, found)
    write_receipt(work, Stage.REJECTED, found)
    return Step(Stage.REJECTED, "; ".join(sorted({f.code for f in found if f.severity is Severity.ERROR})), found)


def ask_again(work: Work, damage: Corrupted) -> Step:
    """The inbox gave the slot back to its sender, and a receipt with stage SENDING names the files to be sent once more."""
    findings = tuple(
        error("corrupted", "differs from the manifest", path=path, hint="is sent again")
        for path in damage.paths[:_NAMED]
    )
    write_receipt(work, Stage.SENDING, findings)
    return Step(Stage.SENDING, damage.message, findings)


LINE: Mapping[Stage, tuple[str, Callable[[Work], Step]]] = {
    Stage.ARRIVED: ("accept", accept),
    Stage.ACCEPTED: ("check", check),
    Stage.IMPORTING: ("import", import_),
    Stage.IMPORTED: ("verify", verify),
}
"""The stage a delivery is at → the name of the step, and the step."""


class Outcomes:
    """The verdicts on the files of one delivery, spooled to disk: a million files need no more memory than ten.

    `paths` stands for the paths that were told of, whatever their order.
    """

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.paths = 0
        self._worst: list[FileOutcome] = []
        # A file only when it grows: most deliveries are small. Closed by __exit__.
        self._spool = tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, "w+", encoding="ascii")  # noqa: SIM115

    def __enter__(self) -> "Outcomes":
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def collect(self, outcomes: Iterable[FileOutcome]) -> None:
        """Take them all in."""
        for verdict in outcomes:
            self.counts[verdict.outcome] += 1
            self.paths += _mark(verdict.path)
            if verdict.outcome in _UNPROVEN and len(self._worst) < _NAMED:
                self._worst.append(verdict)
            row = (verdict.path, verdict.size, verdict.sha256, str(verdict.outcome), verdict.how, verdict.where)
            self._spool.write(json.dumps(row) + "\n")

    def __iter__(self) -> Iterator[FileOutcome]:
        self._spool.seek(0)
        for line in self._spool:
            path, size, sha256, outcome, how, where = json.loads(line)
            yield FileOutcome(path, size, sha256, Outcome(outcome), how, where)

    def unproven(self) -> tuple[Finding, ...]:
        """One finding per file that is not proven, the first 200 of them."""
        return tuple(
            error(f"not-verified-{v.outcome}", f"reading back: {v.how or v.outcome}", path=v.path, hint=v.hint)
            for v in self._worst
        )

    def summary(self) -> str:
        """Such as "214 verified, 2 filtered"."""
        return (
            ", ".join(f"{self.counts[outcome]} {outcome}" for outcome in Outcome if self.counts[outcome]) or "no files"
        )


_UNPROVEN = frozenset({Outcome.MISMATCH, Outcome.MISSING, Outcome.UNVERIFIED})


def _import_record(journal: Journal) -> ImportRecord:
    noted = json.loads(journal.recall(IMPORT_RECORD) or "{}")
    return ImportRecord(noted.get("target", {}), bool(noted.get("already_there", False)))


def write_receipt(
    work: Work,
    stage: Stage,
    findings: tuple[Finding, ...],
    repository: Mapping[str, str] | None = None,
    outcomes: "Outcomes | None" = None,
) -> None:
    """The answer that the sender reads; a later one replaces it. Without outcomes it proves nothing about any file."""
    delivery = work.delivery
    receipt = Receipt(
        delivery=delivery.id,
        route=delivery.route,
        labels=delivery.labels,
        stage=stage,
        digest=delivery.digest,
        files=delivery.files,
        bytes=delivery.bytes,
        counts={str(outcome): count for outcome, count in outcomes.counts.items()} if outcomes else {},
        repository=dict(repository or {}),
        findings=findings,
        files_digest="",
        at=datetime.now(UTC),
    )
    work.inbox.write_receipt(receipt, outcomes or (), work.receipt_key)
