"""`lading transports`: what is installed, and what the transports of the routes can do."""

import json
import subprocess
import sys
from pathlib import Path

SETTINGS = """
[routes.share]
transport = { kind = "local", path = "inbox" }
[routes.far]
transport = { kind = "sftp", target = "scanner@staging.example:/srv/inbox" }
[routes.typo]
transport = { kind = "sfpt", target = "x" }
"""


def ask(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lading", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


def test_transports_are_listed_without_any_settings(tmp_path: Path) -> None:
    found = ask(tmp_path, "transports")

    assert found.returncode == 0, found.stderr
    assert {"local", "rsync", "sftp", "s3", "webdav"} <= {line.split()[0] for line in found.stdout.splitlines() if line}


def test_what_each_can_do_is_told_before_there_is_a_route(tmp_path: Path) -> None:
    found = {kind["name"]: kind for kind in json.loads(ask(tmp_path, "transports", "--json").stdout)["transports"]}

    flags = {"resumes", "keeps_mtime", "lists_on_the_way", "third_party"}
    assert {name for name, kind in found.items() if set(kind["traits"]) != flags} == set()
    assert {name for name, kind in found.items() if kind["traits"]["third_party"]} == {"globus", "rsync-third-party"}
    assert not {"local", "robocopy", "globus"} & {name for name, kind in found.items() if kind["traits"]["resumes"]}
    assert {name for name, kind in found.items() if not kind["traits"]["keeps_mtime"]} == {"s3"}
    assert {"rsync", "sftp", "ftps", "s3", "webdav", "globus"} <= {
        name for name, kind in found.items() if kind["fetches"]
    }
    assert not [name for name in ("local", "rsync-third-party", "robocopy") if found[name]["fetches"]]
    words = " ".join(ask(tmp_path, "transports").stdout.split())
    assert "continues inside" in words
    assert not list(tmp_path.iterdir()), "nothing is made"


WITHOUT_SMB = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "smbprotocol" else real(name, *more)
from lading.cli.main import lading
lading(["transports", "--json"])
"""


def test_one_whose_library_is_not_installed_says_what_to_type_and_hides_no_other(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_SMB], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert ran.returncode == 0, ran.stderr
    found = {kind["name"]: kind for kind in json.loads(ran.stdout)["transports"]}
    assert "pip install" in found["smb"]["needs"]
    assert found["smb"]["traits"] == {}
    assert found["sftp"]["traits"]["resumes"]


def test_what_the_routes_can_do_is_told_and_a_mistake_is_named(tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text(SETTINGS)

    found = json.loads(ask(tmp_path, "transports", "--json").stdout)

    routes = {route["route"]: route for route in found["routes"]}
    assert routes["share"]["traits"]["lists_on_the_way"]
    assert routes["far"]["traits"]["resumes"]
    assert "sftp" in routes["typo"]["error"]
    assert all(kind["summary"] and not kind["needs"] for kind in found["transports"])
