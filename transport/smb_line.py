"""Sends messages that were packed by hand over the connection that `smbprotocol` has logged in, protected as it was agreed there.

The library's own thread receives; a tap before it keeps the answers that are ours. Numbers and credits are shared with it.
"""

import os
import queue
import socket
import struct
from collections.abc import Sequence
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from smbprotocol.connection import Ciphers, Dialects
from smbprotocol.exceptions import SMBConnectionClosed, SMBException, SMBResponseException
from smbprotocol.header import SMB2HeaderResponse

from transport.smb_messages import PENDING, RELATED, SIGNED, Answer, NotAnAnswerError, Request, answers_in, header

_CREDITS = 512
"""Asked for: each allows 64 KiB on the way. Servers grant what they see fit."""
_FEW = 32
"""With less than that there is no use in packing by hand."""
_CREDIT_BYTES = 1 << 16
_COPIED = 256 << 10
"""A message up to this size goes to the system in one piece, for a copy of it."""
_SEALED = struct.Struct("<4s16s16sIHHQ")
_TOLD = slice(20, 52)
_GCM = frozenset({Ciphers.AES_128_GCM, Ciphers.AES_256_GCM})


class Line:
    """One tree (share) of a logged-in session of the library. For one thread, which asks nothing of the library meanwhile."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._session = tree.session
        self._connection = tree.session.connection
        self._encrypts = bool(self._session.encrypt_data or tree.encrypt_data)
        self._cipher = _Cipher(self._connection, self._session) if self._encrypts else None
        self._answers: dict[int, Answer] = {}
        self._tap = _Tap(self._connection, self._session, self._cipher)

    @classmethod
    def over(cls, tree: Any) -> Self | None:
        """None where the library must do it: paths of a distributed file system, a server of SMB 2.0, or one stingy with credits.

        Raises what the library raises.
        """
        connection = tree.session.connection
        if tree.is_dfs_share or not connection.supports_multi_credit:
            return None
        line = cls(tree)
        # The library's thread waits in its own transport, and comes to ours after this.
        connection.echo(sid=tree.session.session_id, credit_request=_CREDITS)
        return line if line._available >= _FEW else None

    @property
    def most(self) -> int:
        """The most bytes of content in one message."""
        return int(min(self._connection.max_write_size, _FEW // 2 * _CREDIT_BYTES))

    def send(self, requests: Sequence[Request], *, related: bool = False) -> list[int]:
        """Send them in one packet; returns their numbers, each of which must be asked for with `answer`.

        `related`: each is about the file that the first one opens. Raises what the library raises when the connection is gone.
        """
        numbers = self._numbered(sum(request.charge for request in requests), requests)
        pieces: list[bytes] = []
        for at, (request, number) in enumerate(zip(requests, numbers, strict=True)):
            pieces += self._message(request, number, last=at + 1 == len(requests), related=related and at > 0)
        self._tap.expect(numbers)
        self._transmit(pieces)
        return numbers

    def answer(self, number: int) -> Answer:
        """The answer to the request `number`. Raises SMBResponseException when it is a refusal, SMBException."""
        while number not in self._answers:
            self._take()
        answer = self._answers.pop(number)
        if answer.status:
            raise SMBResponseException(_of_library(answer))
        return answer

    @property
    def _available(self) -> int:
        window = self._connection.sequence_window
        return int(window["high"]) - int(window["low"])

    def _numbered(self, charge: int, requests: Sequence[Request]) -> list[int]:
        while self._available < charge and self._tap.expects:
            self._take()  # answers bring credits
        with self._connection.sequence_lock:
            if self._available < charge:
                raise SMBException(f"the server allows {self._available} credits, {charge} are needed")
            numbers = []
            for request in requests:
                numbers.append(int(self._connection.sequence_window["low"]))
                self._connection.sequence_window["low"] += request.charge
        return numbers

    def _take(self) -> None:
        answer = self._tap.next()
        self._answers[answer.number] = answer

    def _message(self, request: Request, number: int, *, last: bool, related: bool) -> list[bytes]:
        padding = b"" if last else bytes(-request.size % 8)
        head = header(
            request,
            number,
            session=self._session.session_id,
            tree=self._tree.tree_connect_id,
            flags=(RELATED if related else 0) | (0 if self._encrypts else SIGNED),
            wanted=request.charge + (_CREDITS if self._available < _CREDITS else 0),
            following=0 if last else request.size + len(padding),
        )
        if self._encrypts:
            return [head, request.body, request.tail, padding]
        whole = b"".join((head, request.body, request.tail, padding))
        signature = self._connection._generate_signature(  # noqa: SLF001 - the one place that knows what was agreed
            whole, self._session.signing_key, number, response=False, command=request.command
        )
        return [head[:48], signature, request.body, request.tail, padding]

    def _transmit(self, pieces: Sequence[bytes]) -> None:
        clear = b"".join(pieces)
        prefix, packet = self._cipher.sealed(clear) if self._cipher else (b"", memoryview(clear))
        length = len(prefix) + len(packet)
        self._tap.push(length.to_bytes(4, "big") + prefix, packet)


class _Tap:
    """The library's transport, from whose messages the answers to ours are kept back."""

    def __init__(self, connection: Any, session: Any, cipher: "_Cipher | None") -> None:
        self._connection, self._session, self._cipher = connection, session, cipher
        self._inner = connection.transport
        self._expected: set[int] = set()
        self._ours: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._broken: BaseException | None = None
        # Several small packets may be on their way at a time: none waits for the receipt of another.
        self._inner._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: SLF001
        connection.transport = self

    # -- for us ------------------------------------------------------------------------------------------------------

    @property
    def expects(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._expected) or not self._ours.empty()

    def expect(self, numbers: Sequence[int]) -> None:
        """Answers to these are ours."""
        self._expected.update(numbers)

    def push(self, head: bytes, packet: memoryview) -> None:
        """Send both. Raises SMBConnectionClosed."""
        if self._broken:
            raise self._broken
        inner = self._inner
        try:
            with inner._sock_lock:  # noqa: SLF001 - the library's echoes go through the same socket
                if len(packet) <= _COPIED:
                    inner._sock.sendall(head + packet)  # noqa: SLF001
                else:
                    inner._sock.sendall(head)  # noqa: SLF001
                    inner._sock.sendall(packet)  # noqa: SLF001
        except OSError as exc:
            raise SMBConnectionClosed(f"SMB socket was closed: {exc}") from exc

    def next(self) -> Answer:
        """The next answer of ours. Raises what ended the connection."""
        if self._broken and self._ours.empty():
            raise self._broken
        found = self._ours.get()
        if isinstance(found, BaseException):
            raise found
        return found

    # -- for the library ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """See the library's."""
        return bool(self._inner.connected)

    def send(self, packet: Any) -> None:
        """See the library's."""
        self._inner.send(packet)

    def close(self) -> None:
        """See the library's."""
        self._inner.close()
        self._end(SMBConnectionClosed("SMB socket was closed"))

    def recv(self, timeout: float) -> bytes:
        """The next packet for the library; b"" at the end of the connection."""
        try:
            while packet := self._inner.recv(timeout):
                if not self._took(packet):
                    return bytes(packet)
        except TimeoutError:  # the library then asks whether the server is still there
            raise
        except BaseException as exc:
            self._end(exc)
            raise
        self._end(SMBConnectionClosed("SMB socket was closed, cannot send or receive any more data"))
        return b""

    def _end(self, exc: BaseException) -> None:
        if self._broken:
            return
        self._broken = exc if isinstance(exc, SMBException) else SMBConnectionClosed(f"SMB socket was closed: {exc}")
        self._ours.put(self._broken)

    def _took(self, packet: bytes) -> bool:
        """Whether the packet was for us, all of it: requests of the library and ours never share one."""
        if not self._expected:
            return False
        if self._cipher and packet[:4] != b"\xfdSMB":
            # Anybody can say something in the clear. The library does not know our numbers, and ends the connection.
            return False
        try:
            answers = list(answers_in(self._cipher.opened(packet) if self._cipher else packet))
        except NotAnAnswerError as exc:
            raise SMBException(str(exc)) from exc
        if answers[0].number not in self._expected:
            return False
        for answer in answers:
            self._hand_over(answer)
        return True

    def _hand_over(self, answer: Answer) -> None:
        if answer.number not in self._expected:
            raise SMBException("the server answers what was not asked")
        if not self._cipher and answer.status != PENDING:
            # Raises SMBException.
            self._connection.verify_signature(_of_library(answer), self._session.session_id, force=True)
        with self._connection.sequence_lock:
            self._connection.sequence_window["high"] += answer.credits
        if answer.status == PENDING:
            return  # the true one follows
        # In this order: whoever sees none expected finds all there.
        self._ours.put(answer)
        self._expected.discard(answer.number)


