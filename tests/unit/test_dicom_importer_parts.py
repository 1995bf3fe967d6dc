"""The DICOM importer's parts that need no node: statuses, translated errors, the ledger, the table of contents."""

import os
import socket
import ssl
import struct
import sys
import threading
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from dicom_importer.contents import Contents
from dicom_importer.errors import Kind, kind_of, translated
from dicom_importer.ledger import Ledger
from dicom_importer.readback import _differing
from dicom_importer.shared import Shared
from lading.delivery import Outcome, delivery_id
from lading.errors import AccessDenied, LadingError, TargetUnavailable
from lading.testing.dicom import write_dicom
from lading.testing.parcels import parcel_at
from transport.dicom_commands import Broken
from transport.dicom_wire import Association, RefusedAssociation

DELIVERY = delivery_id("20260101-000000-abcdef0123")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, Kind.TAKEN),
        (0xB000, Kind.TAKEN_WITH_WARNING),
        (0xB007, Kind.TAKEN_WITH_WARNING),
        (0xBFFF, Kind.TAKEN_WITH_WARNING),
        (0x0111, Kind.TAKEN_WITH_WARNING),
        (0xA700, Kind.LATER),
        (0xA7FF, Kind.LATER),
        (0x0213, Kind.LATER),
        (0x0110, Kind.REFUSED),
        (0x0122, Kind.REFUSED),
        (0xA900, Kind.REFUSED),
        (0xC123, Kind.REFUSED),
        (0xFFFF, Kind.REFUSED),
        (0x0002, Kind.REFUSED),
        (0xFF00, Kind.REFUSED),
    ],
)
def test_only_success_and_warnings_count_as_taken(status: int, kind: Kind) -> None:
    found, words = kind_of(status)

    assert found is kind
    assert f"{status:#06x}" in words


def caused(exc: Exception) -> Broken:
    made = Broken("tls")
    made.__cause__ = exc
    return made


@pytest.mark.parametrize(
    ("exc", "ours"),
    [
        (RefusedAssociation("called AE title not recognised", permanent=True), AccessDenied),
        (RefusedAssociation("local limit exceeded", permanent=False), TargetUnavailable),
        (Broken("the other side fell silent"), TargetUnavailable),
        (ConnectionRefusedError(111, "Connection refused"), TargetUnavailable),
        (socket.gaierror(-2, "Name or service not known"), TargetUnavailable),
        (TimeoutError(), TargetUnavailable),
        (ssl.SSLCertVerificationError(1, "bad"), AccessDenied),
        (caused(ssl.SSLError(1, "certificate required")), AccessDenied),
        (caused(ssl.SSLEOFError(8, "EOF")), TargetUnavailable),
    ],
)
def test_every_failure_says_who_must_act_and_what_to_type(exc: Exception, ours: type[LadingError]) -> None:
    found = translated(exc, doing="storing 0001.dcm", node="ARCHIVE@pacs:104")

    assert type(found) is ours
    assert found.message.startswith("storing 0001.dcm at ARCHIVE@pacs:104: ")
    assert found.next_command.startswith("lading ")
    assert found.safe


def test_the_last_note_about_an_image_counts_and_a_torn_one_does_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, DELIVERY, "A@h:1")
    ledger.begin()
    for sop in ("1.1", "1.2", "1.3"):
        ledger.taken(sop)
    ledger.close()
    ledger.lacking(["1.2"])
    file = next(tmp_path.rglob("*.txt"))
    file.write_text(file.read_text() + "+1.4")

    again = Ledger(tmp_path, DELIVERY, "A@h:1")
    again.begin()

    assert dict(again.notes()) == {"1.1": True, "1.2": False, "1.3": True}
    if os.name == "posix":
        assert file.parent.stat().st_mode & 0o077 == 0
    assert not list(Ledger(tmp_path, DELIVERY, "B@h:1").notes())
    again.close()
    again.forget()
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no Unicode")
def test_any_name_can_be_listed_and_found_again(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.dcm"), "new\nline.dcm", " lead", "ünï/cödé.dcm"]
    sops = {
        name: write_dicom(tmp_path / "data" / name, study="1.2", series="1.3", instance=number)
        for number, name in enumerate(names)
    }
    (tmp_path / "data" / "plain").write_bytes(b"no image")
    parcel = parcel_at(tmp_path / "data", tmp_path / "papers")

    with Contents.of(parcel, {"plain": "left out by a check"}, leave_others=False) as contents:
        found = {contents.image(sop).path for sop in sops.values() if contents.image(sop)}  # type: ignore[union-attr]
        (other,) = contents.others()

        assert found == set(names)
        assert (other.file.path, other.outcome, other.how) == ("plain", Outcome.FILTERED, "left out by a check")
        assert contents.missing == 4
        contents.note_there([sops[" lead"], "9.9.9"])
        assert contents.missing == 3
        left = {image.path for one in contents.contexts() for image in contents.images(one[0], one[1])}
        assert left == set(names) - {" lead"}


def test_identifiers_that_could_mean_something_in_a_question_are_not_sent(tmp_path: Path) -> None:
    write_dicom(tmp_path / "data" / "good.dcm", study="1.2", series="1.3")
    write_dicom(tmp_path / "data" / "star.dcm", study="1.2", series="1.3")
    star = (tmp_path / "data" / "star.dcm").read_bytes()
    where = star.index(b"\x20\x00\x0d\x00UI")
    (tmp_path / "data" / "star.dcm").write_bytes(star[: where + 8] + b"1.*\0" + star[where + 12 :])
    parcel = parcel_at(tmp_path / "data", tmp_path / "papers")

    with Contents.of(parcel, {}, leave_others=True) as contents:
        (other,) = contents.others()

        assert contents.size[0] == 1
        assert (other.file.path, other.outcome, other.code) == ("star.dcm", Outcome.MISSING, "dicom-not-sendable")
        assert "StudyInstanceUID" in other.how


def test_work_is_shared_out_once_and_can_be_stopped() -> None:
    work = Shared(iter(range(5)))
    first, second = iter(work), iter(work)

    assert [next(first), next(second), next(first)] == [0, 1, 2]
    work.stop()
    assert list(second) == []
    assert not work.is_exhausted


def test_an_image_that_does_not_end_when_it_is_read_back_does_not_fill_the_disk(tmp_path: Path) -> None:
    own = tmp_path / "own.dcm"
    own.write_bytes(b"our image")
    ours, theirs = socket.socketpair()
    piece = struct.pack(">BxLLBB", 4, 6 + 60_000, 2 + 60_000, 1, 0) + bytes(60_000)  # P-DATA, never the last fragment
    sent = 0

    def never_end() -> None:
        nonlocal sent
        with suppress(OSError), theirs:
            while sent < 200 << 20:
                theirs.sendall(piece)
                sent += len(piece)

    node = threading.Thread(target=never_end)
    node.start()
    try:
        with ours, own.open("rb", buffering=0) as file, pytest.raises(Broken, match="far more than we have"):
            _differing(Association(ours, (), peer_takes=0), file, 0, tmp_path / "scratch", sha256())
    finally:
        node.join()

    assert sent < 20 << 20
