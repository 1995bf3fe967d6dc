"""The OMERO half of the story: real images from a microscope, by an inbox, into a stand-in OMERO, read back."""

import json
import shutil
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from lading.cli import output
from lading.config import Config
from lading.demo.place import Place, with_receipts
from lading.desk import DONE, Account

SETTINGS = """\
# Written by the demo; every path is below this folder.
home = "state"

[inboxes.main]
path = "inbox"

[repositories.omero]
kind = "omero"
host = "127.0.0.1"
port = {port}
credentials = "env"
ssl = {{ ca = "omero/tls/certificate.pem" }}
valve = {{ free_gb = 0.1 }}

[routes.microscopy]
inbox = "main"
repository = "omero"
transport = {{ kind = "local", path = "{inbox}" }}
digests = ["sha1"]

[routes.microscopy.import]
project = "{{project}}"
dataset = "{{participant}}_{{session}}"

[agent]
scan_every = 1
receipts_every = 1

[[agent.watch]]
path = "instrument"
route = "microscopy"
template = "{{project}}/{{participant}}/{{session}}"
quiet = 2

[server]
scan_every = 0.5
"""
USER = "alice"


def can_be_told() -> bool:
    """Whether the extra `omero` is installed, and what writes the images."""
    # Not "omero": the plug-in alone makes that a package.
    return find_spec("Ice") is not None and find_spec("omero_ext") is not None and find_spec("tifffile") is not None


def tell(root: Path) -> str:
    """Run this half below `root`; its last line, or "" when something did not end as it must. Leaves no process behind."""
    from lading.demo.microscope import SCENES, acquire  # noqa: PLC0415 - numpy and tifffile, which only this half needs

    scenes = [scene for scene in SCENES if not scene.java or _has_bioformats()]
    place = Place.fresh(root)
    with ExitStack() as stack:
        ready = stack.enter_context(place.sandbox("omero", "--ssl-port", "0"))
        port = cast("dict[str, int]", ready["ports"])["ssl"]
        output.say(f"A stand-in OMERO listens at 127.0.0.1:{port} (not a real one)")
        place.environment |= {"LADING_OMERO_USER": USER, "LADING_OMERO_PASSWORD": _password(root / "omero")}
        config = place.settings(SETTINGS.format(port=port, inbox=root / "inbox"))
        place.type("inbox", "create")
        stack.enter_context(place.program("server", "server", "run"))
        stack.enter_context(place.program("agent", "agent", "run"))
        output.say(
            f"\nThe microscope writes {len(scenes)} sessions of real images into the watched folder:", style="bold"
        )
        for scene in scenes:
            acquire(scene, place.instrument)
            output.say(f"  {scene.path:<20} {scene.story}")
        if len(scenes) < len(SCENES):
            output.say(
                "  (a third, of one image in five files, needs Java: only Bio-Formats knows what belongs together)"
            )
        output.say("\nOn their way: the inbox, checks, OMERO, reading back", style="bold")
        accounts = place.follow(config, len(scenes))
        return _count(place, config, accounts, len(scenes))


def _has_bioformats() -> bool:
    return shutil.which("java") is not None and find_spec("bioformats_jar") is not None


def _password(sandbox: Path) -> str:
    accounts = json.loads((sandbox / "accounts.json").read_text(encoding="utf-8"))
    return str(accounts["users"][USER]["password"])


def _count(place: Place, config: Config, accounts: list[Account], expected: int) -> str:
    accounts = with_receipts(config, accounts)
    verified = [a for a in accounts if a.stage in DONE and a.receipt and a.receipt.proves_all]
    output.say("\n\nSummary", style="bold")
    place.type("status")
    place.type("list")
    for account in verified[:1]:
        place.type("receipt", account.delivery.id, "--files")
    told = f"demo OMERO: {len(accounts)} deliveries, {len(verified)} verified, {expected - len(verified)} lost"
    if len(accounts) == len(verified) == expected:
        return told
    output.say(told, style="bold red")
    return ""
