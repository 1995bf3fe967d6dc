"""Several connections to one place, each with a thread of its own, that share a stream of work.

Threads and connections are made as there is work for them: three files need no four log-ins.
"""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from lading.errors import LadingError
from transport.hands_errors import as_ours
from transport.remote import RemotePlace
from transport.stalling import Watch, Watched

Work = TypeVar("Work")
Work_contra = TypeVar("Work_contra", contravariant=True)
_LOOK_S = 0.02
_GRACE_S = 10.0  # for the others to stop by themselves, when one has failed


class Hand(Protocol[Work_contra]):
    """Works for a crew without a connection of ours."""

    def takes(self, work: Work_contra) -> bool:
        """Whether it can do that."""

    def do(self, work: Work_contra, goes_on: Callable[[], bool]) -> None:
        """Do it. For one thread."""

    def leave(self, goes_on: Callable[[], bool]) -> None:
        """It is not needed any more; when this returns, the place has room for another connection."""


class Hands(Protocol[Work_contra]):
    """Has hands to give."""

    @property
    def kept(self) -> int:
        """How many connections of the place are for them, or may be soon."""

    def another(self) -> Hand[Work_contra] | None:
        """One more; None when there is none, or not yet."""


class Crew(Generic[Work]):
    """Calls `do(connection, work)` for everything submitted. The first error ends it. A context manager.

    `do` should ask `goes_on` now and then, and stop when it says no.
    """

    def __init__(
        self,
        place: RemotePlace,
        watch: Watch,
        do: Callable[[Watched, Work], None],
        *,
        first: Watched | None = None,
        hands: Hands[Work] | None = None,
        grace_s: float = _GRACE_S,
    ) -> None:
        """`first`: a connection that is open already, and the crew's until it is done. `hands`: share work and connections."""
        self._first, self._hands = first, hands
        self._place, self._watch, self._do, self._grace_s = place, watch, do, grace_s
        self._work: queue.Queue[Work | None] = queue.Queue(maxsize=2 * place.streams)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._idle = self._own = 0
        self._hired_at = 0.0
        self._failure: BaseException | None = None
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped.set()
        self._join(self._grace_s)
        # Whoever still waits for the server is woken by the loss of the connection.
        if any(thread.is_alive() for thread in self._threads):
            self._watch.close_all()
            self._join(self._grace_s)

    def goes_on(self) -> bool:
        """Whether there is a point in going on."""
        return not self._stopped.is_set()

    def submit(self, work: Work) -> None:
        """Hand over `work`; waits while plenty is under way. Raises the first error of any thread."""
        self._hire_if_worth_it()
        self._put(work)

    def finish(self) -> None:
        """Wait until everything is done. Raises the first error of any thread."""
        while self._others_may_come and not self._work.empty() and self.goes_on():
            self._hire_if_worth_it()
            time.sleep(_LOOK_S)
        for _ in self._threads:
            self._put(None)
        for thread in self._threads:
            while thread.is_alive() and self.goes_on():
                thread.join(0.2)
        self._raise_failure()

    @property
    def _others_may_come(self) -> bool:
        """Whether there may be somebody to hire later who was not to be had at first."""
        return self._hands is not None or bool(self._place.traits.another_after_s)

    def _put(self, work: Work | None) -> None:
        while True:
            self._raise_failure()
            try:
                self._work.put(work, timeout=0.2)
            except queue.Full:
                if work is not None and self._others_may_come:
                    self._hire_if_worth_it()
                continue
            return

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, LadingError):
            raise self._failure
        raise as_ours(self._failure, f"carrying to {self._place.name}") from self._failure

    def _hire_if_worth_it(self) -> None:
        """One more, when all are busy and were for as long as the place says; the first at once."""
        with self._lock:
            # Who is idle may only not have come to the work that is there already.
            all_busy = self._idle <= self._work.qsize() and len(self._threads) < self._place.streams
        waited = time.monotonic() - self._hired_at
        if all_busy and (not self._threads or waited >= self._place.traits.another_after_s):
            self._hire()

    def _hire(self) -> None:
        hand = self._hands.another() if self._hands else None
        if hand is None and self._hands and self._own >= self._place.streams - self._hands.kept:
            return
        self._own += hand is None
        self._hired_at = time.monotonic()
        thread = threading.Thread(
            target=self._run, args=(hand,), name=f"lading-carry-{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _run(self, hand: Hand[Work] | None) -> None:
        try:
            work = self._next() if hand else None
            while hand and work is not None and hand.takes(work):
                hand.do(work, self.goes_on)
                work = self._next()
            if hand:
                if work is None:
                    return
                hand.leave(self.goes_on)  # from now on this is a thread as all others
            files = self._connection()
            if work is not None:
                self._do(files, work)
            while (work := self._next()) is not None:
                self._do(files, work)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller's thread, which raises it
            with self._lock:
                if self._failure is None:
                    self._failure = exc
            self._stopped.set()

    def _connection(self) -> Watched:
        with self._lock:
            first, self._first = self._first, None
        return first or self._watch.over(self._place.connect())

    def _next(self) -> Work | None:
        with self._lock:
            self._idle += 1
        try:
            while self.goes_on():
                try:
                    return self._work.get(timeout=0.2)
                except queue.Empty:
                    continue
            return None
        finally:
            with self._lock:
                self._idle -= 1

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
