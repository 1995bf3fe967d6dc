"""The content of files to place: read from the source once, proven against the manifest while it is read."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.errors import SourceChanged, Unreachable
from lading.listing.below import Below
from lading.listing.digests import begun
from lading.manifest import Entry
from lading.ports import Progress
from transport.ahead import Ahead
from transport.foreign import SOURCE, shown, translating
from transport.pacing import Pace
from transport.remote import BLOCK, Body

_LARGE = 8 << 20
"""From that many bytes on it pays to read ahead."""


class Told:
    """Tells the progress of one file, exactly once per byte, however often the body is read."""

    def __init__(self, progress: Progress, size: int) -> None:
        self._progress, self._size, self._told = progress, size, 0
        self._lock = threading.Lock()

    def reached(self, position: int) -> None:
        """The bytes before `position` were handed on."""
        with self._lock:
            more = min(position, self._size) - self._told
            if more <= 0:
                return
            self._told += more
        self._progress.advance(bytes=more)

    def done(self) -> None:
        """The file is there."""
        self.reached(self._size)
        self._progress.advance(files=1)


class _Digests:
    """Several digests of the same bytes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._makers = begun(names)

    def update(self, data: bytes) -> None:
        for maker in self._makers.values():
            maker.update(data)

    def copy(self) -> "_Digests":
        other = _Digests(())
        other._makers = {name: maker.copy() for name, maker in self._makers.items()}
        return other

    def hex(self) -> dict[str, str]:
        return {name: maker.hexdigest() for name, maker in self._makers.items()}


