"""Where the OMERO importer puts things, whose they are, and what it finds there already, against the stand-in."""

import threading

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Outcome, Parcel
from lading.errors import Refused, TargetMissing
from lading.findings import refuses
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.omero_world import GROUP, USERS, OmeroWorld
from omero_importer.importer import OmeroImporter
from omero_importer.session_in_hand import KEY, SessionInHand


def filesets(world: OmeroWorld, parcel: Parcel) -> list[list[object]]:
    """The Filesets of a parcel, one row each: id, number of images."""
    rows = world.ask(
        "select distinct e.fileset.id from FilesetEntry e where e.clientPath like :p", p=f"{parcel.delivery.labels}/%"
    )
    return [[row[0], len(world.ask(f"select i.id from Image i where i.fileset.id = {row[0]}"))] for row in rows]


# -- targets ------------------------------------------------------------------------------------------------------------


def test_many_imports_at_once_make_one_project_and_one_dataset(world: OmeroWorld) -> None:
    route = {"create": "all", "project": "New-{project}", "dataset": "all of {participant}", "on_existing": "append"}
    parcels = [world.parcel(f"MR{number}", images=1) for number in range(4)]
    # Each with locks of its own, as on several machines.
    importers = [
        OmeroImporter.from_settings(
            world.repository(world.login("carol", USERS["carol"])),
            {**route, "files": {"attach": ["*.txt"]}},
            inbox_root=world.inbox.root,
            state=world.folder / f"machine-{number % 2}",
        )
        for number in range(4)
    ]
    problems: list[BaseException] = []

    def work(importer: OmeroImporter, parcel: Parcel) -> None:
        try:
            assert all_verified(bring_home(importer, parcel), parcel)
        except BaseException as exc:  # noqa: BLE001 - told below
            problems.append(exc)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(importers, parcels, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for importer in importers:
        importer.close()

    assert not problems
    name = f"New-{world.project}"
    assert len(world.ask("select p.id from Project p where p.name = :name", name=name)) == 1
    assert len(world.ask("select d.child.id from ProjectDatasetLink d where d.parent.name = :name", name=name)) == 1


def test_a_screen_gets_what_belongs_there(world: OmeroWorld) -> None:
    parcel = world.parcel(images=0, companions=["a.txt"])
    importer = world.importer(create="all", screen="Screen of {project}")

    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert world.ask("select s.id from Screen s where s.name = :name", name=f"Screen of {world.project}")


def test_the_data_belongs_to_its_owner(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, participant="dave")
    importer = world.importer_of("root", USERS["root"], create="all", owner="{participant}", group=GROUP)

    assert all_verified(bring_home(importer, parcel), parcel)

    owners = world.ask(
        "select i.details.owner.omeName from Image i join i.fileset f join f.usedFiles e where e.clientPath like :p",
        p=f"{parcel.delivery.labels}/%",
    )
    assert owners == [["dave"]]


def test_owners_can_be_mapped(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    importer = world.importer_of(
        "root", USERS["root"], create="all", owner="{participant}", owners={"sub-001": "dave"}, group=GROUP
    )

    assert importer.plan(parcel).target["owner"] == "dave"


def test_acting_for_somebody_takes_the_privilege(world: OmeroWorld) -> None:
    with pytest.raises(TargetMissing, match="dave"):
        world.importer(owner="dave").plan(world.parcel())


def test_an_owner_who_is_not_there_is_named(world: OmeroWorld) -> None:
    with pytest.raises(TargetMissing, match="nobody-here"):
        world.importer_of("root", USERS["root"], owner="nobody-here").plan(world.parcel())


def test_a_group_that_is_not_ours_is_named(world: OmeroWorld) -> None:
    with pytest.raises(TargetMissing, match="no-such-group"):
        world.importer(group="no-such-group").plan(world.parcel())


def test_a_person_lends_a_session_and_keeps_it(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    with world.client("dave") as client:
        session = SessionInHand(world.sandbox.host, "dave", GROUP, client.getSessionId(), world.sandbox.tcp_port)
        table = {**world.repository("UNUSED"), KEY: session}
        importer = OmeroImporter.from_settings(
            table, {"create": "all"}, inbox_root=world.inbox.root, state=world.folder
        )

        assert all_verified(bring_home(importer, parcel), parcel)
        importer.close()

        assert client.getSession().getAdminService().getEventContext().userName == "dave"


# -- what is there already ----------------------------------------------------------------------------------------------


def test_an_addendum_is_appended_where_the_route_says_so(world: OmeroWorld) -> None:
    first = world.parcel("MR1", images=1)
    carry_out(world.importer(), first)
    second = world.parcel("MR1", images=1, files={"more.txt": b"more"})
    importer = world.importer(on_existing="append")

    assert all_verified(bring_home(importer, second), second)
    assert world.sessions() == 1


def test_the_same_content_in_another_delivery_is_not_doubled(world: OmeroWorld) -> None:
    first = world.parcel("MR1", images=2, companions=["a.txt"])
    carry_out(world.importer(), first)
    content = {entry.path: (first.root / entry.path).read_bytes() for entry in first.manifest}
    again = world.parcel("MR1", images=0, files=content)
    assert again.delivery.id != first.delivery.id
    importer = world.importer()

    record = carry_out(importer, again)

    assert record.already_there
    assert all_verified(by_path(importer.verify(again, record)), again)
    assert [row[1] for row in filesets(world, again)] == [1, 1]


def test_a_mark_without_anything_stops_nobody(world: OmeroWorld) -> None:
    first = world.parcel("MR1", images=1)
    world.sandbox.faults(import_errors=["import-unknown-format"])
    with pytest.raises(Refused):
        carry_out(world.importer(), first)
    other = world.parcel("MR1", images=1)

    assert all_verified(bring_home(world.importer(), other), other)


def test_an_image_that_lost_its_dataset_is_put_back(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    importer = world.importer()
    record = carry_out(importer, parcel)
    with world.client("carol") as client:
        links = (
            client.getSession()
            .getQueryService()
            .findAllByQuery(f"select l from DatasetImageLink l where l.parent.id = {record.target['place_id']}", None)
        )
        client.getSession().getUpdateService().deleteObject(links[0])
    first = by_path(importer.verify(parcel, record))
    assert sorted(str(outcome.outcome) for outcome in first.values()) == ["unverified", "verified"]

    assert all_verified(bring_home(importer, parcel), parcel)


# -- what goes along ----------------------------------------------------------------------------------------------------


def test_mark_tags_and_key_values(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, files={"metadata.csv": b"key,value\nstain,DAPI\n", "notes.txt": b"n"})
    importer = world.importer(tags=["by lading", "{participant}"])

    for _ in range(2):
        carry_out(importer, parcel)

    dataset = importer.plan(parcel).target["dataset"]
    found = world.ask(
        "select v.name, v.value from DatasetAnnotationLink l join l.child a join a.mapValue v where l.parent.name = :d",
        d=dataset,
    )
    assert ["delivery", parcel.delivery.id] in found
    assert ["manifest", parcel.manifest.summary.digest] in found
    assert found.count(["stain", "DAPI"]) == 1
    tags = world.ask(
        "select t.textValue from DatasetAnnotationLink l join l.child t where l.parent.name = :d and t.textValue is not null",
        d=dataset,
    )
    assert sorted(tags) == [["by lading"], ["sub-001"]]
    marked = world.ask(
        "select v.value from ImageAnnotationLink l join l.child a join a.mapValue v where v.name = 'delivery' and v.value = :d",
        d=parcel.delivery.id,
    )
    assert marked == [[parcel.delivery.id]]


def test_what_cannot_be_decided_refuses_the_delivery(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, files={"strange.xyz": b"?"})

    plan = world.importer().plan(parcel)

    assert refuses(plan.findings)
    assert not filesets(world, parcel)


def test_files_that_a_check_left_out_are_filtered(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    importer = world.importer()
    skips = {"plain/0001.tif": "a bad day"}

    record = importer.run(parcel, importer.plan(parcel, skips), MemoryJournal())
    outcomes = by_path(importer.verify(parcel, record))

    assert outcomes["plain/0001.tif"].outcome is Outcome.FILTERED
    assert outcomes["plain/0002.tif"].outcome is Outcome.VERIFIED


def test_a_fileset_of_several_files_is_one_import(world: OmeroWorld) -> None:
    single = world.parcel("one", images=1)
    image = (single.root / "plain/0001.tif").read_bytes()
    parcel = world.parcel(
        images=0, files={f"set{n}/{name}.tif": image + name.encode() for n in (1, 2) for name in ("a", "b", "c")}
    )
    importer = world.importer(
        files={"filesets": [{"pattern": f"set{n}/a.tif", "companions": ["*.tif"]} for n in (1, 2)]}
    )

    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert [row[1] for row in filesets(world, parcel)] == [1, 1]
