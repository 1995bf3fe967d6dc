"""What an unlisted folder looks like before it is read, and when it cannot be listed while it is sent."""

import os

import pytest

from lading.delivery import Cargo, Delivery, DeliveryId, Labels, Slot
from lading.errors import SourceChanged, UnexpectedFault, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.manifest import LIST_NAME, NameLimits, make
from lading.seal import is_sealed
from lading.testing import trees
from lading.testing.carrying import FileJournal
from lading.testing.loop_disks import name_it
from transport import on_the_way
from transport.disk import DiskTransport
from transport.on_the_way import Load, listing_of, shape_of
from transport.placing import PlacingTransport


@pytest.fixture
def cargo(tmp_path) -> Cargo:
    source = trees.write(tmp_path / "source", {"a": b"1", "b/c": b"22", "b/Thumbs.db": b"junk", "d\n0": b""})
    return Cargo(Delivery(DeliveryId("d"), "r", Labels("P", "s", "e")), source, tmp_path / "papers")


def test_a_folder_and_the_manifest_made_of_it_have_one_shape(cargo):
    listing = listing_of(cargo, NameLimits.POSIX)
    cargo.papers.mkdir()

    manifest = make(cargo.root, cargo.papers)

    assert listing is not None
    assert listing.shape == shape_of(manifest)
    assert (listing.load.files, listing.load.bytes) == (Load.of(manifest).files, Load.of(manifest).bytes) == (3, 3)


@pytest.mark.parametrize("change", ["time", "size", "name", "gone", "more"])
def test_whatever_changes_changes_the_shape(cargo, change):
    before = listing_of(cargo, NameLimits.POSIX)
    if change == "time":
        os.utime(cargo.root / "a", ns=(0, 1))
    elif change == "size":
        info = (cargo.root / "a").stat()
        (cargo.root / "a").write_bytes(b"12")
        os.utime(cargo.root / "a", ns=(0, info.st_mtime_ns))
    elif change == "name":
        (cargo.root / "a").rename(cargo.root / "aa")
    elif change == "gone":
        (cargo.root / "a").unlink()
    else:
        (cargo.root / "b" / "d").write_bytes(b"")

    after = listing_of(cargo, NameLimits.POSIX)

    assert before is not None
    assert after is not None
    assert before.shape != after.shape


def test_what_is_too_many_or_unfit_is_listed_first(cargo, monkeypatch):
    (cargo.root / "A").write_bytes(b"")
    assert listing_of(cargo, NameLimits.EXACT) is not None
    assert listing_of(cargo, NameLimits.POSIX) is None, "a and A: making the manifest says so"

    monkeypatch.setattr(on_the_way, "LISTED_AT_MOST", 4)
    assert listing_of(cargo, NameLimits.EXACT) is None, "four files, and one that is left out"


def test_no_list_is_written_before_every_file_was_read(cargo):
    listing = listing_of(cargo, NameLimits.POSIX)
    assert listing is not None
    for entry in list(listing.load.entries)[:-1]:
        listing.found(entry, {"sha256": "0" * 64})

    with pytest.raises(UnexpectedFault, match="never hashed"):
        listing.written()

    assert not (cargo.papers / LIST_NAME).exists()


# -- over a folder that stands for a disk: one connection, so that the order of what happens is known ------------------


VOLUME = "0123456789abcdef"


@pytest.fixture
def disk(tmp_path) -> DiskTransport:
    inbox = Inbox.create(tmp_path / "disk", limits=InboxLimits(keep_free_bytes=0))
    name_it(inbox.root, VOLUME)
    return DiskTransport.from_settings({"path": str(inbox.root), "volume": VOLUME}, state=tmp_path)


class CutOff:
    """Ends a carry when that many files are done, as a lost connection would; and remembers how big the pieces were."""

    def __init__(self, after_files: int = 1 << 30) -> None:
        self._left = after_files
        self.pieces: list[int] = []

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self._left -= files
        if bytes:
            self.pieces.append(bytes)
        if self._left <= 0:
            raise Unreachable("cut off by the test")


def test_what_is_missing_is_sent_before_what_is_there_is_hashed(disk, tmp_path):
    source = trees.write(tmp_path / "session", {"a": trees.noise(1, 5 << 20), "b": trees.noise(2, 3 << 20)})
    cargo = Cargo(Delivery(DeliveryId("delivery-1"), "r", Labels("P", "s", "e")), source, tmp_path / "papers")
    slot, journal = Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    with pytest.raises(Unreachable):
        disk.carry(cargo, slot, journal, CutOff(1))
    second = CutOff()

    disk.carry(cargo, slot, journal, second)

    assert (sum(second.pieces), second.pieces[-1]) == (8 << 20, 5 << 20), (
        "a was there: it is told in one piece, and last"
    )


def test_a_folder_that_changed_since_it_began_to_be_carried_is_told_once(disk, tmp_path):
    source = trees.write(tmp_path / "session", {"a": b"1", "b": b"2"})
    cargo = Cargo(Delivery(DeliveryId("delivery-1"), "r", Labels("P", "s", "e")), source, tmp_path / "papers")
    slot, journal = Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    with pytest.raises(Unreachable):
        disk.carry(cargo, slot, journal, CutOff(1))
    trees.write(source, {"c": b"3"})

    with pytest.raises(SourceChanged, match="than when it began"):
        disk.carry(cargo, slot, journal, CutOff())
    assert not is_sealed(cargo.papers)
    disk.carry(cargo, slot, journal, CutOff())

    assert trees.look(tmp_path / "disk" / slot.data) == trees.look(source)


def test_files_of_another_list_are_doubted_until_all_were_compared(disk, tmp_path):
    source = trees.write(tmp_path / "session", {"a": b"1", "b": b"1"})
    stamp = 1_600_000_000_000_000_000
    for name in ("a", "b"):
        os.utime(source / name, ns=(stamp, stamp))
    cargo = Cargo(Delivery(DeliveryId("delivery-1"), "r", Labels("P", "s", "e")), source, tmp_path / "papers")
    slot, journal = Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    with pytest.raises(Unreachable):
        disk.carry(cargo, slot, journal, CutOff(2))
    for name in ("a", "b"):  # in the same second, as large as before: nothing but the content tells
        (source / name).write_bytes(b"2")
        os.utime(source / name, ns=(stamp, stamp + 1000))
    with pytest.raises(SourceChanged):
        disk.carry(cargo, slot, journal, CutOff())
    with pytest.raises(Unreachable):
        disk.carry(cargo, slot, journal, CutOff(1))

    PlacingTransport.carry(disk, cargo, slot, journal, CutOff())  # the disk would find it by reading all back

    assert trees.look(tmp_path / "disk" / slot.data) == trees.look(source)
