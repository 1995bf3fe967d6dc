"""Accepts associations and writes the images that come over them to files, byte for byte, one thread for each association."""

import contextlib
import itertools
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import build_context, negotiate_unrestricted

from transport import dicom_commands as dimse
from transport.dicom_commands import Broken, Message, WireError
from transport.dicom_wire import Association, Released, read_request, reject, roles_of

log = structlog.get_logger()

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_RECOGNISED = 0x0211

_VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
_SILENCE_S = (
    120.0  # a peer that says nothing for so long is gone; scanners pause between series, but then send a release
)
_UNTIL_REQUEST_S = 30.0  # who connects must say soon what for (PS3.8's ARTIM timer)
_MOST_SILENT = 64
_OPEN_FILES_PAUSE_S = 0.5
_BACKLOG = 32
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
# PS3.8 table 9-21: result, source, reason.
_UNKNOWN_CALLER = {"result": 1, "source": 1, "reason": 3}
_TOO_MANY = {"result": 2, "source": 3, "reason": 2}
_UI = struct.Struct("<HH2sH")
_VERSION = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an association, and its number: a later one has a higher number."""

    number: int
    calling: str
    called: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """An image that came whole: the file, not durable yet, and the SOPInstanceUID under which it was announced."""

    path: Path
    sop_instance: str
    peer: Peer


@dataclass(frozen=True)
class Rules:
    """Who is let in, and what is taken. `callers`: the only calling AE titles (empty: all). Sizes in bytes."""

    callers: tuple[str, ...]
    associations: int
    largest: int
    arriving: Path


class Acceptor:
    """A port. `room`: whether the disk has room for another image; `store`: answers with a status; `ended`: told of each end."""

    def __init__(
        self,
        rules: Rules,
        *,
        tls: ssl.SSLContext | None,
        room: Callable[[], bool],
        store: Callable[[Arrived], int],
        ended: Callable[[Peer, bool], None],
    ) -> None:
        self._rules, self._tls = rules, tls
        self._room, self._store, self._ended = room, store, ended
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._lines: dict[threading.Thread, socket.socket] = {}
        self._established = 0
        self._door: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, 0 when none is."""
        return int(self._door.getsockname()[1]) if self._door else 0

    def open(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        self._door = socket.create_server((host, port), backlog=_BACKLOG)
        threading.Thread(target=self._accept, args=(self._door,), name="dicom-accept", daemon=True).start()

    def close(self, patience: float = 5.0) -> None:
        """Listen no more, and end every association; an image that was acknowledged stays."""
        if self._door:
            with contextlib.suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._door.close()
            self._door = None
        with self._lock:
            lines = dict(self._lines)
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        until = time.monotonic() + patience
        for thread in lines:
            thread.join(max(0.0, until - time.monotonic()))

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                if self._door is not door:
                    return
                time.sleep(_OPEN_FILES_PAUSE_S)  # too many open files: later there may be fewer
                continue
            thread = threading.Thread(target=self._serve, args=(line,), name="dicom-association", daemon=True)
            with self._lock:
                is_crowded = len(self._lines) - self._established >= _MOST_SILENT
                if not is_crowded:
                    self._lines[thread] = line
            if is_crowded:  # connections that ask for nothing must not cost us our threads
                line.close()
            else:
                self._start(thread, line)

    def _start(self, thread: threading.Thread, line: socket.socket) -> None:
        try:
            thread.start()
        except RuntimeError as exc:  # no more threads: the sender tries again, and whoever comes later is heard
            log.warning("refused a connection", reason=str(exc))
            with self._lock:
                self._lines.pop(thread, None)
            line.close()

    def _serve(self, line: socket.socket) -> None:
        secured = line
        try:
            line.settimeout(_UNTIL_REQUEST_S)
            if self._tls:
                secured = self._tls.wrap_socket(line, server_side=True)
            self._converse(secured)
        except (OSError, WireError, ValueError) as exc:
            log.info("no association", reason=str(exc) or type(exc).__name__)
        finally:
            secured.close()
            line.close()
            with self._lock:
                self._lines.pop(threading.current_thread(), None)

    def _converse(self, line: socket.socket) -> None:
        wanted = read_request(line)
        peer = Peer(next(self._numbers), _title(wanted.calling_ae_title), _title(wanted.called_ae_title))
        refusal = self._enter(peer)
        if refusal:
            log.warning("refused an association", calling=peer.calling, **refusal)
            reject(line, wanted, **refusal)
            return
        is_released = False
        try:
            association = _agreed(line, wanted)
            line.settimeout(_SILENCE_S)
            while True:
                self._answer(association, association.receive(), peer)
        except Released:
            is_released = True
        except (OSError, WireError) as exc:
            log.warning("an association broke", calling=peer.calling, called=peer.called, reason=str(exc))
        finally:
            with self._lock:
                self._established -= 1
            self._ended(peer, is_released)

    def _enter(self, peer: Peer) -> dict[str, int]:
        """Count the association in, or say how it is refused."""
        if self._rules.callers and peer.calling not in self._rules.callers:
            return _UNKNOWN_CALLER
        with self._lock:
            if self._established >= self._rules.associations:
                return _TOO_MANY
            self._established += 1
            return {}

    def _answer(self, association: Association, message: Message, peer: Peer) -> None:
        if message.field == dimse.C_STORE_RQ and message.has_data:
            status = self._take(association, message, peer)
        else:
            if message.has_data:
                _drain(association)
            status = SUCCESS if message.field == dimse.C_ECHO_RQ else NOT_RECOGNISED
        association.send(message.context, dimse.answer(message, status))

    def _take(self, association: Association, message: Message, peer: Peer) -> int:
        context = association.contexts.get(message.context)
        if context is None:
            raise Broken("an image in a context that was not agreed on")
        if not self._room():
            _drain(association)
            return OUT_OF_RESOURCES
        sop_instance = message.text(dimse.AFFECTED_INSTANCE)
        path = self._rules.arriving / secrets.token_hex(12)
        try:
            head = file_head(message.text(dimse.AFFECTED_CLASS), sop_instance, context.syntax)
            if not self._write(association, path, head):
                log.warning("refused: the image is larger than max_image_gb")
                return OUT_OF_RESOURCES
            return self._store(Arrived(path, sop_instance, peer))
        except OSError as exc:
            log.warning("cannot keep an image", error=str(exc))
            return OUT_OF_RESOURCES
        finally:
            path.unlink(missing_ok=True)

    def _write(self, association: Association, path: Path, head: bytes) -> bool:
        """Write the image as it comes. False when it is too large. Whatever happens, the association goes on behind it."""
        pieces = association.data()
        left = self._rules.largest
        try:
            with os.fdopen(os.open(path, _FILE, 0o600), "wb", buffering=0) as file:
                _whole(file.fileno(), head)
                for piece in pieces:
                    left -= len(piece)
                    if left < 0:
                        break
                    _whole(file.fileno(), piece)
        finally:
            for _ in pieces:
                pass
        return left >= 0


def _agreed(line: socket.socket, wanted: A_ASSOCIATE) -> Association:
    """Everything that looks like storage is welcome, in the transfer syntax that is named first."""
    roles = {item.sop_class_uid: (item.scu_role, item.scp_role) for item in roles_of(wanted) if item.sop_class_uid}
    contexts, answers = negotiate_unrestricted(
        wanted.presentation_context_definition_list, [build_context(_VERIFICATION)], roles
    )
    return Association.accept(line, wanted, contexts, roles=answers)


def file_head(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble and file meta group of a DICOM file (PS3.10 section 7.1)."""
    values = (
        (0x0002, sop_class),
        (0x0003, sop_instance),
        (0x0010, syntax),
        (0x0012, str(PYNETDICOM_IMPLEMENTATION_UID)),
    )
    group = _VERSION + b"".join(_uid(element, value) for element, value in values)
    return bytes(128) + b"DICM" + _UI.pack(2, 0, b"UL", 4) + struct.pack("<L", len(group)) + group


def _uid(element: int, value: str) -> bytes:
    raw = value.encode("latin-1")
    raw += b"\0" * (len(raw) % 2)
    return _UI.pack(2, element, b"UI", len(raw)) + raw


def _whole(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _drain(association: Association) -> None:
    pieces: Iterable[memoryview] = association.data()
    for _ in pieces:
        pass


def _title(title: object) -> str:
    return str(title or "").strip()
