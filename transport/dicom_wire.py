"""DICOM associations over a blocking socket: pynetdicom's codec negotiates, and data go through without being decoded.

pynetdicom's own associations decode and encode every data set, copy each byte several times and poll between threads, which
bounds them to some 150 images a second. Here one thread talks on one socket, and the bytes of a data set are those of its file.
Rules: DICOM PS3.8 section 9.3. What is asked and answered: `transport.dicom_commands`.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context

from transport.dicom_commands import LONGEST_COMMAND, Broken, Message, WireError, decode_command
from transport.dicom_files import filled, mapped

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
MOST_CONTEXTS = 128
"""Presentation contexts in one association: their ids are the odd numbers of a byte."""

_ASSOCIATE_RQ, _ASSOCIATE_AC, _ASSOCIATE_RJ, _DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(1, 8)
_COMMAND, _LAST = 0x01, 0x02
_PDU = struct.Struct(">BxL")
_FRAGMENT = struct.Struct(">BxLLBB")
_PDV = struct.Struct(">LBB")
_RELEASE_LENGTH = 4

_WE_TAKE = 1 << 17  # the largest PDU that dcmtk makes
_BLOCK = 1 << 20  # so much of a data set is in memory at a time
_BUFFER = 1 << 17
_MOST_PIECES = 512  # below IOV_MAX everywhere
_LONGEST_NEGOTIATION = 1 << 20
_READ_LAST = 1 << 13
_SHORTEST_ACCEPTANCE = 74  # version and titles; behind them come the contexts
_Item = MaximumLengthNotification | ImplementationClassUIDNotification | SCP_SCU_RoleSelectionNegotiation


class Released(WireError):
    """The peer ended the association properly."""


class RefusedAssociation(WireError):
    """The peer does not want the association. `permanent`: trying again later would not help. `reason`: PS3.8 table 9-21."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Proposal:
    """A presentation context: a SOP class, the transfer syntaxes to choose from, and whether the peer is to be the SCU of it."""

    abstract: str
    syntaxes: tuple[str, ...]
    peer_stores: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """What was agreed on under one id."""

    id: int
    abstract: str
    syntax: str


