"""Formats of many files, from Bio-Formats' answer to the images in a stand-in OMERO that reads them with Bio-Formats too."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Parcel
from lading.errors import Refused
from lading.sandbox.omero import SandboxOmero
from lading.testing import real_images
from lading.testing.importer_suite import all_verified, bring_home
from lading.testing.omero_world import USERS, OmeroWorld, people
from omero_importer.bioformats import missing_for_bioformats
from omero_importer.importer import OmeroImporter

pytestmark = pytest.mark.skipif(bool(missing_for_bioformats()), reason=missing_for_bioformats())


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with SandboxOmero(tmp_path_factory.mktemp("omero"), people=people(), java=True) as running:
        yield running


@pytest.fixture
def world(sandbox: SandboxOmero, tmp_path: Path) -> Iterator[OmeroWorld]:
    made = OmeroWorld(sandbox, tmp_path, tls=False, route={"files": {}, "reread": False})
    yield made
    made.close()


@pytest.mark.parametrize(
    ("write", "sizes"),
    [
        (real_images.micro_manager, (1, 1, 3)),
        (real_images.companion_set, (3, 1, 1)),
        (real_images.ome_tiff_set, (1, 1, 3)),
        (real_images.pattern_series, (1, 1, 4)),
        (real_images.ome_tiff_pyramid, (1, 2, 1)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_set_of_files_is_one_fileset_and_one_image(
    world: OmeroWorld, tmp_path: Path, write: Callable[[Path], list[str]], sizes: tuple[int, int, int]
) -> None:
    parcel = parcel_of(world, tmp_path, write)

    all_proven(world, parcel, create="dataset")

    assert [tuple(one) for one in images_of_the_one_fileset(world, parcel)] == [sizes]


def test_a_plate_of_many_files_is_one_fileset_and_hangs_on_its_screen(world: OmeroWorld, tmp_path: Path) -> None:
    parcel = parcel_of(world, tmp_path, real_images.plate_set)

    all_proven(world, parcel, create="all", screen="Screen of {project}")

    wells = world.ask(
        "select w.column, s.image.id from WellSample s join s.well w join w.plate p join p.screenLinks l"
        " where l.parent.name = :name",
        name=f"Screen of {world.project}",
    )
    assert sorted(column for column, _ in wells) == [0, 0, 1, 1]
    assert len({image for _, image in wells}) == len(images_of_the_one_fileset(world, parcel)) == 4


def test_a_plate_in_a_route_for_images_is_refused_and_hangs_on_its_screen_once_the_route_has_one(
    world: OmeroWorld, tmp_path: Path
) -> None:
    parcel = parcel_of(world, tmp_path, real_images.plate_set)

    for _ in range(2):
        with pytest.raises(Refused, match=r"plate\.companion\.ome is a plate"):
            all_proven(world, parcel, create="dataset")

    images = "select l.id from DatasetImageLink l join l.child i join l.parent d join d.projectLinks p where p.parent.name = :name"
    assert world.ask(images, name=world.project) == []  # a field of a well is no image of a dataset
    all_proven(world, parcel, create="all", screen="Screen of {project}")
    assert len(images_of_the_one_fileset(world, parcel)) == 4  # which was not sent again


def test_an_image_in_a_route_for_plates_is_refused(world: OmeroWorld, tmp_path: Path) -> None:
    parcel = parcel_of(world, tmp_path, real_images.png)

    with pytest.raises(Refused, match=r"overview\.png is on no plate"):
        all_proven(world, parcel, create="all", screen="Screen of {project}")

    all_proven(world, parcel, create="dataset")


def parcel_of(world: OmeroWorld, tmp_path: Path, write: Callable[[Path], list[str]]) -> Parcel:
    made = tmp_path / "made"
    made.mkdir()
    return world.parcel(images=0, files={name: (made / name).read_bytes() for name in write(made)})


def all_proven(world: OmeroWorld, parcel: Parcel, **route: str) -> None:
    table = world.repository(world.login("carol", USERS["carol"])) | {"bioformats": {"use": "always"}}
    importer = OmeroImporter.from_settings(table, route, inbox_root=world.inbox.root, state=world.folder / "state")

    try:
        outcomes = bring_home(importer, parcel)
    finally:
        importer.close()

    assert all_verified(outcomes, parcel), {path: one.how for path, one in outcomes.items()}


def images_of_the_one_fileset(world: OmeroWorld, parcel: Parcel) -> list[list[object]]:
    """The sizes of its images. All files of the delivery are in it."""
    like = f"{parcel.delivery.labels}/%"
    entries = world.ask("select e.fileset.id, e.clientPath from FilesetEntry e where e.clientPath like :p", p=like)
    (fileset,) = {fileset for fileset, _ in entries}
    assert len(entries) == parcel.manifest.summary.files
    return world.ask(f"select p.sizeZ, p.sizeC, p.sizeT from Pixels p join p.image i where i.fileset.id = {fileset}")
