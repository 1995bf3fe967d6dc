"""Nodes that can do nothing but store: what they refuse, their silence, TLS, and the settings for them."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_importer.importer import DicomImporter
from lading.checks.dicom_headers import Header, read_header
from lading.delivery import Labels, Outcome, Parcel
from lading.errors import AccessDenied, ConfigError, Refused, TargetMissing, TargetUnavailable
from lading.inbox import Inbox, InboxLimits
from lading.testing.carrying import FileJournal
from lading.testing.certificates import certificates
from lading.testing.dicom import new_study, write_dicom
from lading.testing.dicom_nodes import Node, dataset, missing_for_dicom, stored, storescp
from lading.testing.dicom_world import Relay
from lading.testing.importer_suite import MemoryJournal, by_path, carry_out
from lading.testing.importing import Errand
from lading.testing.parcels import publish, read_files

MISSING = missing_for_dicom()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
CT = "1.2.840.10008.5.1.4.1.1.2"


class Sender:
    """An inbox, and importers for nodes that can do nothing but store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))

    def parcel(self, images: int = 3) -> Parcel:
        folder = self.folder / f"made-{time.monotonic_ns()}"
        study, series = new_study(), new_study()
        for number in range(1, images + 1):
            write_dicom(folder / f"{number:04}.dcm", study=study, series=series, instance=number, sop_class=CT)
        return publish(self.inbox, Labels("DEMO", "sub-001", f"S{time.monotonic_ns()}"), read_files(folder))

    def importer(self, port: int, route: dict[str, object] | None = None, **node: object) -> DicomImporter:
        return DicomImporter.from_settings(
            self.table(port, **node), route or {}, inbox_root=self.inbox.root, state=self.folder / "state"
        )

    def table(self, port: int, **node: object) -> dict[str, object]:
        return {"host": "127.0.0.1", "port": port, "tls": False, "settle": 0.2, "answer_timeout": 30.0, **node}

    def errand(self, parcel: Parcel, port: int, **node: object) -> Errand:
        return Errand("dicom_importer.importer:DicomImporter", self.table(port, **node), {}, str(self.inbox.root),
                      str(self.folder / "state"), parcel.delivery.id)  # fmt: skip


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(tmp_path)


