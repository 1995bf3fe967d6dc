"""Brings listed files from behind a protocol into a slot of an inbox: read once, hashed on the way, several at a time.

A file grows under a temporary name that says which content it is, so that the next attempt goes on where this one stopped.
What is here is noted in the ledger with the digests of the bytes that were written.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from lading.errors import AccessDenied, Corrupted, LadingError, SourceChanged, Unreachable
from lading.listing.digests import Digest, begun
from lading.ports import NoProgress, Progress
from transport.bodies import Folder
from transport.crew import Crew
from transport.fetch_ledger import Ledger, LedgerJournal, Row
from transport.fetch_parts import Parts
from transport.foreign import SOURCE, TARGET, shown, translating
from transport.landing import Arriving, Landing
from transport.pacing import Pace
from transport.remote import BLOCK, HandsOver, RemoteFile, RemotePlace
from transport.stalling import Watch, Watched

PROVEN = "proven"
"""Beside the digests in the ledger: by which of the server's own checksums the way was proven, or ""."""

_COMPARABLE = ("sha256", "sha512", "sha1", "md5")
_BOOT = "boot"  # journal: in which boot of this machine a service began to bring the files
_BATCH_FILES = 32
_BATCH_BYTES = 8 << 20


def listed_time(row: Row) -> int | None:
    """When the server says that the file was modified, nanoseconds since the epoch."""
    return None if row.mtime is None else int(row.mtime * 1e9)


