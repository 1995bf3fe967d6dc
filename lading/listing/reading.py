"""Reads a file once: its digests, and a copy for whoever asked, come from that one read. One thread's work."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from lading.errors import AccessDenied, SourceChanged, Unreachable
from lading.listing.below import Below
from lading.listing.digests import maker
from lading.listing.entries import DIGEST_CHARS, Entry, entry_line, sums_bytes, sums_line
from lading.listing.names import printable
from lading.listing.survey import Row, Run, Seen, translated

BLOCK = 1 << 20
"""Bytes read at a time: system calls and the interpreter cost nothing, and it still fits the processor's cache."""

_SMALL = 1 << 16  # files up to this size are read with one call


class Progress(Protocol):
    """Told how far the reading has come; `lading.ports.Progress` fits. Called from any thread, must never raise."""

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """So many more files and bytes are read."""


class FileSink(Protocol):
    """Takes one file, block by block, from the same read that makes its digests. Always called by one thread.

    After the last `write` comes exactly one of `done` and `abort`; when `write` or `done` raises, `abort` follows.
    """

    def write(self, block: memoryview) -> None:
        """The next bytes. The memory is reused after the return: copy what must stay."""

    def done(self, entry: Entry) -> None:
        """All bytes were given, and the source did not change meanwhile. `entry` is what the manifest will say."""

    def abort(self) -> None:
        """The file will not be finished: take back what was written. Must not raise."""


class Sink(Protocol):
    """Gets every file that is read. `open` is called from several threads, a batch of neighbouring files per thread."""

    def open(self, seen: Seen) -> FileSink:
        """A place for the file. An exception stops the whole reading and reaches its caller unchanged."""


class Verdict(StrEnum):
    """How a file compares with its entry."""

    MATCHES = "matches"
    MISSING = "missing"
    WRONG_SIZE = "wrong-size"
    WRONG_DIGEST = "wrong-digest"
    NOT_A_FILE = "not-a-file"  # a link, a folder, a device; or a link on the way to it
    CHANGED = "changed"  # while it was being read


class Listed(NamedTuple):
    """The finished lines of some files for manifest.jsonl and manifest-sha256.txt, and what they amount to."""

    lines: bytes
    sums: bytes
    files: int
    bytes: int

    @classmethod
    def sum(cls, parts: Iterable["Listed"]) -> "Listed":
        """All of them as one."""
        lines, sums, files, counts = zip(*parts, strict=True)
        return cls(b"".join(lines), b"".join(sums), sum(files), sum(counts))


class Stopped(Exception):
    """The reading is over because another thread met an error."""


