"""One carry to a RemotePlace: brings files below the slot's data, over as many connections as are worth it."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lading.delivery import Slot
from lading.errors import Corrupted, LadingError, OutOfSpace, SourceChanged
from lading.manifest import Entry
from lading.ports import Progress
from transport.bodies import FileBody, Folder, Told, is_body_of
from transport.crew import Crew
from transport.folders import Folders
from transport.on_the_way import Listing, Load
from transport.pacing import Pace
from transport.remote import Body, RemoteFiles, RemotePlace, part_path
from transport.stalling import Watch, Watched
from transport.there import Found, There, Wanted, tidied

_BATCH_FILES = 64  # that share the line
_BATCH_BYTES = 8 << 20
_HANDFUL = 8  # of files that go one by one: worth a connection, and few enough for all connections to end at about the same time
_SMALL = 1 << 20  # a file up to this size may share the line with others
_TRIES = 3  # of one file that arrives damaged


class Carrying:
    """One carry: brings what a manifest lists below `slot.data`; or what a `listing` shows, which then hears of the digests."""

    def __init__(
        self,
        place: RemotePlace,
        watch: Watch,
        root: Path,
        slot: Slot,
        *,
        pace: Pace,
        progress: Progress,
        listing: Listing | None = None,
    ) -> None:
        self._place, self._watch, self._root, self._slot = place, watch, root, slot
        self._pace, self._progress, self._listing = pace, progress, listing
        self._there: There | None = None
        self._trusting = False
        self._folders = Folders(slot.data)
        self._mine = threading.local()
        self._sources: list[Folder] = []
        self._goes_on: Callable[[], bool] = lambda: True

    def bring(self, files: Watched, load: Load, *, fresh: bool, trusting: bool) -> None:
        """Make the slot hold every file of `load`, and none besides.

        `fresh`: nothing is there. `trusting`: what is there with the right size and time was brought from this very source.
        """
        self._trusting = trusting
        if not fresh:
            self._there = self._tidied(files, load)
        files.make_folders(self._slot.data)
        try:
            with Crew(self._place, self._watch, self._bring_batch, first=files) as crew:
                self._goes_on = crew.goes_on
                for batch in self._in_turn(load.entries, _BATCH_FILES if files.places_many else _HANDFUL):
                    crew.submit(batch)
                crew.finish()
        except OutOfSpace as exc:
            raise self._with_figures(files, exc, load) from None  # it says all that the first one said
        finally:
            for source in self._sources:
                source.close()

    def _tidied(self, files: Watched, load: Load) -> There:
        wanted = Wanted(load.files)
        for entry in load.entries:
            wanted.add(entry.path, part_path(entry.path, self._body(entry, None)))
        return tidied(
            files,
            self._slot.data,
            wanted,
            There(load.files, with_times=self._place.traits.keeps_mtime),
        )

    def _in_turn(self, entries: Iterable[Entry], most_files: int) -> Iterator[list[Entry]]:
        """The work. Files that are there and only have to be hashed here come last.

        A server gives up a connection that was silent for too long. Were they first, the next attempt would begin with the same
        silence, and none would ever bring what is missing; so only the papers can be, and they are written by then.
        """
        if self._there is None or self._listing is None:
            yield from _batches(entries, most_files)
            return
        yield from _batches((entry for entry in entries if not self._looks_there(entry)), most_files)
        yield from _batches((entry for entry in entries if self._looks_there(entry)), most_files)

    def _looks_there(self, entry: Entry) -> bool:
        enough = Found.TIME if self._place.traits.keeps_mtime else Found.SIZE
        return self._trusting and self._there is not None and self._there.of(entry) is enough

    def _bring_batch(self, files: Watched, entries: list[Entry]) -> None:
        small: list[tuple[Entry, FileBody, Told]] = []
        try:
            for entry in entries:
                told = Told(self._progress, entry.size)
                if self._is_there(files, entry):
                    told.done()
                    continue
                self._folders.make(entry.path.rpartition("/")[0], files.make_folders)
                if entry.size <= _SMALL and files.places_many:
                    small.append((entry, self._body(entry, told), told))
                    continue
                with self._body(entry, told) as body:
                    self._place_one(files, entry, body)
                    self._note(entry, body)
                told.done()
            if small:
                self._place_small(files, small)
        finally:
            for _, body, _ in small:
                body.close()

    def _place_small(self, files: Watched, small: list[tuple[Entry, FileBody, Told]]) -> None:
        try:
            files.place_many((self._target(entry), body) for entry, body, _ in small)
        except Corrupted:
            for entry, body, _ in small:
                self._place_one(files, entry, body)
        for entry, body, told in small:
            body.prove()
            self._note(entry, body)
            told.done()

    def _note(self, entry: Entry, body: FileBody) -> None:
        if self._listing:
            self._listing.found(entry, body.proven)

    def _place_one(self, files: Watched, entry: Entry, body: FileBody) -> None:
        target = self._target(entry)
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

    def _is_there(self, files: Watched, entry: Entry) -> bool:
        if self._there is None or self._there.of(entry) is Found.ABSENT:
            return False
        if self._looks_there(entry):
            if self._listing:
                with self._body(entry, None) as body:
                    body.prove()
                    self._note(entry, body)
            return True
        if self._listing:
            return False  # there is no digest yet to compare with
        return _has_content(files, self._target(entry), self._body(entry, None))

    def _target(self, entry: Entry) -> str:
        return f"{self._slot.data}/{entry.path}"

    def _body(self, entry: Entry, told: Told | None) -> FileBody:
        algorithms = self._listing.algorithms if self._listing else ("sha256",)
        return FileBody(
            self._root, entry, self._open, pace=self._pace, told=told, goes_on=self._goes_on, algorithms=algorithms
        )

    def _open(self, path: str) -> int:
        source: Folder | None = getattr(self._mine, "source", None)
        if source is None:
            source = self._mine.source = Folder(self._root)
            self._sources.append(source)
        return source.open(path)

    def _with_figures(self, files: Watched, exc: OutOfSpace, load: Load) -> OutOfSpace:
        free = None
        with suppress(LadingError):
            free = files.free_bytes()
        told = "" if free is None else f", {free:,} are free there"
        return OutOfSpace(
            f"{exc.message}; the delivery has {load.bytes:,} bytes{told}",
            safe=exc.safe or "what arrived is kept for the next attempt",
            next_command=exc.next_command or "lading inbox",
        )


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


def _has_content(files: RemoteFiles, path: str, body: Body) -> bool:
    computed: Mapping[str, str] = files.digests(path, tuple(body.digests))
    for name in ("sha256", "sha1", "md5"):
        if name in computed and name in body.digests:
            return computed[name].lower() == body.digests[name]
    try:
        return is_body_of(body, files.read(path))
    except Corrupted:
        return False  # the server's own checksum says that what it keeps is not what it got


def _batches(entries: Iterable[Entry], most_files: int) -> Iterator[list[Entry]]:
    """Small files share one task, up to `most_files`; a large one has its own."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if entry.size > _SMALL:
            yield [entry]
            continue
        batch.append(entry)
        size += entry.size
        if len(batch) >= most_files or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
