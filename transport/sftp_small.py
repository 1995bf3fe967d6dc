"""Puts many small files over an SFTP session, with as many requests in one packet as fit.

Only three turns are waited for: open; write, set and close; rename. The next turn of a file is begun only when the server has
said yes to all of the one before, and while it is on its way others are.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from lading.errors import LadingError
from transport.sftp_session import BYTES_AHEAD, SftpSession, handle_of, refusal
from transport.sftp_wire import (
    FSYNC,
    RENAME_OVER,
    WRITE_NEW,
    Answer,
    Kind,
    MalformedError,
    RefusedError,
    attributes,
    text,
)

_FILES_AHEAD = 32


@dataclass(frozen=True, slots=True)
class Small:
    """A file to put: its content under the name `part`, then called `path`. `mode`: None leaves it to the server."""

    path: bytes
    part: bytes
    content: bytes
    mtime: float
    mode: int | None
    doing: str
    fsync: bool = False


class SmallFiles:
    """Puts files; made anew for every stream of them. Others may use the session before and after."""

    def __init__(self, session: SftpSession, name: str) -> None:
        self._session, self._name = session, name
        self._files = self._bytes = 0
        self._over = False
        self.doing = f"cannot write to {name}"
        """What the first error was about."""

    def put(self, files: Iterable[Small]) -> None:
        """Put them all. Raises the first error; what is on its way then is left as it is, under the names of parts."""
        try:
            for file in files:
                while self._files and (self._files >= _FILES_AHEAD or self._bytes + len(file.content) > BYTES_AHEAD):
                    self._session.hear(self.doing)
                self._files += 1
                self._bytes += len(file.content)
                _Turns(self, self._session, file).begin()
            while self._files:
                self._session.hear(self.doing)
        finally:
            self._over = True

    @property
    def goes_on(self) -> bool:
        """Whether there is a point in the next turn."""
        return not self._over

    def is_done(self, file: Small) -> None:
        """It has its name."""
        self._files -= 1
        self._bytes -= len(file.content)

    def failed(self, file: Small, exc: RefusedError | MalformedError) -> LadingError:
        """The error of ours."""
        self.doing = file.doing
        error = exc.error(file.doing)
        error.__cause__ = exc
        return error


class _Turns:
    """The turns of one file."""

    __slots__ = ("_file", "_missing", "_puts", "_refused", "_session", "_tried")

    def __init__(self, puts: SmallFiles, session: SftpSession, file: Small) -> None:
        self._puts, self._session, self._file = puts, session, file
        self._missing = 0
        self._tried = False
        self._refused: RefusedError | None = None

    def begin(self) -> None:
        """The first turn."""
        rest = text(self._file.part) + struct.pack(">I", WRITE_NEW) + attributes(mode=self._file.mode)
        self._session.begin(Kind.OPEN, rest, self._opened)

    def _opened(self, kind: Kind, answer: Answer) -> None:
        try:
            handle = handle_of(kind, answer)
        except RefusedError as exc:
            if not self._puts.goes_on:
                return
            if exc.something_there and not self._tried:
                self._tried = True
                self._session.begin(Kind.REMOVE, text(self._file.part), self._made_way_for_part)
                return
            raise self._puts.failed(self._file, exc) from exc
        if self._puts.goes_on:
            self._write(handle)
        else:
            self._session.begin(Kind.CLOSE, text(handle), _ignored)

    def _made_way_for_part(self, kind: Kind, answer: Answer) -> None:  # noqa: ARG002 - the next answer tells
        if self._puts.goes_on:
            self.begin()

    def _write(self, handle: bytes) -> None:
        """All of it together: the server works on the requests of a session in their order."""
        file, most, named = self._file, self._session.write_bytes, text(handle)
        for at in range(0, len(file.content), most):
            block = file.content[at : at + most]
            self._ask(Kind.WRITE, named + struct.pack(">QI", at, len(block)), block)
        if file.fsync and FSYNC in self._session.features:
            self._ask(Kind.EXTENDED, text(FSYNC) + named)
        self._ask(Kind.FSETSTAT, named + attributes(mode=file.mode, mtime=file.mtime))
        self._ask(Kind.CLOSE, named)

    def _ask(self, kind: Kind, rest: bytes, content: bytes = b"") -> None:
        self._missing += 1
        self._session.begin(kind, rest, self._written, content)

    def _written(self, kind: Kind, answer: Answer) -> None:
        self._refused = self._refused or refusal(kind, answer)
        self._missing -= 1
        if self._missing or not self._puts.goes_on:
            return
        if self._refused:
            raise self._puts.failed(self._file, self._refused) from self._refused
        if RENAME_OVER in self._session.features:
            self._session.begin(Kind.EXTENDED, text(RENAME_OVER) + self._names, self._renamed)
            return
        # The protocol's own rename replaces nothing. Between the two there is no file: better than a wrong one.
        self._session.begin(Kind.REMOVE, text(self._file.path), self._made_way)

    def _made_way(self, kind: Kind, answer: Answer) -> None:  # noqa: ARG002 - the next answer tells
        if self._puts.goes_on:
            self._session.begin(Kind.RENAME, self._names, self._renamed)

    @property
    def _names(self) -> bytes:
        return text(self._file.part) + text(self._file.path)

    def _renamed(self, kind: Kind, answer: Answer) -> None:
        refused = refusal(kind, answer)
        if refused is None:
            self._puts.is_done(self._file)
        elif self._puts.goes_on:
            raise self._puts.failed(self._file, refused) from refused


def _ignored(kind: Kind, answer: Answer) -> None:
    """Nobody waits for it."""
