"""Brings batches of files below one folder of a RemotePlace: each is read once, and proven while it is sent.

What one carry does with its files, in the process that was asked for it as in the one that helps it (transport.hands).
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from lading.errors import Corrupted, LadingError, SourceChanged
from lading.manifest import Entry
from lading.ports import Progress
from transport.bodies import FileBody, Folder, Told
from transport.folders import Folders
from transport.pacing import Pace
from transport.remote import Body, RemoteFiles, part_path
from transport.stalling import Watched

SMALL = 1 << 20
"""A file up to this size may share the line with others."""
_TRIES = 3  # of one file that arrives damaged


class Hears(Protocol):
    """Wants the digests of what is brought."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Which, SHA-256 among them."""

    def found(self, entry: Entry, digests: Mapping[str, str]) -> None:
        """These are the digests of its content, all of which was read."""


class Bringing:
    """Brings files of `root` below the remote folder `data`. For several threads, each with a connection of its own.

    `folders`: makes the folders that the files need; None where they are there. `listing`: hears of the digests.
    `is_there`: whether a file need not be brought.
    """

    def __init__(
        self,
        root: Path,
        data: str,
        *,
        pace: Pace,
        progress: Progress,
        listing: Hears | None,
        folders: Folders | None,
        is_there: Callable[[Watched, Entry], bool] = lambda _files, _entry: False,
    ) -> None:
        self._root, self._data, self._pace, self._progress = root, data, pace, progress
        self._listing, self._folders, self._is_there = listing, folders, is_there
        self._mine = threading.local()
        self._sources: list[Folder] = []
        self.goes_on: Callable[[], bool] = lambda: True
        """Asked before every block that is read."""

    def batch(self, files: Watched, entries: list[Entry]) -> None:
        """Place all of them, proven."""
        small: list[tuple[Entry, FileBody, Told]] = []
        try:
            for entry in entries:
                told = Told(self._progress, entry.size)
                if self._is_there(files, entry):
                    told.done()
                    continue
                if self._folders:
                    self._folders.make(entry.path.rpartition("/")[0], files.make_folders)
                if entry.size <= SMALL and files.places_many:
                    small.append((entry, self.body(entry, told), told))
                    continue
                with self.body(entry, told) as body:
                    self._place_one(files, entry, body)
                    self.note(entry, body)
                told.done()
            if small:
                self._place_small(files, small)
        finally:
            for _, body, _ in small:
                body.close()

    def body(self, entry: Entry, told: Told | None) -> FileBody:
        """The content of a file."""
        algorithms = self._listing.algorithms if self._listing else ("sha256",)
        return FileBody(
            self._root, entry, self._open, pace=self._pace, told=told, goes_on=self._goes_on, algorithms=algorithms
        )

    def note(self, entry: Entry, body: FileBody) -> None:
        """All of it was read."""
        if self._listing:
            self._listing.found(entry, body.proven)

    def target(self, entry: Entry) -> str:
        """Where it goes."""
        return f"{self._data}/{entry.path}"

    def close(self) -> None:
        """Let go of the source's folders."""
        for source in self._sources:
            source.close()

    def _goes_on(self) -> bool:
        return self.goes_on()

    def _place_small(self, files: Watched, small: list[tuple[Entry, FileBody, Told]]) -> None:
        try:
            files.place_many((self.target(entry), body) for entry, body, _ in small)
        except Corrupted:
            for entry, body, _ in small:
                self._place_one(files, entry, body)
        for entry, body, told in small:
            body.prove()
            self.note(entry, body)
            told.done()

    def _place_one(self, files: Watched, entry: Entry, body: FileBody) -> None:
        target = self.target(entry)
        try:
            placed(files, target, body)
            body.prove()
        except SourceChanged:
            # What was sent of it is not of the listed content: it must neither be continued nor stay.
            with suppress(LadingError):
                files.remove(part_path(target, body))
                if body.was_read:
                    files.remove(target)
            raise

    def _open(self, path: str) -> int:
        source: Folder | None = getattr(self._mine, "source", None)
        if source is None:
            source = self._mine.source = Folder(self._root)
            self._sources.append(source)
        return source.open(path)


def placed(files: RemoteFiles, target: str, body: Body) -> None:
    """Place one file; once more when it arrived damaged."""
    for attempt in range(1, _TRIES + 1):
        try:
            files.place(target, body)
        except Corrupted:
            if attempt == _TRIES:
                raise
            continue
        return
