"""The copy in the inbox is not what it was when it was accepted: replaced, linked elsewhere, or withdrawn by now."""

import shutil
from pathlib import Path

import httpx
import pytest

from lading.delivery import Labels, Outcome, Parcel
from lading.errors import LadingError, Refused
from lading.testing.dicom import new_study, write_series
from lading.testing.importer_suite import all_verified, by_path, carry_out
from lading.testing.parcels import publish, read_files
from lading.testing.xnat_world import USERS, XnatWorld


def without_md5(world: XnatWorld, tmp_path: Path, *, companions: dict[str, bytes], images: int = 0) -> Parcel:
    """A parcel whose sender made SHA-256 only, as a route with `digests = []` has it."""
    folder = tmp_path / "made"
    folder.mkdir()
    if images:
        write_series(folder, images, study=new_study())
    labels = Labels(world.project, "sub-001", "MR1")
    return publish(world.inbox, labels, read_files(folder) | companions, algorithms=())


def test_a_companion_that_was_replaced_before_it_was_sent_is_not_called_verified(
    world: XnatWorld, tmp_path: Path
) -> None:
    parcel = without_md5(world, tmp_path, companions={"a.txt": b"what was sent", "b.txt": b"left alone"})
    (parcel.root / "a.txt").write_bytes(b"WHAT WAS SENT")
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert outcomes["a.txt"].outcome is Outcome.MISMATCH
    assert outcomes["b.txt"].outcome is Outcome.VERIFIED


def test_an_image_that_was_replaced_before_it_was_sent_is_not_called_verified(world: XnatWorld, tmp_path: Path) -> None:
    parcel = without_md5(world, tmp_path, companions={}, images=2)
    path = parcel.root / "0001.dcm"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF  # a pixel
    path.write_bytes(content)
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert outcomes["0001.dcm"].outcome is Outcome.UNVERIFIED
    assert outcomes["0002.dcm"].outcome is Outcome.VERIFIED


def test_an_image_that_was_replaced_is_not_proven_by_its_substitute(world: XnatWorld) -> None:
    parcel = world.parcel()
    path = parcel.root / "0001.dcm"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
    world.sandbox.faults.site_anon = True  # the bytes differ in any case, so that pixels decide
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert outcomes["0001.dcm"].outcome is Outcome.UNVERIFIED
    assert outcomes["0002.dcm"].outcome is Outcome.VERIFIED


@pytest.mark.parametrize("images", [0, 3])
def test_what_was_withdrawn_from_the_inbox_can_still_be_read_back(world: XnatWorld, images: int) -> None:
    parcel = world.parcel(images=images, companions=["a.txt"])
    record = carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)

    outcomes = by_path(world.importer().verify(parcel, record))

    assert all_verified(outcomes, parcel)


@pytest.mark.parametrize("is_withdrawn", [False, True])
def test_a_session_that_was_deleted_and_made_anew_is_read_back(world: XnatWorld, is_withdrawn: bool) -> None:
    parcel = world.parcel(images=2, companions=["a.txt"])
    first = carry_out(world.importer(), parcel)
    session = f"{world.sandbox.url}/data/experiments/{first.target['experiment']}"
    httpx.delete(session, params={"removeFiles": "true"}, auth=("admin", USERS["admin"])).raise_for_status()
    assert carry_out(world.importer(), parcel).target["experiment"] != first.target["experiment"]
    if is_withdrawn:
        shutil.rmtree(parcel.root)

    outcomes = by_path(world.importer().verify(parcel, first))

    assert all_verified(outcomes, parcel)


def test_what_was_lost_since_is_missed_without_the_copy_too(world: XnatWorld) -> None:
    parcel = world.parcel(companions=["a.txt"])
    record = carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)
    world.destroy(parcel, "0002.dcm")
    world.destroy(parcel, "a.txt")

    outcomes = by_path(world.importer().verify(parcel, record))

    missing = {path for path, found in outcomes.items() if found.outcome is Outcome.MISSING}
    assert missing == {"0002.dcm", "a.txt"}
    assert outcomes["0001.dcm"].outcome is Outcome.VERIFIED


def test_without_md5_what_was_withdrawn_is_downloaded(world: XnatWorld, tmp_path: Path) -> None:
    parcel = without_md5(world, tmp_path, companions={"a.txt": b"alone"}, images=2)
    record = carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)

    outcomes = by_path(world.importer().verify(parcel, record))

    assert all_verified(outcomes, parcel)


def test_what_xnat_has_rewritten_cannot_be_judged_without_the_copy(world: XnatWorld) -> None:
    world.sandbox.faults.site_anon = True
    parcel = world.parcel()
    record = carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)

    with pytest.raises(Refused, match="withdrawn"):
        list(world.importer().verify(parcel, record))


def test_what_was_withdrawn_is_not_imported_again(world: XnatWorld) -> None:
    parcel = world.parcel()
    carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)

    with pytest.raises(Refused, match="withdrawn"):
        world.importer().plan(parcel)


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("number", [1, 30], ids=["alone", "bulk"])
def test_a_file_that_was_swapped_for_a_link_is_not_followed(
    world: XnatWorld, tmp_path: Path, where: str, number: int
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    parcel = world.parcel(images=0, files={f"sub/{n}.txt": b"six b%d" % (n % 10) for n in range(number)})
    (secret / "0.txt").write_bytes(b"secret")
    for n in range(1, number):
        (secret / f"{n}.txt").write_bytes(b"secret")
    if where == "file":
        (parcel.root / "sub" / "0.txt").unlink()
        (parcel.root / "sub" / "0.txt").symlink_to(secret / "0.txt")
    else:
        shutil.rmtree(parcel.root / "sub")
        (parcel.root / "sub").symlink_to(secret)

    with pytest.raises(LadingError, match=r"sub/0\.txt"):
        carry_out(world.importer(), parcel)

    stored = [path for path in (world.sandbox.root / "archive").rglob("*") if path.is_file()]
    assert not [path for path in stored if path.read_bytes() == b"secret"]