class Association:
    """One association, established. For one thread. Every method may raise Broken; after that there is only `abort`."""

    def __init__(self, line: socket.socket, contexts: Iterable[Context], *, peer_takes: int) -> None:
        """`peer_takes`: the longest PDU that the peer reads, 0 for any."""
        self._line = line
        self._gathers = hasattr(line, "sendmsg") and not isinstance(line, ssl.SSLSocket)
        self._reader = _Reader(line)
        self.contexts = {context.id: context for context in contexts}
        self._ids = {(context.abstract, context.syntax): context.id for context in self.contexts.values()}
        # The PDU's length counts the six bytes before each fragment; fragments are of even length.
        self._fragment = max(2, (min(peer_takes or _BLOCK, _BLOCK) - 6) & ~1)
        self._buffer = memoryview(bytearray(max(1, _BLOCK // self._fragment) * self._fragment))
        self._pdu_left = 0

    @classmethod
    def request(cls, line: socket.socket, *, calling: str, called: str, proposals: Sequence[Proposal]) -> Self:
        """Ask for an association over the connected `line`, whose time-out is the peer's for every step from then on.

        Raises RefusedAssociation, Broken.
        """
        asked = [build_context(one.abstract, list(one.syntaxes)) for one in proposals]
        for number, context in enumerate(asked):
            context.context_id = 2 * number + 1
        primitive = A_ASSOCIATE()
        primitive.application_context_name = UID(APPLICATION_CONTEXT)
        primitive.calling_ae_title, primitive.called_ae_title = calling, called
        primitive.presentation_context_definition_list = asked
        primitive.user_information = [*_about_us(), *_roles(proposals)]
        _no_delay(line)
        reader = _Reader(line)
        with _as_broken():
            line.sendall(A_ASSOCIATE_RQ(primitive).encode())
        answer = _negotiated(reader)
        classes = {context.context_id: str(context.abstract_syntax) for context in asked}
        agreed = [
            Context(int(one.context_id or 0), classes[one.context_id], str(one.transfer_syntax[0]))
            for one in answer.presentation_context_definition_results_list
            if one.result == 0 and one.context_id in classes and one.transfer_syntax
        ]
        return cls(line, agreed, peer_takes=int(answer.maximum_length_received or 0))

    @classmethod
    def accept(
        cls,
        line: socket.socket,
        wanted: A_ASSOCIATE,
        agreed: Sequence[PresentationContext],
        *,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    ) -> Self:
        """Answer the request `wanted` (from `read_request`) with the contexts `agreed`, accepted and rejected ones, and `roles`."""
        primitive = A_ASSOCIATE()
        primitive.application_context_name = UID(APPLICATION_CONTEXT)
        primitive.calling_ae_title, primitive.called_ae_title = wanted.calling_ae_title, wanted.called_ae_title
        primitive.result, primitive.result_source = 0x00, 0x01
        primitive.presentation_context_definition_results_list = list(agreed)
        primitive.user_information = [*_about_us(), *roles]
        with _as_broken():
            line.sendall(A_ASSOCIATE_AC(primitive).encode())
        contexts = [
            Context(int(one.context_id or 0), str(one.abstract_syntax), str(one.transfer_syntax[0]))
            for one in agreed
            if one.result == 0
        ]
        return cls(line, contexts, peer_takes=int(wanted.maximum_length_received or 0))

    def context(self, abstract: str, syntax: str) -> int | None:
        """The id agreed on for a SOP class in a transfer syntax, or None."""
        return self._ids.get((abstract, syntax))

    def context_of(self, abstract: str) -> Context | None:
        """The first context of a SOP class, or None."""
        return next((one for one in self.contexts.values() if one.abstract == abstract), None)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, context: int, command: bytes, data: bytes | None = None) -> None:
        """A command, and its data set where it has one."""
        pieces: list[bytes | memoryview] = [self._head(context, len(command), _COMMAND | _LAST), command]
        if data is not None:
            self._fragments(pieces, context, memoryview(data), is_last=True)
        self._write(pieces)
        _quick_answer(self._line)

    def send_file(self, context: int, command: bytes, file: BinaryIO, start: int, end: int) -> None:
        """A command, and as its data set the bytes of the unbuffered `file` from `start` to `end`.

        Raises EOFError when there are fewer, OSError when they cannot be read.
        """
        pieces: list[bytes | memoryview] = [self._head(context, len(command), _COMMAND | _LAST), command]
        if self._gathers:
            start = self._send_mapped(pieces, context, file, start, start + max(0, (end - start - _READ_LAST) & ~1))
        while True:
            block = filled(file, start, self._buffer[: min(end - start, len(self._buffer))])
            start += len(block)
            self._fragments(pieces, context, block, is_last=start == end)
            self._write(pieces)
            if start == end:
                break
            pieces = []
        _quick_answer(self._line)

    def _send_mapped(self, pieces: list[bytes | memoryview], context: int, file: BinaryIO, start: int, end: int) -> int:
        """Send `pieces`, which is emptied, and the file's bytes from `start` on; how far it came. Never the last fragment.

        The end is not sent so: where a file became shorter, a mapped page may read as zeros, and reading tells.
        """
        while start < end:
            count = min(end - start, len(self._buffer))
            block = mapped(file, start, count)
            if block is None:
                break
            self._fragments(pieces, context, block, is_last=False)
            try:
                self._write(pieces)
            except Broken:
                filled(file, start, self._buffer[:count])  # raises when it was the file that could not be read
                raise
            pieces.clear()
            start += count
        return start

    def _head(self, context: int, length: int, control: int) -> bytes:
        return _FRAGMENT.pack(_DATA, length + 6, length + 2, context, control)

    def _fragments(self, pieces: "list[bytes | memoryview]", context: int, block: memoryview, *, is_last: bool) -> None:
        for start in range(0, len(block) or 1, self._fragment):
            fragment = block[start : start + self._fragment]
            ends = is_last and start + self._fragment >= len(block)
            pieces += (self._head(context, len(fragment), _LAST if ends else 0), fragment)

    def _write(self, pieces: "Sequence[bytes | memoryview]") -> None:
        with _as_broken():
            if not self._gathers:
                self._line.sendall(b"".join(pieces))
            else:
                for start in range(0, len(pieces), _MOST_PIECES):
                    self._gather(pieces[start : start + _MOST_PIECES])

    def _gather(self, pieces: "Sequence[bytes | memoryview]") -> None:
        sent, length = self._line.sendmsg(pieces), sum(map(len, pieces))
        if sent == length:
            return
        left = [memoryview(piece) for piece in pieces]
        while True:
            whole = 0
            while whole < len(left) and sent >= len(left[whole]):
                sent -= len(left[whole])
                whole += 1
            left = left[whole:]
            if not left:
                return
            left[0] = left[0][sent:]
            sent = self._line.sendmsg(left)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self) -> Message:
        """The next command. Raises Released when the peer ends the association instead; the release is answered."""
        raw = bytearray()
        while True:
            context, control, length = self._next_fragment()
            if not control & _COMMAND or len(raw) + length > LONGEST_COMMAND:
                raise Broken("data without a command")
            raw += self._reader.exactly(length)
            if control & _LAST:
                return Message(context, decode_command(bytes(raw)))

    def data(self) -> Iterator[memoryview]:
        """The data set behind a command, in pieces that are valid until the next one. Must be read to its end."""
        while True:
            _, control, length = self._next_fragment()
            if control & _COMMAND:
                raise Broken("a command within a data set")
            while length:
                piece = self._reader.some(length)
                length -= len(piece)
                yield piece
            if control & _LAST:
                return

    def waits(self, seconds: float) -> bool:
        """Whether the peer says something within so many seconds."""
        return self._reader.waits(seconds)

    def _next_fragment(self) -> tuple[int, int, int]:
        """Context, control bits and length of the next fragment's data."""
        while not self._pdu_left:
            kind, length = _PDU.unpack(self._reader.exactly(_PDU.size))
            if kind == _DATA:
                self._pdu_left = length
            else:
                self._not_data(kind, length)
        length, context, control = _PDV.unpack(self._reader.exactly(_PDV.size))
        self._pdu_left -= length + 4
        if length < 2 or self._pdu_left < 0:
            raise Broken("a fragment longer than its PDU")
        return context, control, length - 2

    def _not_data(self, kind: int, length: int) -> None:
        if kind == _ABORT:
            raise Broken("the association was aborted by the other side")
        if kind == _RELEASE_RQ and length == _RELEASE_LENGTH:
            self._reader.exactly(length)
            with _as_broken():
                self._line.sendall(_PDU.pack(_RELEASE_RP, _RELEASE_LENGTH) + bytes(_RELEASE_LENGTH))
            raise Released("the association was ended by the other side")
        raise Broken(f"a PDU of type {kind:#04x} where data were expected")

    # -- ending --------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """End the association properly, and close. What the peer makes of it does not matter any more."""
        with contextlib.suppress(Broken), _as_broken():
            self._line.sendall(_PDU.pack(_RELEASE_RQ, _RELEASE_LENGTH) + bytes(_RELEASE_LENGTH))
            self._reader.exactly(_PDU.size + _RELEASE_LENGTH)
        self._line.close()

    def abort(self) -> None:
        """Tell the peer that it is over, and close."""
        abort(self._line)


def abort(line: socket.socket) -> None:
    """A-ABORT by the user, and close. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        line.settimeout(0.5)
        line.sendall(_PDU.pack(_ABORT, 4) + bytes(4))
    line.close()


def read_request(line: socket.socket) -> A_ASSOCIATE:
    """The association that the peer asks for on a connection that was just accepted. Raises Broken."""
    _no_delay(line)
    reader = _Reader(line)
    kind, body = _negotiation(reader)
    if kind != _ASSOCIATE_RQ:
        raise Broken("it did not begin with the request of an association")
    with _as_broken():
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(body)
        return pdu.to_primitive()


def roles_of(wanted: A_ASSOCIATE) -> list[SCP_SCU_RoleSelectionNegotiation]:
    """The roles that the request `wanted` selects."""
    return [item for item in wanted.user_information if isinstance(item, SCP_SCU_RoleSelectionNegotiation)]


def reject(line: socket.socket, wanted: A_ASSOCIATE, *, result: int, source: int, reason: int) -> None:
    """Answer the request `wanted` with a refusal (PS3.8 table 9-21), and close."""
    primitive = A_ASSOCIATE()
    primitive.calling_ae_title, primitive.called_ae_title = wanted.calling_ae_title, wanted.called_ae_title
    primitive.result, primitive.result_source, primitive.diagnostic = result, source, reason
    with contextlib.suppress(OSError):
        line.sendall(A_ASSOCIATE_RJ(primitive).encode())
        line.shutdown(socket.SHUT_WR)
        line.settimeout(2.0)
        while line.recv(4096):  # closing with unread bytes would reset the line, and the refusal could be lost
            pass
    line.close()


def _negotiated(reader: "_Reader") -> A_ASSOCIATE:
    kind, body = _negotiation(reader)
    if kind == _ABORT:
        raise Broken("the association was aborted by the other side instead of being accepted")
    with _as_broken():
        if kind == _ASSOCIATE_AC and len(body) > _SHORTEST_ACCEPTANCE:
            accepted = A_ASSOCIATE_AC()
            accepted.decode(body)
            return accepted.to_primitive()
        if kind == _ASSOCIATE_RJ:
            refused = A_ASSOCIATE_RJ()
            refused.decode(body)
            raise RefusedAssociation(
                f"{refused.reason_str} ({refused.source_str})", permanent=refused.to_primitive().result == 1
            )
    raise Broken(f"a PDU of type {kind:#04x} where the answer to an association was expected")


def _negotiation(reader: "_Reader") -> tuple[int, bytes]:
    head = reader.exactly(_PDU.size)
    kind, length = _PDU.unpack(head)
    if length > _LONGEST_NEGOTIATION:
        raise Broken("it does not speak DICOM")
    return kind, head + reader.exactly(length)


def _about_us() -> list[_Item]:
    longest, who = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received = _WE_TAKE
    who.implementation_class_uid = PYNETDICOM_IMPLEMENTATION_UID
    return [longest, who]


def _roles(proposals: Iterable[Proposal]) -> list[_Item]:
    made: list[_Item] = []
    for abstract in dict.fromkeys(one.abstract for one in proposals if one.peer_stores):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(abstract), False, True
        made.append(role)
    return made


class _Reader:
    """A socket through a small buffer. Never reads more than the peer sent."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self._end - self._start >= count:
            self._start += count
            return bytes(self._buffer[self._start - count : self._start])
        found = bytearray()
        while len(found) < count:
            found += self.some(count - len(found))
        return bytes(found)

    def some(self, most: int) -> memoryview:
        """At least one byte and at most `most`, valid until the next call."""
        if self._start == self._end:
            self._refill()
        start = self._start
        self._start = min(self._end, start + most)
        return self._buffer[start : self._start]

    def waits(self, seconds: float) -> bool:
        """Whether there is something to read within so many seconds."""
        if self._start < self._end:
            return True
        before = self._line.gettimeout()
        self._line.settimeout(seconds)
        try:
            self._refill()
        except Broken as exc:
            if isinstance(exc.__cause__, TimeoutError):
                return False
            raise
        finally:
            self._line.settimeout(before)
        return True

    def _refill(self) -> None:
        try:
            self._start, self._end = 0, self._line.recv_into(self._buffer)
        except OSError as exc:
            raise Broken(_said(exc)) from exc
        if not self._end:
            raise Broken("the connection was closed by the other side")


@contextlib.contextmanager
def _as_broken() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise Broken(_said(exc)) from exc
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as exc:
        # What pynetdicom's codec lets through when a stranger's PDU is not one.
        raise Broken(f"an association that cannot be read: {type(exc).__name__}") from exc


def _said(exc: OSError) -> str:
    if isinstance(exc, TimeoutError):
        return "the other side fell silent"
    return exc.strerror or type(exc).__name__


def _no_delay(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _quick_answer(line: socket.socket) -> None:
    """Many nodes write an answer in two pieces, and hold the second back until we acknowledged the first: do so at once."""
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
