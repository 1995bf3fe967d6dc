"""`lading globus login`, as a person types it: in a shell without a screen."""

import os
import re
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.config import load
from lading.errors import AccessDenied, ConfigError
from lading.inbox import Inbox, InboxLimits
from lading.pulling import fetched_place, make_fetcher, probe
from lading.testing.globus_stand_in import collection, globus


@pytest.fixture
def settings(tmp_path):
    Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    with globus(tmp_path, tmp_path) as server:
        file = tmp_path / "lading.toml"
        file.write_text(
            f"""
home = "{tmp_path / "home"}"
[routes.mounted.transport]
kind = "local"
path = "{tmp_path / "inbox"}"
[routes.far.transport]
kind = "globus"
[routes.far.transport.account]
client = "4c5d6e7f-0000-4000-8000-000000001234"
auth_url = "{server.url}"
transfer_url = "{server.url}"
[routes.far.transport.source]
collection = "Microscope"
root = "{tmp_path}"
spool = "{tmp_path / "spool"}"
[routes.far.transport.inbox]
collection = "{collection(server, "Inbox").id}"
path = "/inbox"
[inboxes.main]
path = "{tmp_path / "inbox"}"
[routes.beam]
inbox = "main"
[routes.beam.fetch]
kind = "globus"
[routes.beam.fetch.account]
client = "4c5d6e7f-0000-4000-8000-000000001234"
auth_url = "{server.url}"
transfer_url = "{server.url}"
[routes.beam.fetch.source]
collection = "Microscope"
[routes.beam.fetch.inbox]
collection = "Inbox"
root = "{tmp_path}"
[routes.throttled]
inbox = "main"
[routes.throttled.fetch]
kind = "globus"
account = {{ client = "4c5d6e7f-0000-4000-8000-000000001234" }}
source = {{ collection = "Microscope" }}
inbox = {{ collection = "Inbox", root = "{tmp_path}" }}
throttle = {{ mb_per_s = 20 }}
"""
        )
        yield file


def started(settings, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "lading", "--config", str(settings), "globus", "login", *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("route", "there"), [("far", "the inbox is there"), ("beam", "the folder is there")])
def test_the_link_is_shown_the_code_is_pasted_and_the_other_side_is_there(settings, route, there):
    with started(settings, route) as process:
        link = next(line.strip() for line in process.stdout if line.startswith("http"))
        with urllib.request.urlopen(link) as page:
            code = re.search(r"<code>(\w+)", page.read().decode())[1]
        said, _ = process.communicate(f"{code}\n", timeout=60)

    assert process.returncode == 0, said
    assert there in said


def test_a_route_that_fetches_can_be_probed_once_somebody_has_logged_in(settings):
    config = load(settings)
    with pytest.raises(AccessDenied, match="login-missing"):
        probe(config, "beam")

    fetched_place(config, "beam").login(lambda link: re.search(r"<code>(\w+)", _page(link))[1])

    assert probe(config, "beam") == "Microscope:/"


def test_a_throttle_of_ours_is_refused_where_globus_moves_the_bytes(settings):
    with pytest.raises(ConfigError, match="takes no throttle"):
        make_fetcher(load(settings), "throttled")


def _page(link):
    with urllib.request.urlopen(link) as page:
        return page.read().decode()


def test_a_route_of_another_kind_has_nobody_to_log_in(settings):
    with started(settings, "mounted") as process:
        said, _ = process.communicate("", timeout=60)

    assert process.returncode == 2
    assert "is of the kind globus" in said
