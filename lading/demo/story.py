"""The story: start the programs, let the scanner write, watch, mend one typing error, count."""

from contextlib import ExitStack
from pathlib import Path

from lading.cli import output
from lading.config import Config
from lading.delivery import Stage
from lading.demo.instrument import SCENES, acquire
from lading.demo.place import Place, with_receipts
from lading.desk import DONE, Account

SETTINGS = """\
# Written by the demo; every path is below this folder.
home = "state"

[inboxes.main]
path = "xnat/inbox"

[repositories.xnat]
kind = "xnat"
url = "{url}"
credentials = "env"

[routes.mri]
inbox = "main"
repository = "xnat"
transport = {{ kind = "rsync", target = "{inbox}" }}
import = {{ route = "inbox" }}

[routes.mri.checks.layout.per_project.DEMO]
participant = "sub-[0-9]{{3}}"

[agent]
scan_every = 1
receipts_every = 1

[[agent.watch]]
path = "instrument"
route = "mri"
template = "{{project}}/{{participant}}/{{session}}"
quiet = 2

[server]
scan_every = 0.5
"""


def tell(root: Path, *, said_before: str = "") -> bool:
    """Run the demo below `root`; True when four deliveries ended as they must. Leaves no process behind.

    `said_before` is repeated above the last line: what another half of the demo came to.
    """
    place = Place.fresh(root)
    place.environment |= {"LADING_XNAT_USER": "admin", "LADING_XNAT_PASSWORD": "admin"}
    with ExitStack() as stack:
        xnat = stack.enter_context(place.sandbox("xnat", "--port", "0", "--project", "DEMO:auto"))
        output.say(f"A stand-in XNAT listens at {xnat['url']} (not a real one)")
        config = place.settings(SETTINGS.format(url=xnat["url"], inbox=root / "xnat" / "inbox"))
        place.type("inbox", "create")
        stack.enter_context(place.program("server", "server", "run"))
        stack.enter_context(place.program("agent", "agent", "run"))
        output.say("\nThe scanner writes four sessions of real DICOM into the watched folder:", style="bold")
        for scene in SCENES:
            acquire(scene, place.instrument)
            output.say(f"  {scene.path:<24} {scene.story}")
        output.say("\nOn their way: rsync to the inbox, checks, XNAT, reading back", style="bold")
        accounts = place.follow(config, len(SCENES))
        accounts = _mend(place, config, accounts)
        return _count(place, with_receipts(config, accounts), said_before)


def _mend(place: Place, config: Config, accounts: list[Account]) -> list[Account]:
    """Type what the refused deliveries ask for: the mistyped participant can be mended, the mixed session cannot."""
    for account in accounts:
        if account.stage is Stage.REJECTED:
            output.say(f"\nrefused: {account.delivery.labels}", style="bold red")
            for finding in account.findings:
                output.out.print(output.finding_line(finding), soft_wrap=True)
    mistyped = next((a for a in accounts if a.delivery.labels.participant == "sub-O04"), None)
    if mistyped is None or mistyped.stage is not Stage.REJECTED:
        return accounts
    output.say("\nThe typing error is mended as the hint says:", style="bold")
    place.type("fix", mistyped.delivery.id, "--participant", "sub-004")
    return place.follow(config, len(SCENES))


def _count(place: Place, accounts: list[Account], said_before: str) -> bool:
    verified = [a for a in accounts if a.stage in DONE and a.receipt and a.receipt.proves_all]
    rejected = [a for a in accounts if a.stage is Stage.REJECTED]
    lost = len(SCENES) - len(verified) - len(rejected)
    output.say("\n\nSummary", style="bold")
    place.type("status")
    place.type("list")
    if verified:
        shown = next((a for a in verified if a.delivery.labels.participant == "sub-002"), verified[0])
        place.type("receipt", shown.delivery.id, "--files")
    output.say(f"\n{said_before}", style="bold")
    output.say(
        f"demo: {len(accounts)} deliveries, {len(verified)} verified, {len(rejected)} rejected, {lost} lost",
        style="bold",
    )
    as_told = {str(a.delivery.labels): a.stage for a in rejected} == {"DEMO/sub-003/sub-003_MR1": Stage.REJECTED}
    return len(accounts) == len(SCENES) and len(verified) == 3 and as_told and lost == 0
