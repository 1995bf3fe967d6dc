"""`omero transport verify`: read back with the person's own session, on the person's machine and on the staging host."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import omero.clients
import pytest
import tifffile

from lading.agent.loop import has_carrier
from lading.testing import real_images
from lading.testing.omero_command import OmeroCommand
from lading.testing.omero_facility import OmeroFacility, omero_facility

SETTINGS = """
home = "state"
[repositories.micro]
kind = "omero"
host = "{host}"
port = {port}
credentials = "env:NOBODY_SET_THIS"
ssl = {{ ca = "certificate.pem" }}
bioformats = {{ use = "never" }}
valve = {{ free_gb = 0.0 }}
[routes.microscopy]
repository = "micro"
transport = {{ kind = "local", path = "{inbox}" }}
digests = ["sha1"]
"""

ON_THE_STAGING_HOST = """
import os
from argparse import Namespace
from types import SimpleNamespace
from lading.cli import main
from omero_importer.cli_session import OmeroPerson

class Client:
    def getProperty(self, name): return {"omero.host": os.environ["HOST"], "omero.port": os.environ["PORT"]}[name]
    def getSessionId(self): return os.environ["KEY"]

ctx = SimpleNamespace(
    conn=lambda args: Client(), get_event_context=lambda: SimpleNamespace(userName=os.environ["WHO"], groupName="lab")
)
nothing = dict.fromkeys(("server", "port", "user", "key", "password", "group", "sudo", "create"))
main(os.environ["WORDS"].split("|"), program="omero transport", person=OmeroPerson(ctx, Namespace(**nothing)))
"""
"""What the plug-in does, without the `omero` command: that refuses root, whom the site of the tests belongs to."""


@dataclass(frozen=True)
class Sent:
    """A delivery of Erin's that is verified. The server of the line has ended: whoever reads, it is not the server."""

    omero: OmeroCommand
    site: OmeroFacility
    delivery: str

    def login(self, user: str) -> list[str]:
        return ["-s", self.site.omero.host, "-p", str(self.site.omero.port), "-u", user,
                "-w", self.site.omero.password(user)]  # fmt: skip


@pytest.fixture(scope="module")
def sent() -> Iterator[Sent]:
    with ExitStack() as stack:
        omero_command = stack.enter_context(OmeroCommand())
        home = omero_command.home
        site = stack.enter_context(omero_facility(home / "site", imports='owner = "{sender}"'))
        site.start_server()
        for path in [site.inbox, *site.inbox.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        (home / "session").mkdir()
        for seed, name in enumerate(("a.ome.tif", "b.ome.tif")):
            tifffile.imwrite(home / "session" / name, real_images.pixels(32, 32, seed=seed))
        (home / "session" / "notes.txt").write_text("seen by erin\n")
        shutil.copyfile(site.omero.certificate, home / "certificate.pem")
        (home / "lading.toml").write_text(SETTINGS.format(inbox=site.inbox, host=site.omero.host, port=site.omero.port))
        made = Sent(omero_command, site, "")
        ran = omero_command.run(
            "transport", *made.login("erin"), "send", "session", "--route", "microscopy", "--wait", "--json",
            "--project", "P", "--participant", "mouse-1", "--session", "day-1", timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr + site.words()
        (delivery,) = site.settle(1, seconds=120)
        site.until(lambda: not has_carrier(home / "state"), seconds=90, why="the person's carrier has ended")
        site.stop("server")
        yield Sent(omero_command, site, str(delivery["id"]))


def changes(sent: Sent) -> int:
    """How many requests so far could have changed something in OMERO."""
    counts = sent.site.omero.do("counts")
    assert isinstance(counts, dict)
    return sum(
        number for name, number in counts.items() if name.rpartition(".")[2].startswith(("save", "submit", "create_"))
    )


@pytest.mark.parametrize("user", ["erin", "alice"])
def test_whoever_may_see_the_files_sees_them_proven(sent: Sent, user: str) -> None:
    before = changes(sent)
    receipt = (sent.omero.home / "state" / "outgoing" / sent.delivery / "receipt.json").read_bytes()

    seen = sent.omero.run("transport", *sent.login(user), "verify", sent.delivery, "--json")

    assert seen.returncode == 0, seen.stdout + seen.stderr
    answer = json.loads(seen.stdout)
    assert (answer["as"], answer["whole"], answer["counts"]) == (
        f"{user}@{sent.site.omero.host}",
        True,
        {"verified": 3},
    )
    assert changes(sent) == before
    assert (sent.omero.home / "state" / "outgoing" / sent.delivery / "receipt.json").read_bytes() == receipt


def test_whoever_may_not_see_them_is_told_so_and_who_can(sent: Sent) -> None:
    seen = sent.omero.run("transport", *sent.login("visitor"), "verify", sent.delivery)

    assert seen.returncode == 5, seen.stdout + seen.stderr
    words = " ".join(seen.stdout.split())
    assert f"not seen by visitor@{sent.site.omero.host}: 3 of the files" in words
    assert "a.ome.tif" in words
    assert f"lading verify {sent.delivery}" in words


def test_before_it_was_imported_there_is_nothing_to_read(sent: Sent) -> None:
    (sent.omero.home / "later").mkdir()
    (sent.omero.home / "later" / "x.txt").write_text("x")
    sent.omero.run(
        "transport", *sent.login("erin"), "send", "later", "--route", "microscopy",
        "--project", "P", "--participant", "mouse-2", "--session", "day-1",
    )  # fmt: skip
    listed = json.loads(sent.omero.run("transport", "list", "--json").stdout)["deliveries"]
    (other,) = [one["id"] for one in listed if one["id"] != sent.delivery]

    seen = sent.omero.run("transport", *sent.login("erin"), "verify", other, "--json")

    assert seen.returncode == 1, seen.stdout + seen.stderr
    assert "not imported yet" in json.loads(seen.stdout)["error"]["message"]
    sent.site.until(lambda: not has_carrier(sent.omero.home / "state"), seconds=90, why="the carrier has ended")


@pytest.mark.parametrize(("user", "code", "unseen"), [("alice", 0, 0), ("visitor", 5, 3)])
def test_on_the_staging_host_the_papers_are_those_of_the_inbox(sent: Sent, user: str, code: int, unseen: int) -> None:
    client = omero.client(host=f"tcp://{sent.site.omero.host}", port=sent.site.omero.tcp_port)
    try:
        client.createSession(user, sent.site.omero.password(user))
        environment = {
            "HOST": sent.site.omero.host, "PORT": str(sent.site.omero.port), "KEY": client.getSessionId(), "WHO": user,
            "WORDS": "|".join(["--config", str(sent.site.root / "lading.toml"), "verify", sent.delivery, "--json"]),
        }  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-c", ON_THE_STAGING_HOST],
            capture_output=True, text=True, check=False, timeout=180, env=os.environ | environment,
        )  # fmt: skip
        alive = client.getSession().keepAlive(None)
    finally:
        client.closeSession()

    assert ran.returncode == code, ran.stdout + ran.stderr
    answer = json.loads(ran.stdout)
    assert (answer["as"], answer["unseen"]) == (f"{user}@{sent.site.omero.host}", unseen)
    assert alive  # what was lent was not closed