class Bringing:
    """Brings the files of one delivery from the remote folder `folder` into `landing`."""

    def __init__(
        self,
        place: RemotePlace,
        folder: str,
        landing: Landing,
        ledger: Ledger,
        delivery: str,
        *,
        algorithms: tuple[str, ...],
        pace: Pace,
        progress: Progress,
        boot: str,
        mtime_ns: Callable[[Row], int | None] = listed_time,
    ) -> None:
        self._place, self._folder = place, folder
        self._parts = Parts(landing, ledger, delivery, boot)
        self._ledger, self._delivery = ledger, delivery
        self._algorithms = ("sha256", *(name for name in algorithms if name != "sha256"))
        self._pace, self._progress, self._mtime_ns = pace, progress, mtime_ns
        self._crew: Crew[list[Row]] | None = None

    def bring(self) -> None:
        """Bring what the ledger lists and does not have. Raises Unreachable, SourceChanged, Corrupted, AccessDenied, OutOfSpace."""
        with Watch(self._place.traits.stall_s) as watch, Crew(self._place, watch, self._bring_batch) as crew:
            self._crew = crew
            for batch in _batches(self._ledger.files(self._delivery, missing=True)):
                crew.submit(batch)
            crew.finish()

    def _bring_batch(self, files: Watched, rows: list[Row]) -> None:
        done: list[tuple[str, Mapping[str, str]]] = []
        try:
            for row in rows:
                if self._crew and not self._crew.goes_on():
                    return
                done.append((row.path, self._bring_one(files, row)))
                self._progress.advance(files=1)
        finally:
            if done:
                self._ledger.arrived(self._delivery, done)

    def _bring_one(self, files: Watched, row: Row) -> Mapping[str, str]:
        try:
            return self._attempt(files, row, anew=False)
        except Corrupted:
            return self._attempt(files, row, anew=True)
        except (Unreachable, AccessDenied) as exc:
            if self._is_gone(files, row):
                raise SourceChanged(f"{shown(self._remote(row))} is gone") from exc
            raise

    def _is_gone(self, files: Watched, row: Row) -> bool:
        try:
            return files.look(self._remote(row)) is None
        except LadingError:
            return False

    def _attempt(self, files: Watched, row: Row, *, anew: bool) -> Mapping[str, str]:
        doing = f"cannot write {shown(row.path)} into the inbox"
        changed_at = self._changed_at(files, row)
        which = _which(row, changed_at)
        with translating(doing, TARGET):
            arriving, reader = self._parts.resume(row, which)
        try:
            wanted, offset, first, blocks = self._begun(files, row, arriving, reader, anew=anew)
            with closing(blocks):  # before anything else is asked of this connection
                self._parts.grows(row, which, arriving)
                self._pump(chain(first, blocks), row, arriving, wanted, offset)
            digests = {name: digest.hexdigest() for name, digest in wanted.items()}
            proven = self._proven(files, row, digests)
        except (SourceChanged, Corrupted):
            arriving.abandon()
            raise
        except BaseException:
            self._parts.leave(row, which, arriving)
            raise
        with translating(doing, TARGET):
            arriving.finish(self._mtime_ns(row))
        return {name: digests[name] for name in self._algorithms} | {PROVEN: proven}

    def _changed_at(self, files: Watched, row: Row) -> float | None:
        """When a file was modified of which the listing says nothing of the kind, where a part of it could be gone on with."""
        if row.mtime is not None or row.version or row.offered or row.size <= BLOCK:
            return row.mtime
        found = files.look(self._remote(row))
        return found.mtime if found else None

    def _begun(
        self, files: Watched, row: Row, arriving: Arriving, reader: int, *, anew: bool
    ) -> tuple[Mapping[str, Digest], int, Iterable[bytes], Generator[bytes, None, None]]:
        """What an earlier attempt left and is gone on with: its digests and length; and what follows it, a block and a stream.

        Its last block is compared with the source: nothing else may tell that it was damaged here, or that the file over there
        is another one under the same size and time.
        """
        wanted = self._digests(row)
        offset, end = self._again(arriving, reader, row, wanted, anew=anew)
        if not row.size:
            return wanted, offset, (), _nothing()
        blocks = files.read(self._remote(row), offset - len(end))
        first = _behind(end, blocks)
        if first is not None:
            return wanted, offset, (first,) if first else (), blocks
        blocks.close()
        with translating(f"cannot write {shown(row.path)} into the inbox", TARGET):
            arriving.restart()
        return self._digests(row), 0, (), files.read(self._remote(row))

    def _pump(
        self,
        blocks: Iterable[bytes],
        row: Row,
        arriving: Arriving,
        wanted: Mapping[str, Digest],
        offset: int,
    ) -> None:
        for block in blocks:
            if self._crew and not self._crew.goes_on():
                raise Unreachable("stopped because another file could not be fetched")
            for digest in wanted.values():
                digest.update(block)
            self._pace.spend(len(block))
            with translating(f"cannot write {shown(row.path)} into the inbox", TARGET):
                arriving.write(block)
            offset += len(block)
            self._progress.advance(bytes=len(block))
            if offset > row.size:
                break
        if offset != row.size:
            raise SourceChanged(
                f"{shown(self._remote(row))} changed while it was fetched: {offset:,} bytes came, {row.size:,} were listed"
            )

    def _again(
        self, arriving: Arriving, reader: int, row: Row, wanted: Mapping[str, Digest], *, anew: bool
    ) -> tuple[int, bytes]:
        """How much an earlier attempt left, and the last block of it; all of it is hashed."""
        with translating(f"cannot read what is here of {shown(row.path)}", TARGET):
            try:
                if anew or os.fstat(reader).st_size > row.size:
                    arriving.restart()
                    return 0, b""
                offset, end = 0, b""
                while block := os.read(reader, BLOCK):
                    for digest in wanted.values():
                        digest.update(block)
                    offset += len(block)
                    end = (end + block)[-BLOCK:]
                return offset, end
            finally:
                os.close(reader)

    def _digests(self, row: Row) -> Mapping[str, Digest]:
        offered = tuple(name for name in _COMPARABLE if name in row.offered and name not in self._algorithms)
        return begun(self._algorithms + offered)

    def _proven(self, files: Watched, row: Row, digests: Mapping[str, str]) -> str:
        """Which checksum of the server agrees with what came; "" when it has none. Raises Corrupted when one disagrees."""
        theirs: Mapping[str, str] = row.offered
        if not any(name in theirs for name in _COMPARABLE):
            theirs = files.digests(self._remote(row), tuple(digests))
        agreeing = ""
        for name in _COMPARABLE:
            if name in theirs and name in digests:
                if theirs[name].lower() != digests[name]:
                    raise Corrupted(
                        f"{shown(self._remote(row))} arrived damaged: {name} {digests[name]}, the server says {theirs[name]}",
                        paths=[row.path],
                        safe="the source is untouched",
                    )
                agreeing = agreeing or name
        return agreeing

    def _remote(self, row: Row) -> str:
        return f"{self._folder}/{row.path}" if self._folder else row.path


