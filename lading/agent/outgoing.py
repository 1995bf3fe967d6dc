"""What the outbox knows about a delivery and about a watched folder, as frozen values."""

import os
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.delivery import Delivery, DeliveryId, Labels, Stage
from lading.findings import Finding
from lading.shell import typed

UNSENT = (Stage.FOUND, Stage.READY, Stage.SENDING)
"""Stages in which the inbox has not got everything yet."""

LONGEST_WAIT_S = 86_400.0
"""Nothing is put off for longer. A later time means that the clock was set back, and counts as due."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A delivery as the outbox knows it.

    `root`: the source folder. `resume`: the stage that PAUSED and HELD return to. Times are seconds since the epoch, 0 when
    it has not happened; `not_before`: no attempt until then. `error`, `error_code`, `next_command`: the last failure, "" when none.
    `quiet` (seconds) is how long a changed source must rest before it is listed again.
    """

    delivery: Delivery
    root: Path
    resume: Stage | None
    sent_files: int
    sent_bytes: int
    attempt: int
    not_before: float
    error_code: str
    error: str
    next_command: str
    quiet: float
    clean: bool
    grace_s: float
    grace_until: float
    arrived_at: float
    verified_at: float
    updated_at: float

    @property
    def id(self) -> DeliveryId:
        """The delivery's id."""
        return self.delivery.id

    @property
    def stage(self) -> Stage:
        """How far it has come."""
        return self.delivery.stage

    def command_to_send(self, labels: Labels) -> str:
        """What to type so that its source is sent by its route, as `labels`."""
        return typed(
            "lading", "send", self.root, "--route", self.delivery.route,
            "--project", labels.project, "--participant", labels.participant, "--session", labels.session,
        )  # fmt: skip

    def is_due(self, now: float) -> bool:
        """Whether another attempt may be made at `now`."""
        return self.not_before <= now or self.not_before > now + LONGEST_WAIT_S


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What the last scan of one watched folder said.

    `error` is why it could not be scanned, or "". `waiting`: (folder, reason) of acquisitions that are not complete yet.
    `findings`: folders that fit no template. `at`: seconds since the epoch.
    """

    path: Path
    at: float
    error: str = ""
    next_command: str = ""
    waiting: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()


def outgoing(row: sqlite3.Row) -> Outgoing:
    """The value that a row of the table `deliveries` stands for."""
    delivery = Delivery(
        id=DeliveryId(row["id"]),
        route=row["route"],
        labels=Labels(row["project"], row["participant"], row["session"]),
        stage=Stage(row["stage"]),
        files=row["files"],
        bytes=row["bytes"],
        digest=row["digest"],
        sender=row["sender"],
        priority=row["priority"],
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
    )
    return Outgoing(
        delivery=delivery,
        root=Path(os.fsdecode(row["root"])),
        resume=Stage(row["resume"]) if row["resume"] else None,
        clean=bool(row["clean"]),
        **{name: row[name] for name in _PLAIN},
    )


_PLAIN = (
    "sent_files", "sent_bytes", "attempt", "not_before", "error_code", "error", "next_command", "quiet", "grace_s",
    "grace_until", "arrived_at", "verified_at", "updated_at",
)  # fmt: skip
