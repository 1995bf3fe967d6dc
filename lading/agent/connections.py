"""Connections to a SQLite file that several processes and threads of this machine write."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lading.disk import room
from lading.shell import typed

# For another process of this machine, each of whose transactions takes milliseconds.
_PATIENCE_S = 30.0

_LITTLE_ROOM = 1 << 20  # bytes; the journals of SQLite alone need some of it

# Another thread must not connect to a file that is about to be closed.
_creating = threading.Lock()


class Connections:
    """One connection per thread to the file at `path`, which is made when it is not there; in WAL mode, flushed at every commit.

    Raises OSError when the file cannot be made, and sqlite3.Error when it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: dict[threading.Thread, sqlite3.Connection] = {}
        self._opening = threading.Lock()
        _create(path)

    def here(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self._path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
            db.row_factory = sqlite3.Row
            patiently(db, "PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            self._local.db = db
            # Live mode starts a thread for every attempt at a target that is away, all night long.
            self._let_go(lambda thread: not thread.is_alive())
            with self._opening:
                self._opened[threading.current_thread()] = db
        return db

    def close(self) -> None:
        """Let go of the file: this thread, and those that ended.

        A thread that still works keeps its connection until it ends, or the process does: to close one under a thread that is
        using it ends the process with a segmentation fault.
        """
        mine = threading.current_thread()
        self._let_go(lambda thread: thread is mine or not thread.is_alive())
        self._local.db = None

    def _let_go(self, of: Callable[[threading.Thread], bool]) -> None:
        """Close the connections of these threads."""
        with self._opening:
            for thread in [thread for thread in self._opened if of(thread)]:
                self._opened.pop(thread).close()


def patiently(db: sqlite3.Connection, statement: str) -> None:
    """Execute `statement`, waiting for other processes up to _PATIENCE_S.

    SQLite answers "database is locked" at once, without its own time-out, where waiting could deadlock: while another process
    switches a new file to WAL, or takes the last connection down. See https://www.sqlite.org/rescode.html#busy.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            db.execute(statement)
        except sqlite3.OperationalError as exc:
            if (
                exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                or time.monotonic() > until
            ):
                raise
            time.sleep(0.02)
        else:
            return


def explained(exc: sqlite3.Error | OSError, path: Path) -> tuple[str, str, str]:
    """What happened to the file at `path`, what is safe, and what to type: SQLite calls a full disk an "I/O error"."""
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        safe = (
            "no source was touched; without this file the agent takes every watched folder again, "
            "and what was sent by hand must be sent again"
        )
        return str(exc), safe, typed("mv", path, f"{path}.damaged")
    free, total = room(path.parent)
    if total and free < _LITTLE_ROOM:
        return f"{exc}; {free:,} bytes are free on its disk", "no source was touched", typed("df", "-h", path.parent)
    return str(exc), "no source was touched", "lading doctor"


def _create(path: Path) -> None:
    """Make the empty file where there is none. Nobody else reads it, nor the journals that SQLite gives its mode.

    A file that is there is not opened, not even to look: closing it would free the locks of every connection that this process
    has to it, and another process, thinking itself alone, would take the journal away under them. What they write next would
    be lost. See https://www.sqlite.org/howtocorrupt.html, "Posix advisory locks canceled by a separate thread doing close()".
    """
    with _creating:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return
