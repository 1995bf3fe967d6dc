"""The source's side of live mode: opens files that just came to rest, and notices when they did not."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.deposit import Settled
from lading.errors import LadingError, Rejected, SourceChanged
from lading.manifest import Entry, NameLimits
from transport.bodies import Folder
from transport.foreign import SOURCE, shown, translated
from transport.landing import fill
from transport.naming import refuse_names

_BLOCK = 1 << 20


class OnlyThisFile(Exception):
    """This file cannot go now, for a reason of its own: the others can."""

    def __init__(self, error: LadingError) -> None:
        super().__init__(error.message)
        self.error = error


class SettledFiles:
    """Opens settled files below `root`, never through a link. For one thread. A context manager.

    Whatever is wrong with a file on this side raises OnlyThisFile.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = Folder(root)

    def __enter__(self) -> "SettledFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.close()

    @contextmanager
    def opened(self, file: Settled) -> Iterator[int]:
        """A descriptor to read `file`, which is as it was when it came to rest."""
        with self._reading(file):
            fd = self._folder.open(file.path)
        try:
            self.refuse_changed(file, fd)
            yield fd
        finally:
            os.close(fd)

    def refuse_changed(self, file: Settled, fd: int) -> None:
        """Nothing happens when the open file is still what came to rest."""
        with self._reading(file):
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or (info.st_size, info.st_mtime_ns) != (file.size, file.mtime_ns):
                raise SourceChanged(
                    f"{shown(self._root / file.path)} changed after it came to rest: {info.st_size:,} bytes, "
                    f"{file.size:,} then; modified {info.st_mtime_ns} ns, {file.mtime_ns} ns then"
                )
            if file.ctime_ns and info.st_ctime_ns != file.ctime_ns:
                raise SourceChanged(
                    f"{shown(self._root / file.path)} was touched after it came to rest, at {info.st_ctime_ns} ns; "
                    "its size and time are as before"
                )

    def read(self, file: Settled, fd: int, take: Callable[[memoryview], object]) -> Entry:
        """Read `file` once from its beginning, hand every block to `take`, and say what it was. `take` may raise anything."""
        digest, size = hashlib.sha256(), 0
        buffer = memoryview(bytearray(min(_BLOCK, file.size + 1)))
        with self._reading(file):
            os.lseek(fd, 0, os.SEEK_SET)
        while True:
            with self._reading(file):
                count = fill(fd, buffer)
            if not count:
                break
            digest.update(buffer[:count])
            size += count
            take(buffer[:count])
        self.refuse_changed(file, fd)
        return Entry(file.path, file.size, file.mtime_ns, {"sha256": digest.hexdigest()})

    @contextmanager
    def _reading(self, file: Settled) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise OnlyThisFile(translated(exc, f"cannot read {shown(self._root / file.path)}", SOURCE)) from exc
        except LadingError as exc:
            raise OnlyThisFile(exc) from exc


def refuse_name(file: Settled, limits: NameLimits, target: str) -> None:
    """Raises OnlyThisFile when a target with `limits` cannot hold a file of this name."""
    try:
        refuse_names([Entry(file.path, file.size, file.mtime_ns, {})], limits, target)
    except Rejected as exc:
        raise OnlyThisFile(exc) from exc
