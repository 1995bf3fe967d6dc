"""Folders that outlive a power cut, shared with people we do not trust.

What is written here is whole or absent: temporary name, fsync, rename, fsync of the folder. Nothing is renamed over
something that exists. Small files of strangers are read without following a link and up to a limit.
"""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from lading.errors import AccessDenied, OutOfSpace, Unreachable

TEMPORARY = ".tmp-"
"""How every temporary name of ours begins."""

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not make us wait for its writer
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_FLUSHERS = 16
_BY_DESCRIPTOR = os.open in os.supports_dir_fd
_RENAME_NOREPLACE = 1
_CURRENT_FOLDER = -100  # AT_FDCWD
_NOT_OFFERED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_GONE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO)


def is_real_folder(path: Path) -> bool:
    """Whether `path` itself is a folder, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_real_file(path: Path) -> bool:
    """Whether `path` itself is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_strange(path: Path) -> BinaryIO:
    """Open a regular file that a stranger may have put there: no link is followed, no pipe waited for.

    Raises FileNotFoundError, or ValueError when it is not a regular file.
    """
    try:
        handle = os.open(path, _FILE)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO) or is_real_folder(path):
            raise ValueError(f"{path.name} is not a regular file") from exc
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path.name} is not a regular file")
    return open(handle, "rb", buffering=1 << 18)


def read_small(path: Path, limit: int) -> bytes:
    """The content of a stranger's small file. Raises FileNotFoundError, ValueError (no file, or over `limit` bytes)."""
    with open_strange(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return content


def write_durably(path: Path, content: bytes, *, mode: int = 0o640) -> None:
    """Put `content` under `path`, whole or not at all, and there after a power cut. Replaces what was there."""
    with appearing(path, mode=mode) as handle:
        _write(handle, content)


def write_whole(path: Path, content: bytes, *, mode: int = 0o640) -> None:
    """Like `write_durably`, but without waiting for the disk: `sync_all` follows for this and others at once."""
    with appearing(path, mode=mode, durable=False) as handle:
        _write(handle, content)


@contextmanager
def appearing(path: Path, *, mode: int = 0o640, durable: bool = True) -> Iterator[int]:
    """A descriptor to write to; on leaving without an error the file appears under `path`, durably if wanted."""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, mode)
    try:
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(handle, mode)  # the umask must not hide a receipt from its reader
            yield handle
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)  # Close, then rename: Windows refuses the other order.
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def _write(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def move(source: Path, target: Path, *, into: int | None = None) -> None:
    """Rename `source` to `target`, never over something that is there. Does not fsync: see `sync_folder`.

    `into`: a descriptor of the target's folder (see `folders_below`), so that nobody can swap it for a link meanwhile.
    Where the file system has no such rename (some network ones), the plain one is used: for a folder it still
    replaces nothing but an empty folder. Raises FileExistsError, FileNotFoundError.
    """
    if _renamed_without_replacing(source, target, into):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        if into is None:
            source.rename(target)
        else:
            os.rename(source, target.name, dst_dir_fd=into)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from exc
        raise


@contextmanager
def folders_below(root: Path, parts: Iterable[str], mode: int) -> Iterator[int | None]:
    """Make the folders `parts` below `root` where they are missing, durably; hand out a descriptor of the last one.

    None where the system has no folder descriptors (Windows). Raises NotADirectoryError when a part is something else,
    a link included.
    """
    path = root
    handle = os.open(root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0)) if _BY_DESCRIPTOR else None
    try:
        for part in parts:
            path = path / part
            with suppress(FileExistsError):
                make_folder(path, mode)
            if not is_real_folder(path):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder, or a link to one", str(path))
            if handle is not None:
                inner = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def make_folder(path: Path, mode: int) -> bool:
    """Make one folder with exactly `mode`, durably; False when a real folder was there already.

    Raises FileExistsError when something else has that name.
    """
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if is_real_folder(path):
            return False
        raise
    with suppress(PermissionError):  # a mount that rules its own modes
        path.chmod(mode)
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut. Windows has no such call; NTFS journals names itself."""
    _sync(folder)


def sync_all(paths: Iterable[Path]) -> None:
    """Make these files and folders survive a power cut. At the same time: the disk then flushes its cache once or twice."""
    wanted = list(dict.fromkeys(paths))
    if len(wanted) < 2:
        for path in wanted:
            _sync(path)
        return
    list(_flushers().map(_sync, wanted))


FEW_FILES = 32


def flush_ahead(root: Path) -> Callable[[], None]:
    """Begin to write out the file system of `root`, in a thread, while the caller reads what lies there.

    The answer waits for it, and raises the OSError it met. Whoever goes on to `sync_tree` with many files must call it: the system
    tells of a write that failed only once. Nothing happens, and nothing is waited for, where there is no `syncfs`.
    """
    failures: list[OSError] = []

    def write_out() -> None:
        try:
            _synced_file_system(root)
        except OSError as exc:
            failures.append(exc)

    thread = threading.Thread(target=write_out, name="lading-flush-ahead", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        if failures:
            raise failures[0]

    return wait


def sync_tree(root: Path, files: Iterable[str], count: int, *, few: int = FEW_FILES) -> None:
    """Make `files` (`count` relative POSIX paths) below `root`, and their folders, survive a power cut.

    More than `few` are flushed with one `syncfs`: thousands of fsyncs cost seconds even with nothing left to write.
    Fewer are flushed by themselves, so that a small delivery does not wait for the unwritten gigabytes of another one.
    """
    if count > few and _synced_file_system(root):
        return
    paths: dict[Path, None] = {root: None}
    for name in files:
        path = root / name
        paths[path] = None
        while (path := path.parent) not in paths:
            paths[path] = None
    sync_all(paths)


@contextmanager
def translated(doing: str, place: Path) -> Iterator[None]:
    """Turn what the system says about a disk into our errors: full, forbidden, or not to be had now."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        told = f"{doing} in {place}: {reason}" + (f" ({exc.filename})" if exc.filename else "")
        if exc.errno in _FULL:
            raise OutOfSpace(f"{told}; {free_bytes(place)} bytes free", next_command="lading doctor") from exc
        if isinstance(exc, PermissionError) or exc.errno == errno.EROFS:
            raise AccessDenied(f"{told}; this account must read and write there", next_command="lading doctor") from exc
        if exc.errno in _GONE or not os.path.lexists(place):
            told += "; is the share mounted?"
        # Anything else is somebody working here at the same time, or a disk that fails: both are tried again.
        raise Unreachable(told, next_command="lading doctor") from exc


