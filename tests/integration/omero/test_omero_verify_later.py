"""Reading back when the files of the parcel are gone: by the decision that was kept, else by what OMERO holds."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

import omero.cmd
from omero.callbacks import CmdCallbackI

from lading.delivery import Outcome, Parcel
from lading.errors import Refused
from lading.ports import ImportRecord
from lading.sandbox.omero import SandboxOmero
from lading.testing import real_images
from lading.testing.importer_suite import all_verified, bring_home, by_path, carry_out
from lading.testing.omero_world import OmeroWorld
from omero_importer.decided import FOLDER


@pytest.fixture
def world(sandbox: SandboxOmero, tmp_path: Path) -> Iterator[OmeroWorld]:
    made = OmeroWorld(sandbox, tmp_path, tls=False, route={"reread": False})
    yield made
    made.close()


def kept(world: OmeroWorld) -> Path:
    (found,) = (world.folder / "state" / FOLDER).iterdir()
    return found


def imported(world: OmeroWorld, **route: object) -> tuple[Parcel, ImportRecord]:
    """A parcel of images, an OME-Zarr and an attachment that was imported; its files are gone."""
    made = world.folder / "made"
    made.mkdir()
    names = real_images.ome_zarr(made, side=2)
    parcel = world.parcel(images=2, companions=["a.bin"], files={name: (made / name).read_bytes() for name in names})
    record = carry_out(world.importer(**route), parcel)
    shutil.rmtree(parcel.root)
    return parcel, record


def test_every_file_is_proven_without_its_copy(world: OmeroWorld) -> None:
    parcel, record = imported(world)

    outcomes = by_path(world.importer().verify(parcel, record))

    assert all_verified(outcomes, parcel)
    assert {one.how for one in outcomes.values()} == {"MD5-128"}


def test_the_rules_of_the_time_count_and_not_those_of_today(world: OmeroWorld) -> None:
    parcel, record = imported(world)
    today = world.importer(files={"attach": ["plain/*", "*.bin"], "leave_out": ["*.zarr"]})

    assert all_verified(by_path(today.verify(parcel, record)), parcel)


@pytest.mark.parametrize("damage", ["absent", "cut", "foreign", "half"])
def test_without_a_usable_decision_it_is_what_omero_holds(world: OmeroWorld, damage: str) -> None:
    parcel, record = imported(world)
    file = kept(world)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    match damage:
        case "absent":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:40])
        case "foreign":
            file.write_bytes(gzip.compress(b"".join(lines).replace(b'"manifest":"', b'"manifest":"0')))
        case _:
            file.write_bytes(gzip.compress(b"".join(lines[:-1])))

    assert all_verified(by_path(world.importer().verify(parcel, record)), parcel)


@pytest.mark.parametrize("remembered", [True, False])
def test_what_was_removed_from_omero_is_named(world: OmeroWorld, remembered: bool) -> None:
    parcel, record = imported(world)
    if not remembered:
        kept(world).unlink()
    gone = "plain/0002.tif"
    remove_file(world, parcel, gone)

    outcomes = by_path(world.importer().verify(parcel, record))

    assert {path for path, one in outcomes.items() if one.outcome is not Outcome.VERIFIED} == {gone}
    assert outcomes[gone].outcome is Outcome.MISSING
    assert outcomes[gone].how == (
        "OMERO has no Fileset of it" if remembered else "neither in a Fileset of the delivery nor attached to it"
    )
    assert sorted(outcomes) == sorted(entry.path for entry in parcel.manifest)


def test_what_the_servers_disk_lost_is_found_by_reading_it_again(world: OmeroWorld) -> None:
    parcel, record = imported(world)
    world.damage(parcel, "plain/0001.tif")
    world.destroy(parcel, "plain/0002.tif")

    trusting = by_path(world.importer().verify(parcel, record))
    reading = by_path(world.importer().reread(parcel, record))

    assert all_verified(trusting, parcel)
    assert {path: one.outcome for path, one in reading.items() if one.outcome is not Outcome.VERIFIED} == {
        "plain/0001.tif": Outcome.MISMATCH,
        "plain/0002.tif": Outcome.MISSING,
    }


@pytest.mark.parametrize("now_there", ["nothing", "another delivery"])
def test_a_checksum_that_the_manifest_has_not_is_replaced_by_the_content(world: OmeroWorld, now_there: str) -> None:
    parcel, record = imported(world, checksum="CRC-32")
    if now_there != "nothing":
        # The label is free again; what lies there now is somebody else's.
        for entry in parcel.manifest:
            path = parcel.root / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(entry.size))

    outcomes = by_path(world.importer().verify(parcel, record))

    assert all_verified(outcomes, parcel)
    assert {one.how for one in outcomes.values() if one.path.endswith(".tif")} == {"sha256 of the download"}


def test_what_needs_no_file_is_mended_all_the_same(world: OmeroWorld) -> None:
    parcel, record = imported(world)
    with world.client("carol") as client:
        query = f"select l from DatasetImageLink l where l.parent.id = {record.target['place_id']}"
        links = client.getSession().getQueryService().findAllByQuery(query, None)
        client.getSession().getUpdateService().deleteObject(links[0])
    unlinked = by_path(world.importer().verify(parcel, record))
    assert not all_verified(unlinked, parcel)

    assert all_verified(bring_home(world.importer(), parcel), parcel)


@pytest.mark.parametrize("gone", ["plain/0002.tif", "a.bin"])
def test_what_needs_a_file_that_is_gone_says_where_it_can_come_from(world: OmeroWorld, gone: str) -> None:
    parcel, _ = imported(world)
    remove_file(world, parcel, gone)
    filesets = world.sandbox.records("Fileset")
    importer = world.importer()

    with pytest.raises(Refused, match=f"OMERO lacks {gone}, and the copy in the inbox was withdrawn") as refused:
        carry_out(importer, parcel)

    assert "lading send" in refused.value.next_command
    assert world.sandbox.records("Fileset") == filesets


def test_the_same_session_sent_again_fills_the_gap(world: OmeroWorld) -> None:
    first = world.parcel(images=2, companions=["a.bin"])
    content = {entry.path: (first.root / entry.path).read_bytes() for entry in first.manifest}
    record = carry_out(world.importer(), first)
    shutil.rmtree(first.root)
    remove_file(world, first, "plain/0002.tif")
    again = world.parcel(images=0, files=content)

    assert all_verified(bring_home(world.importer(), again), again)
    assert all_verified(by_path(world.importer().verify(first, record)), first)


def test_planning_keeps_nothing(world: OmeroWorld) -> None:
    world.importer().plan(world.parcel(images=1))

    assert not (world.folder / "state" / FOLDER).exists()


def remove_file(world: OmeroWorld, parcel: Parcel, path: str) -> None:
    """Delete, as its owner, the Fileset with its images or the attachment that the file is."""
    known_as = f"{parcel.delivery.labels}/{path}"
    filesets = world.ask("select e.fileset.id from FilesetEntry e where e.clientPath = :p", p=known_as)
    folder, _, name = known_as.rpartition("/")
    attached = world.ask(
        "select a.id from FileAnnotation a join a.file f where f.path = :p and f.name = :n", p=f"{folder}/", n=name
    )
    ((number,),) = filesets + attached
    with world.client("carol") as client:
        request = omero.cmd.Delete2(targetObjects={"Fileset" if filesets else "FileAnnotation": [number]})
        callback = CmdCallbackI(client, client.getSession().submit(request))
        try:
            callback.loop(200, 100)
            assert not isinstance(callback.getResponse(), omero.cmd.ERR)
        finally:
            callback.close(True)
