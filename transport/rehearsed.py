"""Shows what would be carried, and carries nothing: a transport around a transport."""

from collections.abc import Callable

from lading.delivery import Cargo, Slot
from lading.ports import Journal, Plan, Progress, Transport
from transport.wrapping import Wrapped


class Rehearsed(Wrapped):
    """The dry run. `show` is told the plan of every carry."""

    def __init__(self, inner: Transport, *, show: Callable[[Plan], None]) -> None:
        super().__init__(inner)
        self._show = show

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:  # noqa: ARG002 - nothing happens
        """Only plan, and show it. Writes nothing anywhere: not into the slot, the papers or the journal."""
        self._show(self._inner.plan(cargo, slot))
