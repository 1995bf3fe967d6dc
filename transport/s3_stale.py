"""When it is time to look for uploads that nobody will finish, and which ones are spared: those of objects being put.

Their parts cost money and are in no listing. A program may run for months, so that once is not enough.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from lading.ports import Clock

DAY_S = 86_400.0
"""So often is looked: a listing costs a request, and stale is a matter of days."""

# Of this process, not of one object: two routes may lead into one bucket. By bucket and key.
_PUTTING: Counter[tuple[str, str]] = Counter()
_GIVEN_UP: set[tuple[str, str]] = set()
_CHANGED = threading.Condition()


class Stale:
    """What is older than `days` in `bucket` is stale; 0: nothing is. Safe to share between threads."""

    def __init__(self, bucket: str, days: float, *, clock: Clock = time.monotonic) -> None:
        self._bucket, self._days, self._clock = bucket, days, clock
        self._lock = threading.Lock()
        self._looked: float | None = None

    def is_due(self) -> bool:
        """Whether to look now: at the first question, then once a day. Whoever hears yes looks."""
        if self._days <= 0:
            return False
        with self._lock:
            now = self._clock()
            if self._looked is not None and now - self._looked < DAY_S:
                return False
            self._looked = now
            return True

    def is_old(self, moment: datetime) -> bool:
        """Whether it was so long ago."""
        return moment < datetime.now(UTC) - timedelta(days=self._days)

    @contextmanager
    def putting(self, key: str) -> Iterator[None]:
        """The object is being put: its uploads are spared. Waits while they are given up, which is one request."""
        place = self._bucket, key
        with _CHANGED:
            _CHANGED.wait_for(lambda: place not in _GIVEN_UP)
            _PUTTING[place] += 1
        try:
            yield
        finally:
            with _CHANGED:
                _PUTTING[place] -= 1
                if not _PUTTING[place]:
                    del _PUTTING[place]

    @contextmanager
    def sparing(self, key: str) -> Iterator[bool]:
        """Whether uploads of `key` may be given up in the block: nobody puts the object, nor begins to before its end."""
        place = self._bucket, key
        with _CHANGED:
            free = not _PUTTING[place] and place not in _GIVEN_UP
            if free:
                _GIVEN_UP.add(place)
        try:
            yield free
        finally:
            if free:
                with _CHANGED:
                    _GIVEN_UP.discard(place)
                    _CHANGED.notify_all()
