"""The SFTP session against servers as no real one here is: short answers, another order, refusals in the middle, nonsense."""

import struct
from collections import deque

import pytest

from lading.errors import AccessDenied, Corrupted, LadingError, UnexpectedFault, Unreachable
from transport.sftp_session import BYTES_AHEAD, SftpSession
from transport.sftp_small import Small, SmallFiles
from transport.sftp_wire import Code, Kind, RefusedError, text
from transport.ssh_line import LineError

EXTENSIONS = {b"posix-rename@openssh.com": b"1"}


class Server:
    """A line whose other end is a small SFTP server in memory. Subclasses misbehave."""

    def __init__(self, extensions=EXTENSIONS):
        self.extensions = extensions
        self.files: dict[bytes, bytearray] = {}
        self.log: list[Kind] = []
        self.answers: deque[bytes] = deque()
        self.is_closed = False
        self._in = bytearray()
        self.most_unanswered = 0

    def send(self, pieces):
        for piece in pieces:
            self._in += piece
        while len(self._in) >= 4 and len(self._in) >= 4 + int.from_bytes(self._in[:4], "big"):
            end = 4 + int.from_bytes(self._in[:4], "big")
            frame = bytes(self._in[4:end])
            del self._in[:end]
            self._take(frame)

    def receive(self):
        if not self.answers:
            raise LineError(Unreachable, "the connection was lost")
        return self.answers.popleft()

    def close(self):
        self.is_closed = True

    def _take(self, frame):
        kind = Kind(frame[0])
        if kind is Kind.INIT:
            pairs = b"".join(text(name) + text(value) for name, value in self.extensions.items())
            self.say(struct.pack(">BI", Kind.VERSION, 3) + pairs)
            return
        self.log.append(kind)
        number, rest = frame[1:5], frame[5:]
        for answer in self.answered(kind, rest):
            self.say(answer[:1] + number + answer[1:])

    def say(self, frame):
        self.answers.append(struct.pack(">I", len(frame)) + frame)

    def answered(self, kind, rest):
        name, rest = _split(rest)
        if kind is Kind.OPEN:
            self.files.setdefault(name, bytearray())
            yield bytes([Kind.HANDLE]) + text(name)
        elif kind is Kind.READ:
            yield self.read(name, *struct.unpack(">QI", rest))
        elif kind is Kind.WRITE:
            at = int.from_bytes(rest[:8], "big")
            yield status(self.write(name, at, rest[12:]))
        elif kind is Kind.EXTENDED and name == b"posix-rename@openssh.com":
            old, new = _split(rest)
            self.files[_split(new)[0]] = self.files.pop(old)
            yield status(Code.OK)
        elif kind is Kind.FSETSTAT and rest[:4] == b"\0\0\0\1":
            del self.files[name][int.from_bytes(rest[4:12], "big") :]
            yield status(Code.OK)
        else:
            yield status(Code.OK)

    def read(self, name, at, count):
        data = bytes(self.files[name][at : at + count])
        return bytes([Kind.DATA]) + text(data) if data else status(Code.EOF)

    def write(self, name, at, data):
        file = self.files[name]
        file.extend(bytes(max(0, at - len(file))))
        file[at : at + len(data)] = data
        return Code.OK


def status(code, said=b""):
    return struct.pack(">BI", Kind.STATUS, code) + text(said) + text(b"")


def _split(data):
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]


def _session(server):
    return SftpSession(server, "host:/x", patience_s=60)


def _small(name, content, doing="cannot write it"):
    return Small(name, b".in." + name, content, 1e9, None, doing)


def test_what_is_written_is_read_back_whatever_its_size():
    server = Server()
    session = _session(server)
    for content in (b"", b"x", bytes(range(256)) * 300, b"y" * (BYTES_AHEAD + 100_001)):
        handle = session.handle(Kind.OPEN, text(b"f") + bytes(8), "doing")
        blocks = (content[at : at + 70_000] for at in range(0, len(content), 70_000))

        session.write(handle, blocks, 0, "doing")

        assert b"".join(session.read(handle, 0, len(content), "doing")) == content
        assert b"".join(session.read(handle, 1, len(content), "doing")) == content[1:]


def test_short_answers_to_reads_are_asked_for_again():
    class Stingy(Server):
        def read(self, name, at, count):
            return super().read(name, at, min(count, 1 + at % 977))

    server = Stingy()
    server.files[b"f"] = bytearray(bytes(range(256)) * 300)

    assert b"".join(_session(server).read(b"f", 5, 256 * 300, "doing")) == server.files[b"f"][5:]