def until(holds: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ours(parcel: Parcel) -> dict[str, bytes]:
    return dict(dataset(parcel.root / entry.path) for entry in parcel.manifest)


# -- nodes that cannot be asked ----------------------------------------------------------------------------------------


def test_headers_are_read_once_for_a_plan_and_its_run(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel, other = sender.parcel(2), sender.parcel(3)
    read: Counter[Path] = Counter()

    def counted(path: Path) -> Header | None:
        read[path.parent] += 1
        return read_header(path)

    monkeypatch.setattr("dicom_importer.contents.read_header", counted)
    with storescp(tmp_path / "stored") as port:
        importer = sender.importer(port)
        plan, its_plan = importer.plan(parcel), importer.plan(other)
        importer.run(other, its_plan, MemoryJournal())
        once = dict(read)
        importer.run(parcel, plan, MemoryJournal())  # another plan came between: what it read is not kept for ever
        importer.run(parcel, plan, MemoryJournal())

        assert stored(tmp_path / "stored") == ours(parcel) | ours(other)

    assert once == {parcel.root: 2, other.root: 3}
    assert read == {parcel.root: 6, other.root: 3}


def test_a_node_that_only_stores_gets_every_byte_and_proves_nothing(sender: Sender, tmp_path: Path) -> None:
    parcel = sender.parcel(20)
    with storescp(tmp_path / "stored") as port:
        importer = sender.importer(port)
        importer.probe()

        record = carry_out(importer, parcel)
        outcomes = by_path(importer.verify(parcel, record))
        again = carry_out(importer, parcel)

    assert stored(tmp_path / "stored") == ours(parcel)
    assert {outcome.outcome for outcome in outcomes.values()} == {Outcome.UNVERIFIED}
    assert len(outcomes) == 20
    assert again.already_there


def test_kill_9_between_images_sends_nothing_twice_but_what_was_in_flight(sender: Sender, tmp_path: Path) -> None:
    parcel = sender.parcel(60)
    with storescp(tmp_path / "stored") as port, Relay(port) as relay:
        errand = sender.errand(parcel, relay.port, associations=1)
        process = errand.start()
        assert until(lambda: relay.stores >= 5 or process.poll() is not None)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = relay.stores
        assert until(lambda: relay.is_quiet)

        record = carry_out(sender.importer(relay.port), parcel, FileJournal(errand.journal))

    assert stored(tmp_path / "stored") == ours(parcel)
    assert not record.already_there or before >= 60
    assert relay.stores <= 60 + 1


def test_what_is_noted_about_one_node_says_nothing_about_another(sender: Sender, tmp_path: Path) -> None:
    parcel = sender.parcel(3)
    with storescp(tmp_path / "one") as port:
        carry_out(sender.importer(port), parcel)
    with storescp(tmp_path / "two") as port:
        carry_out(sender.importer(port), parcel)

    assert stored(tmp_path / "two") == ours(parcel)


# -- what a node refuses -----------------------------------------------------------------------------------------------


def test_a_class_or_syntax_that_the_node_does_not_take_is_named_before_anything_is_sent(
    sender: Sender, tmp_path: Path
) -> None:
    study, series = new_study(), new_study()
    write_dicom(tmp_path / "made" / "good.dcm", study=study, series=series, sop_class=CT)
    write_dicom(tmp_path / "made" / "odd.dcm", study=study, series=series, sop_class="1.2.276.0.99.1")
    parcel = publish(sender.inbox, Labels("DEMO", "sub-001", "S1"), read_files(tmp_path / "made"))
    with (
        storescp(tmp_path / "stored") as port,
        pytest.raises(Refused, match=r"1\.2\.276\.0\.99\.1.*odd\.dcm") as caught,
    ):
        carry_out(sender.importer(port), parcel)

    assert not stored(tmp_path / "stored")
    assert caught.value.next_command


def test_a_node_without_room_is_tried_later_and_the_image_is_named(sender: Sender, tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.configure('projects = { LADING = "DEMO" }\nquiet = 600')
    full = (node.base / "lading.toml").read_text()
    (node.base / "lading.toml").write_text(full.replace("keep_free_gb = 0", "keep_free_gb = 1e9"))
    parcel, journal = sender.parcel(5), MemoryJournal()
    importer = sender.importer(node.port, called="LADING")
    with node.running(), pytest.raises(TargetUnavailable, match=r"0001\.dcm.*0xa700") as caught:
        carry_out(importer, parcel, journal)
    (node.base / "lading.toml").write_text(full)
    with node.running():
        carry_out(importer, parcel, journal)

    assert caught.value.next_command == "lading retry"
    assert node.everything() == ours(parcel)


def test_more_kinds_of_images_than_fit_into_one_association_all_arrive(sender: Sender, tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.configure('projects = { LADING = "DEMO" }\nquiet = 600')
    study, series = new_study(), new_study()
    for number in range(140):
        write_dicom(
            tmp_path / "made" / f"{number}.dcm", study=study, series=series, sop_class=f"1.2.276.0.99.{number + 1}"
        )
    parcel = publish(sender.inbox, Labels("DEMO", "sub-001", "S1"), read_files(tmp_path / "made"))
    with node.running():
        carry_out(sender.importer(node.port, called="LADING", associations=2), parcel)

    assert node.everything() == ours(parcel)


# -- what falls silent, and what is no node ----------------------------------------------------------------------------


def test_a_node_that_answers_nothing_any_more_is_unavailable_within_its_time(sender: Sender) -> None:
    parcel = sender.parcel(2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        importer = sender.importer(silent.getsockname()[1], answer_timeout=0.5)
        with pytest.raises(TargetUnavailable, match="fell silent"):
            importer.plan(parcel)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\x00\x00\x00\x00\x04abcd", b"\x07\x00" * 50],
    ids=["nothing", "web-server", "empty-acceptance", "aborts"],
)
def test_what_is_no_dicom_node_is_unavailable(sender: Sender, answer: bytes) -> None:
    def talk(door: socket.socket) -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                line.recv(65536)
                line.sendall(answer)

    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=talk, args=(door,), daemon=True).start()
    with door, pytest.raises(TargetUnavailable) as caught:
        sender.importer(door.getsockname()[1], answer_timeout=10.0).probe()

    assert caught.value.next_command == "lading retry"


# -- TLS and settings --------------------------------------------------------------------------------------------------


def test_tls_is_verified_on_both_sides(sender: Sender, tmp_path: Path) -> None:
    made = certificates(tmp_path / "tls")
    secure = ["+tls", str(made.key), str(made.cert), "+cf", str(made.ca)]
    parcel = sender.parcel(3)
    trusted: dict[str, object] = {"tls": True, "ca": str(made.ca)}
    own = {"certificate": str(made.cert), "key": str(made.key)}
    with storescp(tmp_path / "stored", *secure) as port:
        with pytest.raises(AccessDenied, match="not trusted"):
            sender.importer(port, tls=True, ca=str(made.other_ca), **own).probe()
        # It hangs up after the handshake, and says why first: a slow machine may not hear that any more.
        with pytest.raises((AccessDenied, TargetUnavailable), match="`certificate` and `key` of ours"):
            sender.importer(port, **trusted).probe()
        with pytest.raises(TargetUnavailable):
            sender.importer(port).probe()
        carry_out(sender.importer(port, **trusted, **own), parcel)
    with storescp(tmp_path / "plain") as port, pytest.raises((AccessDenied, TargetUnavailable), match="speak TLS"):
        sender.importer(port, **trusted, answer_timeout=5.0).probe()

    assert stored(tmp_path / "stored") == ours(parcel)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"host": "pacs.example.org", "tls": False}, "plain_text"),
        ({"host": "127.0.0.1", "tls": False, "called": "A\\B"}, "AE title"),
        ({"host": "h", "proof": "read-bakc"}, "read-back"),
        ({"host": "h", "proof": "commitment"}, "commitment_port"),
        ({"host": "h", "certificate": "/x.pem"}, "belong together"),
        ({"host": "h", "asociations": 3}, "associations"),
        ({"host": "127.0.0.1", "tls": False, "ca": "/x.pem"}, "tls = true"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(table: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        DicomImporter.from_settings(table, {}, inbox_root=tmp_path, state=tmp_path)


def test_a_project_without_a_title_is_named(tmp_path: Path) -> None:
    importer = DicomImporter.from_settings(
        {"host": "127.0.0.1", "tls": False}, {"called": {"DEMO": "ONE"}}, inbox_root=tmp_path, state=tmp_path
    )

    assert importer.probe_project("DEMO") == "ONE"
    with pytest.raises(TargetMissing, match="OTHER"):
        importer.probe_project("OTHER")
