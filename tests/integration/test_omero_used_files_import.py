"""Scenario S14 against the stand-in OMERO: a folder format, names that are nearly alike, names that are alike but for case."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero")

from lading.delivery import Outcome
from lading.errors import Rejected
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
