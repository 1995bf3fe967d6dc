"""Puts files over an SFTP session of its own, with as many requests in one packet as fit.

What a library spends on each request and each answer, small files pay five times. Here the requests of many files are put
together by hand, and only three turns are waited for: open; write, set and close; rename. The next turn of a file is begun only
when the server has said yes to all of the one before.
"""

import queue
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import asyncssh

from lading.errors import LadingError, UnexpectedFault, Unreachable
from transport.ssh_connection import SshConnection, translated

_INIT, _VERSION, _OPEN, _CLOSE, _WRITE, _FSETSTAT, _REMOVE, _RENAME = 1, 2, 3, 4, 6, 10, 13, 18
_STATUS, _HANDLE, _EXTENDED = 101, 102, 200
_WRITE_NEW = 0x02 | 0x08 | 0x20  # write, create, and nothing may be there: a link would be followed
_HAS_MODE, _HAS_TIMES = 0x04, 0x08
_RENAME_OVER, _FSYNC = b"posix-rename@openssh.com", b"fsync@openssh.com"
_LATEST = (1 << 32) - 1  # seconds since the epoch that the protocol's version 3 can say
_FILES_AHEAD = 32
_BYTES_AHEAD = 8 << 20
_TOGETHER = 256 << 10
_LONGEST = 1 << 20  # of an answer
_ERRORS: dict[int, Callable[[str], asyncssh.SFTPError]] = {
    2: asyncssh.SFTPNoSuchFile,
    3: asyncssh.SFTPPermissionDenied,
    4: asyncssh.SFTPFailure,
    6: asyncssh.SFTPNoConnection,
    7: asyncssh.SFTPConnectionLost,
    8: asyncssh.SFTPOpUnsupported,
    10: asyncssh.SFTPNoSuchPath,
    12: asyncssh.SFTPWriteProtect,
    14: asyncssh.SFTPNoSpaceOnFilesystem,
    15: asyncssh.SFTPQuotaExceeded,
}


@dataclass(slots=True)
class Small:
    """A file to put: its content under the name `part`, then called `path`. `mode`: None leaves it to the server."""

    path: bytes
    part: bytes
    content: bytes
    mtime: float
    mode: int | None
    doing: str
    fsync: bool = False
    step: Callable[["Small", int, bytes], None] | None = field(default=None, repr=False)
    missing: int = 0
    failure: LadingError | None = None
    tried: bool = False


