"""The doctor says what a route lacks on this machine, with the command to type, and leaves the others alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.inbox import Inbox
from lading.testing.servers import free_port

pytest.importorskip("omero")

SETTINGS = """
home = "home"
[inboxes.main]
path = "inbox"
keep_free_gb = 0
[repositories.micro]
kind = "omero"
host = "127.0.0.1"
port = {port}
credentials = "env"
connect_timeout = 2.0
bioformats = {{ use = "{use}", jar = "{jar}" }}
cli = {{ client_dir = "{client_dir}" }}
[routes.plain]
inbox = "main"
repository = "micro"
[routes.java]
inbox = "main"
repository = "micro"
import = {{ engine = "cli" }}
"""


def diagnoses(
    folder: Path, *, use: str, jar: Path | str = "", client_dir: str = "", path: str = ""
) -> dict[str, list[dict[str, str]]]:
    settings = SETTINGS.format(port=free_port(), use=use, jar=jar, client_dir=client_dir)
    (folder / "lading.toml").write_text(settings)
    if not (folder / "inbox").exists():
        Inbox.create(folder / "inbox")
    asked = subprocess.run(
        [sys.executable, "-m", "lading", "--config", str(folder / "lading.toml"), "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path or os.environ["PATH"]},
        cwd=folder,
    )
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(asked.stdout)["diagnoses"]:
        found.setdefault(one["area"], []).append(one)
    return found


def test_a_route_that_drives_omero_import_lacks_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    found = diagnoses(tmp_path, use="never", client_dir=str(tmp_path / "empty"), path=str(tmp_path / "empty"))

    program, jars = found["import java"]
    assert {program["level"], jars["level"]} == {"fail"}
    assert "omero is not installed" in program["text"]
    assert program["next"].startswith(("pip install", "apt-get install"))
    assert "client_dir" in jars["text"]
    assert jars["next"]
    assert [one["level"] for one in found["import plain"]] == ["ok"]


def test_bio_formats_that_may_be_missed_is_a_warning_and_one_that_may_not_a_failure(tmp_path: Path) -> None:
    jar = tmp_path / "no.jar"

    wished = diagnoses(tmp_path, use="auto", jar=jar)["import plain"]
    demanded = diagnoses(tmp_path, use="always", jar=jar)["import plain"]

    assert [one["level"] for one in wished] == ["warn"]
    assert [one["level"] for one in demanded] == ["fail"]
    for (one,) in (wished, demanded):
        assert "no.jar" in one["text"] or "jpype" in one["text"]
        assert one["next"].startswith(("ls -l", "pip install"))
