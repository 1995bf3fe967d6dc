"""Copies the files of one delivery into a folder: the bytes that are hashed are the bytes that are written.

`Copier` copies while a manifest is being made; `Carrier` brings what a manifest lists. Both work on several threads, and both
believe a file that an earlier attempt left only after its content was compared.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self

from lading.errors import OutOfSpace, SourceChanged, Unreachable
from lading.listing.below import Below
from lading.manifest import Entry, Seen
from lading.ports import Progress
from transport.foreign import SOURCE, TARGET, shown, translated, translating
from transport.landing import Arriving, Landing, fill
from transport.pacing import Pace

_BLOCK = 1 << 20
_BATCH_FILES = 64
_BATCH_BYTES = 32 << 20


class Copier:
    """The sink of a manifest in the making: every block that is hashed is also written into the slot."""

    def __init__(self, landing: Landing, pace: Pace, inbox: Path, *, fresh: bool) -> None:
        """`fresh`: nothing was in the folder before, so nothing needs to be looked for."""
        self._landing, self._pace, self._inbox, self._fresh = landing, pace, inbox, fresh

    def open(self, seen: Seen) -> "_Copy":
        """Start one file."""
        with _writing(seen.path, self._inbox):
            there = None if self._fresh else self._landing.read(seen.path)
            if there is not None and os.fstat(there).st_size != seen.size:
                os.close(there)
                there = None
            copy = _Copy(self._landing, seen.path, seen.mtime_ns, self._pace, self._inbox)
            copy.compare_with(there)
            return copy


class _Copy:
    """One file on its way: compared with what an earlier attempt left as long as that is equal, then written."""

    def __init__(self, landing: Landing, path: str, mtime_ns: int, pace: Pace, inbox: Path) -> None:
        self._landing, self._path, self._mtime_ns, self._pace, self._inbox = landing, path, mtime_ns, pace, inbox
        self._there: int | None = None
        self._equal = 0
        self._arriving: Arriving | None = None

    def compare_with(self, there: int | None) -> None:
        """Use the open file `there` as long as it is equal; None: there is nothing to compare with."""
        self._there = there
        if there is None:
            self._arriving = self._landing.begin(self._path)

    def write(self, data: memoryview) -> None:
        """Take the next block."""
        with _writing(self._path, self._inbox):
            if self._there is not None:
                if _read_fully(self._there, len(data)) == data:
                    self._equal += len(data)
                    return
                self._start_over()
            assert self._arriving is not None  # noqa: S101 - either comparing or writing
            self._pace.spend(len(data))
            self._arriving.write(data)

    def done(self, entry: Entry) -> None:  # noqa: ARG002 - the digests are the manifest's business
        """The file is whole."""
        with _writing(self._path, self._inbox):
            if self._there is not None:
                os.close(self._there)
                self._there = None
            elif self._arriving is not None:
                self._arriving.finish(self._mtime_ns)

    def abort(self) -> None:
        """The file will not become whole."""
        if self._there is not None:
            os.close(self._there)
            self._there = None
        if self._arriving is not None:
            self._arriving.abandon()

    def _start_over(self) -> None:
        assert self._there is not None  # noqa: S101 - the caller looked
        self._arriving = self._landing.begin(self._path)
        os.lseek(self._there, 0, os.SEEK_SET)
        while self._equal:
            block = _read_fully(self._there, min(self._equal, _BLOCK))
            self._arriving.write(block)
            self._equal -= len(block)
        os.close(self._there)
        self._there = None


class Carrier:
    """Brings listed files: skips what is there and equal, copies and checks the rest. Used by several threads."""

    def __init__(self, root: Path, landing: Landing, pace: Pace, inbox: Path, progress: Progress) -> None:
        self._root, self._landing, self._pace, self._inbox, self._progress = root, landing, pace, inbox, progress
        self._mine = threading.local()
        self._ways: list[Below] = []
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for way in self._ways:
            way.close()

    def bring_all(self, entries: Iterable[Entry], *, workers: int) -> None:
        """Make the folder hold every one of `entries`. The first error ends it."""
        with ThreadPoolExecutor(workers, thread_name_prefix="lading-copy") as pool:
            running: set[Future[None]] = set()
            try:
                for batch in _batches(entries):
                    running.add(pool.submit(self._bring, batch))
                    if len(running) >= 4 * workers:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        for future in done:
                            future.result()
                for future in running:
                    future.result()
            except BaseException:
                self._stopped = True
                for future in running:
                    future.cancel()
                raise

    def _bring(self, entries: Iterable[Entry]) -> None:
        buffer = memoryview(self._buffer())
        for entry in entries:
            if self._stopped:
                return
            if not self._is_there(entry, buffer):
                self._copy(entry, buffer)
            self._progress.advance(files=1, bytes=entry.size)

    def _buffer(self) -> bytearray:
        if not hasattr(self._mine, "buffer"):
            self._mine.buffer = bytearray(_BLOCK)
        return self._mine.buffer  # type: ignore[no-any-return]  # a thread-local has no declared attributes

    def _is_there(self, entry: Entry, buffer: memoryview) -> bool:
        with _writing(entry.path, self._inbox):
            fd = self._landing.read(entry.path)
            if fd is None:
                return False
            try:
                if os.fstat(fd).st_size != entry.size:
                    return False
                digest = hashlib.sha256()
                while count := fill(fd, buffer):
                    digest.update(buffer[:count])
                return digest.hexdigest() == entry.sha256
            finally:
                os.close(fd)

    def _copy(self, entry: Entry, buffer: memoryview) -> None:
        fd = self._open_source(entry)
        try:
            with _writing(entry.path, self._inbox):
                arriving = self._landing.begin(entry.path)
            try:
                digest = self._pump(fd, arriving, entry, buffer)
                _refuse_changed(entry, os.fstat(fd), self._root)
                _refuse_other_content(entry, digest, self._root)
            except BaseException:
                arriving.abandon()
                raise
            with _writing(entry.path, self._inbox):
                arriving.finish(entry.mtime_ns)
        finally:
            os.close(fd)

    def _pump(self, fd: int, arriving: Arriving, entry: Entry, buffer: memoryview) -> str:
        digest = hashlib.sha256()
        while True:
            with translating(f"cannot read {shown(self._root / entry.path)}", SOURCE):
                count = fill(fd, buffer)
            if not count:
                return digest.hexdigest()
            if self._stopped:
                raise Unreachable("stopped because another file could not be carried")
            digest.update(buffer[:count])
            self._pace.spend(count)
            with _writing(entry.path, self._inbox):
                arriving.write(buffer[:count])

    def _open_source(self, entry: Entry) -> int:
        folder, _, name = entry.path.rpartition("/")
        with translating(f"cannot read {shown(self._root / entry.path)}", SOURCE):
            if not hasattr(self._mine, "way"):
                self._mine.way = Below(self._root)
                self._ways.append(self._mine.way)
            self._mine.way.enter(folder)
            fd: int = self._mine.way.open(name)
        try:
            _refuse_changed(entry, os.fstat(fd), self._root)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _refuse_other_content(entry: Entry, digest: str, root: Path) -> None:
    if digest != entry.sha256:
        raise SourceChanged(
            f"{shown(root / entry.path)} no longer has the content of the manifest: "
            f"SHA-256 {digest}, listed {entry.sha256}"
        )


def _refuse_changed(entry: Entry, info: os.stat_result, root: Path) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise SourceChanged(f"{shown(root / entry.path)} is no longer a regular file")
    if (info.st_size, info.st_mtime_ns) != (entry.size, entry.mtime_ns):
        raise SourceChanged(
            f"{shown(root / entry.path)} changed after it was listed: {info.st_size:,} bytes, listed {entry.size:,}; "
            f"modified {info.st_mtime_ns} ns, listed {entry.mtime_ns} ns"
        )


class _writing:  # noqa: N801 - reads as a statement; a class because a generator costs five times as much per block
    """Translates an OSError met at the target."""

    __slots__ = ("_inbox", "_path")

    def __init__(self, path: str, inbox: Path) -> None:
        self._path, self._inbox = path, inbox

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, OSError):
            error = translated(
                exc, f"cannot write {shown(self._path)} into the inbox {self._inbox}{_room(exc, self._inbox)}", TARGET
            )
            raise error from exc


def _room(exc: OSError, inbox: Path) -> str:
    """For a full disk, the figures."""
    if TARGET.get(exc.errno or 0) is not OutOfSpace:
        return ""
    try:
        info = os.statvfs(inbox)
    except (OSError, AttributeError):
        return ""
    return f" ({info.f_bavail * info.f_frsize:,} bytes and {info.f_favail:,} files free of {info.f_blocks * info.f_frsize:,} bytes)"


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Small files share one task: handing a task over costs more than copying a kilobyte."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.size
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_fully(fd: int, count: int) -> bytes:
    block = os.read(fd, count)
    while len(block) < count:
        more = os.read(fd, count - len(block))
        if not more:
            break
        block += more
    return block
