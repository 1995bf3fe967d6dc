"""Opens and looks at files below one folder without ever following a link on the way down.

Where the system offers it (`dir_fd`), every folder of a path is opened relative to its parent, so that a folder swapped
for a link between two steps is noticed, and paths may be longer than the system's limit. Elsewhere (Windows) full paths
are used and links are recognised by a look before opening.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

_RELATIVE = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and os.listdir in os.supports_fd
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
# O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing for a regular file.
_FILE = (
    os.O_RDONLY
    | _NOFOLLOW
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)


class Below:
    """A way through the folders below `root`: one current folder, files by bare name in it. One per thread.

    `root` itself may be a link only with `follow_root`. Every method raises the plain OSError of the system; a link
    where a folder or file should be is ELOOP or ENOTDIR (NotADirectoryError).
    """

    def __init__(self, root: Path, *, follow_root: bool = True) -> None:
        self._root = _extended(str(root))
        self._parts: list[str] = []
        self._fds: list[int] = []
        self._path = self._root
        if _RELATIVE:
            self._fds.append(os.open(self._root, _FOLDER & ~_NOFOLLOW if follow_root else _FOLDER))
        elif not follow_root:
            _refuse_link(self._root)

    def enter(self, folder: str) -> None:
        """Make `folder` (relative POSIX, "" for the root) the current one."""
        parts = folder.split("/") if folder else []
        common = 0
        for ours, theirs in zip(self._parts, parts, strict=False):
            if ours != theirs:
                break
            common += 1
        while len(self._parts) > common:
            self._leave()
        for part in parts[common:]:
            self._descend(part)

    def open(self, name: str) -> int:
        """A descriptor for reading the file `name` of the current folder. The caller checks that it is a regular
        file."""
        if _RELATIVE:
            return os.open(name, _FILE, dir_fd=self._fds[-1])
        path = os.path.join(self._path, name)  # noqa: PTH118 - a million times; Path is ten times slower
        _refuse_link(path)
        return os.open(path, _FILE)

    def lstat(self, name: str) -> os.stat_result:
        """What is known about `name` in the current folder, itself and not what it may point to."""
        if _RELATIVE:
            return os.stat(name, dir_fd=self._fds[-1], follow_symlinks=False)
        return os.lstat(os.path.join(self._path, name))  # noqa: PTH118

    def opener(self) -> Callable[[str], int]:
        """`open` for very many files of the current folder; good until the next `enter`."""
        if _RELATIVE:
            return partial(os.open, flags=_FILE, dir_fd=self._fds[-1])
        return self.open

    def looker(self) -> Callable[[str], os.stat_result]:
        """`lstat` for very many files of the current folder; good until the next `enter`."""
        if _RELATIVE:
            return partial(os.stat, dir_fd=self._fds[-1], follow_symlinks=False)
        return self.lstat

    def names(self) -> list[str]:
        """The names in the current folder, in no order."""
        return os.listdir(self._fds[-1] if _RELATIVE else self._path)

    def is_readable(self, name: str) -> bool:
        """Whether this process may read the file `name` of the current folder."""
        if _RELATIVE and os.access in os.supports_dir_fd:
            return os.access(name, os.R_OK, dir_fd=self._fds[-1], effective_ids=os.access in os.supports_effective_ids)
        return os.access(os.path.join(self._path, name), os.R_OK)  # noqa: PTH118

    def unlink(self, name: str) -> None:
        """Remove the file `name` of the current folder; of a link, the link."""
        if _RELATIVE and os.unlink in os.supports_dir_fd:
            os.unlink(name, dir_fd=self._fds[-1])
        else:
            os.unlink(os.path.join(self._path, name))  # noqa: PTH108, PTH118

    def rmdir(self, name: str) -> None:
        """Remove the empty folder `name` of the current folder."""
        if _RELATIVE and os.rmdir in os.supports_dir_fd:
            os.rmdir(name, dir_fd=self._fds[-1])
        else:
            os.rmdir(os.path.join(self._path, name))  # noqa: PTH106, PTH118

    def take_in(self, source: Path, name: str) -> None:
        """Rename the file `source`, which nobody else can reach, to `name` in the current folder, over what has that name."""
        if _RELATIVE and os.rename in os.supports_dir_fd:
            os.rename(source, name, dst_dir_fd=self._fds[-1])
        else:
            source.replace(os.path.join(self._path, name))  # noqa: PTH118

    def give_to(self, name: str, other: "Below", new_name: str) -> None:
        """Rename `name` of the current folder (of a link, the link) to `new_name`, a new one, in that of `other`."""
        if _RELATIVE and os.rename in os.supports_dir_fd:
            os.rename(name, new_name, src_dir_fd=self._fds[-1], dst_dir_fd=other._fds[-1])  # noqa: SLF001 - of its class
        else:
            Path(self._path, name).rename(os.path.join(other._path, new_name))  # noqa: PTH118, SLF001

    def close(self) -> None:
        """Give the descriptors back."""
        while self._fds:
            os.close(self._fds.pop())
        self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _descend(self, part: str) -> None:
        path = os.path.join(self._path, part)  # noqa: PTH118
        if _RELATIVE:
            self._fds.append(os.open(part, _FOLDER, dir_fd=self._fds[-1]))
        else:
            _refuse_link(path)
        self._parts.append(part)
        self._path = path

    def _leave(self) -> None:
        self._parts.pop()
        self._path = os.path.join(self._root, *self._parts)  # noqa: PTH118
        if _RELATIVE:
            os.close(self._fds.pop())


def open_below(root: Path, path: str, *, within: Path | None = None) -> BufferedReader:
    """The regular file at `path` (relative POSIX) below the folder `root`, for reading; no link is followed on the way down.

    The way begins at `within`, where `root` lies in that folder: its own parents may be links, what is below it may not.
    Raises OSError, ValueError when it is something else than a regular file.
    """
    with opening_below(root, within=within) as opened:
        return opened(path)


@contextmanager
def opening_below(root: Path, *, within: Path | None = None) -> Iterator[Callable[[str], BufferedReader]]:
    """As `open_below`, for many files by one thread: from one file to the next only the folders that differ are gone through."""
    base, above = root, ""
    if within is not None and root.is_relative_to(within):
        base, above = within, "/".join(root.relative_to(within).parts)
    with Below(base, follow_root=base is within) as below:

        def opened(path: str) -> BufferedReader:
            folder, _, name = path.rpartition("/")
            below.enter("/".join(part for part in (above, folder) if part))
            handle = below.open(name)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise ValueError(f"{name} is not a regular file")
            return open(handle, "rb")

        yield opened


def _extended(path: str) -> str:
    # The prefix lifts Windows' limit of 259 characters, whatever the machine's registry says.
    if os.name != "nt" or path.startswith("\\\\?\\"):
        return path
    path = os.path.abspath(path)  # noqa: PTH100 - without following links, which Path.resolve would
    return f"\\\\?\\UNC\\{path[2:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"


def _refuse_link(path: str) -> None:
    info = os.lstat(path)
    reparse = getattr(info, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_REPARSE_POINT
    if stat.S_ISLNK(info.st_mode) or reparse:
        raise OSError(errno.ELOOP, "it is a link", path)
