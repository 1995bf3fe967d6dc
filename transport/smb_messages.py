"""The few messages of SMB 2 that make and fill files, packed by hand ([MS-SMB2] 2.2); times and names as servers want them.

`smbprotocol` can pack them too: its general structures take a millisecond for each, and copy a block a dozen times.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

CREATE, CLOSE, WRITE, SET_INFO = 0x05, 0x06, 0x09, 0x11
HEAD_BYTES = 64
SIGNED, RELATED = 0x08, 0x04
PENDING = 0x103
SAME_FILE = b"\xff" * 16
"""The file that the message before, in the same packet, has opened."""
NEW, AS_IT_IS = 5, 1
"""What to do with a file that is opened: begin anew, or go on with what is there."""
_EPOCH = 116_444_736_000_000_000  # 1 January 1970 in units of 100 ns since 1601
_CREDIT_BYTES = 1 << 16
_HEAD = struct.Struct("<4sHHIHHIIQIIQ16s")
_ANSWER = struct.Struct("<4sHHIHHIIQIIQ16s")
_CREATE = struct.Struct("<HBBIQQIIIIIHHII")
_WRITE = struct.Struct("<HHIQ16sIIHHI")
_SET_INFO = struct.Struct("<HBBIHHI16s")
_CLOSE = struct.Struct("<HHI16s")
_IMPERSONATION, _NORMAL, _NO_FOLDER = 2, 0x80, 0x40
_SHARED = 7
"""What others may do with a file that we have open: everything, else the remains of a lost connection would lock us out."""
_RIGHTS = 0x01 | 0x02 | 0x80 | 0x100 | 0x10000
"""Read and write content and attributes, and rename."""
_OF_FILE, _BASIC, _RENAME, _END = 1, 4, 10, 20
_ID_IN_CREATED = 64


class NotAnAnswerError(Exception):
    """What came cannot be the answer of an SMB server."""


@dataclass(frozen=True, slots=True)
class Request:
    """A message without its header. `tail` follows `body`: content, which is not copied more often than needed."""

    command: int
    body: bytes
    tail: bytes = b""

    @property
    def size(self) -> int:
        """Bytes, with the header."""
        return HEAD_BYTES + len(self.body) + len(self.tail)

    @property
    def charge(self) -> int:
        """What it costs of the credits that the server has granted."""
        return max(0, len(self.tail) - 1) // _CREDIT_BYTES + 1


@dataclass(frozen=True, slots=True)
class Answer:
    """A message of the server. `whole`: with its header, as it came."""

    status: int
    credits: int
    flags: int
    number: int
    whole: bytes

    @property
    def file_id(self) -> bytes:
        """Of the answer to a CREATE."""
        at = HEAD_BYTES + _ID_IN_CREATED
        return self._exactly(at, 16)

    @property
    def written(self) -> int:
        """Of the answer to a WRITE."""
        return int.from_bytes(self._exactly(HEAD_BYTES + 4, 4), "little")

    def _exactly(self, at: int, count: int) -> bytes:
        found = self.whole[at : at + count]
        if len(found) < count:
            raise NotAnAnswerError("an answer is too short")
        return found


def opening(path: str, how: int) -> Request:
    """Open the file `path` (below the share, with backslashes) to write: `how` is NEW or AS_IT_IS."""
    name = path.encode("utf-16-le")
    fixed = _CREATE.pack(
        57, 0, 0, _IMPERSONATION, 0, 0, _RIGHTS, _NORMAL, _SHARED, how, _NO_FOLDER, HEAD_BYTES + 56, len(name), 0, 0
    )
    return Request(CREATE, fixed + name)


def writing(file: bytes, offset: int, content: bytes) -> Request:
    """Write `content` at `offset`."""
    body = _WRITE.pack(49, HEAD_BYTES + _WRITE.size, len(content), offset, file, 0, 0, 0, 0, 0)
    return Request(WRITE, body, content)


def dating(file: bytes, mtime_ns: int) -> Request:
    """Set the time of the last change, if there it can be (from 1601 on); the others stay."""
    time = min(max(0, mtime_ns // 100 + _EPOCH), (1 << 63) - 1)
    return _setting(file, _BASIC, struct.pack("<QQQQII", 0, 0, time, 0, 0, 0))


def naming(file: bytes, path: str) -> Request:
    """Call it `path` (below the share), replacing what has that name."""
    name = path.encode("utf-16-le")
    return _setting(file, _RENAME, struct.pack("<B7xQI", 1, 0, len(name)) + name)


def ending(file: bytes, size: int) -> Request:
    """Make it `size` bytes long."""
    return _setting(file, _END, struct.pack("<Q", size))


def closing(file: bytes) -> Request:
    """Close it."""
    return Request(CLOSE, _CLOSE.pack(24, 0, 0, file))


def header(request: Request, number: int, *, session: int, tree: int, flags: int, wanted: int, following: int) -> bytes:
    """The header of `request`: `wanted` credits are asked for, the next message in the packet is `following` bytes on (0: none)."""
    return _HEAD.pack(
        b"\xfeSMB",
        HEAD_BYTES,
        request.charge,
        0,
        request.command,
        wanted,
        flags,
        following,
        number,
        0,
        tree,
        session,
        b"",
    )


def answers_in(packet: bytes) -> Iterator[Answer]:
    """The messages in a packet, which is not encrypted. Raises NotAnAnswerError."""
    while True:
        if len(packet) < HEAD_BYTES or packet[:4] != b"\xfeSMB":
            raise NotAnAnswerError("what came is no message of SMB 2")
        _, _, _, status, _, credits_, flags, following, number, *_ = _ANSWER.unpack_from(packet)
        yield Answer(status, credits_, flags, number, packet[:following] if following else packet)
        if not following:
            return
        if following < HEAD_BYTES:
            raise NotAnAnswerError("messages overlap")
        packet = packet[following:]


def _setting(file: bytes, what: int, value: bytes) -> Request:
    body = _SET_INFO.pack(33, _OF_FILE, what, len(value), HEAD_BYTES + _SET_INFO.size, 0, 0, file)
    return Request(SET_INFO, body + value)
