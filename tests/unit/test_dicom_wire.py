"""PDUs and command sets over a pair of sockets: odd lengths, slow lines, and what strangers send."""

import contextlib
import errno
import io
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pynetdicom.pdu import A_ASSOCIATE_RQ

from lading.testing.dicom import write_dicom
from transport import dicom_commands as dimse
from transport.dicom_acceptor import Acceptor, Arrived, Peer, Rules, file_head
from transport.dicom_commands import Broken, decode_command, encode_command
from transport.dicom_files import dataset_start
from transport.dicom_wire import (
    Association,
    Context,
    Proposal,
    RefusedAssociation,
    Released,
    read_request,
)

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
ECHO = "1.2.840.10008.1.1"
PATIENCE_S = 120.0


@pytest.fixture
def lines() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    for line in (one, other):
        line.settimeout(PATIENCE_S)
    yield one, other
    one.close()
    other.close()


def pair(lines: tuple[socket.socket, socket.socket], peer_takes: int = 0) -> tuple[Association, Association]:
    contexts = [Context(1, CT, EXPLICIT)]
    return Association(lines[0], contexts, peer_takes=peer_takes), Association(lines[1], contexts, peer_takes=0)


@pytest.mark.parametrize("peer_takes", [0, 9, 128, 16384, 131072])
@pytest.mark.parametrize("size", [0, 1, 2, 127, 65536, 3_000_001])
def test_a_file_arrives_as_it_is_in_fragments_that_the_peer_takes(
    lines: tuple[socket.socket, socket.socket], tmp_path: Path, peer_takes: int, size: int
) -> None:
    if peer_takes == 9:
        size = min(size, 5000)
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(b"head" + content[:size])
    here, there = pair(lines, peer_takes)
    command = dimse.request(dimse.C_STORE_RQ, 7, {dimse.AFFECTED_CLASS: CT}, has_data=True)

    def send() -> None:
        with (tmp_path / "file").open("rb", buffering=0) as file:
            here.send_file(1, command, file, 4, 4 + size)

    sender = threading.Thread(target=send)
    sender.start()
    message = there.receive()
    came = b"".join(map(bytes, there.data()))
    sender.join()

    assert came == content[:size]
    assert (message.field, message.number(dimse.MESSAGE_ID), message.text(dimse.AFFECTED_CLASS)) == (1, 7, CT)


def test_no_pdu_is_longer_than_the_peer_takes(lines: tuple[socket.socket, socket.socket]) -> None:
    here, _ = pair(lines, 100)
    here.send(1, encode_command({dimse.FIELD: 1}), bytes(1000))
    lines[0].close()
    raw = b""
    while piece := lines[1].recv(65536):
        raw += piece

    lengths, position = [], 0
    while position < len(raw):
        lengths.append(struct.unpack_from(">L", raw, position + 2)[0])
        position += 6 + lengths[-1]

    assert max(lengths) <= 100
    assert len(lengths) > 10


