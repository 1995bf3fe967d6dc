"""The valve's figures: what closed it, what it watches, under the name that the settings have for the server."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.config import Config, load
from lading.metrics import files
from lading.metrics.text import exposition
from lading.testing.scraping import Figures, read
from lading.valves import FOLDER
from omero_importer.settings import ValveSettings
from omero_importer.valve import Valve

SETTINGS = """
home = "home"
[repositories.micro]
kind = "omero"
host = "omero.example.org"
[repositories.again]
kind = "omero"
host = "omero.example.org"
port = 4064
[repositories.other]
kind = "omero"
host = "omero.example.org"
port = 4063
"""
NOW = 1_000_000.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "lading.toml").write_text(SETTINGS)
    (tmp_path / "home").mkdir()
    return load(tmp_path / "lading.toml")


@pytest.fixture
def valve(config: Config) -> Valve:
    return Valve(config.home, "omero.example.org:4064", ValveSettings(), clock=lambda: NOW)


def figures(config: Config, now: float = NOW) -> Figures:
    return read(exposition(files.valves(config, lambda: now))[0].decode())


def test_a_valve_that_nobody_touched_has_no_figures(config: Config) -> None:
    assert figures(config) == {}


def test_an_open_one_tells_what_it_watches(config: Config, valve: Valve) -> None:
    valve.saw_database(0.02)
    valve.saw_free(50_000_000)
    with valve.watching():
        pass

    found = figures(config)

    for name in ("micro", "again"):
        assert found.labelled("lading_valve", repository=name, position="open") == 1
        assert found.labelled("lading_valve", repository=name, position="closed") == 0
        assert found.labelled("lading_valve_database_seconds", repository=name) == 0.02
        assert found.labelled("lading_valve_database_usual_seconds", repository=name) == 0.02
        assert found.labelled("lading_valve_free_bytes", repository=name) == 50e9
        assert 0 < found.labelled("lading_valve_verify_seconds", repository=name) < 60
    assert not any("other" in name or "cause" in name for name in found)


@pytest.mark.parametrize("cause", ["database", "disk", "busy", "write", "slot"])
def test_a_closed_one_says_what_closed_it(config: Config, valve: Valve, cause: str) -> None:
    if cause == "database":
        valve.saw_database(60)
        valve.saw_database(60)
    elif cause == "disk":
        valve.saw_free(0)
    elif cause == "busy":
        valve.saw_back_off(10)
    elif cause == "write":
        valve.saw_no_room("no room")
    else:
        quick = Valve(config.home, "omero.example.org:4064", ValveSettings(verify_wait=0.01), clock=lambda: NOW)
        with quick.watching():
            until = time.monotonic() + 60
            while not quick.state().until:
                assert time.monotonic() < until
                time.sleep(0.01)

    found, ajar = figures(config), figures(config, NOW + 31)

    assert found.labelled("lading_valve", repository="micro", position="closed") == 1
    assert found.labelled("lading_valve", repository="micro", position="open") == 0
    assert found.labelled("lading_valve_cause", repository="micro", cause=cause) == 1
    assert found.labelled("lading_valve_closed_for_seconds", repository="micro") == 30
    assert found.labelled("lading_valve_pause_seconds", repository="micro") == 30
    assert found.labelled("lading_valve_imports_to_go", repository="micro") == 3
    if cause == "disk":
        assert found.labelled("lading_valve_free_bytes", repository="micro") == 0
    assert ajar.labelled("lading_valve", repository="micro", position="ajar") == 1
    assert ajar.labelled("lading_valve_closed_for_seconds", repository="micro") == 0


def test_imports_under_way_are_counted_and_those_of_the_dead_are_not(config: Config, valve: Valve) -> None:
    valve.saw_database(0.02)
    told = [figures(config)]
    with valve.import_under_way(), valve.import_under_way():
        told.append(figures(config))
        program = (
            "import sys; from pathlib import Path; from omero_importer.settings import ValveSettings;"
            "from omero_importer.valve import Valve\n"
            "with Valve(Path(sys.argv[1]), sys.argv[2], ValveSettings(slots=3)).import_under_way():\n"
            "    print('there', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(config.home), valve.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"there\n"
            told.append(figures(config))
            other.kill()
            other.wait(60)
        told.append(figures(config))
    told.append(figures(config))

    assert [each.labelled("lading_valve_imports_under_way", repository="micro") for each in told] == [0, 2, 3, 2, 0]


def test_a_file_of_an_older_program_and_one_of_a_newer_are_read(config: Config) -> None:
    (config.home / FOLDER).mkdir()
    for name, more in (("old.example.org:1", {}), ("new.example.org:1", {"wind": "north"})):
        state = {"repository": name, "until": NOW + 9, "calm": 3, "reason": "it is on fire", **more}
        (config.home / FOLDER / f"{name[:3]}.json").write_text(json.dumps(state))
    (config.home / FOLDER / "torn.json").write_text("[1")
    (config.home / FOLDER / "odd.json").write_text("[1]")

    found = figures(config)

    for name in ("old.example.org:1", "new.example.org:1"):
        assert found.labelled("lading_valve", repository=name, position="closed") == 1
        assert found.labelled("lading_valve_cause", repository=name, cause="unknown") == 1
        assert f"lading_valve_free_bytes{{repository='{name}'}}" not in found