class FileBody:
    """A file of the source. Its descriptor is opened with the first block and closed by `close`; see the role `Body`.

    `goes_on`: asked before every block; False ends the reading with Unreachable (another file could not be carried).
    `algorithms`: the digests to make of the content, SHA-256 among them; once all of it was read they are `proven`.
    """

    def __init__(
        self,
        root: Path,
        entry: Entry,
        open_it: Callable[[str], int],
        *,
        pace: Pace,
        told: Told | None = None,
        goes_on: Callable[[], bool] = lambda: True,
        algorithms: Sequence[str] = ("sha256",),
    ) -> None:
        self._root, self._entry, self._open_it = root, entry, open_it
        self._pace, self._told, self._goes_on = pace, told, goes_on
        self._fd: int | None = None
        self._status_ns = 0  # of the last change of whatever kind, when it was opened
        self._opening = threading.Lock()
        self._algorithms = algorithms
        self._hash = _Digests(algorithms)
        self._hashed = 0
        self.proven: Mapping[str, str] = {}
        """Its digests, once the whole of it was read and is the content of the manifest (or nothing else is known of it)."""
        self._reading: Ahead | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes, as listed."""
        return self._entry.size

    @property
    def mtime(self) -> float:
        """Seconds since the epoch, as listed."""
        return self._entry.mtime_ns / 1e9

    @property
    def digests(self) -> Mapping[str, str]:
        """Those of the manifest; none while it is being made."""
        return self._entry.digests

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See the role."""
        if length is not None:
            return self._range(offset, length)
        return self._ahead(offset) if self.size - offset >= _LARGE else self._whole(offset)

    def prove(self) -> None:
        """Read what of the content nobody has hashed yet. Raises SourceChanged when it is not the manifest's."""
        if not self.proven:
            for _ in self._whole(self.size):
                pass

    @property
    def was_read(self) -> bool:
        """Whether any of it may have been sent."""
        return self._fd is not None

    def close(self) -> None:
        """Let go of the file."""
        if self._reading is not None:
            self._reading.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _ahead(self, offset: int) -> Iterator[bytes]:
        # Opened by the thread that asks: it has the way to the file.
        with translating(f"cannot read {self._shown}", SOURCE):
            self._opened()
        self._reading = blocks = Ahead(self._whole(offset))
        try:
            yield from blocks
        finally:
            blocks.close()

    def _whole(self, offset: int) -> Iterator[bytes]:
        position, withheld = 0, b""
        # Ranges that were read in order before are hashed already (see _range).
        digest, hashed = self._hash.copy(), self._hashed
        if hashed <= offset:
            position = hashed
        else:
            digest = _Digests(self._algorithms)
        while position < self.size:
            data = self._read(position, min(BLOCK, self.size - position))
            digest.update(data)
            before, position = position, position + len(data)
            if position <= offset:
                continue
            if withheld:
                yield self._leaving(withheld, before)
            withheld = data[max(0, offset - before) :]
        found = digest.hex()
        self._refuse_other(found["sha256"])
        self.proven = found
        if withheld:
            yield self._leaving(withheld, position)

    def _range(self, offset: int, length: int) -> Iterator[bytes]:
        end = min(offset + length, self.size)
        while offset < end:
            data = self._read(offset, min(BLOCK, end - offset))
            with self._opening:
                if self._hashed == offset:
                    self._hash.update(data)
                    self._hashed += len(data)
            offset += len(data)
            yield self._leaving(data, offset)

    def _leaving(self, data: bytes, reached: int) -> bytes:
        self._pace.spend(len(data))
        if self._told:
            self._told.reached(reached)
        return data

    def _read(self, offset: int, count: int) -> bytes:
        if not self._goes_on():
            raise Unreachable("stopped because another file could not be carried")
        with translating(f"cannot read {self._shown}", SOURCE):
            fd = self._opened()
            data = _read_at(fd, count, offset)
        if len(data) < count:
            raise SourceChanged(f"{self._shown} became shorter than listed: {self.size:,} bytes")
        return data

    def _opened(self) -> int:
        with self._opening:
            if self._fd is None:
                fd = self._open_it(self._entry.path)
                try:
                    info = os.fstat(fd)
                    self._refuse_changed(info)
                except BaseException:
                    os.close(fd)
                    raise
                self._fd, self._status_ns = fd, info.st_ctime_ns
            return self._fd

    def _refuse_changed(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            raise SourceChanged(f"{self._shown} is no longer a regular file")
        if (info.st_size, info.st_mtime_ns) != (self.size, self._entry.mtime_ns):
            raise SourceChanged(
                f"{self._shown} changed after it was listed: {info.st_size:,} bytes, listed {self.size:,}; "
                f"modified {info.st_mtime_ns} ns, listed {self._entry.mtime_ns} ns"
            )

    def _refuse_other(self, digest: str) -> None:
        with translating(f"cannot read {self._shown}", SOURCE):
            info = os.fstat(self._opened())
        self._refuse_changed(info)
        expected = self._entry.digests.get("sha256")
        if expected is None and info.st_ctime_ns != self._status_ns:
            # Written over by a program that sets the time back (`cp -p`): half of it may be old and half new, and nothing
            # else would tell, because the list is made of what was read.
            raise SourceChanged(f"{self._shown} changed while it was being read, at {info.st_ctime_ns} ns")
        if digest != (expected or digest):
            raise SourceChanged(
                f"{self._shown} no longer has the content of the manifest: SHA-256 {digest}, listed {expected}"
            )

    @property
    def _shown(self) -> str:
        return shown(self._root / self._entry.path)


class Folder:
    """Opens the files below a source folder, by path and without following links. For one thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._below: Below | None = None

    def open(self, path: str) -> int:
        """A descriptor to read `path` (relative POSIX). Raises OSError."""
        if self._below is None:
            self._below = Below(self._root)
        folder, _, name = path.rpartition("/")
        self._below.enter(folder)
        return self._below.open(name)

    def close(self) -> None:
        """Let go of the folders."""
        if self._below:
            self._below.close()
            self._below = None


class SmallBody:
    """A few bytes of our own as a body."""

    def __init__(self, content: bytes, mtime: float = 0.0) -> None:
        self._content, self._mtime = content, mtime

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._content)

    @property
    def mtime(self) -> float:
        """Seconds since the epoch."""
        return self._mtime

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256."""
        return {"sha256": hashlib.sha256(self._content).hexdigest()}

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See the role."""
        end = self.size if length is None else min(offset + length, self.size)
        for at in range(offset, end, BLOCK):
            yield self._content[at : min(at + BLOCK, end)]


def is_body_of(body: Body, blocks: Iterator[bytes]) -> bool:
    """Whether `blocks`, read back from a server, are the whole of `body`; by the digests it must have, where it has any."""
    name = next((known for known in ("sha256", "sha1", "md5") if known in body.digests), "")
    if not name:
        return b"".join(blocks) == b"".join(body.blocks())
    digest = hashlib.new(name, usedforsecurity=False)
    size = 0
    for block in blocks:
        digest.update(block)
        size += len(block)
        if size > body.size:
            return False
    return size == body.size and digest.hexdigest() == body.digests[name]


def _read_at(fd: int, count: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        data = os.pread(fd, count, offset)
        while len(data) < count:
            more = os.pread(fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    with _SEEKING:  # Windows has no pread
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, count)
        while len(data) < count:
            more = os.read(fd, count - len(data))
            if not more:
                break
            data += more
        return data


_SEEKING = threading.Lock()
