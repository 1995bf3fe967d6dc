"""What an operating system's error means to a sender: the one table from errno to our errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lading.errors import (
    AccessDenied,
    LadingError,
    OutOfSpace,
    SourceChanged,
    TransportError,
    UnexpectedFault,
    Unreachable,
)

_SHARED: dict[int, type[TransportError]] = {
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EROFS: AccessDenied,
    errno.EIO: Unreachable,
    errno.ESTALE: Unreachable,
    errno.ENOTCONN: Unreachable,
    errno.ENODEV: Unreachable,
    errno.ENXIO: Unreachable,
    errno.EHOSTDOWN: Unreachable,
    errno.EHOSTUNREACH: Unreachable,
    errno.ENETDOWN: Unreachable,
    errno.ENETUNREACH: Unreachable,
    errno.ECONNRESET: Unreachable,
    errno.ETIMEDOUT: Unreachable,
    # Passing shortages of this machine: they go away when others finish.
    errno.EMFILE: Unreachable,
    errno.ENFILE: Unreachable,
    errno.ENOMEM: Unreachable,
}
SOURCE = _SHARED | {
    errno.ENOENT: SourceChanged,
    errno.ENOTDIR: SourceChanged,
    errno.EISDIR: SourceChanged,
    errno.ELOOP: SourceChanged,
}
TARGET = _SHARED | {
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
    errno.EFBIG: OutOfSpace,
    # The slot was there a moment ago: the share was unmounted, or the inbox moved the slot on.
    errno.ENOENT: Unreachable,
    errno.ENOTDIR: Unreachable,
}


def translated(exc: OSError, doing: str, table: dict[int, type[TransportError]]) -> LadingError:
    """The error of ours for `exc`; `doing` says what we were doing, to what ("cannot write /inbox/x")."""
    kind = table.get(exc.errno or 0)
    message = f"{doing}: {exc.strerror or exc}"
    if kind is None:
        return UnexpectedFault(message, next_command="lading doctor")
    return kind(message, next_command="" if kind.retried else "lading doctor")


@contextmanager
def translating(doing: str, table: dict[int, type[TransportError]]) -> Iterator[None]:
    """Turns any OSError of the block into one of ours."""
    try:
        yield
    except OSError as exc:
        raise translated(exc, doing, table) from exc


def shown(path: str | os.PathLike[str]) -> str:
    """`path` as it can be printed in one line, whatever bytes it holds."""
    return (
        os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8").replace("\n", "\\n").replace("\r", "\\r")
    )
