"""What a server has only so many of: background slots, database connections, threads.

This is why OMERO falls over on heavy import. A request of low priority (an import, a deletion) waits for one of five
background slots *on the thread that serves the client's call*, for up to an hour; and a running import keeps one of ten
database connections, which the calls of everybody else need too, from its first step to its last.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from lading.sandbox.omero import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """OMERO's defaults. Times in seconds; back_off in milliseconds, as the wire has it.

    `database_timeout` is shorter than the 30 s of a real server so that tests end.
    """

    background_slots: int = 5
    background_timeout: float = 3600.0
    database_connections: int = 10
    database_timeout: float = 5.0
    database_back_off: int = 1000
    executor_threads: int = 10


@dataclass(slots=True)
class Use:
    """How busy something is: now, at most since the start, how many wait, how many were turned away."""

    limit: int
    busy: int = 0
    peak: int = 0
    waiting: int = 0
    refused: int = 0


class Slots:
    """So many at a time; the others wait in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._use = Use(limit)
        self._free = threading.Condition()
        self._queue: list[object] = []

    def take(self, timeout: float) -> bool:
        """Wait for one. False when there was none for so many seconds."""
        ticket = object()
        with self._free:
            self._queue.append(ticket)
            self._use.waiting += 1
            try:
                mine = self._free.wait_for(
                    lambda: self._queue[0] is ticket and self._use.busy < self._use.limit, timeout
                )
            finally:
                self._queue.remove(ticket)
                self._use.waiting -= 1
                self._free.notify_all()
            if mine:
                self._use.busy += 1
                self._use.peak = max(self._use.peak, self._use.busy)
            else:
                self._use.refused += 1
            return mine

    def give_back(self) -> None:
        """The other half of `take`."""
        with self._free:
            self._use.busy -= 1
            self._free.notify_all()

    def use(self) -> Use:
        """A copy of the figures."""
        with self._free:
            return Use(**asdict(self._use))


def _nothing() -> None:
    """Nobody waits for it."""


class Background:
    """The server's engine room: the slots, the pool of database connections, and the threads that work."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots = Slots(limits.background_slots)
        self._connections = Slots(limits.database_connections)
        self._threads = ThreadPoolExecutor(limits.executor_threads, thread_name_prefix="executor")

    def submit(self, work: Callable[[], None], then: Callable[[], None] = _nothing) -> None:
        """Run `work` (an import, a deletion) in the background. Waits for a free slot first: on the caller's thread.

        `then` is called when it has ended and the slot is free again, so that who hears of the end finds one.
        Raises omero.InternalException when none was free for an hour.
        """
        if not self._slots.take(self._limits.background_timeout):
            raise errors.internal(
                "java.util.concurrent.RejectedExecutionException",
                f"no background slot was free for {self._limits.background_timeout:.0f} s",
            )
        self._threads.submit(self._carry_out, work, then, self._slots)

    def run(self, work: Callable[[], None], then: Callable[[], None] = _nothing) -> None:
        """Run `work` at once, without a slot; `then` is called when it has ended."""
        self._threads.submit(self._carry_out, work, then, None)

    def _carry_out(self, work: Callable[[], None], then: Callable[[], None], slots: Slots | None) -> None:
        """With a database connection from beginning to end."""
        connected = self._connections.take(self._limits.background_timeout)
        try:
            work()
        finally:
            if connected:
                self._connections.give_back()
            if slots is not None:
                slots.give_back()
        then()

    @contextmanager
    def connection(self) -> Iterator[None]:
        """One of the database connections. Raises DatabaseBusyException, which says when to come back."""
        if not self._connections.take(self._limits.database_timeout):
            raise self.busy()
        try:
            yield
        finally:
            self._connections.give_back()

    def busy(self) -> Exception:
        """What a caller gets when no connection is free."""
        refusal: Exception = errors.database_busy(self._limits.database_back_off)
        return refusal

    def use(self) -> dict[str, Use]:
        """How busy the slots and the connections are."""
        return {"background": self._slots.use(), "database": self._connections.use()}

    def close(self, patience: float) -> None:
        """Take no more work, and wait so many seconds for what runs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + patience
        while self._slots.use().busy and time.monotonic() < deadline:
            time.sleep(0.01)
