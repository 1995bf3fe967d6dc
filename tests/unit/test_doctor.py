"""The doctor over folders that answer oddly: it says what is wrong, and looks at the rest."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lading import doctor
from lading.config import Config, InboxConfig, RepositoryConfig, RouteConfig
from lading.inbox import Inbox


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    Inbox.create(tmp_path / "inbox")
    (tmp_path / "inbox" / "DEMO").mkdir()
    for look in ("_database", "_repository", "_rights"):
        monkeypatch.setattr(doctor, look, lambda *_: "fine")
    monkeypatch.setattr(doctor, "_lacking", lambda *_: ())
    return Config(
        home=tmp_path / "home",
        inboxes={"main": InboxConfig(path=tmp_path / "inbox", keep_free_gb=0)},
        repositories={"xnat": RepositoryConfig(kind="xnat", settings={})},
        routes={"mri": RouteConfig(inbox="main", repository="xnat")},
    )


def closed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whoever lists `folder` is refused; the tests may run as root, whom no permissions stop."""
    real = os.scandir

    def scandir(path: str | Path = ".") -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if not isinstance(path, int) and Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def found(config: Config) -> dict[str, doctor.Diagnosis]:
    return {one.area: one for one in doctor.examine(config)}


def test_an_inbox_that_cannot_be_listed_is_a_finding_and_the_rest_is_looked_at(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(config)["inbox main"].level == "ok"
    assert "project DEMO" in found(config)
    path = config.inboxes["main"].path

    closed(monkeypatch, path)
    said = found(config)

    assert said["inbox main"].level == "fail"
    assert "cannot be listed" in said["inbox main"].text
    assert said["inbox main"].next_command == f"ls -ld {path}"
    assert said["repository xnat"].level == "ok"
    assert "server" in said


def test_a_project_folder_that_is_closed_to_us_stops_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)

    assert "project DEMO" in found(config)


def test_an_outbox_that_cannot_be_read_is_a_finding_and_the_rest_is_looked_at(config: Config) -> None:
    config.home.mkdir()
    (config.home / "outbox.sqlite").write_bytes(b"no database" * 1000)

    said = found(config)

    assert said["outbox"].level == "fail"
    assert "not a database" in said["outbox"].text
    assert said["outbox"].next_command.startswith("mv ")
    assert said["repository xnat"].level == "ok"
