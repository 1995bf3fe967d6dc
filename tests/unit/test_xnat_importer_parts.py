"""The XNAT importer's parts that need no server: settings, credentials, the table of errors, what goes where."""

import errno
import netrc
import os
import tempfile
from pathlib import Path

import keyring
import keyring.backend
import pytest
import requests
from requests import exceptions as http
from urllib3 import exceptions as below
from xnat import exceptions as xnatpy

from lading.config import relative_to
from lading.errors import (
    AccessDenied,
    ConfigError,
    LadingError,
    OutOfSpace,
    Refused,
    TargetMissing,
    TargetUnavailable,
    UnexpectedFault,
)
from lading.manifest import Entry
from xnat_importer import credentials, errors
from xnat_importer.errand import Habit
from xnat_importer.resources import Place, assign
from xnat_importer.scratch import scratch
from xnat_importer.session import quoted, unquoted
from xnat_importer.settings import repository_settings, route_settings

URL = "https://xnat.example.org"
SECRET = "s3cret-word"


# Settings


def test_a_misspelt_key_is_named_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="inbox_path"):
        repository_settings({"url": URL, "inbox_pth": "/data/xnat/inbox"})


def test_a_word_that_is_none_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'upload'"):
        route_settings({"route": "uplaod"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"url": URL, "verify": False}, "ca_bundle"),
        ({"url": "http://xnat.example.org"}, "plain_http"),
        ({"url": "https://me:secret@xnat.example.org"}, "address only"),
        ({"url": "xnat.example.org"}, "web address"),
        ({"url": URL, "ca_bundle": "/no/such/file.pem"}, "no/such/file"),
    ],
)
def test_unsafe_or_useless_repositories_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        repository_settings(table)


def test_the_sites_certificates_go_by_the_folder_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")

    with relative_to(tmp_path):
        found = repository_settings({"url": URL, "ca_bundle": "ca.pem"})
        unset = repository_settings({"url": URL, "ca_bundle": ""})

    assert found.ca_bundle == tmp_path / "ca.pem"
    assert unset.ca_bundle is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/xnat", "http://localhost:80", "http://[::1]:8080"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert repository_settings({"url": url + "/"}).url == url


# Credentials


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "login.toml"
    file.write_text(f'user = "carol"\npassword = "{SECRET}"\n')
    file.chmod(0o644)

    with pytest.raises(AccessDenied, match="0644") as caught:
        credentials.find(f"file:{file}", URL)

    assert caught.value.next_command == f"chmod 600 {file}"
    file.chmod(0o600)
    assert credentials.find(f"file:{file}", URL).secret == SECRET


def test_a_broken_file_does_not_show_its_password(tmp_path: Path) -> None:
    file = tmp_path / "login.toml"
    file.write_text(f'user = "carol"\npassword = {SECRET}\n')
    file.chmod(0o600)

    with pytest.raises(AccessDenied) as caught:
        credentials.find(f"file:{file}", URL)

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_environment_is_asked_by_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_USER", "carol")
    monkeypatch.setenv("MINE_PASSWORD", SECRET)

    found = credentials.find("env:MINE", URL)

    assert (found.user, found.secret) == ("carol", SECRET)
    assert SECRET not in repr(found)
    with pytest.raises(AccessDenied, match="OTHER_USER"):
        credentials.find("env:OTHER", URL)


@pytest.mark.parametrize("machine", ["xnat.example.org:8443", "xnat.example.org"])
def test_netrc_is_asked_by_host(tmp_path: Path, machine: str) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine {machine} login carol password {SECRET}\n")
    file.chmod(0o600)
    assert netrc.netrc(file)

    assert credentials.find(f"netrc:{file}", "https://xnat.example.org:8443").secret == SECRET
    with pytest.raises(AccessDenied, match=r"other\.org"):
        credentials.find(f"netrc:{file}", "https://other.org")


class _KeyRing(keyring.backend.KeyringBackend):
    priority = 1.0  # type: ignore[assignment]  # a property of the class in keyring's own words

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


def test_the_key_ring_is_asked_by_url() -> None:
    ring, before = _KeyRing(), keyring.get_keyring()
    keyring.set_keyring(ring)
    try:
        with pytest.raises(AccessDenied, match="key ring"):
            credentials.find("keyring", URL)
        keyring.set_password(URL, "user", "carol")
        keyring.set_password(URL, "carol", SECRET)

        assert credentials.find("keyring", URL).secret == SECRET
    finally:
        keyring.set_keyring(before)


def test_a_password_in_the_settings_is_not_understood() -> None:
    with pytest.raises(ConfigError):
        credentials.find(SECRET, URL)


# Errors


def _all(module: object, root: type[BaseException]) -> set[type[BaseException]]:
    found = {thing for thing in vars(module).values() if isinstance(thing, type) and issubclass(thing, root)}
    return {thing for thing in found if thing.__module__ == module.__name__}  # type: ignore[attr-defined]  # a module


