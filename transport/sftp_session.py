"""One SFTP session, for callers that block: many requests on their way, whatever the line is made of.

A request is put together by hand and answered by a function that was given with it, so that writes, reads and whole files may
overlap; what is to be sent is kept back until somebody waits, or until enough has come together.
"""

import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from lading.errors import AccessDenied, Corrupted, LadingError, Unreachable
from transport.sftp_wire import (
    LIMITS,
    LONGEST,
    STATVFS,
    VERSION,
    Answer,
    Code,
    Kind,
    MalformedError,
    RefusedError,
    text,
)
from transport.ssh_line import Line, LineError, Piece

Then = Callable[[Kind, Answer], None]
"""Told the answer to a request. What it raises, whoever waits for answers just then is told."""

BYTES_AHEAD = 8 << 20
"""On their way at a time: 80 MB/s over a line of 100 ms."""
_TOGETHER = 256 << 10
_SAFE_BYTES = 32 << 10  # in one read or write; every server takes that
_MOST_BYTES = 256 << 10
_KNOWN = {int(kind): kind for kind in Kind}


class SftpSession:
    """A session on `line`, which is its own from now on. For one thread; `close` for any.

    `name`: of the server, for messages. `patience_s`: for the greeting, the log-in included. Raises Unreachable, AccessDenied
    and what the line has to say.
    """

    def __init__(self, line: Line, name: str, *, patience_s: float) -> None:
        self._line, self._name = line, name
        self._waiting: dict[int, Then] = {}
        self._out: list[Piece] = []
        self._out_bytes = 0
        self._in = bytearray()
        self._next = 0
        self.read_bytes = self.write_bytes = _SAFE_BYTES
        self.features: frozenset[bytes] = frozenset()
        try:
            self._greet(patience_s)
        except BaseException:
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be asked."""
        return self._line.is_closed

    def close(self) -> None:
        """Cut the line. Never raises."""
        self._line.close()

    # -- one request -------------------------------------------------------------------------------------------------

    def call(self, kind: Kind, rest: bytes, doing: str) -> tuple[Kind, Answer]:
        """Ask, and wait for the answer. Raises LadingErrors; a status is an answer, see `done`."""
        got: list[tuple[Kind, Answer]] = []
        self.begin(kind, rest, lambda *answer: got.append(answer))
        while not got:
            self.hear(doing)
        return got[0]

    def done(self, kind: Kind, rest: bytes, doing: str) -> None:
        """Ask for something that is answered by yes or no. Raises RefusedError for no."""
        refused = refusal(*self.call(kind, rest, doing))
        if refused:
            raise refused

    def handle(self, kind: Kind, rest: bytes, doing: str) -> bytes:
        """Open a file or folder. Raises RefusedError."""
        return handle_of(*self.call(kind, rest, doing))

    def extended(self, name: bytes, rest: bytes, doing: str) -> Answer | None:
        """What an extension answers; None where the server does not know it. Raises RefusedError."""
        if name not in self.features:
            return None
        kind, answer = self.call(Kind.EXTENDED, text(name) + rest, doing)
        if kind is not Kind.EXTENDED_REPLY:
            refused = refusal(kind, answer)
            if refused is None or refused.code != Code.UNSUPPORTED:
                raise refused or MalformedError
            return None
        return answer

    # -- many --------------------------------------------------------------------------------------------------------

    def begin(self, kind: Kind, rest: bytes, then: Then, content: Piece = b"") -> None:
        """Ask soon; `then` is called by a later `hear`. Raises LadingErrors."""
        self._next = number = (self._next + 1) & 0xFFFFFFFF
        self._waiting[number] = then
        self._say(struct.pack(">IBI", 5 + len(rest) + len(content), kind, number) + rest)
        if content:
            self._say(content)

    def hear(self, doing: str) -> None:
        """Take the next answer, and those that have come with it. Raises LadingErrors, and what those who asked raise."""
        try:
            self._flush()
            self._heard(self._frame())
            while (frame := self._whole_frame()) is not None:
                self._heard(frame)
        except (LineError, MalformedError, RefusedError) as exc:
            if isinstance(exc, MalformedError):
                self.close()
            raise exc.error(doing) from exc

    def write(self, handle: bytes, blocks: Iterable[bytes], offset: int, doing: str) -> None:
        """Write `blocks` from `offset` on, many at a time, in their order.

        After a refusal the file is cut off before it, so that it has no holes. Raises RefusedError, what `blocks` raises, and
        LadingErrors.
        """
        writing = _Writing(self, handle, doing)
        for block in blocks:
            for at in range(0, len(block), self.write_bytes):
                whole = len(block) <= self.write_bytes
                writing.begin(block if whole else memoryview(block)[at : at + self.write_bytes], offset)
                offset += min(self.write_bytes, len(block) - at)
            if writing.refused:
                break
            self._flushed(doing)
        writing.finish()

    def read(self, handle: bytes, offset: int, end: int, doing: str) -> Iterator[bytes]:
        """What is in the file from `offset` to `end`, many requests at a time.

        Raises Corrupted when it ends early, RefusedError, LadingErrors.
        """
        pieces: deque[_Piece] = deque()
        while offset < end or pieces:
            while offset < end and len(pieces) * self.read_bytes < BYTES_AHEAD:
                piece = _Piece(self, handle, offset, min(self.read_bytes, end - offset))
                pieces.append(piece)
                offset += piece.wanted
            while not pieces[0].whole:
                self.hear(doing)
            yield pieces.popleft().content(doing)

    # -- packets -----------------------------------------------------------------------------------------------------

    def _greet(self, patience_s: float) -> None:
        doing = f"cannot log in to {self._name}"
        late = threading.Event()
        timer = threading.Timer(patience_s, self._give_up, (late,))
        timer.daemon = True
        timer.start()
        try:
            self._line.send([struct.pack(">IBI", 5, Kind.INIT, VERSION)])
            self.features = _features(self._frame())
            self._ask_limits(doing)
        except (LineError, MalformedError, LadingError) as exc:
            if late.is_set():
                raise Unreachable(f"{doing}: no answer in time") from exc
            if isinstance(exc, MalformedError):  # an account that prints something, for one
                what = "what answers there is no SFTP server"
                raise AccessDenied(f"{doing}: {what}", next_command="lading doctor") from exc
            raise _ours(exc, doing) from exc
        finally:
            timer.cancel()

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self.close()

    def _ask_limits(self, doing: str) -> None:
        """How much the server takes in one read or write, where it says."""
        try:
            limits = self.extended(LIMITS, b"", doing)
        except RefusedError:
            return
        if limits:
            limits.long_number()
            read, write = limits.long_number(), limits.long_number()
            self.read_bytes = min(max(read, _SAFE_BYTES), _MOST_BYTES)
            self.write_bytes = min(max(write, _SAFE_BYTES), _MOST_BYTES)

    def _say(self, piece: Piece) -> None:
        self._out.append(piece)
        self._out_bytes += len(piece)
        if self._out_bytes >= _TOGETHER:
            self._flushed(f"cannot write to {self._name}")

    def _flushed(self, doing: str) -> None:
        try:
            self._flush()
        except LineError as exc:
            raise exc.error(doing) from exc

    def _flush(self) -> None:
        if self._out:
            out, self._out, self._out_bytes = self._out, [], 0
            self._line.send(out)

    def _heard(self, frame: bytes) -> None:
        if len(frame) < 5:
            raise MalformedError
        then = self._waiting.pop(int.from_bytes(frame[1:5], "big"), None)
        kind = _KNOWN.get(frame[0])
        if then is None or kind is None:
            raise MalformedError
        then(kind, Answer(frame[5:]))

    def _frame(self) -> bytes:
        while (frame := self._whole_frame()) is None:
            self._in += self._line.receive()
        return frame

    def _whole_frame(self) -> bytes | None:
        if len(self._in) < 4:
            return None
        end = 4 + int.from_bytes(self._in[:4], "big")
        if end > LONGEST:
            raise MalformedError
        if len(self._in) < end:
            return None
        frame = bytes(memoryview(self._in)[4:end])
        del self._in[:end]
        return frame


class _Writing:
    """The writes of one file that are on their way."""

    def __init__(self, session: SftpSession, handle: bytes, doing: str) -> None:
        self._session, self._handle, self._doing = session, handle, doing
        self._bytes = 0
        self.refused: RefusedError | None = None
        self._reached = 0

    def begin(self, content: Piece, offset: int) -> None:
        """Write `content` at `offset`; waits while plenty is on its way."""
        while self._bytes and self._bytes + len(content) > BYTES_AHEAD:
            self._session.hear(self._doing)
        size = len(content)
        self._bytes += size

        def then(kind: Kind, answer: Answer) -> None:
            self._bytes -= size
            refused = refusal(kind, answer)
            if refused and self.refused is None:
                self.refused, self._reached = refused, offset

        rest = text(self._handle) + struct.pack(">QI", offset, size)
        self._session.begin(Kind.WRITE, rest, then, content)

    def finish(self) -> None:
        """Wait for all. Raises RefusedError."""
        while self._bytes:
            self._session.hear(self._doing)
        if self.refused:
            cut = text(self._handle) + struct.pack(">IQ", 0x01, self._reached)
            self._session.call(Kind.FSETSTAT, cut, self._doing)
            raise self.refused


class _Piece:
    """A part of a file that was asked for; what a server holds back is asked for again."""

    def __init__(self, session: SftpSession, handle: bytes, offset: int, wanted: int) -> None:
        self._session, self._handle, self._offset, self.wanted = session, handle, offset, wanted
        self._parts: list[bytes] = []
        self._missing = wanted
        self._refused: RefusedError | None = None
        self._ask()

    @property
    def whole(self) -> bool:
        """Whether nothing more will come."""
        return not self._missing or self._refused is not None

    def content(self, doing: str) -> bytes:
        """All of it. Raises Corrupted, RefusedError."""
        if self._refused is None:
            return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._refused.code == Code.EOF:
            raise Corrupted(f"{doing}: it ended early")
        raise self._refused

    def _ask(self) -> None:
        at = self._offset + self.wanted - self._missing
        rest = text(self._handle) + struct.pack(">QI", at, self._missing)
        self._session.begin(Kind.READ, rest, self._came)

    def _came(self, kind: Kind, answer: Answer) -> None:
        if kind is not Kind.DATA:
            self._refused = refusal(kind, answer)
            if self._refused is None:
                raise MalformedError
            return
        data = answer.text()
        if not 0 < len(data) <= self._missing:
            raise MalformedError
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing:
            self._ask()


def _features(frame: bytes) -> frozenset[bytes]:
    """The extensions that a server names in its greeting. Raises MalformedError when it is none."""
    greeting = Answer(frame)
    if greeting.byte() != Kind.VERSION:
        raise MalformedError
    greeting.number()
    return frozenset(name for name, _ in greeting.pairs())


def _ours(exc: LineError | LadingError, doing: str) -> LadingError:
    return exc.error(doing) if isinstance(exc, LineError) else exc


def refusal(kind: Kind, answer: Answer) -> RefusedError | None:
    """What a status says; None is yes. Raises MalformedError."""
    if kind is not Kind.STATUS:
        raise MalformedError
    return answer.refusal()


def handle_of(kind: Kind, answer: Answer) -> bytes:
    """The handle of what was opened. Raises RefusedError."""
    if kind is Kind.HANDLE:
        return answer.text()
    raise refusal(kind, answer) or MalformedError


def free_bytes(session: SftpSession, path: bytes, doing: str) -> int | None:
    """Room on the disk of `path`, or None when the server does not say. Raises RefusedError."""
    room = session.extended(STATVFS, text(path), doing)
    if room is None:
        return None
    _, unit, _, _, free = (room.long_number() for _ in range(5))
    return unit * free
