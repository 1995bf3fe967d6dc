"""A real Orthanc as a `World` for the importer suite, behind a relay that loses what a test wants."""

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self
from uuid import uuid4

from dicom_importer.importer import DicomImporter
from lading.delivery import Labels, Parcel
from lading.inbox import Inbox, InboxLimits
from lading.testing.dicom import new_study, write_dicom, write_series
from lading.testing.dicom_nodes import dataset
from lading.testing.importing import Errand
from lading.testing.orthanc_node import Orthanc
from lading.testing.parcels import publish, read_files
from lading.testing.servers import free_port

_DATA, _REJECTED = 4, 3
_IS_COMMAND = 1
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_STORE = b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x00"  # (0000,0100) = C-STORE-RQ


class Relay:
    """Hands PDUs on, counts images that are stored, and loses answers or lines. A context manager."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.stores = self.rejections = 0
        self.lose_answers = 0
        self.cut_next = False
        self.cut_after: int | None = None
        self._target = target
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._door: socket.socket | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen."""
        self._door = door = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(door,), daemon=True).start()

    def close(self) -> None:
        """Nothing listens, and every line is cut."""
        if self._door:
            with contextlib.suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)
            self._door.close()
            self._door = None
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            live, self._live = self._live, set()
        for line in live:
            _end(line)

    @property
    def is_quiet(self) -> bool:
        """Whether no connection is left."""
        with self._lock:
            return not self._live

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            try:
                node = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                line.close()
                continue
            for one in (line, node):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._live |= {line, node}
            for pump in (self._to_node, self._to_client):
                threading.Thread(target=self._pump, args=(pump, line, node), daemon=True).start()

    def _pump(self, pump: object, line: socket.socket, node: socket.socket) -> None:
        with contextlib.suppress(OSError):
            pump(line, node)  # type: ignore[operator]  # one of the two below
        for one in (line, node):
            _end(one)
        with self._lock:
            self._live -= {line, node}

    def _to_node(self, line: socket.socket, node: socket.socket) -> None:
        while pdu := _pdu(line):
            if pdu[0] == _DATA:
                if self.cut_next:
                    self.cut_next = False
                    return
                if pdu[11] & _IS_COMMAND and _STORE in pdu:
                    self.stores += 1
                    if self.cut_after is not None and self.stores > self.cut_after:
                        self.cut_after = None
                        return
            node.sendall(pdu)

    def _to_client(self, line: socket.socket, node: socket.socket) -> None:
        while pdu := _pdu(node):
            self.rejections += pdu[0] == _REJECTED
            # The answer to C-STORE says 0x8001 where the request says 0x0001.
            if pdu[0] == _DATA and b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x80" in pdu and self.lose_answers:
                self.lose_answers -= 1
                return
            line.sendall(pdu)


def _pdu(line: socket.socket) -> bytes:
    head = _exactly(line, 6)
    return head + _exactly(line, struct.unpack(">L", head[2:])[0]) if head else b""


