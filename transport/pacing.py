"""How fast bytes may leave: what a throttled transport asks of the one that it wraps."""

from typing import Protocol, Self, runtime_checkable


class Pace(Protocol):
    """A limit on bytes per second that may change with the time of day. May be asked from any thread."""

    def rate(self) -> float | None:
        """Bytes per second allowed now; None is no limit, 0 is "not now"."""

    def spend(self, count: int) -> None:
        """Block until `count` more bytes may leave."""


class Unpaced:
    """No limit."""

    def rate(self) -> float | None:
        """Nothing to keep to."""
        return None

    def spend(self, count: int) -> None:
        """Return at once."""


@runtime_checkable
class Pacable(Protocol):
    """A transport that can keep to a pace. Optional: one that cannot be paced is refused by the wrapper, not ignored."""

    def paced(self, pace: Pace) -> Self:
        """The same transport, keeping to `pace` from now on."""