def test_every_exception_of_requests_is_in_the_table() -> None:
    named = {row[0] for row in errors.EXCEPTIONS}

    assert _all(http, http.RequestException) <= named


def test_every_exception_of_xnatpy_is_translated_to_something_else_than_itself() -> None:
    for foreign in _all(xnatpy, xnatpy.XNATError):
        bare = foreign.__new__(foreign)
        assert isinstance(errors.from_exception(bare, doing="asking", url=URL), LadingError)


def test_every_exception_of_urllib3_is_translated_to_something_else_than_itself() -> None:
    for foreign in _all(below, below.HTTPError):
        bare = foreign.__new__(foreign)
        assert type(errors.from_exception(bare, doing="asking", url=URL)) is not UnexpectedFault, foreign


def test_the_table_never_hides_a_special_case_behind_a_general_one() -> None:
    for number, (foreign, _, _) in enumerate(errors.EXCEPTIONS):
        hidden_by = [other for other, _, _ in errors.EXCEPTIONS[:number] if issubclass(foreign, other)]
        assert not hidden_by, f"{foreign.__name__} is never reached"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, Refused), (401, AccessDenied), (403, TargetMissing), (404, TargetMissing), (409, Refused), (413, Refused),
     (423, TargetUnavailable), (429, TargetUnavailable), (500, TargetUnavailable), (502, TargetUnavailable),
     (503, TargetUnavailable), (504, TargetUnavailable), (507, TargetUnavailable), (599, TargetUnavailable)],
)  # fmt: skip
def test_a_status_says_who_must_act_and_quotes_the_server(status: int, expected: type[LadingError]) -> None:
    response = requests.Response()
    response.status_code = status
    response._content = b"<html>\n<body><h3>No &lt;such&gt;   thing</h3></body></html>"

    problem = errors.from_response(response, doing="asking for it", url=URL)

    assert type(problem) is expected
    assert "No <such> thing" in problem.message
    assert "asking for it" in problem.message
    assert problem.next_command


# Names


@pytest.mark.parametrize("name", ["a b", "#1", "50%", "%41", "ü", "a?b&c=d;e", "x/y", "\udcff"])
def test_a_name_survives_the_url(name: str) -> None:
    path = quoted("data", name)

    assert path.count("/") == 2
    assert path.isascii()
    assert unquoted(path) == "/data/" + name


def test_the_first_rule_that_matches_wins() -> None:
    route = route_settings(
        {
            "companions": "OTHER",
            "resources": [
                {"match": "physio/*.log", "resource": "PHYSIO", "scan": "4"},
                {"match": "*.log", "resource": "LOGS"},
            ],
        }
    )
    entries = [Entry(path, 1, 0, {"sha256": "0" * 64}) for path in ("physio/a.log", "b.log", "c.txt", "x/d.log")]

    found = assign(entries, route)

    assert {str(place): [entry.path for entry in files] for place, files in found.items()} == {
        "scan 4, resource PHYSIO": ["physio/a.log"],
        "resource LOGS": ["b.log", "x/d.log"],
        "resource OTHER": ["c.txt"],
    }
    assert Place("OTHER") in found


def asked_of(habit: Habit, seconds: float) -> int:
    """How many questions an import takes that is over after so many seconds."""
    asked, now, pause = 1, habit.seconds, 0.02
    while now < seconds:
        asked, now, pause = asked + 1, now + pause, pause * 1.6
    habit.learn(asked, now)
    return asked


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.3])
def test_imports_that_take_the_same_time_are_soon_asked_after_once(seconds: float) -> None:
    habit = Habit()
    for _ in range(20):
        asked_of(habit, seconds)

    assert sum(asked_of(habit, seconds) for _ in range(100)) <= 125
    assert habit.seconds <= max(0.02, 1.3 * seconds)


def test_one_slow_import_does_not_slow_down_those_after_it() -> None:
    habit = Habit()
    asked_of(habit, 600.0)

    assert habit.seconds <= 0.5
    for _ in range(100):
        asked_of(habit, 0.05)
    assert habit.seconds <= 0.1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_that_is_used_up_is_said_to_be_wherever_it_is_noticed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full quota, and a disk without room for one more name, were faults that nobody foresaw."""
    full = OSError(number, os.strerror(number))

    with pytest.raises(OutOfSpace) as while_written, scratch(tmp_path / "uploads", ".zip", 100):
        raise full

    def mkstemp(**_: object) -> tuple[int, str]:
        raise full

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with pytest.raises(OutOfSpace) as when_made, scratch(tmp_path / "uploads", ".zip", 100):
        pass

    assert while_written.value.next_command
    assert when_made.value.next_command
    assert list((tmp_path / "uploads").iterdir()) == []
