"""Scenario S14 against the stand-in OMERO: a folder format, names that are nearly alike, names that are alike but for case."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero")

from lading.delivery import Outcome, Parcel
from lading.errors import Refused, Rejected
from lading.findings import refuses
from lading.testing import real_images
from lading.testing.importer_suite import carry_out
from lading.testing.omero_world import OmeroWorld, running_omero


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OmeroWorld]:
    with running_omero(tmp_path / "omero") as sandbox:
        made = OmeroWorld(sandbox, tmp_path / "world", route={"stats": False, "thumbnails": False})
        yield made
        made.close()


@pytest.mark.parametrize("side", [8, pytest.param(127, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_an_ome_zarr_is_one_fileset_with_its_names_unchanged(world: OmeroWorld, tmp_path: Path, side: int) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    chunks = real_images.ome_zarr(folder, side=side)
    names = [*chunks, *real_images.png(folder, "a/b_c.png"), *real_images.png(folder, "a_b/c.png", seed=2)]
    parcel = world.parcel(images=0, files={name: (folder / name).read_bytes() for name in names})
    importer = world.importer()

    record = carry_out(importer, parcel)
    outcomes = list(importer.verify(parcel, record))

    assert {one.outcome for one in outcomes} == {Outcome.VERIFIED}
    assert sorted(one.path for one in outcomes) == sorted(names)
    stored = world.ask(
        "select e.fileset.id, e.clientPath from FilesetEntry e where e.clientPath like :p",
        p=f"{parcel.delivery.labels}/%",
    )
    assert sorted(str(path) for _, path in stored) == sorted(f"{parcel.delivery.labels}/{name}" for name in names)
    assert len({fileset for fileset, _ in stored}) == 3


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_as_ome_zarr_is_one_fileset_and_hangs_on_its_screen(
    world: OmeroWorld, tmp_path: Path, version: int
) -> None:
    parcel = plate_parcel(world, tmp_path, version)
    importer = world.importer(create="all", screen="Screen of {project}")

    outcomes = list(importer.verify(parcel, carry_out(importer, parcel)))

    assert {one.outcome for one in outcomes} == {Outcome.VERIFIED}
    assert len(outcomes) == len(list(parcel.manifest))
    assert len(world.ask("select f.id from Fileset f")) == 1
    assert on_the_screen(world) == [(0, 0), (0, 0), (1, 1), (1, 1)]


def test_a_plate_as_ome_zarr_in_a_route_for_images_is_refused_and_hangs_on_its_screen_once_the_route_has_one(
    world: OmeroWorld, tmp_path: Path
) -> None:
    parcel = plate_parcel(world, tmp_path)

    for _ in range(2):
        with pytest.raises(Refused, match=r"plate\.ome\.zarr/\.zattrs is a plate, and the route has a dataset"):
            carry_out(world.importer(create="dataset"), parcel)

    assert world.ask("select l.id from DatasetImageLink l") == []
    importer = world.importer(create="all", screen="Screen of {project}")
    assert {one.outcome for one in importer.verify(parcel, carry_out(importer, parcel))} == {Outcome.VERIFIED}
    assert len(world.ask("select f.id from Fileset f")) == 1  # it was not sent again
    assert on_the_screen(world) == [(0, 0), (0, 0), (1, 1), (1, 1)]


def test_an_image_as_ome_zarr_in_a_route_for_plates_is_refused(world: OmeroWorld, tmp_path: Path) -> None:
    names = real_images.ome_zarr(tmp_path, side=2)
    parcel = world.parcel(images=0, files={name: (tmp_path / name).read_bytes() for name in names})

    with pytest.raises(Refused, match=r"image\.ome\.zarr/\.zattrs is on no plate"):
        carry_out(world.importer(create="all", screen="Screen of {project}"), parcel)


def plate_parcel(world: OmeroWorld, tmp_path: Path, version: int = 2) -> Parcel:
    folder = tmp_path / "made"
    folder.mkdir()
    names = real_images.ome_zarr_plate(folder, version=version)
    return world.parcel(images=0, files={name: (folder / name).read_bytes() for name in names})


def on_the_screen(world: OmeroWorld) -> list[tuple[object, object]]:
    """Row and column of every field of the plates on the screen."""
    rows = world.ask(
        "select w.row, w.column, s.image.id from WellSample s join s.well w join w.plate p join p.screenLinks l"
        " where l.parent.name = :name",
        name=f"Screen of {world.project}",
    )
    return sorted((row, column) for row, column, _ in rows)


def test_names_that_differ_by_case_do_not_even_leave_the_sender(world: OmeroWorld) -> None:
    with pytest.raises(Rejected, match="differ only by upper and lower case"):
        world.parcel(images=0, files={"Image.TIF": b"1", "image.tif": b"2"})


def test_names_that_omero_would_make_alike_are_refused_before_anything_is_sent(
    world: OmeroWorld, tmp_path: Path
) -> None:
    real_images.tiff(tmp_path, "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    parcel = world.parcel(images=0, files={"10:30.tif": content, "10;30.tif": content + b"\0"})
    before = world.changes()

    plan = world.importer().plan(parcel)

    assert refuses(plan.findings)
    assert [(one.code, one.path) for one in plan.findings] == [("client-path-collides", "10;30.tif")]
    assert world.changes() == before