class Reader:
    """Reads files below `root` with its own buffer and its own way through the folders: one per thread.

    `algorithms` are names of DIGEST_CHARS. When `stop` is set, a long read ends with Stopped.
    """

    def __init__(
        self, root: Path, algorithms: Sequence[str], *, stop: threading.Event, follow_root: bool = True
    ) -> None:
        self._makers = [(name, maker(name)) for name in DIGEST_CHARS if name in algorithms]
        self._root = root
        self._stop = stop
        self._buffer: bytearray | None = None
        try:
            self._below = Below(root, follow_root=follow_root)
        except OSError as exc:
            raise translated(exc, f"opening {root}") from exc

    def close(self) -> None:
        """Give the descriptors back."""
        self._below.close()

    def list_run(self, run: Run, *, sink: Sink | None = None, progress: Progress | None = None) -> Listed:
        """The lines of the files of `run`.

        Raises SourceChanged when a file is not, before and after reading, what the survey saw; AccessDenied,
        Unreachable; and what the sink raises.
        """
        self._below.enter(run.folder)
        prefix = f"{run.folder}/" if run.folder else ""
        lines, sums, total, small_total = [], [], 0, 0
        small = -1 if sink else _SMALL  # a sink is to see empty files too
        opener = self._below.opener()
        for row in run.rows:
            size = row[1]
            path = prefix + row[0]
            if size <= small:
                digests = self._digests_of_small(path, row, opener)
                small_total += size
            else:
                seen = Seen(path, *row[1:])
                entry = self._entry_for(seen, sink, progress) if sink else self._entry(seen, None, progress)
                digests = entry.digests
            lines.append(entry_line(path, size, row[2], digests))
            sums.append(sums_line(path, digests["sha256"]))
            total += size
        if progress:
            progress.advance(files=len(lines), bytes=small_total)
        return Listed("".join(lines).encode("ascii"), sums_bytes("".join(sums)), len(lines), total)

    def compare(self, entry: Entry, progress: Progress | None = None) -> Verdict:
        """How the file at the entry's path compares with it. Raises AccessDenied, Unreachable."""
        try:
            fd = self._open(entry.path)
        except OSError as exc:
            return _verdict_of(exc, self._root, entry.path)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return Verdict.NOT_A_FILE
            if before.st_size != entry.size:
                return Verdict.WRONG_SIZE
            length, digests = self._read(fd, entry.size, None, progress)
            after = os.fstat(fd)
        except OSError as exc:
            raise translated(exc, f"reading {printable(entry.path)} in {self._root}") from exc
        finally:
            os.close(fd)
        if progress:
            progress.advance(files=1)
        if length != entry.size or _figures(before) != _figures(after):
            return Verdict.CHANGED
        same = all(entry.digests.get(name, value) == value for name, value in digests.items())
        return Verdict.MATCHES if same else Verdict.WRONG_DIGEST

    def _digests_of_small(self, path: str, row: Row, opener: Callable[[str], int]) -> Mapping[str, str]:
        # `_entry` for a file that one call reads, without a look before: this runs a million times.
        size = row[1]
        try:
            fd = opener(row[0])
            try:
                data = os.read(fd, size + 1)
                now = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise translated(exc, f"reading {printable(path)} in {self._root}") from exc
        if len(data) != size or (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev) != row[1:]:
            return self._entry(Seen(path, *row[1:]), None, None).digests
        return {name: make(data).hexdigest() for name, make in self._makers}

    def _entry_for(self, seen: Seen, sink: Sink, progress: Progress | None) -> Entry:
        target = sink.open(seen)
        try:
            entry = self._entry(seen, target, progress)
            target.done(entry)
        except BaseException:
            target.abort()
            raise
        return entry

    def _entry(self, seen: Seen, target: FileSink | None, progress: Progress | None) -> Entry:
        try:
            fd = self._open(seen.path)
            try:
                if seen.size > _SMALL:
                    # Do not copy a terabyte of the wrong file before noticing.
                    _same_as_seen(seen, os.fstat(fd))
                length, digests = self._read(fd, seen.size, target, progress)
                # Equal, after the read, to what the survey saw before it: a file swapped for another or for a FIFO
                # shows too.
                _same_as_seen(seen, os.fstat(fd))
            finally:
                os.close(fd)
        except OSError as exc:
            raise translated(exc, f"reading {printable(seen.path)} in {self._root}") from exc
        if length != seen.size:
            raise SourceChanged(f"{printable(seen.path)} had {seen.size} bytes, but {length} were read")
        return Entry(seen.path, seen.size, seen.mtime_ns, digests)

    def _open(self, path: str) -> int:
        folder, _, name = path.rpartition("/")
        self._below.enter(folder)
        return self._below.open(name)

    def _read(
        self, fd: int, size: int, target: FileSink | None, progress: Progress | None
    ) -> tuple[int, Mapping[str, str]]:
        """How many bytes there were (reading stops soon after `size`), and their digests."""
        if size <= _SMALL:
            data = os.read(fd, size + 1)
            if len(data) == size:
                if target and data:
                    target.write(memoryview(data))
                if progress:
                    progress.advance(bytes=size)
                return size, {name: make(data).hexdigest() for name, make in self._makers}
            os.lseek(fd, 0, os.SEEK_SET)  # a short read, or a file that grew: the long way finds out
        return self._read_blocks(fd, size, target, progress)

    def _read_blocks(
        self, fd: int, size: int, target: FileSink | None, progress: Progress | None
    ) -> tuple[int, Mapping[str, str]]:
        hashes = [make(b"") for _, make in self._makers]
        if self._buffer is None:
            self._buffer = bytearray(BLOCK)
        view = memoryview(self._buffer)
        length = 0
        with open(fd, "rb", buffering=0, closefd=False) as file:
            while length <= size and (count := file.readinto(view)):
                block = view[:count]
                for each in hashes:
                    each.update(block)
                if target:
                    target.write(block)
                if progress:
                    progress.advance(bytes=count)
                length += count
                if self._stop.is_set():
                    raise Stopped
        return length, {name: each.hexdigest() for (name, _), each in zip(self._makers, hashes, strict=True)}


def _same_as_seen(seen: Seen, now: os.stat_result) -> None:
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev) == seen[1:] and stat.S_ISREG(
        now.st_mode
    ):
        return
    if (now.st_ino, now.st_dev) != (seen.inode, seen.device):
        what = "another file took its place"
    elif (now.st_size, now.st_mtime_ns) == (seen.size, seen.mtime_ns):
        what = f"its status changed at {now.st_ctime_ns} ns (before: {seen.ctime_ns} ns)"
    else:
        what = f"{seen.size} bytes of time {seen.mtime_ns} ns became {now.st_size} bytes of time {now.st_mtime_ns} ns"
    raise SourceChanged(
        f"{printable(seen.path)} changed while it was being read: {what}", safe="the source is only read"
    )


def _figures(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _verdict_of(exc: OSError, root: Path, path: str) -> Verdict:
    if exc.errno == errno.ENOENT:
        return Verdict.MISSING
    if exc.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EMLINK, errno.ENAMETOOLONG}:
        return Verdict.NOT_A_FILE
    doing = f"opening {printable(path)} in {root}: {exc.strerror}"
    if isinstance(exc, PermissionError):
        raise AccessDenied(doing) from exc
    raise Unreachable(doing) from exc
