"""How far something has come, how fast it goes, and how long it will take: the same figures for people and for machines."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lading.cli import output
from lading.cli.output import Json

_WINDOW_S = 15.0
_LEAST_S = 1.0


@dataclass(frozen=True, slots=True)
class Reached:
    """`files` of `of_files` and `bytes` of `of_bytes` are done; an `of_` of 0 is not known yet.

    `rate`: bytes per second lately, None while there is nothing to measure it by. `remaining_s`: None too when nothing moves.
    """

    files: int
    bytes: int
    of_files: int
    of_bytes: int
    rate: float | None = None
    remaining_s: float | None = None

    def words(self) -> str:
        """For people: `12 of 40 files  31 MB of 200 MB  12 MB/s  14 s left`."""
        parts = [f"{self.files:,} of {self.of_files:,} files" if self.of_files else f"{self.files:,} files"]
        parts.append(
            f"{output.size(self.bytes)} of {output.size(self.of_bytes)}" if self.of_bytes else output.size(self.bytes)
        )
        if self.rate is not None:
            parts.append(f"{output.size(round(self.rate))}/s")
        if self.remaining_s is not None:
            parts.append(f"{output.span(self.remaining_s)} left")
        return "  ".join(parts)

    def as_dict(self) -> dict[str, Json]:
        """For machines; `bytes_per_second` and `remaining_s` are null while they are not known."""
        return {
            "files_done": self.files,
            "files": self.of_files,
            "bytes_done": self.bytes,
            "bytes": self.of_bytes,
            "bytes_per_second": None if self.rate is None else round(self.rate),
            "remaining_s": None if self.remaining_s is None else round(self.remaining_s),
        }


class Gauge:
    """Measures by what was seen in the last 15 seconds, so that a line that slows down is seen to. Not for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def reached(self, files: int, bytes: int, of_files: int, of_bytes: int) -> Reached:  # noqa: A002 - the unit is the name
        """Take a look: so much is done now. What goes back to less (a new attempt) is measured anew."""
        now = self._clock()
        if self._seen and bytes < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, bytes))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = (bytes - before) / (now - since) if now - since >= _LEAST_S else None
        left = (of_bytes - bytes) / rate if rate and of_bytes > bytes else None
        return Reached(files, bytes, of_files, of_bytes, rate, left)


class Meter:
    """Adds up what the threads of a long step say (a `Progress`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.files = self.bytes = 0

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """So much more is done."""
        with self._lock:
            self.files += files
            self.bytes += bytes

    def taken(self) -> tuple[int, int]:
        """Files and bytes so far."""
        with self._lock:
            return self.files, self.bytes