def test_answers_may_come_in_another_order():
    class Lifo(Server):
        def receive(self):
            if self.answers and self.log:
                return self.answers.pop()
            return super().receive()

    server = Lifo()
    server.files[b"f"] = bytearray(bytes(range(256)) * 1000)

    assert b"".join(_session(server).read(b"f", 0, 256_000, "doing")) == server.files[b"f"]


def test_a_file_that_became_shorter_is_corrupted():
    server = Server()
    server.files[b"f"] = bytearray(b"short")

    with pytest.raises(Corrupted, match="doing: it ended early"):
        list(_session(server).read(b"f", 0, 100_000, "doing"))


def test_a_write_that_is_refused_leaves_no_hole_behind():
    class Full(Server):
        def write(self, name, at, data):
            return Code.FAILURE if at == 3 * 32_768 else super().write(name, at, data)

    server = Full()
    session = _session(server)
    content = b"z" * 400_000
    server.files[b"f"] = bytearray()

    with pytest.raises(RefusedError) as caught:
        session.write(b"f", [content], 0, "doing")

    assert caught.value.code == Code.FAILURE
    assert server.files[b"f"] == content[: 3 * 32_768]
    assert b"".join(session.read(b"f", 0, 10, "doing")) == content[:10], "the session can still be used"


def test_small_files_are_renamed_only_when_all_that_went_before_was_granted():
    class Refusing(Server):
        def write(self, name, at, data):
            return Code.QUOTA if data == b"bad" else super().write(name, at, data)

    server = Refusing()
    session = _session(server)
    files = [
        _small(b"a", b"good"),
        _small(b"b", b"bad", "cannot write b"),
        *(_small(b"%d" % n, b"x") for n in range(99)),
    ]

    with pytest.raises(LadingError, match="cannot write b: the quota is used up"):
        SmallFiles(session, "host:/x").put(files)

    assert server.files[b"a"] == b"good"
    assert b"b" not in server.files
    log = len(server.log)
    assert session.handle(Kind.OPEN, text(b"f") + bytes(8), "doing"), "the session can still be used"
    assert Kind.EXTENDED not in server.log[log:], "what was under way was given up"


def test_small_files_keep_to_what_a_server_without_extensions_knows():
    server = Server({})

    SmallFiles(_session(server), "host:/x").put([_small(b"a", b"1" * 70_000), _small(b"b", b"")])

    assert server.log.count(Kind.WRITE) == 3
    assert server.log.count(Kind.RENAME) == 2
    assert Kind.EXTENDED not in server.log


@pytest.mark.parametrize(
    "said",
    [b"Welcome to the cluster!\n", struct.pack(">IBI", 5, Kind.STATUS, 3), struct.pack(">I", 0), b"\0\0\0\x02\x02\x00"],
)
def test_what_is_no_sftp_server_is_told_so_at_once(said):
    class Motd(Server):
        def send(self, pieces):
            self.answers.append(said)

    server = Motd()

    with pytest.raises((AccessDenied, Unreachable), match="cannot log in to host:/x"):
        _session(server)

    assert server.is_closed


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">IBI", 5, Kind.STATUS, 12345) + struct.pack(">I", 0),
        struct.pack(">I", 1 << 31),
        struct.pack(">IB", 1, Kind.STATUS),
        struct.pack(">IBI", 5, 77, 1),
        struct.pack(">IBI", 5, Kind.STATUS, 1),
        struct.pack(">IBII", 9, Kind.HANDLE, 1, 100),
    ],
)
def test_nonsense_is_an_error_of_ours(answer):
    class Mad(Server):
        def _take(self, frame):
            if frame[0] == Kind.INIT:
                super()._take(frame)
            else:
                self.answers.append(answer)

    session = _session(Mad())

    with pytest.raises((UnexpectedFault, Unreachable)):
        SmallFiles(session, "host:/x").put([_small(b"a", b"1")])


def test_what_a_server_says_is_shown_in_one_line_without_control_characters():
    class Rude(Server):
        def write(self, name, at, data):
            return Code.PERMISSION_DENIED

        def answered(self, kind, rest):
            for answer in super().answered(kind, rest):
                yield status(Code.PERMISSION_DENIED, b"no\n\x1b[31mway") if kind is Kind.WRITE else answer

    with pytest.raises(AccessDenied) as caught:
        SmallFiles(_session(Rude()), "host:/x").put([_small(b"a", b"1")])

    assert caught.value.message == "cannot write it: the server refuses that (no??[31mway)"