class SftpStream:
    """One more SFTP session on a connection. For one thread; after an error it is of no more use.

    `write_bytes`: what the server takes in one request.
    """

    def __init__(self, ssh: SshConnection, name: str, *, write_bytes: int) -> None:
        self._ssh, self._write_bytes = ssh, write_bytes
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._under_way: dict[int, Small] = {}
        self._out = bytearray()
        self._in = bytearray()
        self._next = 0
        self._files = self._bytes = 0
        self._name = name
        self.doing = ""
        """What the latest answer was about."""
        doing = f"cannot open a second SFTP session at {name}"
        self._channel = ssh.run(ssh.sftp_channel(lambda: _Session(self._answers)), doing)
        self._ssh.post(self._channel.write, struct.pack(">IBI", 5, _INIT, 3))
        self.features = _features(self._frame(doing))

    def put(self, files: Iterable[Small]) -> None:
        """Put them all. The first error is raised when it is met; what is under way then is left as it is."""
        for file in files:
            while self._files and (self._files >= _FILES_AHEAD or self._bytes + len(file.content) > _BYTES_AHEAD):
                self._hear(file.doing)
            self._files += 1
            self._bytes += len(file.content)
            self._open(file)
        while self._files:
            self._hear(f"cannot write to {self._name}")

    def close(self) -> None:
        """End the session. Never raises."""
        self._ssh.post(self._channel.close)

    # -- the turns of a file -----------------------------------------------------------------------------------------

    def _open(self, file: Small) -> None:
        attributes = struct.pack(">I", 0) if file.mode is None else struct.pack(">II", _HAS_MODE, file.mode)
        self._ask(file, self._opened, _OPEN, _text(file.part) + struct.pack(">I", _WRITE_NEW) + attributes)

    def _opened(self, file: Small, kind: int, answer: bytes) -> None:
        if kind != _HANDLE:
            refused = _refused(answer) if kind == _STATUS else None
            if isinstance(refused, asyncssh.SFTPFailure) and not file.tried:
                file.tried = True  # something is there already
                self._ask(file, lambda *_: self._open(file), _REMOVE, _text(file.part))
                return
            raise translated(refused or asyncssh.SFTPBadMessage("no handle"), file.doing) from refused
        (length,) = struct.unpack_from(">I", answer)
        handle = _text(answer[4 : 4 + length])
        # Sent together: the server works on the requests for one file in their order.
        for at in range(0, len(file.content), self._write_bytes):
            block = file.content[at : at + self._write_bytes]
            self._ask(file, self._written, _WRITE, handle + struct.pack(">QI", at, len(block)), block)
        if file.fsync and _FSYNC in self.features:
            self._ask(file, self._written, _EXTENDED, _text(_FSYNC) + handle)
        self._ask(file, self._written, _FSETSTAT, handle + _attributes(file))
        self._ask(file, self._written, _CLOSE, handle)

    def _written(self, file: Small, kind: int, answer: bytes) -> None:
        refused = _refused(answer) if kind == _STATUS else asyncssh.SFTPBadMessage("not a status")
        if refused is not None and file.failure is None:
            file.failure = translated(refused, file.doing)
            file.failure.__cause__ = refused
        if file.missing:
            return
        if file.failure:
            raise file.failure
        if _RENAME_OVER in self.features:
            self._ask(file, self._renamed, _EXTENDED, _text(_RENAME_OVER) + _text(file.part) + _text(file.path))
            return
        # The protocol's own rename replaces nothing. Between the two there is no file: better than a wrong one.
        self._ask(file, self._made_way, _REMOVE, _text(file.path))

    def _made_way(self, file: Small, kind: int, answer: bytes) -> None:  # noqa: ARG002 - the next answer tells
        self._ask(file, self._renamed, _RENAME, _text(file.part) + _text(file.path))

    def _renamed(self, file: Small, kind: int, answer: bytes) -> None:
        refused = _refused(answer) if kind == _STATUS else asyncssh.SFTPBadMessage("not a status")
        if refused is not None:
            raise translated(refused, file.doing) from refused
        self._files -= 1
        self._bytes -= len(file.content)

    # -- packets -----------------------------------------------------------------------------------------------------

    def _ask(
        self, file: Small, then: Callable[[Small, int, bytes], None], kind: int, rest: bytes, content: bytes = b""
    ) -> None:
        self._next = number = (self._next + 1) & 0xFFFFFFFF
        file.step = then
        file.missing += 1
        self._under_way[number] = file
        self._out += struct.pack(">IBI", 5 + len(rest) + len(content), kind, number)
        self._out += rest
        self._out += content
        if len(self._out) >= _TOGETHER:
            self._flush()

    def _hear(self, doing: str) -> None:
        """Take the next answer, and those that have come with it."""
        self._flush()
        self._heard(self._frame(doing), doing)
        while (frame := self._whole_frame()) is not None:
            self._heard(frame, doing)

    def _heard(self, frame: bytes, doing: str) -> None:
        kind, number = struct.unpack_from(">BI", frame) if len(frame) >= 9 else (0, 0)
        file = self._under_way.pop(number, None)
        if file is None or file.step is None:
            raise UnexpectedFault(f"{doing}: {self._name} answers what nobody asked", next_command="lading doctor")
        file.missing -= 1
        self.doing = file.doing
        file.step(file, kind, frame[5:])

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, bytearray()
            self._ssh.post(self._channel.write, out)

    def _frame(self, doing: str) -> bytes:
        while (frame := self._whole_frame()) is None:
            try:
                data = self._answers.get(timeout=1.0)
            except queue.Empty:
                if not self._ssh.is_closed:
                    continue
                data = None
            if data is None:
                raise Unreachable(f"{doing}: the connection was lost")
            self._in += data
        return frame

    def _whole_frame(self) -> bytes | None:
        if len(self._in) < 4:
            return None
        end = 4 + int.from_bytes(self._in[:4], "big")
        if end > _LONGEST:
            raise UnexpectedFault(f"{self._name} sent an answer of {end:,} bytes", next_command="lading doctor")
        if len(self._in) < end:
            return None
        frame = bytes(self._in[4:end])
        del self._in[:end]
        return frame


class _Session(asyncssh.SSHClientSession[bytes]):
    """Hands what the server says to the thread that waits for it; None is the end."""

    def __init__(self, answers: "queue.SimpleQueue[bytes | None]") -> None:
        self._answers = answers

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._answers.put(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whoever waits has nothing to choose
        self._answers.put(None)


def _features(frame: bytes) -> frozenset[bytes]:
    """The extensions that a server names in its first answer."""
    if frame[:1] != bytes([_VERSION]):
        return frozenset()
    names, at = [], 5
    while at + 4 <= len(frame):
        end = at + 4 + int.from_bytes(frame[at : at + 4], "big")
        names.append(frame[at + 4 : end])
        at = end
    return frozenset(names[::2])


def _attributes(file: Small) -> bytes:
    flags, rest = 0, b""
    if file.mode is not None:
        flags, rest = _HAS_MODE, struct.pack(">I", file.mode)
    if 0 <= file.mtime <= _LATEST:
        flags, rest = flags | _HAS_TIMES, rest + struct.pack(">II", int(file.mtime), int(file.mtime))
    return struct.pack(">I", flags) + rest


def _refused(answer: bytes) -> asyncssh.SFTPError | None:
    """What a status means; None is yes."""
    code = int.from_bytes(answer[:4], "big") if len(answer) >= 4 else 5
    if not code:
        return None
    said = ""
    if len(answer) >= 8:
        said = answer[8 : 8 + int.from_bytes(answer[4:8], "big")].decode("utf-8", "replace")
    make = _ERRORS.get(code)
    return make(said) if make else asyncssh.SFTPError(code, said)


def _text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value
