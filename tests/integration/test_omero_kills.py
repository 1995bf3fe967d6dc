"""An import that is killed again and again, at random moments, leaves every image in OMERO once, and nothing else."""

import random
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
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
STEP_S = 0.05
IN_THE_MIDDLE = 12
"""Of the kills at least so many must find an import begun and not ended: a kill before or after it proves little."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    chance = random.Random(20261121)
    with running_omero(tmp_path / "omero") as sandbox:
        (tmp_path / "world").mkdir()
        world = OmeroWorld(sandbox, tmp_path / "world")
        sandbox.faults(step_delay_s=STEP_S)
        kills, middle = 0, 0
        parcels: list[Parcel] = []
        while kills < KILLS:
            parcel = world.parcel(f"MR{len(parcels)}", images=IMAGES, companions=["a.txt"])
            killed = list(islice(iter(partial(_killed, world, parcel, chance, done=len(parcels)), None), KILLS_OF_ONE))
            parcels.append(parcel)
            kills, middle = kills + len(killed), middle + sum(killed)
            journal = FileJournal(world.errand(parcel).journal)
            assert all_verified(bring_home(world.importer(), parcel, journal), parcel)

        record_property("kills", f"{kills}, of which in the middle of an import {middle}")
        assert middle >= IN_THE_MIDDLE
        assert world.sessions() == len(parcels)
        _every_image_is_there_once(world, parcels)
        world.close()


def _killed(world: OmeroWorld, parcel: Parcel, chance: random.Random, *, done: int) -> bool | None:
    """Import, and die at any moment after the login. Whether that was in the middle; None when it had come to its end."""
    logins = world.sandbox.count("Router.createSession")
    process = world.errand(parcel).start()
    try:
        while world.sandbox.count("Router.createSession") == logins and process.poll() is None:
            time.sleep(0.01)
        # As long as it all takes, and a little more.
        assert process.wait(chance.uniform(0.0, 1.5 * IMAGES * 6 * STEP_S)) == 0
    except subprocess.TimeoutExpired:
        begun = world.sandbox.records("Fileset") > done * IMAGES
        ended = world.sandbox.records("Image") == (done + 1) * IMAGES
        process.kill()
        process.wait()
        return begun and not ended
    return None


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
