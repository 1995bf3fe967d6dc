"""A delivery and what belongs to it, as frozen values: labels, stage, slot, cargo, parcel, event, receipt."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NewType

from lading.filters import FileRules
from lading.findings import Finding
from lading.manifest import Manifest

DeliveryId = NewType("DeliveryId", str)

_ID = re.compile(r"[0-9a-z][0-9a-z-]{7,63}")


def new_delivery_id(now: datetime | None = None) -> DeliveryId:
    """A fresh id that sorts by time: `20260504-181500-3fa9c1d2e4`. Unique without a server: 40 random bits a second."""
    moment = now or datetime.now(UTC)
    return DeliveryId(f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(5)}")


def delivery_id(text: str) -> DeliveryId:
    """`text` as an id. Raises ValueError unless it is 8 to 64 of [0-9a-z-] (it becomes a folder name)."""
    if not _ID.fullmatch(text):
        raise ValueError(f"not a delivery id: {text[:80]!r}")
    return DeliveryId(text)


@dataclass(frozen=True, slots=True)
class Labels:
    """Where a delivery belongs: PROJECT/participant/SESSION. The repository's final labels, not display names."""

    project: str
    participant: str
    session: str

    def __str__(self) -> str:
        return f"{self.project}/{self.participant}/{self.session}"

    def as_dict(self) -> dict[str, str]:
        """project, participant, session."""
        return {"project": self.project, "participant": self.participant, "session": self.session}


class Stage(StrEnum):
    """How far a delivery has come. Each stage is proven before the next begins."""

    FOUND = "FOUND"  # seen by the agent, perhaps still being written
    READY = "READY"  # complete; may leave
    SENDING = "SENDING"  # on its way into the slot
    ARRIVED = "ARRIVED"  # sealed in the inbox
    ACCEPTED = "ACCEPTED"  # every digest matched
    QUEUED = "QUEUED"  # checked and published; waits for a free import slot
    IMPORTING = "IMPORTING"  # the repository is being asked to take it
    IMPORTED = "IMPORTED"  # the repository said yes; not proven yet
    VERIFIED = "VERIFIED"  # read back per file, receipt signed
    CLEANABLE = "CLEANABLE"  # grace period over, source may go
    CLEANED = "CLEANED"  # source removed against the receipt
    REJECTED = "REJECTED"  # the sender must act; see the findings
    HELD = "HELD"  # the operator must act
    PAUSED = "PAUSED"  # stopped on request
    CANCELLED = "CANCELLED"  # given up on request; the data is kept in quarantine


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a delivery."""

    at: datetime
    stage: Stage
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        """at (ISO 8601, UTC), stage, note."""
        return {"at": self.at.isoformat(), "stage": str(self.stage), "note": self.note}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One session's worth of files on its way.

    `digest` is the SHA-256 of `manifest-sha256.txt` ("" until it is known); `bytes` counts the files' content.
    `sender` (user@host) and `priority` (higher first) feed the fair queue.
    """

    id: DeliveryId
    route: str
    labels: Labels
    stage: Stage = Stage.FOUND
    files: int = 0
    bytes: int = 0
    digest: str = ""
    sender: str = ""
    priority: int = 0
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def at(self, stage: Stage) -> "Delivery":
        """The same delivery, at another stage."""
        return replace(self, stage=stage)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place in an inbox that is reserved for one delivery, relative to the inbox root (POSIX)."""

    delivery: DeliveryId

    @property
    def path(self) -> str:
        """The slot's folder."""
        return f".lading/incoming/{self.delivery}"

    @property
    def data(self) -> str:
        """Where the files of the delivery go."""
        return f"{self.path}/data"


@dataclass(frozen=True, slots=True)
class Cargo:
    """What a transport carries: the files under `root` that `rules` let through, and the papers about them.

    `papers` is a folder in the sender's own state. Once it is sealed (`lading.inbox.is_sealed`), its manifest says exactly
    what to carry; transports with the trait `lists_on_the_way` also take an unsealed cargo and make the manifest while
    they carry. `algorithms` are the digests the route wants besides SHA-256.
    """

    delivery: Delivery
    root: Path
    papers: Path
    rules: FileRules = field(default_factory=FileRules)
    algorithms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery whose every digest matched. Only `lading.inbox.Inbox` makes one.

    `root` holds the files; `published` tells whether that is already PROJECT/participant/SESSION of the inbox.
    """

    delivery: Delivery
    root: Path
    manifest: Manifest
    published: bool


class Outcome(StrEnum):
    """What the repository proved about one file."""

    VERIFIED = "verified"  # read back and equal
    UNVERIFIED = "unverified"  # there, but the repository gave nothing to compare
    MISMATCH = "mismatch"  # there, but different
    MISSING = "missing"  # not there
    FILTERED = "filtered"  # left out on purpose; `how` says why


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """The verdict on one file of a delivery.

    `how` names the proof ("md5", "sop-instance-uid") or the reason; `where` is the repository's URI for it, or "". `hint`: what to
    do about it, or ""; it goes into the finding, not into the list.
    """

    path: str
    size: int
    sha256: str
    outcome: Outcome
    how: str = ""
    where: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The repository's signed answer about a delivery.

    `counts` maps outcome → number of files. `repository` describes the target (kind, url, project, subject, session, uri).
    `files_digest` is the SHA-256 of the per-file list (`<delivery>.files.jsonl`, one `FileOutcome` a line).
    `signature` is an HMAC-SHA256, hex, by the server that wrote it.
    """

    delivery: DeliveryId
    route: str
    labels: Labels
    stage: Stage
    digest: str
    files: int
    bytes: int
    counts: Mapping[str, int]
    repository: Mapping[str, str]
    findings: tuple[Finding, ...]
    files_digest: str
    at: datetime
    signature: str = ""

    @property
    def proves_all(self) -> bool:
        """Whether every file of the manifest is verified: the only receipt a source may be cleaned against."""
        return self.stage is Stage.VERIFIED and self.counts.get("verified", 0) == self.files
