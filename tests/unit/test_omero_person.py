"""Whoever types `omero transport`: to which repositories their session is lent, and that its key stays unseen."""

from argparse import Namespace
from pathlib import Path

import pytest

from lading.config import Config, load
from omero_importer.cli_session import OmeroPerson
from omero_importer.session_in_hand import KEY, SessionInHand, taken_from

SETTINGS = """
home = "state"
[repositories.ours]
kind = "omero"
host = "omero.example.org"
port = 14064
[repositories.ours-plain]
kind = "omero"
host = "omero.example.org"
port = 14063
plain = "anywhere"
[repositories.theirs]
kind = "omero"
host = "elsewhere.example.org"
[repositories.mri]
kind = "xnat"
url = "https://xnat.example.org"
[routes.microscopy]
repository = "ours"
[routes.scans]
repository = "mri"
[routes.half]
"""


class Client:
    def getProperty(self, name: str) -> str:
        return {"omero.host": "omero.example.org", "omero.port": "14064"}[name]

    def getSessionId(self) -> str:
        return "the-key"


class CommandLine:
    """Stands for omero.cli.CLI, whose real login the integration tests go through."""

    def __init__(self) -> None:
        self.asked: list[Namespace] = []

    def conn(self, args: Namespace) -> Client:
        self.asked.append(args)
        return Client()

    def get_event_context(self) -> Namespace:
        return Namespace(userName="alice", groupName="lab")


def typed(**given: str) -> Namespace:
    nothing = dict.fromkeys(("server", "port", "user", "key", "password", "group", "sudo", "create"))
    return Namespace(**nothing | given)


def config(tmp_path: Path, text: str = SETTINGS) -> Config:
    (tmp_path / "lading.toml").write_text(text)
    return load(tmp_path / "lading.toml")


def test_the_session_is_lent_at_its_own_server_and_nowhere_else(tmp_path: Path) -> None:
    lent = OmeroPerson(CommandLine(), typed()).settings(config(tmp_path)).repositories

    assert {name: KEY in repo.settings for name, repo in lent.items()} == {
        "ours": True, "ours-plain": True, "theirs": False, "mri": False,
    }  # fmt: skip


def test_the_importer_joins_it_at_the_port_that_the_settings_name(tmp_path: Path) -> None:
    lent = OmeroPerson(CommandLine(), typed()).settings(config(tmp_path)).repositories

    ports = {name: session.port for name, repo in lent.items() if (session := taken_from(repo.settings)[0])}
    assert ports == {"ours": 14064, "ours-plain": 14063}


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    lent = OmeroPerson(CommandLine(), typed()).settings(config(tmp_path))

    session, rest = taken_from(lent.repositories["ours"].settings)
    assert session is not None
    assert session.key == "the-key"
    assert "the-key" not in repr(lent) + repr(session) + str(rest)


def test_nobody_is_asked_to_log_in_where_no_omero_is_configured(tmp_path: Path) -> None:
    line = CommandLine()
    only_xnat = config(tmp_path, '[repositories.mri]\nkind = "xnat"\n')

    assert OmeroPerson(line, typed()).settings(only_xnat) == only_xnat
    assert line.asked == []


def test_whoever_says_who_they_are_is_logged_in_even_then(tmp_path: Path) -> None:
    line = CommandLine()
    person = OmeroPerson(line, typed(user="alice"))

    person.settings(config(tmp_path, '[repositories.mri]\nkind = "xnat"\n'))

    assert person.insists
    assert len(line.asked) == 1


def test_one_login_serves_the_whole_command(tmp_path: Path) -> None:
    line = CommandLine()
    person = OmeroPerson(line, typed())
    settings = config(tmp_path)

    person.settings(settings)
    person.sender(settings, "microscopy")

    assert len(line.asked) == 1


@pytest.mark.parametrize(
    ("route", "sender"), [("microscopy", "alice@omero.example.org"), ("scans", ""), ("half", "alice@omero.example.org")]
)
def test_a_delivery_is_sent_as_the_person_unless_it_goes_to_another_kind_of_repository(
    tmp_path: Path, route: str, sender: str
) -> None:
    assert OmeroPerson(CommandLine(), typed()).sender(config(tmp_path), route) == sender


def test_the_one_server_of_the_settings_need_not_be_typed(tmp_path: Path) -> None:
    line = CommandLine()
    one = config(tmp_path, '[repositories.ours]\nkind = "omero"\nhost = "omero.example.org"\nport = 14064\n')

    OmeroPerson(line, typed()).settings(one)
    OmeroPerson(line, typed(server="other.example.org")).settings(one)

    assert [(args.server, args.port) for args in line.asked] == [
        ("omero.example.org", "14064"),
        ("other.example.org", None),
    ]


def test_a_key_written_into_the_settings_by_hand_is_not_taken_for_a_session() -> None:
    assert taken_from({KEY: "0123", "host": "h"}) == (None, {KEY: "0123", "host": "h"})


def test_login_options_behind_the_command_are_noticed() -> None:
    assert OmeroPerson.misplaced(["doctor", "--key=0123"])
    assert not OmeroPerson.misplaced(["send", "-s", "sub-001", "-p", "P"])


def test_host_names_are_compared_without_case() -> None:
    session = SessionInHand("OMERO.example.org", "alice", "lab", "the-key")

    assert session.opens("omero.example.org", 4064)
    assert not session.opens("omero.example.org", 4065)


def test_they_read_in_person_only_where_their_session_opens_the_repository(tmp_path: Path) -> None:
    line = CommandLine()
    known = config(tmp_path, SETTINGS + '[routes.elsewhere]\nrepository = "theirs"\n')
    person = OmeroPerson(line, typed())

    assert person.reads(known, "scans") is None
    assert person.reads(known, "half") is None
    assert line.asked == []  # nobody is asked for a password for XNAT
    assert person.reads(known, "elsewhere") is None
    own = person.reads(known, "microscopy")
    assert own is not None
    assert taken_from(own.repositories["ours"].settings)[0] is not None
    assert len(line.asked) == 1
