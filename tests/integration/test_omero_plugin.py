"""`omero transport`: the commands of `lading` inside the real `omero`, run as an ordinary user."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lading.cli.main import lading
from lading.testing.omero_command import OmeroCommand


@pytest.fixture(scope="module")
def omero() -> Iterator[OmeroCommand]:
    with OmeroCommand() as command:
        yield command


def test_help_lists_every_command_and_says_which_plugin_it_is_not(omero: OmeroCommand) -> None:
    shown = omero.run("transport", "-h")

    assert shown.returncode == 0, shown.stderr
    listed = shown.stdout.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == list(lading.commands)
    assert "`omero transfer` is another plug-in" in shown.stdout
    for option in ("-C", "-s", "-p", "-u", "-w", "-k", "-g", "--sudo"):
        assert f"\n  {option}" in shown.stdout


def test_it_stands_in_the_list_of_omeros_commands_once(omero: OmeroCommand) -> None:
    shown = omero.run("-h")

    assert [line.split()[0] for line in shown.stdout.splitlines() if line.strip()].count("transport") == 1
    assert "Error loading" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("command", [("send",), ("server", "run"), ("fix",)])
def test_a_command_has_the_options_it_has_as_lading(omero: OmeroCommand, command: tuple[str, ...]) -> None:
    own = subprocess.run([sys.executable, "-m", "lading", *command, "-h"], capture_output=True, text=True, check=True)

    shown = omero.run("transport", *command, "-h")

    assert shown.returncode == 0, shown.stderr
    assert words(shown.stdout).replace("omero transport", "lading") == words(own.stdout)


def test_without_a_command_it_explains_itself(omero: OmeroCommand) -> None:
    shown = omero.run("transport")

    assert (shown.returncode, "Commands:" in shown.stdout) == (0, True)


def test_the_exit_code_is_the_commands(omero: OmeroCommand) -> None:
    no_settings = omero.run("transport", "status", "--json")
    no_command = omero.run("transport", "sendd")
    version = omero.run("transport", "--version")

    assert no_settings.returncode == 2
    assert json.loads(no_settings.stdout)["error"]["code"] == "config"
    assert (no_command.returncode, version.returncode) == (2, 0)
    assert "lading, version" in version.stdout


def test_a_login_option_behind_the_command_is_refused_with_a_hint(omero: OmeroCommand) -> None:
    ran = omero.run("transport", "doctor", "-k", "no-such-key")

    assert ran.returncode == 2
    assert "login options come before the command" in ran.stderr


def test_settings_are_found_as_lading_finds_them(omero: OmeroCommand) -> None:
    settings = omero.home / "of-mine.toml"
    settings.write_text('home = "state"\n')

    ran = omero.run("transport", "--config", str(settings), "list", "--json")

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["deliveries"] == []


def test_no_other_command_of_omero_loads_anything_of_ours(omero: OmeroCommand) -> None:
    # What is not imported cannot make `omero -h` slower; a stopwatch would only tell how busy the machine is.
    program = (
        "import sys, omero.cli\n"
        "cli = omero.cli.CLI()\n"
        "before = set(sys.modules)\n"
        "cli.loadplugins()\n"
        "assert 'transport' in cli.controls, sorted(cli.controls)\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=omero.home)

    assert ran.returncode == 0, ran.stderr
    loaded = set(json.loads(ran.stdout.replace("'", '"')))
    assert loaded & {"lading", "click", "rich", "attrs", "attr", "cattrs", "structlog", "omero_importer"} == set()


def test_nothing_hides_the_real_omero_package() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import omero, omero.plugins; print(omero.__file__, omero.plugins.__file__)"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert "None" not in ran.stdout


def words(text: str) -> str:
    """The text with its line breaks where they do not matter: a longer program name folds lines elsewhere."""
    return click.unstyle(" ".join(text.split()))
