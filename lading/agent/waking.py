"""Wakes the scan early when the operating system reports a change. The scan stays the truth: events get lost, shares send none."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from lading.config import WatchConfig

log = structlog.get_logger()


class Waker(FileSystemEventHandler):
    """Waits for a change below any of the watched folders, for a time-out, or for `wake`."""

    def __init__(self, watches: Sequence[WatchConfig]) -> None:
        self._watches = watches
        self._changed = threading.Event()
        self._observer: BaseObserver | None = None

    def wait(self, timeout: float) -> None:
        """Until something changed, or for `timeout` seconds."""
        self._changed.wait(timeout)

    def wake(self) -> None:
        """End the wait."""
        self._changed.set()

    def clear(self) -> None:
        """What changes from here on counts."""
        self._changed.clear()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Something changed. Opening and reading are not changes; our own looking would wake us for ever."""
        if event.event_type in ("created", "modified", "moved", "closed", "deleted"):
            self._changed.set()

    def __enter__(self) -> Self:
        observer = Observer()
        try:
            observer.start()
        except OSError as exc:
            log.info("no events, scanning only", why=str(exc))
            return self
        self._observer = observer
        for watch in self._watches:
            try:
                observer.schedule(self, str(watch.path), recursive=True)
            except OSError as exc:  # not there, out of inotify watches, or a file system that has none
                log.info("no events, scanning only", watch=str(watch.path), why=str(exc))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2)
