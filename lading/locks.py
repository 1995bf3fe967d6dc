"""Locks between processes that the operating system releases when their holder dies, however it dies."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Windows locks are mandatory: lock a byte far behind the text, so that others can still read who holds it.
_FAR = 1 << 30

_GLIMPSE_S = 0.001
"""Longer than anybody takes who only asks for the holder."""


class FileLock:
    """One lock file. Never held twice at a time, neither by two processes nor by two threads.

    A process that is killed, or a machine that loses power, holds nothing any more: no claim has to be timed out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, patience: float = 0.0) -> bool:
        """Take the lock and write our process id into the file. False: somebody else has it, for longer than `patience` s.

        Somebody who only asks for the `holder` does not count. Raises OSError when the file cannot be made or written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        until = time.monotonic() + patience
        try:
            while not _try_lock(fd):
                taken = _is_taken(fd)
                if taken and time.monotonic() >= until:
                    os.close(fd)
                    return False
                time.sleep(0.02 if taken else _GLIMPSE_S)
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        except BaseException:
            os.close(fd)  # or it would be held for as long as this process lives
            raise
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
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if not _is_taken(fd):
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

    _LOOKS = 5  # there is no lock that two may ask with: whoever holds it for longer than that is no asker

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)

    def _is_taken(fd: int) -> bool:
        for _ in range(_LOOKS):
            if _try_lock(fd):
                _unlock(fd)
                return False
            time.sleep(_GLIMPSE_S)
        return True

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_taken(fd: int) -> bool:
        """Whether somebody holds the lock. Asked with a shared one: others who ask meanwhile are no holders."""
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
