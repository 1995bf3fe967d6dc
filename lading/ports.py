"""The roles. Read this file first: it says what each part promises, and what may be called twice.

A part is found by entry point (`lading.transports`, `lading.sources`, `lading.checks`, `lading.importers`, `lading.reporters`)
and made from its own table of the settings: `Part.from_settings(settings, context)`. It never reads the environment or a global.
Everything here blocks; concurrency is more workers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from lading.delivery import Cargo, DeliveryId, FileOutcome, Labels, Parcel, Receipt, Slot
from lading.findings import Finding
from lading.manifest import NameLimits

Settings = Mapping[str, object]
"""One part's own table of the TOML file, unvalidated; the part turns it into its config (attrs + cattrs, no extra keys)."""


PLANNED = "rsync-plan"
"""Journal key of a transport that steers other hosts: what their dry run said, before anything moves; the run must equal it.

JSON: files, bytes, and a digest. Whoever shows a delivery shows this."""


class Journal(Protocol):
    """A few durable notes that a part keeps about one delivery (a Globus task id, an XNAT import request)."""

    def note(self, key: str, value: str) -> None:
        """Remember `value` (up to 64 KiB) under `key`. On return it survives a power cut."""

    def recall(self, key: str) -> str | None:
        """The last value noted under `key`, or None."""


class Progress(Protocol):
    """Told how far a long step has come. Must be cheap and never raise; may be called from any thread."""

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """So many more files and bytes are done."""


class NoProgress:
    """Nobody is looking."""

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class TransportTraits:
    """What a transport can and cannot do. The conformance suite proves every claim.

    resumes: a killed carry continues inside a file instead of sending it again.
    keeps_mtime: modification times arrive (to the second).
    lists_on_the_way: also takes an unsealed cargo and makes the manifest while it carries.
    third_party: the bytes do not pass through the caller.
    names: what the target's file system or protocol refuses.
    """

    resumes: bool = False
    keeps_mtime: bool = True
    lists_on_the_way: bool = False
    third_party: bool = False
    names: NameLimits = NameLimits.POSIX


@dataclass(frozen=True, slots=True)
class Plan:
    """What a carry would move: the dry run. `sample` names up to 20 of the files (relative POSIX).

    `told_by`: the other hosts whose answer this is, of a transport that steers them; "" when the caller looked itself.
    """

    files: int
    bytes: int
    files_already_there: int = 0
    sample: tuple[str, ...] = ()
    told_by: str = ""


@runtime_checkable
class Source(Protocol):
    """Says which acquisitions under a watched folder are complete and ready to leave."""

    def ready(self) -> Iterable["Acquisition"]:
        """Look once, without blocking for completion. An acquisition stays ready until the agent has taken it.

        Raises Unreachable when the watched folder itself is not there (an unmounted share is not "empty").
        """


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A finished session folder. `labels` is None, with `findings` saying why, when its path does not fit the template.

    `fingerprint` stands for what the source saw (names, sizes, times): an equal one means that nothing changed since. "" when
    the source does not know; the agent then looks for itself. `sender` is the person it belongs to, "" when its path does not say.
    """

    root: Path
    labels: Labels | None
    findings: tuple[Finding, ...] = ()
    fingerprint: str = ""
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An acquisition that a source does not call complete yet, and why. `again_in`: seconds until another look may change that."""

    root: Path
    reason: str
    again_in: float | None = None


@runtime_checkable
class Explaining(Protocol):
    """A source that can also say what it is waiting for. Optional: people like to know."""

    def waiting(self) -> Iterable[Waiting]:
        """The incomplete acquisitions of the last `ready`."""


@runtime_checkable
class Transport(Protocol):
    """Carries the files of one delivery, then its papers, into its slot in an inbox."""

    @property
    def traits(self) -> TransportTraits:
        """What this transport, as configured, can do."""

    def probe(self, needed_bytes: int = 0) -> None:
        """Reachable, the right place (the sentinel is there), and room for `needed_bytes`: raises what carry would raise.

        Writes nothing. Raises Unreachable (no answer, no sentinel), AccessDenied, OutOfSpace (needed and free figures).
        """

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """The dry run: what carry would move now. Writes nothing anywhere."""

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """Bring every file of the manifest under `slot.data`, then the papers under `slot.path`, the seal last.

        May be called again after any crash and then carries only what is missing or damaged. On return, everything is
        durable on the target and the seal is in place. No file appears under its final name before it is whole.
        The source is only read. Raises SourceChanged when a file no longer equals the manifest, Corrupted, Unreachable,
        AccessDenied, OutOfSpace; nothing foreign escapes.
        """

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """The inbox's current answer about the delivery, or None when there is none yet.

        A receipt may change (REJECTED today, VERIFIED after an operator's fix). Raises Unreachable, AccessDenied.
        """


