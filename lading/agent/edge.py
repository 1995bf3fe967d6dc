"""The agent's edge: what a part raises that nobody foresaw becomes an error of ours, and stops one delivery, not the agent."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from lading.errors import LadingError, OwnDiskFull, UnexpectedFault

log = structlog.get_logger()


@contextmanager
def foreseen(doing: str, *, next_command: str = "lading doctor") -> Iterator[None]:
    """Around calls of parts. `doing` completes the sentence "…met an error nobody foresaw". Raises nothing but LadingError."""
    try:
        yield
    except LadingError:
        raise
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):  # of a target, its transport says so
            where = f" ({exc.filename})" if exc.filename else ""
            raise OwnDiskFull(
                f"{doing}: no room for our own notes in the home folder{where}: {exc.strerror}",
                safe="the source was only read; it goes on once there is room",
                next_command="lading doctor",
            ) from exc
        log.exception("unexpected fault", doing=doing)
        raise UnexpectedFault(
            f"{doing} met an error nobody foresaw: {type(exc).__name__}: {exc}",
            safe="the source was only read",
            next_command=next_command,
        ) from exc