def bring_handed_over(
    place: HandsOver,
    folder: str,
    root: Path,
    ledger: Ledger,
    delivery: str,
    *,
    algorithms: Iterable[str],
    progress: Progress,
    boot: str,
) -> None:
    """Have the place's own service bring what the ledger lists and does not have below `root`; read here what came.

    What it brought before this machine was started again is asked for once more: the service compares it with the source, and
    we could only list what a power cut has left.

    Raises what `HandsOver.hand_over` raises, SourceChanged for a file that is not there or not of the listed size, and Corrupted
    for one that is not what the service says it brought.
    """
    names = ("sha256", *(name for name in algorithms if name != "sha256"))
    journal = LedgerJournal(ledger, delivery)
    with translating(f"cannot look into {root}", TARGET):
        doubtful = journal.recall(_BOOT) != boot and any(root.iterdir())
    if not doubtful:
        journal.note(_BOOT, boot)
    for rows in _batches(ledger.files(delivery, missing=True), most_files=place.at_once, most_bytes=None):
        files = [RemoteFile(row.path, row.size, row.mtime, version=row.version) for row in rows]
        theirs = place.hand_over(folder, files, root, journal, progress)
        if doubtful:
            place.forget(journal)
            theirs = place.hand_over(folder, files, root, journal, NoProgress())
            journal.note(_BOOT, boot)
            doubtful = False
        below = Folder(root)
        try:
            for start in range(0, len(rows), _BATCH_FILES):
                some = rows[start : start + _BATCH_FILES]
                ledger.arrived(
                    delivery, [(row.path, _hashed(below, row, names, theirs.get(row.path, {}))) for row in some]
                )
        finally:
            below.close()
            place.forget(journal)


def look_again(landing: Landing, ledger: Ledger, delivery: str) -> None:
    """What the ledger has as here, and is not: a power cut, or somebody, took it. It is brought again."""
    gone: list[str] = []
    for row in ledger.files(delivery, here=True):
        with translating(f"cannot look at {shown(row.path)}", TARGET):
            if landing.size(row.path) != row.size:
                gone.append(row.path)
    ledger.lost(delivery, gone)


def hash_here(root: Path, ledger: Ledger, delivery: str, algorithms: Iterable[str]) -> None:
    """Note the digests of files that another program has brought below `root`.

    Raises SourceChanged when one is not there, or not of the listed size, and Corrupted when it is not what the list says.
    """
    names = ("sha256", *(name for name in algorithms if name != "sha256"))
    below = Folder(root)
    try:
        for rows in _batches(ledger.files(delivery, missing=True)):
            ledger.arrived(delivery, [(row.path, _hashed(below, row, names, row.offered)) for row in rows])
    finally:
        below.close()


def _hashed(below: Folder, row: Row, names: Iterable[str], theirs: Mapping[str, str]) -> Mapping[str, str]:
    """The digests `names` of a file that is here, and by which checksum of `theirs` the way was proven."""
    offered = [name for name in _COMPARABLE if name in theirs]
    wanted = begun((*names, *offered))
    size = 0
    with (
        translating(f"cannot read what is here of {shown(row.path)}", SOURCE),
        open(below.open(row.path), "rb") as file,
    ):
        while block := file.read(BLOCK):
            size += len(block)
            for digest in wanted.values():
                digest.update(block)
    if size != row.size:
        raise SourceChanged(
            f"{shown(row.path)} changed while it was fetched: {size:,} bytes came, {row.size:,} were listed"
        )
    for name in offered:
        if wanted[name].hexdigest() != theirs[name]:
            raise Corrupted(
                f"{shown(row.path)} arrived damaged: {name} {wanted[name].hexdigest()}, the other side says {theirs[name]}",
                paths=[row.path],
                safe="the source is untouched",
            )
    return {name: wanted[name].hexdigest() for name in names} | {PROVEN: offered[0] if offered else ""}


def _behind(end: bytes, blocks: Iterator[bytes]) -> bytes | None:
    """What follows `end` in the block in which it ends; None when the blocks begin with something else."""
    position = 0
    while position < len(end):
        block = next(blocks, b"")
        there = end[position : position + len(block)]
        if not block or block[: len(there)] != there:
            return None
        position += len(block)
        if position >= len(end):
            return block[len(there) :]
    return b""


def _nothing() -> Generator[bytes, None, None]:
    yield from ()


def _which(row: Row, changed_at: float | None) -> str:
    """Stands for the content that is expected: a part of another one is not continued."""
    said = f"{row.path}\0{row.size}\0{changed_at}\0{row.version}\0{sorted(row.offered.items())}"
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _batches(
    rows: Iterable[Row], *, most_files: int = _BATCH_FILES, most_bytes: int | None = _BATCH_BYTES
) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if len(batch) >= most_files or (most_bytes is not None and size >= most_bytes):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
