"""What an unlisted folder looks like before it is read, and when it cannot be listed while it is sent."""

import os

import pytest

from lading.delivery import Cargo, Delivery, DeliveryId, Labels
from lading.errors import UnexpectedFault
from lading.manifest import LIST_NAME, NameLimits, make
from lading.testing import trees
from transport import on_the_way
from transport.on_the_way import Load, listing_of, shape_of


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
