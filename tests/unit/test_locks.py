"""Locks between processes: who only asks for the holder is none, and a failure leaves nothing locked."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading.locks import FileLock, held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="looks at locks with the means of POSIX")


@contextmanager
def somebody_asking(path: Path) -> Iterator[threading.Event]:
    """Another process, in the middle of asking for the holder of `path`, until the event is set or the block ends."""
    import fcntl

    asked, over = threading.Event(), threading.Event()

    def ask() -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_SH)
        asked.set()
        over.wait(60)
        os.close(fd)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(60)
    try:
        yield over
    finally:
        over.set()
        thread.join()


def test_who_only_asks_is_no_holder(tmp_path: Path) -> None:
    # Seen: `lading status` and `lading send` asked at the same moment, and send believed that an agent was at work.
    path = tmp_path / "agent.lock"

    with somebody_asking(path):
        assert FileLock(path).holder() is None


def test_who_only_asks_keeps_nobody_from_taking_the_lock(tmp_path: Path) -> None:
    # Seen: the background carrier ended at once, because the `send` that had started it was just asking whether it was there.
    lock = FileLock(tmp_path / "drain.lock")

    with somebody_asking(lock.path) as over:
        threading.Timer(0.2, over.set).start()
        assert lock.acquire()

    assert FileLock(lock.path).holder() == os.getpid()
    lock.release()


def test_a_lock_that_could_not_be_written_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = FileLock(tmp_path / "a.lock")
    with monkeypatch.context() as patched:
        patched.setattr("lading.locks.os.write", full)
        with pytest.raises(OSError, match="No space"):
            lock.acquire()

    with held(FileLock(lock.path)) as ours:
        assert ours
