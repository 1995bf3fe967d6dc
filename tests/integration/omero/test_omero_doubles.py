"""OMERO holds files of a delivery twice: an import was repeated that the server had carried out. Nobody calls that verified."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

import omero.model
from omero.rtypes import rlong, unwrap

from lading.delivery import FileOutcome, Outcome, Parcel
from lading.pipeline import Outcomes
from lading.ports import ImportRecord
from lading.sandbox.omero import SandboxOmero
from lading.testing.importer_suite import all_verified, bring_home, by_path, carry_out
from lading.testing.omero_import import Importing, delete
from lading.testing.omero_world import ARCHIVE, GROUP, OmeroWorld, people_with_an_archive, running_omero
from omero_importer.client_paths import client_path
from omero_importer.importer import OmeroImporter
from omero_importer.session_in_hand import KEY, SessionInHand


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("omero"), people_with_an_archive()) as running:
        yield running


def filesets(world: OmeroWorld, path: str, parcel: Parcel) -> list[int]:
    query = "select e.fileset.id from FilesetEntry e where e.clientPath = :p"
    return sorted(int(str(row[0])) for row in world.ask(query, p=client_path(f"{parcel.delivery.labels}/{path}")))


def import_again(
    world: OmeroWorld, parcel: Parcel, record: ImportRecord, path: str, *, content: bytes = b"", marked: bool = True
) -> int:
    """As an import whose end nobody heard of: the same file once more, complete, under the same mark and in the same place."""
    query = "select a.id from MapAnnotation a join a.mapValue v where a.ns = 'lading/delivery' and v.value = :d"
    ((mark, *_),) = world.ask(query, d=parcel.delivery.id)
    with world.client("carol") as client:
        contents = {client_path(f"{parcel.delivery.labels}/{path}"): content or (parcel.root / path).read_bytes()}
        links = [omero.model.MapAnnotationI(rlong(mark), False)] if marked else []
        ended = Importing(client, contents, links=links).carry_out()
        assert not ended.error
        for image in ended.images:
            link = omero.model.DatasetImageLinkI()
            link.parent = omero.model.DatasetI(rlong(int(record.target["place_id"])), False)
            link.child = omero.model.ImageI(image.id, False)
            client.getSession().getUpdateService().saveObject(link)
        return ended.fileset


def remove(world: OmeroWorld, fileset: int) -> None:
    with world.client("carol") as client:
        delete(client, "Fileset", fileset)


def said_of(outcomes: Mapping[str, FileOutcome]) -> Sequence[Outcome]:
    return [outcomes[path].outcome for path in sorted(outcomes)]


def test_a_second_complete_fileset_keeps_its_files_from_being_verified(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    record = carry_out(world.importer(), parcel)
    (first,) = filesets(world, "plain/0001.tif", parcel)
    second = import_again(world, parcel, record, "plain/0001.tif")

    outcomes = by_path(world.importer().verify(parcel, record))

    assert said_of(outcomes) == [Outcome.UNVERIFIED, Outcome.VERIFIED]
    told = outcomes["plain/0001.tif"]
    assert told.how == f"OMERO holds it in 2 Filesets: Fileset:{first} (verified), Fileset:{second} (verified)"
    assert f"omero delete Fileset:{second}; then: lading retry {parcel.delivery.id}" in told.hint


def test_the_finding_names_both_and_what_to_type(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    record = carry_out(world.importer(), parcel)
    second = import_again(world, parcel, record, "plain/0001.tif")

    with Outcomes() as outcomes:
        outcomes.collect(world.importer().verify(parcel, record))
        (found,) = outcomes.unproven()

    assert found.path == "plain/0001.tif"
    assert f"Fileset:{second}" in found.message
    assert f"omero delete Fileset:{second}" in found.hint


@pytest.mark.parametrize("reread", [False, True])
def test_each_of_the_two_is_compared_with_the_manifest(world: OmeroWorld, reread: bool) -> None:
    parcel = world.parcel(images=2)
    record = carry_out(world.importer(), parcel)
    (first,) = filesets(world, "plain/0001.tif", parcel)
    other = (parcel.root / "plain/0002.tif").read_bytes()
    second = import_again(world, parcel, record, "plain/0001.tif", content=other)

    importer = world.importer()
    outcomes = by_path((importer.reread if reread else importer.verify)(parcel, record))

    told = outcomes["plain/0001.tif"]
    assert told.outcome is Outcome.MISMATCH
    assert f"Fileset:{first} (verified), Fileset:{second} (mismatch: " in told.how
    assert f"omero delete Fileset:{second};" in told.hint


def test_when_the_older_one_is_poor_that_is_the_one_too_many(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    record = carry_out(world.importer(), parcel)
    (first,) = filesets(world, "plain/0001.tif", parcel)
    world.destroy(parcel, "plain/0001.tif")
    second = import_again(world, parcel, record, "plain/0001.tif")

    (told,) = world.importer().reread(parcel, record)

    assert told.outcome is Outcome.UNVERIFIED
    assert f"Fileset:{first} (missing: gone from the server's disk), Fileset:{second} (verified)" in told.how
    assert f"omero delete Fileset:{first};" in told.hint


def test_when_one_was_removed_the_other_is_proven(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    record = carry_out(world.importer(), parcel)
    (first,) = filesets(world, "plain/0001.tif", parcel)
    second = import_again(world, parcel, record, "plain/0001.tif")
    assert not all_verified(bring_home(world.importer(), parcel, attempts=2), parcel)
    assert filesets(world, "plain/0001.tif", parcel) == [first, second]  # nothing is removed by us

    remove(world, first)

    assert all_verified(bring_home(world.importer(), parcel), parcel)
    assert filesets(world, "plain/0001.tif", parcel) == [second]


def test_a_second_one_without_images_goes_by_itself(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    record = carry_out(world.importer(), parcel)
    query = "select a.id from MapAnnotation a join a.mapValue v where a.ns = 'lading/delivery' and v.value = :d"
    ((mark, *_),) = world.ask(query, d=parcel.delivery.id)
    with world.client("carol") as client:
        contents = {client_path(f"{parcel.delivery.labels}/plain/0001.tif"): b"half"}
        Importing(client, contents, links=[omero.model.MapAnnotationI(rlong(mark), False)]).announce().upload_all()

    (told,) = world.importer().verify(parcel, record)

    assert told.outcome is not Outcome.VERIFIED
    assert told.hint == f"lading retry {parcel.delivery.id}"
    assert all_verified(bring_home(world.importer(), parcel), parcel)
    assert len(filesets(world, "plain/0001.tif", parcel)) == 1


def test_two_without_a_mark_are_both_taken_back_and_told(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    record = carry_out(world.importer(), parcel)
    import_again(world, parcel, record, "plain/0001.tif", marked=False)
    with world.client("carol") as client:
        query = f"select a from MapAnnotation a join a.mapValue v where v.value = '{parcel.delivery.id}'"
        (mark,) = client.getSession().getQueryService().findAllByQuery(query, None)
        delete(client, "MapAnnotation", unwrap(mark.id))

    (told,) = bring_home(world.importer(), parcel, attempts=2).values()

    assert len(filesets(world, "plain/0001.tif", parcel)) == 2
    assert told.outcome is Outcome.UNVERIFIED
    assert "in 2 Filesets" in told.how


def test_who_looks_in_person_takes_another_routes_copy_in_another_group_for_no_double(world: OmeroWorld) -> None:
    archived = world.parcel(images=1)
    carry_out(world.importer(group=ARCHIVE, create="all"), archived)
    content = {one.path: (archived.root / one.path).read_bytes() for one in archived.manifest}
    again = world.parcel(images=0, files=content)
    parcel = replace(again, delivery=replace(again.delivery, route="other"))
    record = carry_out(world.importer(), parcel)
    assert len(filesets(world, "plain/0001.tif", parcel)) == 2

    with world.client("carol") as client:
        host, port = world.sandbox.host, world.sandbox.tcp_port
        settings = world.repository("nobody") | {KEY: SessionInHand(host, "carol", GROUP, client.getSessionId(), port)}
        state = world.folder / "state"
        person = OmeroImporter.from_settings(settings, {}, inbox_root=world.inbox.root, state=state)
        alone = by_path(person.verify(parcel, record))
        second = import_again(world, parcel, record, "plain/0001.tif")
        doubled = by_path(person.verify(parcel, record))
        person.close()

    assert said_of(alone) == [Outcome.VERIFIED]
    assert said_of(doubled) == [Outcome.UNVERIFIED]
    assert "in 2 Filesets" in doubled["plain/0001.tif"].how
    assert f"Fileset:{second} (verified)" in doubled["plain/0001.tif"].how
