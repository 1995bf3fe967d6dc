"""The tree of commands: each lies where it is said to lie, and none is imported for another's sake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lading.cli.main import COMMANDS, lading


def test_every_command_has_the_name_under_which_it_is_found() -> None:
    assert {name: command.name for name, command in lading.commands.items()} == {name: name for name in COMMANDS}


def test_a_command_does_not_import_the_others() -> None:
    program = "import sys; from lading.cli.main import lading; lading.commands['inbox']; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(ran.stdout.split())
    assert "lading.cli.serving" in loaded
    assert not {"lading.cli.looking", "lading.cli.fetching", "lading.agent.loop"} & loaded


@pytest.mark.parametrize(
    "words",
    [
        ("lst",),
        ("show",),
        ("send", "/not/there", "--route", "mri"),
        ("list", "--stage", "x"),
        ("send", ".", "--priority", "5000"),
    ],
)
def test_a_wrong_command_line_is_answered_in_json_where_that_was_asked_for(words: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(lading, [*words, "--json"], prog_name="lading")

    error = json.loads(ran.stdout)["error"]
    assert ran.exit_code == 2
    assert error["code"] == "usage"
    assert error["next"].endswith(" --help")
    assert CliRunner().invoke(lading, words).stdout == ""


def test_inboxes_are_told_to_machines_in_numbers(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text('[inboxes.main]\npath = "inbox"\n[inboxes.away]\npath = "away"\n')
    asking = ["--config", str(tmp_path / "lading.toml"), "inbox"]
    CliRunner().invoke(lading, [*asking, "create", "main"])

    main, away = json.loads(CliRunner().invoke(lading, [*asking, "list", "--json"]).stdout)["inboxes"]

    assert main == {**main, "name": "main", "path": str(tmp_path / "inbox"), "state": "ready", "sealed": 0}
    assert isinstance(main["free_bytes"], int)
    assert (away["free_bytes"], away["sealed"]) == (None, None)


def test_making_inboxes_where_the_settings_name_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text("[agent]\n")

    ran = CliRunner().invoke(lading, ["--config", str(tmp_path / "lading.toml"), "inbox", "create"])

    assert ran.exit_code == 2
    assert "the settings name no inbox" in ran.stderr
