"""Locks between processes that the operating system releases when their holder dies, however it dies."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Windows locks are mandatory: lock a byte far behind the text, so that others can still read who holds it.
_FAR = 1 << 30


class FileLock:
    """One lock file. Never held twice at a time, neither by two processes nor by two threads.

    A process that is killed, or a machine that loses power, holds nothing any more: no claim has to be timed out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, patience: float = 0.0) -> bool:
        """Take the lock and write our process id into the file. False: somebody else has it, for longer than `patience` s.

        A little patience outlasts somebody who only asks for the `holder`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + patience
        while not _try_lock(fd):
            if time.monotonic() >= until:
                os.close(fd)
                return False
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd
        return True

    def release(self) -> None:
        """Give it back. The file stays: removing it would race with the next holder."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> int | None:
        """The process id of whoever holds it now, or None when it is free."""
        try:
            text = self.path.read_text(encoding="ascii", errors="replace")
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if _try_lock(fd):
                return None
        finally:
            os.close(fd)
        return int(text) if text.isdecimal() else 0


@contextmanager
def held(lock: FileLock) -> Iterator[bool]:
    """Hold `lock` for the block; yields whether it could be taken."""
    taken = lock.acquire()
    try:
        yield taken
    finally:
        if taken:
            lock.release()


if sys.platform == "win32":  # pragma: no cover - the other half runs here
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
