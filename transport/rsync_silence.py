"""Notices that the other side of a sending rsync has fallen silent, which that rsync does not.

With --timeout each side keeps the other awake, and a sender counts what it says itself: as long as the line's buffers take its
few bytes, a daemon that hangs, or a line that only we still believe in, holds it for ever. What its process reads (its files,
and everything from the other side) tells the truth, and Linux counts that for us. Elsewhere nothing is noticed.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

SILENT_TIMES = 3
"""So many time-outs without a byte are too many. In each, the other side says something twice."""

_LOOK_S = 1.0


class SilenceWatch:
    """Ends a process that has read nothing for `patience` seconds; without patience, none. `end` asks it to end."""

    def __init__(
        self, pid: int, patience: float | None, end: Callable[[], None], *, proc: Path = Path("/proc")
    ) -> None:
        self._counters, self._patience, self._end = proc / str(pid) / "io", patience, end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.silent_s = 0.0
        """How long it was silent, when it was ended for that."""

    def __enter__(self) -> "SilenceWatch":
        if self._patience is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._patience is not None:
            self._thread.join()

    def _watch(self) -> None:
        read, since = self._read(), time.monotonic()
        while read is not None and not self._over.wait(_LOOK_S):
            before, read, now = read, self._read(), time.monotonic()
            if read != before:
                since = now
            elif self._patience is not None and now - since >= self._patience:
                self.silent_s = now - since
                self._end()
                return

    def _read(self) -> int | None:
        """Bytes that the process has read so far; None where nobody counts."""
        try:
            counters = self._counters.read_text()
        except OSError:
            return None
        for line in counters.splitlines():
            name, _, count = line.partition(": ")
            if name == "rchar":
                return int(count)
        return None
