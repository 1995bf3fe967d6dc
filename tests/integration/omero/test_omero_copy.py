"""The copy in the inbox, or the server's, is not what it was: linked elsewhere, or damaged."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Outcome
from lading.errors import LadingError
from lading.testing.importer_suite import MemoryJournal, all_verified, by_path, carry_out
from lading.testing.omero_world import OmeroWorld


def test_a_folder_that_was_swapped_for_a_link_is_not_followed(world: OmeroWorld, tmp_path: Path) -> None:
    parcel = world.parcel(images=1, companions=["sub/a.txt"])
    size = (parcel.root / "sub" / "a.txt").stat().st_size
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.txt").write_bytes(b"s" * size)
    shutil.rmtree(parcel.root / "sub")
    (parcel.root / "sub").symlink_to(secret)

    with pytest.raises(LadingError, match=r"sub/a\.txt"):
        carry_out(world.importer(), parcel)

    stored = [path for path in world.sandbox.root.rglob("*") if path.is_file() and path.stat().st_size == size]
    assert not [path for path in stored if path.read_bytes() == b"s" * size]


def test_an_attachment_that_its_disk_has_otherwise_is_sent_again(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt", "b.txt"])
    importer, journal = world.importer(reread=True), MemoryJournal()
    record = carry_out(importer, parcel, journal)
    world.damage(parcel, "b.txt")
    assert by_path(importer.verify(parcel, record))["b.txt"].outcome is Outcome.MISMATCH

    record = carry_out(importer, parcel, journal)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)


def test_an_attachment_that_arrived_damaged_is_sent_again(world: OmeroWorld) -> None:
    parcel = world.parcel(images=0, companions=["a.txt"])
    importer, journal = world.importer(reread=False), MemoryJournal()
    world.sandbox.faults(damaged_uploads=1)
    record = carry_out(importer, parcel, journal)
    assert by_path(importer.verify(parcel, record))["a.txt"].outcome is Outcome.MISMATCH
    world.sandbox.faults()

    record = carry_out(importer, parcel, journal)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)


def test_what_was_withdrawn_is_not_sent_again_and_said_by_reading_back(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt"])
    importer, journal = world.importer(reread=True), MemoryJournal()
    carry_out(importer, parcel, journal)
    shutil.rmtree(parcel.root)
    world.damage(parcel, "a.txt")

    record = carry_out(importer, parcel, journal)

    assert by_path(importer.verify(parcel, record))["a.txt"].outcome is Outcome.MISMATCH