class _Cipher:
    """Encrypts and decrypts whole packets ([MS-SMB2] 2.2.41)."""

    def __init__(self, connection: Any, session: Any) -> None:
        agreed = connection.cipher_id if connection.dialect >= Dialects.SMB_3_1_1 else Ciphers.AES_128_CCM
        self._session_id = int(session.session_id)
        self._nonce_bytes = 12 if agreed in _GCM else 11
        kind = AESGCM if agreed in _GCM else AESCCM
        self._ours, self._theirs = kind(session.encryption_key), kind(session.decryption_key)

    def sealed(self, packet: bytes) -> tuple[bytes, memoryview]:
        """The header and the encrypted packet."""
        nonce = os.urandom(self._nonce_bytes)
        head = _SEALED.pack(b"\xfdSMB", b"", nonce, len(packet), 0, 1, self._session_id)
        secret = self._ours.encrypt(nonce, packet, head[_TOLD])
        return head[:4] + secret[-16:] + head[20:], memoryview(secret)[:-16]

    def opened(self, packet: bytes) -> bytes:
        """What is in a packet. Raises NotAnAnswerError when it is not from the server, or was changed on the way."""
        if len(packet) < _SEALED.size:
            raise NotAnAnswerError("an encrypted message is too short")
        _, tag, nonce, _, _, flags, session = _SEALED.unpack_from(packet)
        if flags != 1 or session != self._session_id:
            raise NotAnAnswerError("an encrypted message is not of our session")
        try:
            return self._theirs.decrypt(nonce[: self._nonce_bytes], packet[_SEALED.size :] + tag, packet[_TOLD])
        except (InvalidTag, ValueError) as exc:
            raise NotAnAnswerError("a message was damaged on the way") from exc


def _of_library(answer: Answer) -> Any:
    found = SMB2HeaderResponse()
    found.unpack(answer.whole)
    return found
