"""What this machine knows about deliveries: the server's ledger and the agent's outbox, told as one story.

The command line asks here and nowhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from lading.config import nearest
from lading.delivery import Delivery, DeliveryId, Event, Labels, Receipt, Stage
from lading.errors import ConfigError, LadingError
from lading.findings import Finding

DONE = frozenset({Stage.VERIFIED, Stage.CLEANABLE, Stage.CLEANED})
NEEDS_YOU = frozenset({Stage.REJECTED, Stage.HELD})
SET_ASIDE = frozenset({Stage.PAUSED, Stage.CANCELLED})
WAITING = frozenset({Stage.FOUND, Stage.READY, Stage.QUEUED})
_LATEST = 10_000
"""So many deliveries make a morning; of older ones only those that did not come to their end."""


class UnknownDelivery(LadingError):
    """No delivery, or more than one, fits what was typed."""

    code = "unknown-delivery"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Account:
    """Everything known about one delivery.

    `error` and `next_command` belong to the last failure; `given_up` says that it is not tried again by itself. `source` is
    the folder at the sender ("" on a pure server). `sent_files` and `sent_bytes` of those of `delivery` have left.
    `not_before` is when it is tried again. `known_to`: "server", "agent" or both.
    """

    delivery: Delivery
    changed_at: datetime
    known_to: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    events: tuple[Event, ...] = ()
    error: str = ""
    next_command: str = ""
    given_up: bool = False
    source: str = ""
    sent_files: int = 0
    sent_bytes: int = 0
    attempt: int = 0
    not_before: datetime | None = None
    paused: bool = False
    receipt: Receipt | None = None

    @property
    def stage(self) -> Stage:
        """The stage, PAUSED when somebody stopped it."""
        return Stage.PAUSED if self.paused and self.delivery.stage not in DONE else self.delivery.stage

    @property
    def needs_you(self) -> bool:
        """Whether a person must act."""
        return self.stage in NEEDS_YOU

    def command(self, program: str) -> str:
        """What to type next about this delivery, or "" when there is nothing to do."""
        if self.next_command:
            return self.next_command
        for finding in self.findings:
            if finding.hint.startswith("lading "):
                return finding.hint
        if self.stage is Stage.REJECTED:
            return f"{program} show {self.delivery.id}"
        if self.stage is Stage.HELD:
            return f"{program} retry {self.delivery.id}"
        return f"{program} resume {self.delivery.id}" if self.stage is Stage.PAUSED else ""


class Memory(Protocol):
    """One place that remembers deliveries: the server's ledger or the agent's outbox."""

    def recent(self, *, stages: Sequence[Stage], limit: int) -> Iterable[Account]:
        """Newest first, without events; `stages` empty means all."""

    def starting_with(self, prefix: str) -> Sequence[DeliveryId]:
        """At most ten ids that start so."""

    def account(self, delivery: DeliveryId) -> Account | None:
        """Everything about one delivery, or None."""

    # Each of these raises a LadingError that names the stage and the allowed commands when it makes no sense now.

    def verify(self, delivery: DeliveryId, *, reread: bool = False) -> None:
        """Read it back from the repository again; with `reread` the repository shall read its disk again."""

    def retry(self, delivery: DeliveryId) -> None:
        """Try again at once what is held or backing off."""

    def fix(self, delivery: DeliveryId, labels: Labels) -> None:
        """Give a refused delivery other labels and let it go on."""

    def release(self, delivery: DeliveryId) -> None:
        """Let a refused delivery be checked again as it is."""

    def pause(self, target: str) -> None:
        """Stop starting work on a delivery id, a route, a repository, or "all"."""

    def resume(self, target: str) -> None:
        """The reverse of pause."""

    def cancel(self, delivery: DeliveryId) -> None:
        """Give it up; nothing is deleted."""


@dataclass(frozen=True, slots=True)
class Morning:
    """The one-screen answer: numbers, and what needs a person."""

    done: int
    moving: int
    waiting: int
    aside: int
    needs_you: tuple[Account, ...]
    under_way: tuple[Account, ...]
    since: datetime
    moving_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Desk:
    """Both memories of this machine. Either may be absent. `targets`: the names of routes and repositories, for pause."""

    server: Memory | None = None
    agent: Memory | None = None
    targets: frozenset[str] = frozenset()

    def find(self, typed: str) -> DeliveryId:
        """The id that `typed` (an id or a unique beginning or end of one) means. Raises UnknownDelivery."""
        wanted = typed.strip()
        # Every id begins with nothing: the only delivery there is would answer to a variable that a script forgot to set.
        asked = self._memories() if wanted and wanted.isascii() else []
        ids = sorted({found for memory in asked for found in memory.starting_with(wanted)})
        if typed in ids:
            return DeliveryId(typed)
        if len(ids) == 1:
            return ids[0]
        if not ids:
            known = [str(a.delivery.id) for a in self.recent(limit=200)]
            raise UnknownDelivery(
                f"no delivery {typed!r}{nearest(typed, known) if known else ''}"[:300], next_command="lading list"
            )
        raise UnknownDelivery(f"{typed!r} fits several: {', '.join(ids[:10])}", next_command="lading list")

    def account(self, typed: str) -> Account:
        """Everything about one delivery. Raises UnknownDelivery."""
        wanted = self.find(typed)
        found = [a for a in (m.account(wanted) for m in self._memories()) if a is not None]
        if not found:
            raise UnknownDelivery(f"no delivery {typed!r}", next_command="lading list")
        return merged(found)

    def recent(self, *, stages: Sequence[Stage] = (), limit: int = 50) -> list[Account]:
        """The latest deliveries, newest first; with `stages` the latest that are there, however many came after them."""
        window, memories = max(limit, 1000), self._memories()
        halves: dict[DeliveryId, dict[int, Account]] = {}
        overflowing: set[int] = set()
        for number, memory in enumerate(memories):
            latest = list(memory.recent(stages=(), limit=window))
            # A delivery that is in the way may have waited for long: it is asked for by its stage.
            if stages and len(latest) >= window:
                latest += memory.recent(stages=_asked(stages), limit=window)
                overflowing.add(number)
            for account in latest:
                halves.setdefault(account.delivery.id, {}).setdefault(number, account)
        accounts: list[Account] = []
        for delivery in sorted(halves, reverse=True):
            known = halves[delivery]
            for number in overflowing - known.keys():
                if (other := memories[number].account(delivery)) is not None:
                    known[number] = other
            account = merged([known[number] for number in sorted(known)])
            if not stages or account.stage in stages:
                accounts.append(account)
                if len(accounts) == limit:
                    break
        return accounts

    def morning(self, *, now: datetime | None = None, hours: float = 24) -> Morning:
        """What happened in the last `hours`, what is moving, what waits, what needs a person."""
        since = (now or datetime.now(UTC)) - timedelta(hours=hours)
        accounts = self.recent(limit=_LATEST)
        if len(accounts) == _LATEST:
            known = {account.delivery.id for account in accounts}
            open_ = self.recent(stages=[stage for stage in Stage if stage not in DONE], limit=_LATEST)
            accounts += [account for account in open_ if account.delivery.id not in known]
        going = [a for a in accounts if a.stage not in DONE | NEEDS_YOU | SET_ASIDE | WAITING]
        return Morning(
            done=sum(a.stage in DONE and a.changed_at >= since for a in accounts),
            moving=len(going),
            waiting=sum(a.stage in WAITING for a in accounts),
            aside=sum(a.stage in SET_ASIDE for a in accounts),
            needs_you=tuple(a for a in accounts if a.needs_you),
            under_way=tuple(going),
            since=since,
            moving_bytes=sum(a.delivery.bytes for a in going),
        )

    def verify(self, delivery: DeliveryId, *, reread: bool = False) -> None:
        """Queue a fresh reading back. Raises LadingError when it was never imported, or no server is here."""
        self._keeper(delivery).verify(delivery, reread=reread)

    def retry(self, delivery: DeliveryId) -> None:
        """Try again at once."""
        self._keeper(delivery).retry(delivery)

    def fix(self, delivery: DeliveryId, labels: Labels) -> None:
        """Correct the labels of a refused delivery and let it go on."""
        self._keeper(delivery).fix(delivery, labels)

    def release(self, delivery: DeliveryId) -> None:
        """Let a refused delivery be checked again as it is."""
        self._keeper(delivery).release(delivery)

    def cancel(self, delivery: DeliveryId) -> None:
        """Give a delivery up, in every memory that has it; nothing is deleted.

        Raises LadingError when that is for another machine to do.
        """
        holders = [memory for memory in self._memories() if memory.account(delivery)]
        for memory in holders:
            memory.cancel(delivery)
        left = self.agent.account(delivery) if holders == [self.agent] and self.agent else None
        if left is not None and left.stage is not Stage.CANCELLED:
            raise LadingError(
                f"{delivery} is {left.stage}; it lies in the inbox, and only the server there can cancel it",
                safe="its files are in the inbox, and at the source",
                next_command=f"lading cancel {delivery}   (on the staging host)",
            )

    def pause(self, typed: str) -> None:
        """Stop starting work on a delivery (id or prefix), a route, a repository, or "all"."""
        self._in_each(typed, lambda memory, target: memory.pause(target))

    def resume(self, typed: str) -> None:
        """The reverse of `pause`."""
        self._in_each(typed, lambda memory, target: memory.resume(target))

    def _in_each(self, typed: str, act: Callable[[Memory, str], None]) -> None:
        """In both memories. Once the server has done it, a sender that has no part in the delivery any more is no failure."""
        is_done = False
        for memory, target in self._targets(typed):
            try:
                act(memory, target)
            except ConfigError:
                if not is_done:
                    raise
            is_done = True

    def _targets(self, typed: str) -> list[tuple[Memory, str]]:
        if typed == "all" or typed in self.targets:
            return [(memory, typed) for memory in self._memories()]
        try:
            found = self.find(typed)
        except UnknownDelivery as exc:
            if typed[:1].isdigit() or not self.targets:  # that is an id
                raise
            raise UnknownDelivery(
                f"no delivery, route or repository {typed!r}{nearest(typed, list(self.targets))}",
                next_command=exc.next_command,
            ) from exc
        return [(memory, found) for memory in self._memories() if memory.account(found)]

    def _keeper(self, delivery: DeliveryId) -> Memory:
        """The memory whose word counts on this delivery: the server's once it has it."""
        for memory in self._memories():
            if memory.account(delivery):
                return memory
        raise UnknownDelivery(f"no delivery {delivery!r}", next_command="lading list")

    def _memories(self) -> list[Memory]:
        return [m for m in (self.server, self.agent) if m is not None]


