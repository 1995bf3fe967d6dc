"""Puts files into a folder of an inbox: temporary name first, renamed when whole, never through a link.

Other senders may write to the same inbox, so a link or a file that stands where a folder should be is removed, not
followed. Where the system can (not on Windows) every step is taken relative to an open folder.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.listing.entries import order_key
from lading.staging.slots import SHARED

TEMPORARY = ".in."
"""How the name of a file begins while it is being written; short, so that any legal name can be carried."""

_BY_FD = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_COMMON = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
READ = os.O_RDONLY | _NOFOLLOW | _COMMON | getattr(os, "O_NONBLOCK", 0)
# Linux with large folios looks for page cache in pieces as large as one write: at 1 MiB that took four times the system
# time of 256 KiB, and smaller ones only add system calls.
_PIECE = 256 << 10
_FLUSH_EVERY = 128 << 20  # bytes
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _COMMON
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | _COMMON


def fill(fd: int, buffer: memoryview) -> int:
    """Read into `buffer`; how many bytes came, 0 at the end."""
    if hasattr(os, "readv"):
        return os.readv(fd, [buffer])
    block = os.read(fd, len(buffer))
    buffer[: len(block)] = block
    return len(block)


class Landing:
    """The folder `root`, filled by several threads. Every method takes paths relative to it (POSIX); raises OSError."""

    def __init__(self, root: Path, *, flush_every: int = _FLUSH_EVERY) -> None:
        self._root = _Folder.at(root)
        self._path, self._flush_every = root, flush_every
        self._growing: dict[Arriving, Callable[[int], None]] = {}
        self._here = threading.local()
        self._open = {self._root}
        self._lock = threading.Lock()
        self._flushing: threading.Thread | None = None
        self._unflushed = 0
        self._flush_failure: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._flushing:
            self._flushing.join()
        for folder in self._open:
            folder.close()

    def is_empty(self) -> bool:
        """Whether nothing was ever put here."""
        return not self._root.names()

    def read(self, path: str) -> int | None:
        """A descriptor to read the regular file at `path`, or None when there is none."""
        parent, name = _split(path)
        try:
            fd = self._folder(parent, make=False).open(name, READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            if _is_link(exc):
                return None
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def size(self, path: str) -> int | None:
        """The bytes of the regular file at `path`, or None when there is none."""
        fd = self.read(path)
        if fd is None:
            return None
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def begin(self, path: str) -> "Arriving":
        """Start a file that will be called `path` when it is whole."""
        parent, name = _split(path)
        return Arriving(self._folder(parent, make=True), name, self._wrote)

    def resume(self, path: str, which: str) -> tuple["Arriving", int]:
        """Go on with a file that an earlier attempt began for the same content (`which`, a word that says so), or begin it.

        Also returns a descriptor to read what is there of it; the caller closes that, and may `restart`.
        """
        parent, name = _split(path)
        arriving = Arriving(
            self._folder(parent, make=True),
            name,
            self._wrote,
            temporary=f"{TEMPORARY}{which}",
            ended=self.unwatch,
        )
        return arriving, arriving.reader()

    def watch(self, arriving: "Arriving", durable: Callable[[int], None]) -> None:
        """Tell `durable`, in some thread, up to which length `arriving` survives a power cut, as often as that is found out.

        Nothing extra is flushed for it. Never called once `arriving` has ended.
        """
        with self._lock:
            self._growing[arriving] = durable

    def unwatch(self, arriving: "Arriving") -> None:
        """Nothing more is told of it once this returns."""
        with self._lock:
            self._growing.pop(arriving, None)

    def keep_only(self, paths: Iterable[str]) -> None:
        """Remove whatever earlier attempts left: every file that is not among `paths`, and folders left empty.

        `paths` come in the order of a manifest: depth first, the names of each folder in byte order.
        """
        wanted = _Wanted(paths)
        _keep_only(self._root, "", wanted)

    def make_durable(self, around: Path | None = None) -> None:
        """Everything that was put here, or into the folder `around` this one, survives a power cut once this returns.

        The system tells of a write that failed only once: whoever wrote here must ask here, and nowhere else.
        """
        if self._flushing:
            self._flushing.join()
        if self._flush_failure:
            raise self._flush_failure
        try:
            if not _syncfs(self._root):
                _sync_one_by_one(around or self._path)
        except OSError as exc:
            self._flush_failure = exc
            raise

    def lost_something(self) -> bool:
        """Whether the disk could not take what was put here. What is read here may be remembered only, until it is forgotten."""
        if self._flushing:
            self._flushing.join()
        return self._flush_failure is not None

    def _wrote(self, size: int) -> None:
        """Let the disk work while we read on, so that little is left for the end."""
        with self._lock:
            self._unflushed += size
            if self._unflushed < self._flush_every or (self._flushing and self._flushing.is_alive()):
                return
            self._unflushed = 0
            self._flushing = threading.Thread(target=self._flush, name="lading-flush")
            self._flushing.start()

    def _flush(self) -> None:
        with self._lock:
            lengths = {arriving: arriving.length for arriving in self._growing}
        try:
            if not _syncfs(self._root):
                return
        except OSError as exc:
            self._flush_failure = exc
            return
        with self._lock:
            for arriving, length in lengths.items():
                # What an earlier flush could not write is not tried again: this one tells nothing of it.
                if arriving in self._growing and not self._flush_failure:
                    self._growing[arriving](length)

    def _folder(self, parent: str, *, make: bool) -> "_Folder":
        # A manifest comes folder by folder: the one that this thread used last is nearly always the one it needs.
        if getattr(self._here, "name", None) == parent:
            return self._here.folder  # type: ignore[no-any-return]  # a thread-local has no declared attributes
        found = self._root
        for part in parent.split("/") if parent else ():
            inner = found.inner(part, make=make)
            if found is not self._root:
                found.close()
            found = inner
        with self._lock:
            before = getattr(self._here, "folder", self._root)
            if before is not self._root:
                self._open.discard(before)
                before.close()
            self._open.add(found)
        self._here.name, self._here.folder = parent, found
        return found


class Arriving:
    """A file being written under a temporary name. Ends with `finish` or `abandon`."""

    def __init__(
        self,
        folder: "_Folder",
        name: str,
        wrote: Callable[[int], None],
        *,
        temporary: str | None = None,
        ended: Callable[["Arriving"], None] | None = None,
    ) -> None:
        self._folder, self._name, self._wrote, self._ended = folder, name, wrote, ended
        self._temporary = temporary or TEMPORARY + secrets.token_hex(6)
        self._fd = _own_part(folder, temporary) if temporary else folder.open(self._temporary, _CREATE)
        self.length = os.fstat(self._fd).st_size if temporary else 0

    def reader(self) -> int:
        """A descriptor to read what has been written so far."""
        return self._folder.open(self._temporary, READ)

    def restart(self, length: int = 0) -> None:
        """Forget what was written behind `length`."""
        os.ftruncate(self._fd, length)
        self.length = length

    def leave(self) -> None:
        """Stop here; the next attempt may go on."""
        self._close()

    def write(self, data: memoryview | bytes) -> None:
        """Append."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view[:_PIECE]) :]
        self.length += len(data)
        self._wrote(len(data))

    def sync(self) -> None:
        """What was written survives a power cut. For files that count as soon as they have their name."""
        os.fsync(self._fd)

    def finish(self, mtime_ns: int | None = None) -> None:
        """The file is whole: give it its time (ns since the epoch) and its name."""
        try:
            if mtime_ns is not None:
                self._folder.set_time(self._temporary, self._fd, mtime_ns)
        finally:
            # Close, then rename: Windows refuses the other order.
            self._close()
        try:
            self._folder.rename(self._temporary, self._name)
        except (IsADirectoryError, PermissionError):
            self._folder.clear(self._name)
            self._folder.rename(self._temporary, self._name)

    def abandon(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self._folder.unlink(self._temporary)

    def _close(self) -> None:
        # Never twice: another thread may have been given the number meanwhile.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._ended:
                self._ended(self)
            os.close(fd)


def _own_part(folder: "_Folder", name: str) -> int:
    """A descriptor to append to the part `name`. What else stands there is removed: its name can be foreseen by other senders."""
    try:
        fd = folder.open(name, _APPEND | _NONBLOCK)  # a pipe that nobody reads would keep us waiting for ever
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_nlink <= 1:
            return fd
        os.close(fd)
    except OSError as exc:
        if not (_is_link(exc) or exc.errno in (errno.ENXIO, errno.EISDIR)):
            raise
    folder.clear(name)
    return folder.open(name, _APPEND | os.O_EXCL)


class _Folder:
    """An open folder; on systems that cannot work relative to one, its path."""

    def __init__(self, fd: int | None, path: str) -> None:
        self.fd, self.path = fd, path

    @classmethod
    def at(cls, path: Path) -> "_Folder":
        return cls(os.open(path, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _COMMON) if _BY_FD else None, str(path))

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)

    def inner(self, name: str, *, make: bool) -> "_Folder":
        try:
            return self._inner(name)
        except FileNotFoundError:
            if not make:
                raise
        except OSError as exc:
            if not make or not (isinstance(exc, NotADirectoryError) or _is_link(exc)):
                raise
            self.clear(name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._of(name), 0o770, dir_fd=self.fd)
        made = self._inner(name)
        if made.fd is not None:
            # Whatever the umask: the server moves the slot on, and needs its group's write permission for that.
            with contextlib.suppress(OSError):
                os.fchmod(made.fd, SHARED)
        return made

    def _inner(self, name: str) -> "_Folder":
        path = os.path.join(self.path, name)  # noqa: PTH118 - pathlib costs more than the system call here
        if self.fd is not None:
            return _Folder(os.open(name, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _COMMON, dir_fd=self.fd), path)
        mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(path)
        return _Folder(None, path)

    def open(self, name: str, flags: int) -> int:
        return os.open(self._of(name), flags, 0o660, dir_fd=self.fd)

    def rename(self, old: str, new: str) -> None:
        os.replace(self._of(old), self._of(new), src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        os.unlink(self._of(name), dir_fd=self.fd)

    def clear(self, name: str) -> None:
        """Remove what is called `name`, whatever it is; links are removed, not followed."""
        try:
            self.unlink(name)
        except FileNotFoundError:
            return
        except OSError:
            shutil.rmtree(self._of(name), dir_fd=self.fd)

    def set_time(self, name: str, fd: int, mtime_ns: int) -> None:
        target = fd if os.utime in os.supports_fd else self._of(name)
        os.utime(target, ns=(mtime_ns, mtime_ns))

    def names(self) -> list[tuple[str, bool]]:
        """What is in here, in byte order: name, and whether it is a folder (a link is not)."""
        with os.scandir(self.path if self.fd is None else self.fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        return sorted(found, key=lambda pair: order_key(pair[0]))

    def _of(self, name: str) -> str:
        return name if self.fd is not None else os.path.join(self.path, name)  # noqa: PTH118 - as above


class _Wanted:
    """Asks an ordered stream of paths, in that order, whether it holds a path."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._rest: Iterator[str] = iter(paths)
        self._next = next(self._rest, None)

    def holds(self, path: str) -> bool:
        key = order_key(path)
        while self._next is not None and order_key(self._next) < key:
            self._next = next(self._rest, None)
        return self._next == path


def _keep_only(folder: _Folder, prefix: str, wanted: _Wanted) -> bool:
    """Whether anything stays in `folder`."""
    stays = False
    for name, is_folder in folder.names():
        if is_folder:
            inner = folder.inner(name, make=False)
            try:
                inner_stays = _keep_only(inner, f"{prefix}{name}/", wanted)
            finally:
                inner.close()
            if inner_stays:
                stays = True
            else:
                os.rmdir(folder._of(name), dir_fd=folder.fd)  # noqa: SLF001 - same module
        elif wanted.holds(prefix + name):
            stays = True
        else:
            folder.unlink(name)
    return stays


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent, name


def _is_link(exc: OSError) -> bool:
    return exc.errno in (errno.ELOOP, errno.EMLINK)


def _syncfs(folder: _Folder) -> bool:
    """One call for thousands of files: `fsync` on each costs several times the copy itself."""
    if folder.fd is None or not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        return False
    if call(folder.fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), folder.path)
    return True


def _sync_one_by_one(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            fd = os.open(Path(folder, name), os.O_RDWR | _COMMON)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        if _BY_FD:
            fd = os.open(folder, os.O_RDONLY | _COMMON)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
