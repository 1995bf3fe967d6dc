"""The OMERO importer's tables: what is wrong with them is said before anything is sent, with the nearest right word."""

import os
import re
from pathlib import Path

import pytest

from lading.delivery import Labels
from lading.errors import AccessDenied, ConfigError
from omero_importer import credentials
from omero_importer.settings import filled, repository_settings, route_settings

SECRET = "not-to-be-shown"


def test_the_port_follows_the_encryption() -> None:
    assert repository_settings({"host": "omero.example.org"})[0].port == 4064
    assert repository_settings({"host": "localhost", "plain": "loopback"})[0].port == 4063
    assert repository_settings({"host": "omero.example.org", "port": 14064})[0].port == 14064


def test_the_certificate_is_verified_unless_somebody_says_otherwise() -> None:
    ssl = repository_settings({"host": "omero.example.org"})[0].ssl

    assert ssl.verify
    assert ssl.check_name


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"host": "https://omero.example.org"}, "is not a host name"),
        ({"host": "carol@omero.example.org"}, "is not a host name"),
        ({"host": "omero.example.org", "plain": "loopback"}, "could be read on the way"),
        ({"host": "omero.example.org", "plain": "yes"}, "there are: anywhere, loopback, no"),
        ({"host": "omero.example.org", "port": 70000}, "no port"),
        ({"host": "omero.example.org", "keep_alive": 1.0}, "keep_alive = 1: OMERO's client"),
        ({"host": "omero.example.org", "valve": {"slots": 0}}, "no import could ever begin"),
        ({"host": "omero.example.org", "ssl": {"ca": "/no/such.pem"}}, "there is no file"),
        ({"host": "omero.example.org", "ssl": {"verfy": True}}, "did you mean 'verify'"),
        ({"host": "omero.example.org", "pasword": SECRET}, "unknown key 'pasword'"),
        ({}, "'host' is missing"),
    ],
)
def test_a_repository_that_cannot_be_used(table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        repository_settings(table)

    assert SECRET not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"create": "allways"}, "did you mean 'all'"),
        ({"on_existing": "replace"}, "on_existing = 'replace'"),
        ({"checksum": "SHA1"}, "did you mean 'SHA1-160'"),
        ({"blank_digest": "guess"}, "blank_digest"),
        ({"dataset": "{subject}"}, "{subject} is unknown"),
        ({"tags": ["{sessions}"]}, "did you mean 'session'"),
        ({"annotate": ["plate"]}, "there are: dataset, images"),
        ({"dataset": ""}, "need a project and a dataset, or a screen"),
        ({"block_kb": 65536}, "block_kb"),
        ({"uploads": 0}, "uploads"),
    ],
)
def test_a_route_that_cannot_be_used(table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        route_settings(table)


def test_templates_are_filled_with_the_labels() -> None:
    labels = Labels("PROJ", "sub-001", "MR{1}")

    assert filled("{participant} of {project}: {session}", labels) == "sub-001 of PROJ: MR{1}"


def test_a_login_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_USER", "carol")
    monkeypatch.setenv("SITE_PASSWORD", SECRET)

    login = credentials.find("env:SITE", "omero.example.org")

    assert (login.user, login.secret, login.joins) == ("carol", SECRET, False)
    assert SECRET not in repr(login)


def test_a_session_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_SESSION", SECRET)

    login = credentials.find("env:SITE", "omero.example.org")

    assert login.joins
    assert SECRET not in repr(login)


def test_a_login_from_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "login.toml"
    file.write_text(f'user = "carol"\npassword = "{SECRET}"\n')
    file.chmod(0o600)

    assert credentials.find(f"file:{file}", "omero.example.org").secret == SECRET


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps rights in lists that the mode does not show")
def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "login.toml"
    file.write_text(f'user = "carol"\npassword = "{SECRET}"\n')
    file.chmod(0o644)

    with pytest.raises(AccessDenied, match="can be read by others") as caught:
        credentials.find(f"file:{file}", "omero.example.org")

    assert "chmod 600" in caught.value.next_command


def test_a_damaged_file_is_refused_without_quoting_it(tmp_path: Path) -> None:
    file = tmp_path / "login.toml"
    file.write_text(f'password = "{SECRET}')
    file.chmod(0o600)

    with pytest.raises(AccessDenied) as caught:
        credentials.find(f"file:{file}", "omero.example.org")

    assert SECRET not in str(caught.value.as_dict())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("spec", ["env:NOT_SET_ANYWHERE", "file:/no/such/file"])
def test_no_login_is_access_denied_with_the_next_command(spec: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        credentials.find(spec, "omero.example.org")

    assert caught.value.next_command


def test_an_unknown_kind_of_credentials() -> None:
    with pytest.raises(ConfigError, match="did you mean 'keyring'"):
        credentials.find("keyrng", "omero.example.org")
