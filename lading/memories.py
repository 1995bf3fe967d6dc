"""The server's ledger and the agent's outbox, seen through the desk's one shape."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NoReturn

from lading.agent.outbox import UNSENT, Outbox, Outgoing
from lading.agent.receipts import kept_receipt
from lading.delivery import DeliveryId, Labels, Stage
from lading.desk import Account
from lading.errors import ConfigError, LadingError


class AgentMemory:
    """The outbox of this machine."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def recent(self, *, stages: Sequence[Stage], limit: int) -> Iterable[Account]:
        """Newest first."""
        return [self._account(item) for item in self._outbox.deliveries(*stages, limit=limit)]

    def starting_with(self, prefix: str) -> Sequence[DeliveryId]:
        """Ids that begin or end so."""
        return [i.id for i in self._outbox.deliveries() if i.id.startswith(prefix) or i.id.endswith(prefix)][:10]

    def account(self, delivery: DeliveryId) -> Account | None:
        """One delivery with everything, or None."""
        try:
            item = self._outbox.get(delivery)
        except ConfigError:
            return None
        return self._account(item, whole=True)

    def verify(self, delivery: DeliveryId, *, reread: bool = False) -> None:  # noqa: ARG002 - the role's
        """Only the server can."""
        self._not_here(delivery, "verify")

    def retry(self, delivery: DeliveryId) -> None:
        """Carry again at once."""
        self._outbox.retry(delivery)

    def fix(self, delivery: DeliveryId, labels: Labels) -> None:
        """What never left has no labels to mend in an inbox: it is sent anew."""
        item = self._outbox.get(delivery)
        if item.arrived_at:
            self._not_here(delivery, "fix")
        raise LadingError(
            f"{delivery} was refused before it left {item.root}",
            safe="nothing was sent; the source is untouched",
            next_command=item.command_to_send(labels),
        )

    def release(self, delivery: DeliveryId) -> None:
        """Look at the source again."""
        if self._outbox.get(delivery).arrived_at:
            self._not_here(delivery, "release")
        self._outbox.retry(delivery)

    def pause(self, target: str) -> None:
        """One delivery; or a route's, or all, that has not left yet, and what is found later."""
        meant = self._meant(target)
        if all(item.id != target for item in meant):
            self._outbox.pause_target(target)
            meant = self._meant(target)
        for item in meant:
            is_going = item.stage in UNSENT or (item.stage is Stage.HELD and item.not_before > 0)
            if item.id == target:
                self._outbox.pause(item.id)
            elif is_going:
                with suppress(ConfigError):  # it arrived since we looked: nothing of it is left to be paused
                    self._outbox.pause(item.id)

    def resume(self, target: str) -> None:
        """The reverse of pause."""
        meant = self._meant(target)
        if all(item.id != target for item in meant):
            self._outbox.resume_target(target)
        for item in meant:
            if item.id == target:
                self._outbox.resume(item.id)
            elif item.stage is Stage.PAUSED:
                with suppress(ConfigError):  # somebody else did, since we looked
                    self._outbox.resume(item.id)

    def cancel(self, delivery: DeliveryId) -> None:
        """Give it up before it is in the inbox; later only the server can."""
        if self._outbox.get(delivery).stage in (*UNSENT, Stage.HELD, Stage.PAUSED, Stage.REJECTED):
            self._outbox.cancel(delivery)

    def _meant(self, target: str) -> list[Outgoing]:
        return [i for i in self._outbox.deliveries() if target in ("all", i.delivery.route, i.id)]

    def _not_here(self, delivery: DeliveryId, wish: str) -> NoReturn:
        raise LadingError(
            f"{delivery} lies in the inbox; only the server there can {wish} it",
            safe="its files are in the inbox, and at the source",
            next_command=f"lading {wish} {delivery}   (on the staging host)",
        )

    def _account(self, item: Outgoing, *, whole: bool = False) -> Account:
        return Account(
            delivery=item.delivery,
            changed_at=datetime.fromtimestamp(item.updated_at, UTC),
            known_to=("agent",),
            findings=tuple(self._outbox.findings(item.id)),
            events=tuple(self._outbox.events(item.id)) if whole else (),
            error=item.error,
            next_command=item.next_command,
            source=str(item.root),
            sent_files=item.sent_files,
            sent_bytes=item.sent_bytes,
            attempt=item.attempt,
            not_before=datetime.fromtimestamp(item.not_before, UTC) if item.not_before else None,
            receipt=kept_receipt(self._outbox, item.id),
        )
