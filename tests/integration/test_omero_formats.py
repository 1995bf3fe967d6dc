"""Formats of many files, from Bio-Formats' answer to the images in a stand-in OMERO that reads them with Bio-Formats too."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

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
    made = tmp_path / "made"
    made.mkdir()
    names = write(made)
    parcel = world.parcel(images=0, files={name: (made / name).read_bytes() for name in names})
    table = world.repository(world.login("carol", USERS["carol"])) | {"bioformats": {"use": "always"}}
    importer = OmeroImporter.from_settings(
        table, {"create": "dataset"}, inbox_root=world.inbox.root, state=world.folder / "state"
    )

    try:
        outcomes = bring_home(importer, parcel)
    finally:
        importer.close()

    assert all_verified(outcomes, parcel), {path: one.how for path, one in outcomes.items()}
    like = f"{parcel.delivery.labels}/%"
    filesets = world.ask("select e.fileset.id, e.clientPath from FilesetEntry e where e.clientPath like :p", p=like)
    (fileset,) = {fileset for fileset, _ in filesets}
    assert len(filesets) == len(names)
    images = world.ask(f"select p.sizeZ, p.sizeC, p.sizeT from Pixels p join p.image i where i.fileset.id = {fileset}")
    assert [tuple(one) for one in images] == [sizes]
