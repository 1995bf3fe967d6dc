"""Tries again what is worth trying again: a transport around a transport."""

import random
import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

import attrs
import structlog

from lading.config import structure
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.errors import LadingError, SourceChanged
from lading.ports import Journal, Plan, Progress, Settings, Transport
from transport.wrapping import Wrapped

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class RetryConfig:
    """A table `retry` of a route's transport; see `Retrying`. The agent tries again anyway; this repeats within one attempt."""

    attempts: int = 5
    base: float = 2.0
    longest: float = 300.0


class Retrying(Wrapped):
    """Repeats a failed call up to `attempts` times in all, when the error says that this is worthwhile.

    Waits `base` seconds after the first failure, twice as long after each further one, at most `longest`; the wait is drawn
    from the upper half of that span, so that a hundred agents do not return in the same second. SourceChanged is passed
    on at once: an unchanged manifest cannot become true again. A probe is not repeated: whoever probes wants to know how it is now.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        attempts: int = 5,
        base: float = 2.0,
        longest: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._attempts, self._base, self._longest = max(1, attempts), base, longest
        self._sleep, self._draw = sleep, draw

    @classmethod
    def from_settings(cls, inner: Transport, settings: Settings) -> Self:
        """Made from a table `retry` of a route's transport. Raises ConfigError."""
        chosen = structure(settings, RetryConfig, where="transport.retry")
        return cls(inner, attempts=chosen.attempts, base=chosen.base, longest=chosen.longest)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role."""
        return self._repeated(str(slot.delivery), "plan", lambda: self._inner.plan(cargo, slot))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. Progress never counts a file twice."""
        told = _Once(progress)

        def attempt() -> None:
            told.begin()
            self._inner.carry(cargo, slot, journal, told)

        self._repeated(str(slot.delivery), "carry", attempt)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        return self._repeated(str(delivery), "fetch the receipt", lambda: self._inner.fetch_receipt(delivery))

    def _repeated(self, delivery: str, what: str, call: Callable[[], T]) -> T:
        for attempt in range(1, self._attempts):
            try:
                return call()
            except LadingError as exc:
                if not exc.retried or isinstance(exc, SourceChanged):
                    raise
                pause = min(self._longest, self._base * 2 ** (attempt - 1)) * (0.5 + self._draw() / 2)
                _log.warning(
                    "trying again",
                    delivery=delivery,
                    what=what,
                    attempt=attempt,
                    pause_s=round(pause, 1),
                    why=exc.message,
                )
                self._sleep(pause)
        return call()


class _Once:
    """Passes on only what goes beyond the farthest that an earlier attempt had come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told_files = self._told_bytes = 0
        self._files = self._bytes = 0
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self._files = self._bytes = 0

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the role's word
        with self._lock:
            self._files += files
            self._bytes += bytes
            more_files = max(0, self._files - self._told_files)
            more_bytes = max(0, self._bytes - self._told_bytes)
            self._told_files += more_files
            self._told_bytes += more_bytes
        if more_files or more_bytes:
            self._progress.advance(files=more_files, bytes=more_bytes)