def test_a_file_that_became_shorter_is_an_error_and_no_image(
    lines: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    here, _ = pair(lines)
    with (tmp_path / "file").open("rb", buffering=0) as file, pytest.raises(EOFError):
        here.send_file(1, encode_command({dimse.FIELD: 1}), file, 0, 10)


@pytest.mark.parametrize("lost", [1, 4095, 9000, 6 << 20])
def test_a_file_that_becomes_shorter_while_it_is_sent_is_an_error_and_no_image(
    lines: tuple[socket.socket, socket.socket], tmp_path: Path, lost: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(8 << 20))
    here, there = pair(lines)
    came, is_whole = 0, False

    def take() -> None:
        nonlocal came, is_whole
        there.receive()
        with contextlib.suppress(Broken):
            for piece in there.data():
                came += len(piece)
                os.truncate(tmp_path / "file", (8 << 20) - lost)
            is_whole = True

    taker = threading.Thread(target=take)
    taker.start()
    with (tmp_path / "file").open("rb", buffering=0) as file, pytest.raises(EOFError):
        here.send_file(1, encode_command({dimse.FIELD: 1}), file, 0, 8 << 20)
    lines[0].close()
    taker.join(PATIENCE_S)

    assert 0 < came < 8 << 20
    assert not is_whole


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files are read, not mapped")
def test_a_disk_that_fails_is_not_taken_for_a_broken_line(
    lines: tuple[socket.socket, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    here, _ = pair(lines)
    unreadable = mmap.mmap(-1, 100_000, prot=0)
    monkeypatch.setattr("transport.dicom_wire.mapped", lambda _, __, count: memoryview(unreadable)[:count])

    class Failing(io.FileIO):
        def readinto(self, _: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with Failing(tmp_path / "file") as file, pytest.raises(OSError, match="Input/output error"):
        here.send_file(1, encode_command({dimse.FIELD: 1}), file, 0, 100_000)  # type: ignore[arg-type]


def test_a_command_set_is_what_pydicom_reads() -> None:
    raw = encode_command(
        {dimse.FIELD: 0x8001, dimse.AFFECTED_CLASS: CT, dimse.STATUS: 0xA700, dimse.AFFECTED_INSTANCE: "1.2.3"}
    )
    read = pydicom.dcmread(DicomBytesIO(raw), force=True, defer_size=None)

    assert decode_command(raw)[dimse.STATUS] == b"\x00\xa7"
    assert read[0x0000, 0x0000].value == len(raw) - 12
    assert read[0x0000, 0x0002].value == CT
    assert read[0x0000, 0x1000].value == "1.2.3"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x04\x00\x00\x00\x00\x06" + struct.pack(">LBB", 99, 1, 3),  # a fragment longer than its PDU
        b"\x04\x00\x00\x00\x00\x06" + struct.pack(">LBB", 1, 1, 3),  # shorter than its own head
        b"\x04\x00\x00\x00\x00\x08" + struct.pack(">LBB", 4, 1, 2) + b"ab",  # data first
        b"\x04\x00\x00\x00\x00\x0a" + struct.pack(">LBB", 6, 1, 3) + b"abcd",  # no command set
        b"\x09\x00\x00\x00\x00\x01x",
        b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00",
        b"\x04\x00\xff\xff\xff\xff" + struct.pack(">LBB", 0xFFFFFFF0, 1, 1) + bytes(1000),
        b"\x04\x00",
        b"",
    ],
)
def test_what_is_no_message_ends_the_conversation(lines: tuple[socket.socket, socket.socket], raw: bytes) -> None:
    _, there = pair(lines)
    lines[0].sendall(raw)
    lines[0].close()

    with pytest.raises(Broken):
        there.receive()


def test_a_release_is_answered(lines: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair(lines)
    ender = threading.Thread(target=here.release)
    ender.start()

    with pytest.raises(Released):
        there.receive()
    ender.join(PATIENCE_S)

    assert not ender.is_alive()


def test_a_file_head_is_what_pydicom_reads(tmp_path: Path) -> None:
    sop = write_dicom(tmp_path / "image.dcm", study="1.2", series="1.3", sop_class=CT)
    with (tmp_path / "image.dcm").open("rb") as file:
        start = dataset_start(file)
        file.seek(start)
        rest = file.read()

    made = pydicom.dcmread(io.BytesIO(file_head(CT, sop, EXPLICIT) + rest))

    assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID == sop
    assert made.file_meta.MediaStorageSOPClassUID == CT
    assert made.file_meta.TransferSyntaxUID == EXPLICIT
    assert made == pydicom.dcmread(tmp_path / "image.dcm")


# -- the acceptor ------------------------------------------------------------------------------------------------------


class Door:
    """An acceptor that counts."""

    def __init__(self, folder: Path, **rules: object) -> None:
        self.stored: list[bytes] = []
        self.ends: list[bool] = []
        wanted = {"callers": (), "associations": 2, "largest": 10_000, "arriving": folder, **rules}
        self.acceptor = Acceptor(Rules(**wanted), tls=None, room=lambda: True, store=self.store, ended=self.ended)  # type: ignore[arg-type]
        self.acceptor.open("127.0.0.1", 0)

    def store(self, arrived: Arrived) -> int:
        self.stored.append(arrived.path.read_bytes())
        return 0

    def ended(self, peer: Peer, is_released: bool) -> None:
        self.ends.append(is_released)

    def call(self, calling: str = "ME") -> Association:
        line = socket.create_connection(("127.0.0.1", self.acceptor.port), timeout=PATIENCE_S)
        return Association.request(
            line, calling=calling, called="DOOR", proposals=[Proposal(CT, (EXPLICIT,)), Proposal(ECHO, (EXPLICIT,))]
        )


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.acceptor.close()


def store(line: Association, data: bytes) -> int:
    fields = {dimse.AFFECTED_CLASS: CT, dimse.AFFECTED_INSTANCE: "1.2.3"}
    line.send(line.context(CT, EXPLICIT) or 0, dimse.request(dimse.C_STORE_RQ, 1, fields, has_data=True), data)  # type: ignore[arg-type]
    return line.receive().status


def test_an_image_that_is_too_large_is_refused_and_the_association_goes_on(door: Door, tmp_path: Path) -> None:
    line = door.call()

    statuses = [store(line, bytes(size)) for size in (10_002, 500_000, 10_000)]
    line.release()

    assert statuses == [0xA700, 0xA700, 0]
    assert [content[-10_000:] for content in door.stored] == [bytes(10_000)]
    assert not list(tmp_path.iterdir())


def test_more_associations_than_allowed_are_refused_for_now(door: Door) -> None:
    held = [door.call(), door.call()]

    with pytest.raises(RefusedAssociation) as caught:
        door.call()

    assert not caught.value.permanent
    for line in held:
        line.release()


def test_connections_that_ask_for_nothing_take_nobodys_place(door: Door) -> None:
    silent = [socket.create_connection(("127.0.0.1", door.acceptor.port), timeout=PATIENCE_S) for _ in range(10)]

    line = door.call()

    assert store(line, b"data") == 0
    line.release()
    for one in silent:
        one.close()


def test_strangers_are_refused_for_good(tmp_path: Path) -> None:
    door = Door(tmp_path, callers=("SCANNER",))
    with pytest.raises(RefusedAssociation) as caught:
        door.call("STRANGER")
    door.call("SCANNER").release()
    door.acceptor.close()

    assert caught.value.permanent


@pytest.mark.parametrize(
    "rubbish",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x04abcd", b"\x01\x00\xff\xff\xff\xff", b"\x04" * 100, b""],
)
def test_rubbish_does_no_harm_to_others(door: Door, rubbish: bytes) -> None:
    line = socket.create_connection(("127.0.0.1", door.acceptor.port), timeout=PATIENCE_S)
    line.sendall(rubbish)
    line.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        while line.recv(4096):
            pass
    line.close()

    other = door.call()
    assert store(other, b"data") == 0
    other.release()


def test_an_unknown_request_is_answered_so_and_an_echo_with_success(door: Door) -> None:
    line = door.call()
    context = line.context(ECHO, EXPLICIT) or 0

    line.send(context, dimse.request(dimse.C_ECHO_RQ, 1, {dimse.AFFECTED_CLASS: ECHO}))
    echoed = line.receive().status
    line.send(context, dimse.request(dimse.C_FIND_RQ, 2, {dimse.AFFECTED_CLASS: ECHO}, has_data=True), b"what")
    unknown = line.receive().status
    line.abort()

    assert (echoed, unknown) == (0, 0x0211)


def test_the_request_of_an_association_is_what_pynetdicom_reads(lines: tuple[socket.socket, socket.socket]) -> None:
    def ask() -> None:
        with pytest.raises(Broken):
            Association.request(
                lines[0], calling="ME", called="YOU", proposals=[Proposal(CT, (EXPLICIT,), peer_stores=True)]
            )

    asker = threading.Thread(target=ask)
    asker.start()
    wanted = read_request(lines[1])
    lines[1].close()
    asker.join(PATIENCE_S)

    assert (str(wanted.calling_ae_title).strip(), str(wanted.called_ae_title).strip()) == ("ME", "YOU")
    assert A_ASSOCIATE_RQ(wanted).encode()


def test_a_machine_out_of_threads_refuses_one_caller_and_hears_the_next(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "dicom-association" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    with pytest.raises(Broken):
        door.call()

    line = door.call()
    assert store(line, bytes(10)) == 0
    line.release()
