"""The folder of a demonstration: its settings, the programs that run in it, and the commands typed there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.live import Live

from lading.assembly import open_desk
from lading.cli import output
from lading.cli.display import board, how_far
from lading.cli.gauge import Gauge
from lading.cli.waiting import FINAL
from lading.config import Config, load
from lading.delivery import DeliveryId
from lading.desk import Account
from lading.errors import LadingError

MARK = ".lading-demo"
PATIENCE = 150.0


@dataclass
class Place:
    """The folder `root`. `environment` is what the programs get besides our own: the stand-in's passwords."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fresh(cls, root: Path) -> "Place":
        """A new one. Raises FileExistsError when it is there."""
        (root / "logs").mkdir(parents=True)
        (root / "instrument").mkdir()
        return cls(root)

    @property
    def instrument(self) -> Path:
        """The watched folder."""
        return self.root / "instrument"

    def settings(self, text: str) -> Config:
        """Write the settings file; what it says."""
        (self.root / "lading.toml").write_text(text, encoding="utf-8")
        return load(self.root / "lading.toml")

    @contextmanager
    def sandbox(self, kind: str, *arguments: str) -> Iterator[Mapping[str, object]]:
        """A stand-in repository, ready; what it says about itself."""
        ready = self.root / f"{kind}.ready"
        words = ("sandbox", kind, "--root", str(self.root / kind), "--ready-file", str(ready), *arguments)
        with self.program(f"sandbox-{kind}", *words) as process:
            deadline = time.monotonic() + 60
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    log = self.root / "logs" / f"sandbox-{kind}.log"
                    raise SystemExit(f"the sandbox {kind.upper()} did not start; see {log}")
                time.sleep(0.05)
            yield json.loads(ready.read_text(encoding="utf-8"))

    @contextmanager
    def program(self, name: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """One of the programs, in the background, its words in logs/NAME.log; stopped at the end, with all it started."""
        with (self.root / "logs" / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self._command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment(),
                cwd=self.root,
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

    def type(self, *arguments: str) -> None:
        """Type a command, as a person would, and show it."""
        output.say_next("lading " + " ".join(arguments))
        subprocess.run(self._command(*arguments), check=True, env=self._environment(), cwd=self.root)

    def follow(self, config: Config, count: int) -> list[Account]:
        """Show all deliveries until there are `count`, and each is at rest."""
        deadline = time.monotonic() + PATIENCE
        accounts: list[Account] = []
        gauges: defaultdict[DeliveryId, Gauge] = defaultdict(Gauge)
        with Live(console=output.out, auto_refresh=False) as live:
            while time.monotonic() < deadline:
                try:
                    with open_desk(config) as desk:
                        accounts = sorted(desk.recent(), key=lambda a: str(a.delivery.labels))
                except LadingError:
                    accounts = []  # the server's database is still being made
                live.update(board(accounts, how_far(accounts, gauges)), refresh=output.out.is_terminal)
                if len(accounts) == count and all(a.stage in FINAL for a in accounts):
                    break
                time.sleep(0.3)
            live.update(board(accounts, how_far(accounts, gauges)), refresh=True)
        return accounts

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "lading", "--config", str(self.root / "lading.toml"), *arguments]

    def _environment(self) -> Mapping[str, str]:
        return os.environ | {"PYTHONUNBUFFERED": "1"} | self.environment


def clear(root: Path) -> None:
    """Empty the folder of an earlier demo, or make it. Raises SystemExit for a folder that is none of ours."""
    if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
        raise SystemExit(f"{root} is not a folder of the demo; it is left alone")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()


def with_receipts(config: Config, accounts: list[Account]) -> list[Account]:
    """As the desk knows them now: a receipt that was REJECTED before a mending is VERIFIED after it."""
    with open_desk(config) as desk:
        return [desk.account(account.delivery.id) for account in accounts]