def free_bytes(place: Path) -> int:
    """Free bytes for us on the file system of `place`; 0 when it cannot be told."""
    return room(place)[0]


def room(place: Path) -> tuple[int, int]:
    """Free and total bytes of the file system of `place`; (0, 0) when it cannot be told."""
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return 0, 0
    return usage.free, usage.total


@cache
def _flushers() -> ThreadPoolExecutor:
    # One for the process: threads that are made and ended for three files cost more than the flushing does.
    return ThreadPoolExecutor(_FLUSHERS, thread_name_prefix="lading-fsync")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_flushers.cache_clear)  # threads do not live on in the child


def _sync(path: Path) -> None:
    if sys.platform == "win32":
        if path.is_dir():
            return
        handle = os.open(path, os.O_RDWR)  # Windows flushes only through a writable descriptor.
    else:
        handle = os.open(path, _FILE)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders on file systems without it
            raise
    finally:
        os.close(handle)


def _synced_file_system(root: Path) -> bool:
    libc = _libc()
    if libc is None or not hasattr(libc, "syncfs"):
        return False
    handle = os.open(root, _FOLDER)
    try:
        if libc.syncfs(handle) == 0:
            return True
        failure = ctypes.get_errno()
        if failure in _NOT_OFFERED:
            return False
        raise OSError(failure, os.strerror(failure), str(root))
    finally:
        os.close(handle)


def _renamed_without_replacing(source: Path, target: Path, into: int | None) -> bool:
    libc = _libc()
    if libc is None or not hasattr(libc, "renameat2"):
        return False
    there, name = (_CURRENT_FOLDER, target) if into is None else (into, Path(target.name))
    if libc.renameat2(_CURRENT_FOLDER, os.fsencode(source), there, os.fsencode(name), _RENAME_NOREPLACE) == 0:
        return True
    failure = ctypes.get_errno()
    if failure in _NOT_OFFERED:
        return False
    raise OSError(failure, os.strerror(failure), str(source), None, str(target))


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
