"""Says what each call did, how much and how fast: a transport around a transport."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.errors import LadingError
from lading.ports import Journal, Plan, Progress, Transport
from transport.wrapping import Wrapped

_log = structlog.get_logger(__name__)


class Logged(Wrapped):
    """Every route has it, inside `Retrying`, so that each try has its own lines.

    A carry is told at level info with `files`, `bytes`, `seconds` and `mb_per_s` of what was really sent by it, whether it ended
    well or with an error (its `code`); what only looks is told at debug. Names the transport, never its settings.
    """

    def __init__(self, inner: Transport, *, route: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(inner)
        self._route, self._clock = route, clock

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role."""
        with self._told("probe", None):
            self._inner.probe(needed_bytes)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role."""
        with self._told("plan", slot.delivery):
            return self._inner.plan(cargo, slot)

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role."""
        counted = _Counted(progress)
        began = self._clock()
        code = "interrupted"
        try:
            self._inner.carry(cargo, slot, journal, counted)
            code = ""
        except LadingError as exc:
            code = exc.code
            raise
        finally:
            seconds = self._clock() - began
            _log.info(
                "carry failed" if code else "carried",
                delivery=slot.delivery,
                route=self._route,
                files=counted.files,
                bytes=counted.bytes,
                seconds=f"{seconds:.1f}",
                mb_per_s=f"{counted.bytes / 1e6 / seconds:.1f}" if seconds > 0 else "",
                code=code,
            )

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        with self._told("receipt asked", delivery):
            return self._inner.fetch_receipt(delivery)

    @contextmanager
    def _told(self, what: str, delivery: DeliveryId | None) -> Iterator[None]:
        began = self._clock()
        code = "interrupted"
        try:
            yield
            code = ""
        except LadingError as exc:
            code = exc.code
            raise
        finally:
            about = {"delivery": delivery} if delivery else {}
            _log.debug(what, route=self._route, seconds=f"{self._clock() - began:.2f}", code=code, **about)


class _Counted(Progress):
    """Hands on, and adds up."""

    def __init__(self, inner: Progress) -> None:
        self._inner, self._lock = inner, threading.Lock()
        self.files = self.bytes = 0

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """So much more is done."""
        with self._lock:
            self.files += files
            self.bytes += bytes
        self._inner.advance(files=files, bytes=bytes)
