"""What the programs would refuse later is said by the doctor: each part that the settings name is made."""

from pathlib import Path

import pytest

from lading import doctor
from lading.config import load
from lading.errors import ConfigError, LadingError
from lading.inbox import Inbox
from lading.soundness import looks

SITE = """
home = "home"
[inboxes.main]
path = "inbox"
[repositories.xnat]
kind = "xnat"
url = "https://xnat.example.org"
[routes.mri]
inbox = "main"
repository = "xnat"
transport = { kind = "local", path = "inbox" }
"""
WATCH = """
[[agent.watch]]
path = "instrument"
route = "mri"
"""


def said(folder: Path, text: str) -> dict[str, str]:
    """What each look says; for one that refuses, the message."""
    (folder / "instrument").mkdir(exist_ok=True)
    Inbox.create(folder / "inbox")
    (folder / "lading.toml").write_text(text, encoding="utf-8")
    answers = {}
    for area, look in looks(load(folder / "lading.toml")):
        try:
            answers[area] = look()
        except LadingError as exc:
            answers[area] = f"{exc.code}: {exc.message}"
    return answers


def test_a_sound_site_is_called_so(tmp_path: Path) -> None:
    fetched = f'[routes.mri.fetch]\nkind = "rsync"\ntarget = "{tmp_path}"\n'

    answers = said(tmp_path, SITE + WATCH + fetched)

    assert answers == {
        "watch": str(tmp_path / "instrument"),
        "fetch mri": f"{tmp_path} answers",
        "checks mri": "2 can run",
    }


@pytest.mark.parametrize(
    ("more", "area", "words"),
    [
        (WATCH + 'template = "{project}/{session}"', "watch", "does not name {participant}"),
        (WATCH + 'template = "{project/{participant}/{session}"', "watch", "a brace that names nothing"),
        (WATCH + 'source = "quitefolder"', "watch", "did you mean 'quiet-folder'?"),
        ('[[agent.watch]]\npath = "inbox/x"\nroute = "mri"', "watch", "lies in the inbox main"),
        ('[routes.bare]\n[[agent.watch]]\npath = "instrument"\nroute = "bare"', "watch", "transport has no kind"),
        ("[routes.mri.checks.layuot]", "checks mri", "did you mean 'layout'?"),
        ('[routes.mri.checks.layout]\nparticipant = "sub-["', "checks mri", "is not a regular expression"),
        ('[routes.mri.fetch]\nkind = "sftp"\ntraget = "x@y:/z"', "fetch mri", "did you mean 'target'?"),
        (
            '[routes.mri.fetch]\nkind = "rsync"\ntarget = "/x"\ntemplate = "{x"',
            "fetch mri",
            "a brace that names nothing",
        ),
        ('[dicom]\nfolder = "dicom"\nport = 99999', "dicom", "'port' must be < 65536"),
    ],
)
def test_what_a_program_would_refuse_is_named(tmp_path: Path, more: str, area: str, words: str) -> None:
    answer = said(tmp_path, SITE + more + "\n")[area]

    assert answer.startswith(f"{ConfigError.code}: ")
    assert words in answer


def test_a_watched_folder_that_is_away_is_no_fault_of_the_settings(tmp_path: Path) -> None:
    answer = said(tmp_path, SITE + WATCH.replace("instrument", "gone"))["watch"]

    assert answer.startswith("unreachable: ")
    assert "is the share mounted?" in answer


def test_the_next_command_for_wrong_settings_is_to_edit_them(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text(
        'home = "home"\n[routes.mri]\ntransport = { kind = "lokal" }\n[mail]\nserver = "127.0.0.1"\n', encoding="utf-8"
    )
    config = load(tmp_path / "lading.toml")

    found = {one.area: one for one in doctor.examine(config)}

    assert found["route mri"].next_command == found["mail"].next_command == f"edit {config.file}"


def test_a_home_that_is_a_file_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    (tmp_path / "instrument").mkdir()
    (tmp_path / "lading.toml").write_text('home = "home"\n[routes.mri]\n' + WATCH, encoding="utf-8")

    found = {one.area: one for one in doctor.examine(load(tmp_path / "lading.toml"))}

    assert found["home"].level == "fail"
    assert found["home"].next_command == f"ls -ld {tmp_path / 'home'}"
