"""An import that is killed again and again, at random moments, leaves every image in OMERO once, and nothing else."""

import random
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Parcel
from lading.testing.carrying import FileJournal
from lading.testing.importer_suite import all_verified, bring_home
from lading.testing.omero_world import OmeroWorld, running_omero

KILLS = 50
KILLS_OF_ONE = 8
"""Then it may live: on a slow machine it might never get further."""
IMAGES = 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    with running_omero(tmp_path / "omero") as sandbox:
        (tmp_path / "world").mkdir()
        world = OmeroWorld(sandbox, tmp_path / "world")
        sandbox.faults(step_delay_s=0.02)
        kills, parcels = 0, []
        while kills < KILLS:
            parcel = world.parcel(f"MR{len(parcels)}", images=IMAGES, companions=["a.txt"])
            parcels.append(parcel)
            kills += _killed(world, parcel, chance)
            journal = FileJournal(world.errand(parcel).journal)
            assert all_verified(bring_home(world.importer(), parcel, journal), parcel)

        assert world.sessions() == len(parcels)
        _every_image_is_there_once(world, parcels)
        world.close()


def _killed(world: OmeroWorld, parcel: Parcel, chance: random.Random) -> int:
    """Start the import until it gets to its end; how often it was killed."""
    for kills in range(KILLS_OF_ONE):
        process = world.errand(parcel).start()
        try:
            assert process.wait(chance.uniform(0.8, 2.5)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        else:
            return kills
    return KILLS_OF_ONE


def _every_image_is_there_once(world: OmeroWorld, parcels: list[Parcel]) -> None:
    paths = world.ask("select e.clientPath from FilesetEntry e where e.clientPath like :p", p=f"{world.project}/%")
    assert len(paths) == len({str(row[0]) for row in paths}) == IMAGES * len(parcels)
    images = world.ask(
        "select i.id, i.fileset.id from DatasetImageLink l join l.child i join l.parent d join d.projectLinks p"
        " where p.parent.name = :name",
        name=world.project,
    )
    assert len({row[0] for row in images}) == len({row[1] for row in images}) == IMAGES * len(parcels)
    assert world.sandbox.records("Fileset") == world.sandbox.records("Image") == IMAGES * len(parcels)
