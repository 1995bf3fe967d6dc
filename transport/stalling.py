"""Closes a connection on which nothing has moved for too long: some libraries would wait for ever.

The clock runs while a call is under way, and stands still while the caller or the source is what we wait for.
"""

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from lading.errors import LadingError, Unreachable
from transport.remote import Body, PlacesMany, RemoteFile, RemoteFiles


class Watch:
    """Looks after the connections of one task. A context manager; on leaving, every connection is closed."""

    def __init__(self, stall_s: float | None) -> None:
        self._stall_s = stall_s
        self._watched: list[Watched] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self.close_all()

    def over(self, files: RemoteFiles) -> "Watched":
        """`files`, watched from now on."""
        watched = Watched(files, self._stall_s)
        with self._lock:
            self._watched.append(watched)
        self._begin()
        return watched

    @contextmanager
    def lent(self, files: RemoteFiles) -> Iterator["Watched"]:
        """`files`, watched for a while and not closed at the end: it is wanted again."""
        with self._lock:
            watched = Watched(files, self._stall_s)
            self._watched.append(watched)
        self._begin()
        try:
            yield watched
        finally:
            self._over.set()
            with self._lock:
                self._watched.remove(watched)

    def close_all(self) -> None:
        """Close every connection now; calls that are under way end with Unreachable."""
        with self._lock:
            watched = list(self._watched)
        for one in watched:
            one.close()

    def _begin(self) -> None:
        with self._lock:
            if self._stall_s is not None and self._thread is None:
                self._thread = threading.Thread(target=self._look, name="lading-watchdog", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        assert self._stall_s is not None  # noqa: S101 - else there is no thread
        while not self._over.wait(min(1.0, self._stall_s / 4)):
            with self._lock:
                watched = list(self._watched)
            for one in watched:
                one.close_if_stalled()


class Watched:
    """The connection `files`; each of its calls is watched."""

    def __init__(self, files: RemoteFiles, stall_s: float | None) -> None:
        self._files, self._stall_s = files, stall_s
        # Asked once: this question takes as long as all the rest of a call.
        self._many = files if isinstance(files, PlacesMany) else None
        self._lock = threading.Lock()
        self._calls = self._waiting_for_us = 0
        self._moved = time.monotonic()
        self._stalled = self._closed = False

    @property
    def places_many(self) -> bool:
        """Whether small files go together."""
        return self._many is not None

    @property
    def inner(self) -> RemoteFiles:
        """The connection itself: for what only some can do."""
        return self._files

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        with _Call(self):
            return self._files.look(path)

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        listing = iter(self._files.listed(folder))
        while True:
            with _Call(self):
                found = next(listing, None)
            if found is None:
                return
            yield found

    def make_folders(self, path: str) -> None:
        """See the role."""
        with _Call(self):
            self._files.make_folders(path)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        with _Call(self):
            self._files.place(path, _Ticking(body, self))

    def place_many(self, bodies: Iterable[tuple[str, Body]]) -> None:
        """See the role."""
        with _Call(self):
            if self._many:
                self._many.place_many((path, _Ticking(body, self)) for path, body in bodies)
                return
            for path, body in bodies:
                self._files.place(path, _Ticking(body, self))

    def read(self, path: str, offset: int = 0) -> Generator[bytes, None, None]:
        """See the role. May be closed before its end."""
        blocks = iter(self._files.read(path, offset))
        while True:
            with _Call(self):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """See the role. A server that computes the digest of a huge file is silent for long: the clock does not run."""
        return self._files.digests(path, algorithms)

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        with _Call(self):
            self._files.rename(old, new)

    def remove(self, path: str) -> None:
        """See the role."""
        with _Call(self):
            self._files.remove(path)

    def free_bytes(self) -> int | None:
        """See the role."""
        with _Call(self):
            return self._files.free_bytes()

    def close(self) -> None:
        """See the role. Closing again is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._files.close()

    def close_if_stalled(self) -> None:
        """Called by the watchdog."""
        with self._lock:
            silent = time.monotonic() - self._moved
            if self._closed or not self._calls or self._waiting_for_us or silent < (self._stall_s or silent + 1):
                return
            self._stalled = True
        self.close()

    def begin(self) -> None:
        """A call begins."""
        with self._lock:
            self._calls += 1
            self._moved = time.monotonic()

    def end(self, exc: BaseException | None) -> None:
        """A call ended."""
        with self._lock:
            self._calls -= 1
        if self._stalled and exc is not None:
            raise Unreachable(f"the server stopped answering: nothing moved for {self._stall_s:g} seconds") from exc

    def wait_for_us(self, change: int) -> None:
        """The source, or our own pace, is (+1) or no longer is (-1) what the call waits for."""
        with self._lock:
            self._waiting_for_us += change
            self._moved = time.monotonic()


class _Call:
    """One call on its way. A class, because a generator costs several times as much per block."""

    __slots__ = ("_watched",)

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def __enter__(self) -> None:
        self._watched.begin()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._watched.end(exc if isinstance(exc, LadingError | OSError) else None)


class _Ticking:
    """A body whose blocks are signs of life."""

    def __init__(self, body: Body, watched: Watched) -> None:
        self._body, self._watched = body, watched

    @property
    def size(self) -> int:
        return self._body.size

    @property
    def mtime(self) -> float:
        return self._body.mtime

    @property
    def digests(self) -> Mapping[str, str]:
        return self._body.digests

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        blocks = iter(self._body.blocks(offset, length))
        while True:
            self._watched.wait_for_us(+1)
            try:
                block = next(blocks, None)
            finally:
                self._watched.wait_for_us(-1)
            if block is None:
                return
            yield block
