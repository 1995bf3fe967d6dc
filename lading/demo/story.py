"""The story: start the programs, let the scanner write, watch, mend one typing error, count."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.live import Live

from lading.assembly import open_desk
from lading.cli import output
from lading.cli.waiting import FINAL, board
from lading.config import Config, load
from lading.delivery import Stage
from lading.demo.instrument import SCENES, acquire
from lading.desk import DONE, Account
from lading.errors import LadingError

MARK = ".lading-demo"
PATIENCE = 150.0

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


def tell(root: Path) -> bool:
    """Run the demo below `root`; True when four deliveries ended as they must. Leaves no process behind."""
    _fresh_folder(root)
    with ExitStack() as stack:
        url = stack.enter_context(_sandbox(root))
        config = _settings(root, url)
        _lading(root, "inbox", "create")
        stack.enter_context(_program(root, "server", "server", "run"))
        stack.enter_context(_program(root, "agent", "agent", "run"))
        output.say("\nThe scanner writes four sessions of real DICOM into the watched folder:", style="bold")
        for scene in SCENES:
            acquire(scene, root / "instrument")
            output.say(f"  {scene.path:<24} {scene.story}")
        output.say("\nOn their way: rsync to the inbox, checks, XNAT, reading back", style="bold")
        accounts = _follow(config)
        accounts = _mend(root, config, accounts)
        return _count(root, _with_receipts(config, accounts))


def _fresh_folder(root: Path) -> None:
    if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
        raise SystemExit(f"{root} is not a folder of the demo; it is left alone")
    shutil.rmtree(root, ignore_errors=True)
    (root / "logs").mkdir(parents=True)
    (root / "instrument").mkdir()
    (root / MARK).touch()


@contextmanager
def _sandbox(root: Path) -> Iterator[str]:
    ready = root / "xnat.ready"
    arguments = (
        "sandbox",
        "xnat",
        "--root",
        str(root / "xnat"),
        "--port",
        "0",
        "--project",
        "DEMO:auto",
        "--ready-file",
        str(ready),
    )
    with _program(root, "sandbox-xnat", *arguments) as process:
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the sandbox XNAT did not start; see {root / 'logs' / 'sandbox-xnat.log'}")
            time.sleep(0.05)
        url = str(json.loads(ready.read_text(encoding="utf-8"))["url"])
        output.say(f"A stand-in XNAT listens at {url} (not a real one)")
        yield url


def _settings(root: Path, url: str) -> Config:
    (root / "lading.toml").write_text(SETTINGS.format(url=url, inbox=root / "xnat" / "inbox"), encoding="utf-8")
    return load(root / "lading.toml")


@contextmanager
def _program(root: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of the programs, in the background, its words in logs/NAME.log; stopped at the end, with all it started."""
    command = [sys.executable, "-m", "lading", "--config", str(root / "lading.toml"), *arguments]
    with (root / "logs" / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(),
            cwd=root,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _environment() -> Mapping[str, str]:
    return os.environ | {"LADING_XNAT_USER": "admin", "LADING_XNAT_PASSWORD": "admin", "PYTHONUNBUFFERED": "1"}


def _lading(root: Path, *arguments: str) -> None:
    """Type a command, as a person would, and show it."""
    output.say_next("lading " + " ".join(arguments))
    command = [sys.executable, "-m", "lading", "--config", str(root / "lading.toml"), *arguments]
    subprocess.run(command, check=True, env=_environment(), cwd=root)


def _follow(config: Config) -> list[Account]:
    """Show all deliveries until each is at rest."""
    deadline = time.monotonic() + PATIENCE
    accounts: list[Account] = []
    with Live(console=output.out, auto_refresh=False) as live:
        while time.monotonic() < deadline:
            try:
                with open_desk(config) as desk:
                    accounts = sorted(desk.recent(), key=lambda a: str(a.delivery.labels))
            except LadingError:
                accounts = []  # the server's database is still being made
            live.update(board(accounts), refresh=output.out.is_terminal)
            if len(accounts) == len(SCENES) and all(a.stage in FINAL for a in accounts):
                break
            time.sleep(0.3)
        live.update(board(accounts), refresh=True)
    return accounts


def _mend(root: Path, config: Config, accounts: list[Account]) -> list[Account]:
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
    _lading(root, "fix", mistyped.delivery.id, "--participant", "sub-004")
    return _follow(config)


def _with_receipts(config: Config, accounts: list[Account]) -> list[Account]:
    """As the desk knows them now: a receipt that was REJECTED before the mending is VERIFIED after it."""
    with open_desk(config) as desk:
        return [desk.account(account.delivery.id) for account in accounts]


def _count(root: Path, accounts: list[Account]) -> bool:
    verified = [a for a in accounts if a.stage in DONE and a.receipt and a.receipt.proves_all]
    rejected = [a for a in accounts if a.stage is Stage.REJECTED]
    lost = len(SCENES) - len(verified) - len(rejected)
    output.say("\n\nSummary", style="bold")
    _lading(root, "status")
    _lading(root, "list")
    if verified:
        shown = next((a for a in verified if a.delivery.labels.participant == "sub-002"), verified[0])
        _lading(root, "receipt", shown.delivery.id, "--files")
    output.say(
        f"\ndemo: {len(accounts)} deliveries, {len(verified)} verified, {len(rejected)} rejected, {lost} lost",
        style="bold",
    )
    as_told = {str(a.delivery.labels): a.stage for a in rejected} == {"DEMO/sub-003/sub-003_MR1": Stage.REJECTED}
    return len(accounts) == len(SCENES) and len(verified) == 3 and as_told and lost == 0
