"""`lading status` says which repositories are left alone, and why."""

import json
import os
import subprocess
import sys
from pathlib import Path

from lading.valves import FOLDER


def status(home: Path, *options: str) -> str:
    settings = home / "lading.toml"
    settings.write_text(f'home = "{home.as_posix()}"\n')
    argv = [sys.executable, "-m", "lading", "--config", str(settings), "status", *options]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}).stdout


def closed(home: Path, until: float) -> None:
    (home / FOLDER).mkdir()
    state = {"repository": "omero.example.org:4064", "until": until, "calm": 3, "reason": "it is on fire"}
    (home / FOLDER / "omero.json").write_text(json.dumps(state))


def test_a_closed_valve_is_shown_with_its_reason(tmp_path: Path) -> None:
    closed(tmp_path, until=4e9)

    assert "omero.example.org:4064: left alone" in " ".join(status(tmp_path).split())
    (valve,) = json.loads(status(tmp_path, "--json"))["valves"]
    assert (valve["position"], valve["reason"]) == ("closed", "it is on fire")


def test_a_recovering_one_too(tmp_path: Path) -> None:
    closed(tmp_path, until=1.0)

    assert "recovering" in status(tmp_path)


def test_nothing_is_said_where_there_is_none(tmp_path: Path) -> None:
    assert json.loads(status(tmp_path, "--json"))["valves"] == []