def _asked(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """What to ask a memory for: what somebody paused may be noted beside its stage."""
    return tuple(stage for stage in Stage if stage not in DONE) if Stage.PAUSED in stages else tuple(stages)


# Once the server has a delivery, its word on the stage is better than the sender's, except about the source: cleaned, or
# held because it no longer equals the manifest.
_SENDERS_OWN = frozenset({Stage.CLEANABLE, Stage.CLEANED, Stage.HELD})


def merged(found: Sequence[Account]) -> Account:
    """Two accounts of one delivery as one. The server comes first in `found`."""
    first = found[0]
    for other in found[1:]:
        ahead = other if other.delivery.stage in _SENDERS_OWN and first.delivery.stage in DONE else first
        first = replace(
            first,
            delivery=replace(
                first.delivery,
                stage=ahead.delivery.stage,
                files=first.delivery.files or other.delivery.files,
                bytes=first.delivery.bytes or other.delivery.bytes,
                digest=first.delivery.digest or other.delivery.digest,
            ),
            changed_at=max(first.changed_at, other.changed_at),
            known_to=first.known_to + other.known_to,
            findings=tuple(dict.fromkeys(first.findings + other.findings)),
            events=tuple(sorted(first.events + other.events, key=lambda e: e.at)),
            error=first.error or (other.error if other.delivery.stage in NEEDS_YOU else ""),
            next_command=first.next_command or (other.next_command if other.delivery.stage in NEEDS_YOU else ""),
            source=first.source or other.source,
            sent_files=max(first.sent_files, other.sent_files),
            sent_bytes=max(first.sent_bytes, other.sent_bytes),
            receipt=first.receipt or other.receipt,
        )
    return first
