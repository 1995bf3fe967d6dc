"""What every transport around a transport has in common: it hands on what it does not change."""

from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.deposit import Deposit, deposit_of
from lading.ports import Journal, Plan, Progress, Resting, Transport, TransportTraits


class Wrapped:
    """The transport `inner`, unchanged. A wrapper overrides the calls that it changes."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inner!r})"

    @property
    def traits(self) -> TransportTraits:
        """Those of the transport inside."""
        return self._inner.traits

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role."""
        self._inner.probe(needed_bytes)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role."""
        return self._inner.plan(cargo, slot)

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role."""
        self._inner.carry(cargo, slot, journal, progress)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        return self._inner.fetch_receipt(delivery)

    def rests(self) -> bool:
        """See lading.ports.Resting."""
        return isinstance(self._inner, Resting) and self._inner.rests()

    def deposit(self, folder: str) -> Deposit:
        """That of the transport inside, at its pace; live mode tries again by itself. Raises ConfigError when it has none."""
        return deposit_of(self._inner, folder)
