"""The next command that an error names is one that can be pasted: of folders and labels with spaces, too."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lading.cli.main import lading
from lading.delivery import Stage
from lading.errors import Unreachable
from lading.inbox import Inbox
from lading.testing.instrument import FILES, AnsweringServer, Instrument


def pasted(command: str) -> Result:
    """What `lading` makes of the command; nothing is sent."""
    program, *words = shlex.split(command)
    assert program == "lading"
    return CliRunner().invoke(lading, [*words, "--dry-run"])


@pytest.fixture
def instrument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instrument:
    made = Instrument(tmp_path / "my studies")
    _ = made.inbox
    monkeypatch.setenv("LADING_CONFIG", str(made.file))
    return made


def test_sending_a_folder_whose_labels_are_not_known(instrument: Instrument, tmp_path: Path) -> None:
    session = tmp_path / "other studies" / "visit 1"
    session.mkdir(parents=True)
    (session / "a.dcm").write_bytes(b"image")

    refused = CliRunner().invoke(lading, ["send", str(session), "-r", "mri"])
    (command,) = [line.removeprefix("next:  ") for line in refused.stderr.splitlines() if line.startswith("next:")]

    assert "as P/S/L" in pasted(command).stdout


def test_sending_a_folder_whose_name_can_be_no_label(instrument: Instrument) -> None:
    session = instrument.write("P 1/Jane Doe/visit: 1", FILES)

    refused = CliRunner().invoke(lading, ["send", str(session), "-r", "mri"])
    (command,) = [line.removeprefix("next:  ") for line in refused.stderr.splitlines() if line.startswith("next:")]

    assert "as P/S/L" in pasted(command).stdout


def test_sending_anew_what_the_server_gave_up(instrument: Instrument) -> None:
    server = AnsweringServer(instrument.inbox)
    instrument.write("P 1/Jane Doe/visit 1", FILES)
    instrument.turn()
    (delivery,) = server.inbox.arrivals()
    server.inbox.publish(server.inbox.accept(delivery))
    server.answer(delivery, Stage.CANCELLED)
    instrument.later(1)
    instrument.turn()

    assert "as P 1/Jane Doe/visit 1" in pasted(instrument.only().next_command).stdout


def test_an_inbox_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        Inbox.open(tmp_path)
    file = tmp_path / "lading.toml"
    file.write_text(f'home = "home"\n[inboxes.main]\npath = "{tmp_path}"\n')

    program, *words = caught.value.next_command.partition(" (")[0].split()
    made = CliRunner().invoke(lading, ["--config", str(file), *words])

    assert (program, made.exit_code) == ("lading", 0), made.output
    Inbox.open(tmp_path)
