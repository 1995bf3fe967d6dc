"""The tree of commands: each lies where it is said to lie, and none is imported for another's sake."""

import subprocess
import sys

from lading.cli.main import COMMANDS, lading


def test_every_command_has_the_name_under_which_it_is_found() -> None:
    assert {name: command.name for name, command in lading.commands.items()} == {name: name for name in COMMANDS}


def test_a_command_does_not_import_the_others() -> None:
    program = "import sys; from lading.cli.main import lading; lading.commands['inbox']; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(ran.stdout.split())
    assert "lading.cli.serving" in loaded
    assert not {"lading.cli.looking", "lading.cli.fetching", "lading.agent.loop"} & loaded