@runtime_checkable
class Resting(Protocol):
    """A transport that may send nothing at some hours of the day. Optional."""

    def rests(self) -> bool:
        """Whether this is such an hour: a carry would wait for its end."""


@runtime_checkable
class Check(Protocol):
    """Reads a parcel, changes nothing, says what is wrong with it."""

    def check(self, parcel: Parcel) -> Iterable[Finding]:
        """Findings about the parcel; an error refuses it. Repeatable. Never raises for bad data, only for a broken disk."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do: `steps` in words for people, `target` for machines (project, subject, session, route …)."""

    steps: tuple[str, ...]
    target: Mapping[str, str]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What an import did: the repository's address of the result, and how often it really had to send something."""

    target: Mapping[str, str]
    already_there: bool = False


@runtime_checkable
class Importer(Protocol):
    """Registers a parcel in one repository and proves that it is there."""

    def probe(self) -> None:
        """The repository answers and our account may work there. Raises TargetUnavailable, AccessDenied, TargetMissing."""

    def probe_project(self, project: str) -> object:
        """Our account may import into `project`, as far as reading can tell.

        Raises TargetMissing, AccessDenied, TargetUnavailable.
        """

    def plan(self, parcel: Parcel, skips: Mapping[str, str] | None = None) -> ImportPlan:
        """The preflight, without side effects; `--dry-run` prints it. Raises TargetMissing, TargetUnavailable, Refused.

        `skips`: files (relative POSIX path → reason) that a check leaves out: they are not sent, and verify reports them FILTERED.
        """

    def run(self, parcel: Parcel, plan: ImportPlan, journal: Journal) -> ImportRecord:
        """Make the repository hold the parcel. Asks it first; sends only what is missing. May be called again at any time.

        A time-out is not a failure: the repository's state is read again before anything is repeated. Raises
        TargetUnavailable (try later), TargetMissing, Refused (its reason quoted).
        """

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterable[FileOutcome]:
        """One outcome per file of the manifest, by a fresh, independent read of the repository. Streams; order free.

        A blank or absent proof is UNVERIFIED, never VERIFIED. Raises TargetUnavailable.
        """


@runtime_checkable
class Rereading(Protocol):
    """An importer whose repository can be made to read its own disk again. Optional: of others `verify` reads all there is."""

    def reread(self, parcel: Parcel, record: ImportRecord) -> Iterable[FileOutcome]:
        """As `verify`, by the bytes that lie on the repository's disk now, and not by what it remembers of them."""


@runtime_checkable
class Needing(Protocol):
    """An importer that leans on programs besides Python. Optional: the doctor likes to know."""

    def lacking(self) -> Iterable[Finding]:
        """What this machine lacks for it to work as its settings ask: an error where it cannot, a warning where it takes less.

        The hint is the command that mends it. Asks no repository.
        """


@dataclass(frozen=True, slots=True)
class Report:
    """What people are told. Written down before it is sent, and sent again word for word after a crash.

    `id` stays the same then, so that a repeat can be recognised. `to` holds mail addresses, empty for a place that has its own
    readers. `subject` is one line; `text` is plain. Both may hold anything that a label or a file name can.
    """

    id: str
    to: tuple[str, ...]
    subject: str
    text: str
    at: datetime


@runtime_checkable
class Reporter(Protocol):
    """Tells people: by mail, in a chat."""

    def probe(self) -> None:
        """The place answers and lets us in. Tells nobody anything. Raises what send would raise."""

    def send(self, report: Report) -> None:
        """On return the place has taken the report over.

        Raises ReporterAway (try later), NoSuchRecipient (these readers, or this text, are refused), ReportError (the operator
        must act: login, certificate), ConfigError.
        """


Clock = Callable[[], float]
"""Seconds since the epoch; passed in where a rule depends on the time of day."""
