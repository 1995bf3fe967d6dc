"""One carry to a RemotePlace: brings files below the slot's data, over as many connections as are worth it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lading.delivery import Slot
from lading.errors import Corrupted, LadingError, OutOfSpace
from lading.manifest import Entry
from lading.ports import Progress
from transport.bodies import is_body_of
from transport.bringing import SMALL, Bringing
from transport.crew import Crew
from transport.folders import Folders
from transport.hands import Hands, Recipe, Work
from transport.on_the_way import Listing, Load
from transport.pacing import Pace, Unpaced
from transport.remote import Body, RemoteFiles, RemotePlace, part_path
from transport.stalling import Watch, Watched
from transport.there import Found, There, Wanted, tidied

_BATCH_FILES = 64  # that share the line
_BATCH_BYTES = 8 << 20
_HANDFUL = 8  # of files that go one by one: worth a connection, and few enough for all connections to end at about the same time


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
        recipe: Recipe | None = None,
    ) -> None:
        """`recipe`: how another process gets to the place, where one may help."""
        self._place, self._watch, self._root, self._slot = place, watch, root, slot
        self._progress, self._listing = progress, listing
        self._recipe = recipe if isinstance(pace, Unpaced) else None
        self._there: There | None = None
        self._trusting = False
        self._folders = Folders(slot.data)
        self._bringing = Bringing(
            root,
            slot.data,
            pace=pace,
            progress=progress,
            listing=listing,
            folders=self._folders,
            is_there=self._is_there,
        )

    def bring(self, files: Watched, load: Load, *, fresh: bool, trusting: bool) -> None:
        """Make the slot hold every file of `load`, and none besides.

        `fresh`: nothing is there. `trusting`: what is there with the right size and time was brought from this very source.
        """
        self._trusting = trusting
        if not fresh:
            self._there = self._tidied(files, load)
        files.make_folders(self._slot.data)
        hands = self._hands(load) if fresh else None
        try:
            with Crew(self._place, self._watch, self._bringing.batch, first=files, hands=hands) as crew:
                self._bringing.goes_on = crew.goes_on
                for batch in self._in_turn(load.entries, _BATCH_FILES if files.places_many else _HANDFUL):
                    crew.submit(batch)
                crew.finish()
        except OutOfSpace as exc:
            raise self._with_figures(files, exc, load) from None  # it says all that the first one said
        finally:
            if hands:
                hands.end()
            self._bringing.close()

    def _hands(self, load: Load) -> Hands | None:
        """Another process to help with many small files, where that is worth it."""
        if self._recipe is None or not self._recipe.suits(load):
            return None
        work = Work(self._root, self._slot.data, self._folders, self._progress, self._listing)
        return Hands.engaged(self._recipe, self._place, work)

    def _tidied(self, files: Watched, load: Load) -> There:
        wanted = Wanted(load.files)
        for entry in load.entries:
            wanted.add(entry.path, part_path(entry.path, self._bringing.body(entry, None)))
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

    def _is_there(self, files: Watched, entry: Entry) -> bool:
        if self._there is None or self._there.of(entry) is Found.ABSENT:
            return False
        if self._looks_there(entry):
            if self._listing:
                with self._bringing.body(entry, None) as body:
                    body.prove()
                    self._bringing.note(entry, body)
            return True
        if self._listing:
            return False  # there is no digest yet to compare with
        return _has_content(files, self._bringing.target(entry), self._bringing.body(entry, None))

    def _with_figures(self, files: Watched, exc: OutOfSpace, load: Load) -> OutOfSpace:
        free = None
        with suppress(LadingError):
            free = files.free_bytes()
        told = "" if free is None else f", {free:,} are free there"
        return OutOfSpace(
            f"{exc.message}; the delivery has {load.bytes:,} bytes{told}",
            safe=exc.safe or "what arrived is kept for the next attempt",
            next_command=exc.next_command or "lading inbox list",
        )


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
        if entry.size > SMALL:
            yield [entry]
            continue
        batch.append(entry)
        size += entry.size
        if len(batch) >= most_files or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
