"""What `lading clean` removes: sources at the instrument, and published copies in inboxes. Only against proof."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lading.agent.cleaner import clean, rehearse
from lading.agent.outbox import OUTBOX_NAME, Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.assembly import agent_parts, receipt_key
from lading.config import Config
from lading.delivery import DeliveryId, Stage
from lading.errors import LadingError
from lading.inbox import Inbox


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A line of `lading clean`: what was, or would be, removed, or why it is kept."""

    delivery: DeliveryId
    what: str
    files: int
    bytes: int
    why: str

    def as_dict(self) -> dict[str, str | int]:
        """For `--json`."""
        return {"id": self.delivery, "what": self.what, "files": self.files, "bytes": self.bytes, "why": self.why}


def cleaning(config: Config, wanted: Sequence[DeliveryId], *, dry_run: bool, ignore_grace: bool) -> Iterator[Cleaned]:
    """Remove what may go (all of it, or only `wanted`); with `dry_run` only say what that would be.

    `ignore_grace` shortens the grace period of the deliveries to nothing; proof is demanded all the same.
    """
    yield from _sources(config, wanted, dry_run=dry_run, ignore_grace=ignore_grace)
    yield from _published(config, wanted, dry_run=dry_run, ignore_grace=ignore_grace)


def _sources(config: Config, wanted: Sequence[DeliveryId], *, dry_run: bool, ignore_grace: bool) -> Iterator[Cleaned]:
    if not (config.home / OUTBOX_NAME).exists():
        return
    outbox = Outbox(config.home)
    try:
        parts = agent_parts(config)
        for item in outbox.deliveries(Stage.VERIFIED, Stage.CLEANABLE):
            if not wanted or item.id in wanted:
                yield _source(outbox, parts, item, dry_run=dry_run, ignore_grace=ignore_grace)
    finally:
        outbox.close()


def _source(outbox: Outbox, parts: AgentParts, item: Outgoing, *, dry_run: bool, ignore_grace: bool) -> Cleaned:
    if not item.clean:
        return Cleaned(item.id, "source kept", 0, 0, "cleaning is not configured for this source (clean = true)")
    if item.grace_until > outbox.clock() and not ignore_grace:
        hours = (item.grace_until - outbox.clock()) / 3600
        return Cleaned(item.id, "source kept", 0, 0, f"in its grace period for another {hours:.1f} h")
    removal = rehearse(outbox, parts, item.id)
    if removal.kept:
        return Cleaned(item.id, "source kept", 0, 0, removal.kept)
    if dry_run:
        return Cleaned(item.id, "source would be removed", removal.files, removal.bytes, str(item.root))
    if ignore_grace:
        outbox.amend(item.id, grace_until=outbox.clock())
    if clean(outbox, parts, item.id):
        return Cleaned(item.id, "source removed", removal.files, removal.bytes, str(item.root))
    return Cleaned(item.id, "source kept", 0, 0, outbox.get(item.id).error or "not its time")


def _published(config: Config, wanted: Sequence[DeliveryId], *, dry_run: bool, ignore_grace: bool) -> Iterator[Cleaned]:
    if not config.inboxes:
        return
    from lading.engine.memory import has_database, opened  # noqa: PLC0415 - the agent's install has no database

    if not has_database(config):
        return
    key = receipt_key(config.home)
    now = datetime.now(UTC)
    with opened(config) as ledger:
        for row in ledger.deliveries((Stage.VERIFIED,), limit=1_000_000):
            found = DeliveryId(row.id)
            if (wanted and found not in wanted) or row.inbox not in config.inboxes:
                continue
            kept_until = row.updated_at + timedelta(days=config.inboxes[row.inbox].keep_days)
            if kept_until <= now or ignore_grace:
                yield from _copy(config.inboxes[row.inbox].path, found, key, dry_run=dry_run)


def _copy(root: Path, delivery: DeliveryId, key: bytes, *, dry_run: bool) -> Iterator[Cleaned]:
    """The published copy of one delivery in the inbox at `root`; nothing when it went before. One that is away hinders no other."""
    try:
        inbox = Inbox.open(root)
        parcel = inbox.parcel(delivery)
        if not parcel.root.is_dir():
            return
        files, size = parcel.manifest.summary.files, parcel.manifest.summary.bytes
        if dry_run:
            yield Cleaned(delivery, "inbox copy would be removed", files, size, str(parcel.root))
            return
        inbox.withdraw(delivery, key=key)
    except LadingError as exc:
        yield Cleaned(delivery, "inbox copy kept", 0, 0, exc.message)
        return
    yield Cleaned(delivery, "inbox copy removed", files, size, str(parcel.root))
