"""A server in processes of its own, over a folder for a repository: what the engine's tests and benchmarks run on."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psycopg

from lading import manifest
from lading.config import Config, load
from lading.delivery import Delivery, DeliveryId, Labels, Stage, new_delivery_id
from lading.engine import postgres
from lading.engine.ledger import Ledger
from lading.errors import EngineError
from lading.inbox import Inbox, seal
from lading.testing.prepared_database import prepare_database

SETTINGS = """
home = "home"
[inboxes.main]
path = "inbox"
keep_free_gb = 0.0
quiet = 1.0
bare_route = "mri"
keep_days = {keep_days}
[repositories.repo]
kind = "folder"
folder = "{root}/repo"
imports = {imports}
[routes.mri]
inbox = "main"
repository = "repo"
attempts = {attempts}
checks = {{ participant = "sub-[0-9]+" }}
[server]
database = "{database}"
workers = {workers}
concurrency = {concurrency}
scan_every = 0.2
{more}
"""


@dataclass
class EngineSite:
    """Everything below `root`. `more` is appended to the settings: tables of one's own."""

    root: Path
    database: str = "embedded"
    imports: int = 2
    workers: int = 1
    concurrency: int = 4
    attempts: int = 8
    keep_days: float = 7.0
    more: str = ""
    process: subprocess.Popen[bytes] | None = None
    placed: list[DeliveryId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        values = {
            name: getattr(self, name)
            for name in ("database", "imports", "workers", "concurrency", "attempts", "keep_days", "more")
        }
        self.settings.write_text(SETTINGS.format(root=self.root, **values))
        self.repo.mkdir(exist_ok=True)
        self.inbox = Inbox.create(self.root / "inbox")

    @property
    def settings(self) -> Path:
        return self.root / "lading.toml"

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @cached_property
    def config(self) -> Config:
        return load(self.settings)

    @property
    def dsn(self) -> str:
        return postgres.dsn_of(self.config)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.dsn)

    def put(
        self,
        session: str,
        *,
        participant: str = "sub-001",
        project: str = "P",
        sender: str = "scanner@lab",
        priority: int = 0,
        files: int = 3,
        size: int = 500,
    ) -> DeliveryId:
        """A sealed slot, as a transport leaves it. Its content depends on the labels alone."""
        labels = Labels(project, participant, session)
        delivery = Delivery(new_delivery_id(), "mri", labels, sender=sender, priority=priority)
        slot = self.inbox.reserve(delivery.id)
        for number in range(files):
            (slot / "data" / f"{number:04}.dcm").write_bytes(f"{labels} {number} ".encode().ljust(size, b"."))
        seal(slot, delivery, manifest.make(slot / "data", slot))
        self.placed.append(delivery.id)
        return delivery.id

    def start(self) -> None:
        """The server, its words in `root/log`; an embedded database was prepared before. Returns at once."""
        if self.database == postgres.EMBEDDED:
            prepare_database(self.config.home / "postgres")
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lading.testing.fakes", str(self.settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """As a service manager does."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(40)
            self.kill()

    def kill(self) -> None:
        """The supervisor and its workers, with -9; the database stays, as it would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def worker_pids(self) -> list[int]:
        """The worker processes that live now."""
        if self.process is None:
            return []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if b"lading.engine.worker" in _command_line(pid)]

    def stages(self, ids: Iterable[DeliveryId] | None = None) -> Counter[Stage]:
        """How many of the deliveries (all that were placed) are at which stage."""
        wanted = set(self.placed if ids is None else ids)
        return Counter(Stage(row.stage) for row in self.ledger.deliveries(limit=10_000) if row.id in wanted)

    def until(
        self,
        *stages: Stage,
        ids: Collection[DeliveryId] | None = None,
        seconds: float = 120,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait until all the deliveries are at one of `stages`. Raises AssertionError with where they are instead."""
        wanted = self.placed if ids is None else ids
        deadline = time.monotonic() + seconds
        there: Counter[Stage] = Counter()
        while time.monotonic() < deadline:
            meanwhile()
            with suppress(EngineError, psycopg.Error):
                there = self.stages(wanted)
                if sum(there[stage] for stage in stages) == len(wanted):
                    return
            time.sleep(0.1)
        log = (self.root / "log").read_text(errors="replace").splitlines()[-15:] if (self.root / "log").exists() else []
        raise AssertionError("\n".join([f"after {seconds} s: {dict(there)} of {len(wanted)}", *log]))

    def acts(self) -> list[tuple[float, int, DeliveryId, str]]:
        """What the repository saw, in order: time, process, delivery, act."""
        path = self.repo / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), int(pid), DeliveryId(id_), act) for at, pid, id_, act in (line.split() for line in lines)]

    def most_at_once(self) -> int:
        """The largest number of imports that the repository saw at the same time."""
        running = most = 0
        for *_, act in self.acts():
            running += {"begin": 1, "end": -1}.get(act, 0)
            most = max(most, running)
        return most


@contextmanager
def engine_site(root: Path, *, serving: bool = True, **settings: object) -> Iterator[EngineSite]:
    """A site; with `serving`, its server runs until the context ends. Nothing is left running."""
    site = EngineSite(root, **settings)  # type: ignore[arg-type]  # the dataclass says which there are
    try:
        if serving:
            site.start()
        yield site
    finally:
        site.stop()
        site.ledger.close()
        if site.database == postgres.EMBEDDED:
            postgres.Cluster(site.config.home / "postgres").stop()


@contextmanager
def bare_database(folder: Path) -> Iterator[str]:
    """A prepared database with no server around it."""
    prepare_database(folder)
    with postgres.Cluster(folder).used() as dsn:
        yield dsn


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
