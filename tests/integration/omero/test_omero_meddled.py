"""Somebody tidies up in OMERO by hand, between the import and the reading back or later: nothing is imported twice for that."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

import omero.clients
import omero.cmd
from omero.callbacks import CmdCallbackI

from lading.delivery import FileOutcome, Outcome, Parcel
from lading.errors import Refused
from lading.sandbox.omero import SandboxOmero
from lading.testing.importer_suite import all_verified, bring_home, by_path, carry_out
from lading.testing.omero_world import ARCHIVE, GROUP, OmeroWorld, people_with_an_archive, running_omero


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("omero"), people_with_an_archive()) as running:
        yield running


def filesets(world: OmeroWorld, parcel: Parcel) -> list[int]:
    query = "select distinct e.fileset.id from FilesetEntry e where e.clientPath like :p"
    return sorted(int(str(row[0])) for row in world.ask(query, p=f"{parcel.delivery.labels}/%"))


def attached(world: OmeroWorld, parcel: Parcel) -> list[str]:
    query = "select f.name from FileAnnotation a join a.file f where f.path like :p"
    return sorted(str(row[0]) for row in world.ask(query, p=f"{parcel.delivery.labels}/%"))


def remove(world: OmeroWorld, kind: str, query: str, **texts: str) -> None:
    """Delete, as their owner, what the query finds."""
    ids = [row[0] for row in world.ask(query, **texts)]
    assert ids
    with world.client("carol") as client:
        request = omero.cmd.Delete2(targetObjects={kind: ids})
        callback = CmdCallbackI(client, client.getSession().submit(request, {"omero.group": "-1"}))
        try:
            callback.loop(200, 100)
            assert not isinstance(callback.getResponse(), omero.cmd.ERR)
        finally:
            callback.close(True)


def remove_mark(world: OmeroWorld, parcel: Parcel) -> None:
    query = (
        "select distinct a.id from MapAnnotation a join a.mapValue v where a.ns = 'lading/delivery' and v.value = :l"
    )
    remove(world, "MapAnnotation", query, l=str(parcel.delivery.labels))


def not_there(outcomes: Mapping[str, FileOutcome]) -> set[str]:
    return {path for path, one in outcomes.items() if one.outcome is Outcome.MISSING}


def test_the_mark_was_removed(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2, companions=["a.txt"])
    record = carry_out(world.importer(), parcel)
    before = filesets(world, parcel)
    remove_mark(world, parcel)
    assert not_there(by_path(world.importer().verify(parcel, record)))

    outcomes = bring_home(world.importer(), parcel)

    assert all_verified(outcomes, parcel)
    assert filesets(world, parcel) == before
    assert attached(world, parcel) == ["a.txt"]


def test_the_mark_was_taken_off_one_fileset(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    record = carry_out(world.importer(), parcel)
    before = filesets(world, parcel)
    with world.client("carol") as client:
        query = f"select l from FilesetAnnotationLink l where l.parent.id = {before[0]}"
        for link in client.getSession().getQueryService().findAllByQuery(query, None):
            client.getSession().getUpdateService().deleteObject(link)
    assert len(not_there(by_path(world.importer().verify(parcel, record)))) == 1

    outcomes = bring_home(world.importer(), parcel)

    assert all_verified(outcomes, parcel)
    assert filesets(world, parcel) == before


def test_the_mark_was_removed_and_the_copy_withdrawn(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2, companions=["a.bin"])
    carry_out(world.importer(), parcel)
    before = filesets(world, parcel)
    remove_mark(world, parcel)
    shutil.rmtree(parcel.root)

    assert all_verified(bring_home(world.importer(), parcel), parcel)
    assert filesets(world, parcel) == before


def test_the_mark_was_removed_and_the_session_is_sent_again(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    carry_out(world.importer(), parcel)
    before = filesets(world, parcel)
    remove_mark(world, parcel)
    again = world.parcel(images=0, files={one.path: (parcel.root / one.path).read_bytes() for one in parcel.manifest})

    assert all_verified(bring_home(world.importer(), again), again)
    assert filesets(world, again) == before


def test_what_only_has_the_same_name_is_not_taken_for_ours(world: OmeroWorld) -> None:
    first = world.parcel(images=1)
    carry_out(world.importer(), first)
    before = filesets(world, first)
    remove_mark(world, first)
    second = world.parcel(images=1)  # other pixels
    assert [one.path for one in first.manifest] == [one.path for one in second.manifest]

    assert all_verified(bring_home(world.importer(), second), second)
    assert len(filesets(world, second)) == len(before) + 1


def test_the_dataset_was_removed_with_its_images_and_attachments_are_not_doubled(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2, companions=["a.txt", "b.txt"])
    record = carry_out(world.importer(), parcel)
    remove(world, "Dataset", f"select d.id from Dataset d where d.id = {record.target['place_id']}")
    assert attached(world, parcel) == ["a.txt", "b.txt"]  # OMERO keeps files that were attached
    assert len(not_there(by_path(world.importer().verify(parcel, record)))) == 4

    assert all_verified(bring_home(world.importer(), parcel), parcel)
    assert attached(world, parcel) == ["a.txt", "b.txt"]


def test_an_attachment_was_taken_off_and_needs_no_copy_to_be_put_back(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt"])
    record = carry_out(world.importer(), parcel)
    with world.client("carol") as client:
        query = "select l from DatasetAnnotationLink l join l.child a where a.ns = 'lading/attachment'"
        query += f" and l.parent.id = {record.target['place_id']}"
        for link in client.getSession().getQueryService().findAllByQuery(query, None):
            client.getSession().getUpdateService().deleteObject(link)
    shutil.rmtree(parcel.root)
    assert not_there(by_path(world.importer().verify(parcel, record))) == {"a.txt"}

    assert all_verified(bring_home(world.importer(), parcel), parcel)
    assert attached(world, parcel) == ["a.txt"]


@pytest.mark.parametrize("marked", [True, False])
def test_what_was_moved_to_another_group_is_not_imported_a_second_time(world: OmeroWorld, marked: bool) -> None:
    parcel = world.parcel(images=2)
    # As chgrp leaves it: Filesets with the same names in the other group, with or without what was linked to them.
    carry_out(world.importer(group=ARCHIVE, create="all"), parcel)
    before = filesets(world, parcel)
    if not marked:
        remove_mark(world, parcel)

    with pytest.raises(Refused, match=rf"plain/000[12]\.tif is in OMERO, in group '{ARCHIVE}' instead of '{GROUP}'"):
        carry_out(world.importer(), parcel)

    assert filesets(world, parcel) == before


def test_the_same_session_may_go_to_two_groups_by_two_routes(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    carry_out(world.importer(group=ARCHIVE, create="all"), parcel)
    content = {one.path: (parcel.root / one.path).read_bytes() for one in parcel.manifest}
    again = world.parcel(images=0, files=content)
    other_route = replace(again, delivery=replace(again.delivery, route="archive"))

    assert all_verified(by_path(world.importer().verify(other_route, carry_out(world.importer(), other_route))), again)
    assert len(filesets(world, parcel)) == 2


def test_labels_are_corrected_when_a_part_was_imported(world: OmeroWorld) -> None:
    parcel = world.parcel(images=3)
    world.sandbox.faults(import_errors=["import-unknown-format"])
    with pytest.raises(Refused):
        carry_out(world.importer(), parcel)
    labels = replace(parcel.delivery.labels, session="MR2")
    corrected = replace(parcel, delivery=replace(parcel.delivery, labels=labels))

    with pytest.raises(Refused, match=f"in OMERO already, as {parcel.delivery.labels}") as refused:
        carry_out(world.importer(), corrected)
    assert filesets(world, corrected) == []
    assert str(parcel.delivery.labels) in refused.value.next_command

    query = "select l.child.id from ProjectDatasetLink l where l.parent.name = :p"
    remove(world, "Dataset", query, p=world.project)
    assert all_verified(bring_home(world.importer(), corrected), corrected)
    assert len(filesets(world, corrected)) == 3
