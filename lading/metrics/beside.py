"""Figures that may take long to get, or for ever: a share that hangs must not hang whoever asks for the others."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from lading.errors import LadingError
from lading.metrics.figures import Figure

Take = Callable[[], Iterable[Figure]]


class Beside:
    """Takes figures in a thread beside, at most every `every` seconds and one at a time; nobody waits for longer than `patience`.

    Called, it gives those taken last, or `instead` while the present attempt hangs or when the last one failed.
    """

    def __init__(self, take: Take, *, every: float, patience: float = 2.0, instead: Take = tuple) -> None:
        self._take, self._every, self._patience, self._instead = take, every, patience, instead
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begun = float("-inf")
        self._taken: tuple[Figure, ...] | None = None

    def __call__(self) -> Iterable[Figure]:
        """The figures."""
        with self._lock:
            now = time.monotonic()
            if (self._thread is None or not self._thread.is_alive()) and now - self._begun >= self._every:
                self._begun = now
                self._thread = threading.Thread(target=self._run, name="lading figures", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            # What hung at the last call may hang for hours: it has had its patience.
            thread.join(max(0.0, self._begun + self._patience - time.monotonic()))
        hanging = thread is not None and thread.is_alive()
        return self._instead() if hanging or self._taken is None else self._taken

    def _run(self) -> None:
        taken = None
        try:
            taken = self._figures()
        finally:
            self._taken = taken  # a fault of ours, too, must not leave old figures standing as if they were new

    def _figures(self) -> tuple[Figure, ...] | None:
        with suppress(LadingError, OSError):
            return tuple(self._take())
        return None