def _exactly(line: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = line.recv(count - len(found))
        if not piece:
            return b""
        found += piece
    return bytes(found)


def _end(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


def other_pixels(image: bytes) -> bytes:
    """The same image but for one byte of its pixel data. (Images may end with padding, where a byte means nothing.)"""
    changed = bytearray(image)
    changed[image.rindex(_PIXEL_DATA) + 16] ^= 0xFF
    return bytes(changed)


class DicomWorld:
    """One fresh project, and an Orthanc that holds nothing yet."""

    def __init__(
        self, orthanc: Orthanc, relay: Relay, folder: Path, *, node: Mapping[str, object] | None = None
    ) -> None:
        self.orthanc, self.relay, self.folder = orthanc, relay, folder
        self.project = f"P{uuid4().hex[:8]}"
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self._node = dict(node or {})
        self._importers: list[DicomImporter] = []
        for study in json.loads(orthanc.ask("GET", "/studies")):
            orthanc.ask("DELETE", f"/studies/{study}")
        orthanc.allow(Store=True, Find=True, Get=True, StorageCommitment=True)
        orthanc.lose(0)

    # -- what the suite asks for ------------------------------------------------------------------------------------

    def importer(self, **route: object) -> DicomImporter:
        return self._importer(route)

    def importer_as(self, role: str) -> DicomImporter:
        """A node has no accounts. "reader": the route names no AE title for the project; "nobody": one that the node has not."""
        return self._importer({"called": {"OTHER": "A"}}) if role == "reader" else self._importer({}, called="NOBODY")

    def errand(self, parcel: Parcel) -> Errand:
        return Errand(
            factory="dicom_importer.importer:DicomImporter",
            repository=self.repository(),
            route={"called": {self.project: self.orthanc.title}},
            inbox=str(self.inbox.root),
            state=str(self.folder / f"state-{parcel.delivery.id}"),
            delivery=parcel.delivery.id,
        )

    def parcel(
        self, session: str = "MR1", *, images: int = 3, companions: Iterable[str] = (), project: str = ""
    ) -> Parcel:
        """A node holds DICOM and nothing else: what the suite calls companions are images of another series here."""
        folder, study = self.folder / f"made-{uuid4().hex}", new_study()
        folder.mkdir()
        if images:
            write_series(folder, images, study=study, session=session)
        series = new_study()
        for number, name in enumerate(companions, 1):
            write_dicom(folder / name, study=study, series=series, instance=number, header={"PatientID": session})
        labels = Labels(project or self.project, "sub-001", session)
        if (self.inbox.root / str(labels)).exists():
            (self.inbox.root / str(labels)).rename(self.folder / f"moved-{uuid4().hex}")
        return publish(self.inbox, labels, read_files(folder))

    def held(self, parcel: Parcel) -> Counter[str]:
        ours = {}
        for entry in parcel.manifest:
            sop, content = dataset(parcel.root / entry.path)
            ours[sop, hashlib.sha256(content).hexdigest()] = entry.sha256
        return Counter(ours.get(image, image[1]) for image in self.orthanc.held().items())

    def sessions(self) -> int:
        return len(json.loads(self.orthanc.ask("GET", "/studies")))

    def changes(self) -> int:
        return self.relay.stores

    def logins_refused(self) -> int:
        return self.relay.rejections

    def go_down(self) -> None:
        self.relay.close()

    def come_back(self) -> None:
        self.relay.open()

    def show_no_digests(self) -> None:
        """It gives nothing back, and vouches for nothing."""
        self.orthanc.allow(Get=False, StorageCommitment=False)

    def lose(self, count: int) -> None:
        self.orthanc.lose(count)

    def damage(self, parcel: Parcel, name: str) -> None:
        path = self._stored(parcel, name)
        path.write_bytes(other_pixels(path.read_bytes()))

    def destroy(self, parcel: Parcel, name: str) -> None:
        self._stored(parcel, name).unlink()

    def lose_answers(self, count: int) -> None:
        self.relay.lose_answers = count

    def expire_login(self) -> None:
        self.relay.cut_next = True

    # -- what else the node's own tests need --------------------------------------------------------------------------

    def repository(self, **more: object) -> dict[str, object]:
        """The table `[repositories.NAME]` for this node."""
        return {
            "host": "127.0.0.1",
            "port": self.relay.port,
            "called": self.orthanc.title,
            "tls": False,
            "settle": 0.5,
            "answer_timeout": 30.0,
            **self._node,
            **more,
        }

    def close(self) -> None:
        """Give ports back."""
        for importer in self._importers:
            importer.close()

    def _stored(self, parcel: Parcel, name: str) -> Path:
        return self.orthanc.file_of(dataset(parcel.root / name)[0])

    def _importer(self, route: Mapping[str, object], *, called: str = "", calling: str = "LADING") -> DicomImporter:
        table = {"called": {self.project: called or self.orthanc.title}, **route}
        made = DicomImporter.from_settings(
            self.repository(called=called or self.orthanc.title, calling=calling),
            table,
            inbox_root=self.inbox.root,
            state=self.folder / "state",
        )
        self._importers.append(made)
        return made
