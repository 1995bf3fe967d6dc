"""SFTP's packets, version 3 with OpenSSH's extensions: what they are made of, and what a refusal means for us."""

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, OutOfSpace, UnexpectedFault, Unreachable

VERSION = 3
LONGEST = 4 << 20
"""Bytes of an answer that we believe in; servers send a quarter of a megabyte at most."""
LATEST = (1 << 32) - 1
"""Seconds since the epoch that the protocol can say."""
WRITE_NEW = 0x02 | 0x08 | 0x20
"""To open: write, create, and nothing may be there (a link would be followed)."""
READ, READ_AND_WRITE = 0x01, 0x03
RENAME_OVER, FSYNC = b"posix-rename@openssh.com", b"fsync@openssh.com"
STATVFS, LIMITS = b"statvfs@openssh.com", b"limits@openssh.com"


class Kind(IntEnum):
    """What a packet is."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """What a status says; those above 8 come from servers that know later versions."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    UNSUPPORTED = 8
    NO_SUCH_PATH = 10
    ALREADY_THERE = 11
    WRITE_PROTECTED = 12
    NO_SPACE = 14
    QUOTA = 15
    FILE_CORRUPT = 28


_MEANINGS: dict[int, tuple[type[LadingError], str]] = {
    Code.NO_SUCH_FILE: (Unreachable, "it is not there; is the share mounted?"),
    Code.NO_SUCH_PATH: (Unreachable, "it is not there; is the share mounted?"),
    Code.PERMISSION_DENIED: (AccessDenied, "the server refuses that"),
    Code.WRITE_PROTECTED: (AccessDenied, "the disk is write-protected"),
    Code.NO_CONNECTION: (Unreachable, "the connection was lost"),
    Code.CONNECTION_LOST: (Unreachable, "the connection was lost"),
    Code.UNSUPPORTED: (ConfigError, "the server cannot do that"),
    Code.NO_SPACE: (OutOfSpace, "the disk is full"),
    Code.QUOTA: (OutOfSpace, "the quota is used up"),
    Code.FILE_CORRUPT: (Corrupted, "the server says that its file system is damaged"),
}
# OpenSSH answers so to anything without a code of its own: an I/O error, a quota, a read-only disk.
_OTHER: tuple[type[LadingError], str] = (Unreachable, "the server reports a failure")


class RefusedError(Exception):
    """The server said no: its `code`, and its words."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code, self.said = code, said

    @property
    def nothing_there(self) -> bool:
        """Whether it is because there is no such file or folder."""
        return self.code in (Code.NO_SUCH_FILE, Code.NO_SUCH_PATH)

    @property
    def something_there(self) -> bool:
        """Whether it may be because there is something already: version 3 has no code of its own for that."""
        return self.code in (Code.FAILURE, Code.ALREADY_THERE)

    def error(self, doing: str) -> LadingError:
        """What it means for us; `doing` says what we were doing, to what."""
        kind, meaning = _MEANINGS.get(self.code, _OTHER)
        return kind(
            f"{doing}: {meaning}{f' ({self.said})' if self.said else ''}",
            next_command="" if kind.retried else "lading doctor",
        )


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a server says about a file. None: it does not say. `mtime`: seconds since the epoch."""

    size: int | None = None
    mode: int | None = None
    mtime: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder (not a link to one)."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode is not None and stat.S_ISREG(self.mode)


def attributes(*, size: int | None = None, mode: int | None = None, mtime: float | None = None) -> bytes:
    """What a file shall be given. A time that the protocol cannot say is left out."""
    flags, rest = 0, b""
    if size is not None:
        flags, rest = 0x01, struct.pack(">Q", size)
    if mode is not None:
        flags, rest = flags | 0x04, rest + struct.pack(">I", mode)
    if mtime is not None and 0 <= mtime <= LATEST:
        flags, rest = flags | 0x08, rest + struct.pack(">II", int(mtime), int(mtime))
    return struct.pack(">I", flags) + rest


def text(value: bytes) -> bytes:
    """A name or handle, with its length ahead."""
    return struct.pack(">I", len(value)) + value


class Answer:
    """The rest of an answer, taken apart from its beginning. Every method raises MalformedError where it ends too early."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def byte(self) -> int:
        """8 bits."""
        return self._taken(1)[0]

    def number(self) -> int:
        """32 bits."""
        return int.from_bytes(self._taken(4), "big")

    def long_number(self) -> int:
        """64 bits."""
        return int.from_bytes(self._taken(8), "big")

    def text(self) -> bytes:
        """A name, handle or content."""
        return self._taken(self.number())

    def attributes(self) -> Attributes:
        """Of one file."""
        flags = self.number()
        size = self.long_number() if flags & 0x01 else None
        if flags & 0x02:
            self._taken(8)  # owner and group
        mode = self.number() if flags & 0x04 else None
        mtime = None
        if flags & 0x08:
            self._taken(4)  # when it was read
            mtime = self.number()
        if flags & 0x80000000:
            for _ in range(2 * self.number()):
                self.text()
        return Attributes(size, mode, mtime)

    def names(self) -> Iterator[tuple[bytes, Attributes]]:
        """Of the files in a folder."""
        for _ in range(self.number()):
            name = self.text()
            self.text()  # the line that `ls -l` would print
            yield name, self.attributes()

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """What is left: names and what goes with them."""
        while self._at < len(self._content):
            yield self.text(), self.text()

    def refusal(self) -> RefusedError | None:
        """What a status means; None is yes."""
        code = self.number()
        if not code:
            return None
        said = self.text() if self._at < len(self._content) else b""
        words = "".join(c if c.isprintable() else "?" for c in said.decode("utf-8", "replace"))
        return RefusedError(code, words.strip()[:200])

    def _taken(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._content):
            raise MalformedError
        taken = self._content[self._at : end]
        self._at = end
        return taken


class MalformedError(Exception):
    """The server's answer is none."""

    def error(self, doing: str) -> LadingError:
        """What it means for us."""
        return UnexpectedFault(f"{doing}: the server's answer makes no sense", next_command="lading doctor")
