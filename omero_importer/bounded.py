"""Reads small files of strangers: never through a link, never more than a bound."""

import os
import stat
from pathlib import Path

from lading.listing.below import Below


class TooLargeError(Exception):
    """The file has more bytes than its reader takes."""


def open_below(base: Path, path: str) -> int:
    """A descriptor for reading the regular file `path` (relative POSIX) below `base`. Raises OSError, for a link or a pipe too."""
    folder, _, name = path.rpartition("/")
    with Below(base) as below:
        below.enter(folder)
        fd = below.open(name)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return fd


def read_bounded(base: Path, path: str, limit: int) -> bytes:
    """The whole file `path` (relative POSIX) below `base`. Raises TooLargeError above `limit` bytes, OSError."""
    with open(open_below(base, path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise TooLargeError(f"it has more than {limit} bytes")
    return content
