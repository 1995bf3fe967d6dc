"""(e) 1,000 tiny deliveries through the server's line into a repository, everything durable: deliveries per second.

    python bench/server_line.py [--deliveries 1000] [--repository xnat|folder] [--imports 4] [--workers 2]

Each delivery is 3 real DICOM images (10 kB each) in a sealed slot. The clock starts with the server, whose database exists
and is empty, and stops after the last receipt, its row and a `sync`. "xnat" is the stand-in on this machine with the real
importer and checks; "folder" is the same line into a folder, without checks: the engine and the inbox alone. Our
database, the inbox and the receipts are flushed to the disk at every step; the stand-in, which plays XNAT, flushes nothing.
Prints where the time goes: per step, and per program.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lading import manifest
from lading.config import Config, load
from lading.delivery import Delivery, Labels, Stage, new_delivery_id
from lading.engine import database, postgres
from lading.inbox import Inbox, seal
from lading.testing.dicom import write_series
from lading.testing.lean import without_pandas

TARGET = 20.0
SETTINGS = """
home = "home"
[inboxes.main]
path = "{inbox}"
keep_free_gb = 0.0
[repositories.repo]
imports = {imports}
{repository}
[routes.mri]
inbox = "main"
repository = "repo"
{route}
[server]
workers = {workers}
concurrency = {concurrency}
"""
FOLDER = 'kind = "folder"\nfolder = "{root}/repo"'
XNAT = 'kind = "xnat"\nurl = "{url}"'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=1000)
    parser.add_argument("--repository", choices=["xnat", "folder"], default="xnat")
    parser.add_argument("--imports", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
        root = Path(folder)
        with repository(wanted.repository, root) as (inbox, settings, environment):
            (root / "lading.toml").write_text(
                SETTINGS.format(
                    inbox=inbox,
                    imports=wanted.imports,
                    workers=wanted.workers,
                    concurrency=wanted.concurrency,
                    repository=settings,
                    route='import = { route = "inbox" }' if wanted.repository == "xnat" else "",
                )
            )
            config = load(root / "lading.toml")
            place(Inbox.create(config.inboxes["main"].path), wanted.deliveries)
            os.sync()
            parts = (
                "lading.assembly:server_parts" if wanted.repository == "xnat" else "lading.testing.fakes:folder_parts"
            )
            return measure(config, wanted.deliveries, parts, environment)


@contextmanager
def repository(kind: str, root: Path) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """The repository, running: its inbox, its settings, and the environment that has its password."""
    if kind == "folder":
        (root / "repo").mkdir()
        yield root / "inbox", FOLDER.format(root=root), {}
        return
    ready = root / "ready"
    command = [sys.executable, "-m", "lading", "sandbox", "xnat", "--root", str(root / "xnat"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--project", "BENCH:auto", "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(ready.exists, 60)
        url = json.loads(ready.read_text())["url"]
        (root / "stand-in.pid").write_text(str(process.pid))
        environment = {"LADING_XNAT_USER": "admin", "LADING_XNAT_PASSWORD": "admin"}
        yield root / "xnat" / "inbox", XNAT.format(url=url.rstrip("/")), environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def place(inbox: Inbox, count: int) -> None:
    """Sealed slots, as a transport leaves them."""
    for number in range(count):
        labels = Labels("BENCH", f"sub-{number:04}", f"MR{number:04}")
        delivery = Delivery(new_delivery_id(), "mri", labels, sender=f"user{number % 6}@lab")
        slot = inbox.reserve(delivery.id)
        write_series(slot / "data", 3, participant=labels.participant, session=labels.session)
        seal(slot, delivery, manifest.make(slot / "data", slot, algorithms=("md5",)))


def measure(config: Config, count: int, parts: str, environment: dict[str, str]) -> int:
    home = config.home
    home.mkdir()
    program = (
        "import sys, threading, signal, pathlib; from lading import log; from lading.engine import server;"
        "from lading.config import load;"
        "log.set_up(); stop = threading.Event(); signal.signal(signal.SIGTERM, lambda *_: stop.set());"
        "server.serve(load(pathlib.Path(sys.argv[1])), stop=stop, parts=sys.argv[2])"
    )
    with postgres.database(config) as dsn:
        database.migrate(dsn)
    began = time.perf_counter()
    with (home / "words").open("wb") as words:
        server = subprocess.Popen(
            [sys.executable, "-c", program, str(config.file), parts],
            stdin=subprocess.DEVNULL,
            stderr=words,
            env={**without_pandas(), **environment},
            start_new_session=True,
        )
    try:
        wait_until((home / "server.json").exists, 60)
        with database.connect(postgres.dsn_of(config)) as connection:
            while (stages := stages_of(connection)).get(Stage.VERIFIED, 0) < count and server.poll() is None:
                if stages.get(Stage.HELD, 0) + stages.get(Stage.REJECTED, 0):
                    break
                time.sleep(0.1)
            os.sync()
            took = time.perf_counter() - began
            report(connection, count, took)
            spent(config, server.pid)
            stages = stages_of(connection)
        if stages != {Stage.VERIFIED: count}:
            print(f"not all are verified: {stages}\n" + (home / "words").read_text()[-3000:])
            return 1
    finally:
        server.terminate()
        server.wait(60)
        postgres.Cluster(home / "postgres").stop()
    rate = count / took
    print(f"(e) {count:,} deliveries in {took:.1f} s: {rate:.1f} deliveries/s, durable (wanted: {TARGET:.0f})")
    return 0 if rate >= TARGET else 1


def report(connection: database.Connection, count: int, took: float) -> None:
    steps = connection.execute(
        "SELECT stage, count(*), sum(seconds), percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds),"
        " percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FROM events WHERE seconds IS NOT NULL GROUP BY stage"
        " ORDER BY min(id)"
    ).fetchall()
    print("step that ends at    times   sum s   median ms   95 % ms")
    for stage, times, total, median, most in steps:
        print(f"{stage:18} {times:7,} {total:7.1f} {median * 1000:11.1f} {most * 1000:9.1f}")
    (commits,) = connection.execute(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'"
    ).fetchone() or (0,)
    print(f"transactions: {commits / count:.1f} per delivery; {took / count * 1000:.1f} ms per delivery in all")


def spent(config: Config, server: int) -> None:
    """Processor seconds of everybody who took part."""
    names = {server: "supervisor"}
    names |= dict.fromkeys(json.loads((config.home / "server.json").read_text())["workers"], "worker")
    stand_in = config.home.parent / "stand-in.pid"
    if stand_in.exists():
        names[int(stand_in.read_text())] = "stand-in XNAT"
    seconds: dict[str, float] = {}
    for pid, name in names.items():
        seconds[name] = seconds.get(name, 0) + processor_seconds(pid)
    # Its children that ended are counted with the postmaster's own.
    postmaster = postgres.Cluster(config.home / "postgres").pid() or 0
    family = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent_of(int(p.name)) == postmaster]
    seconds["PostgreSQL"] = sum(processor_seconds(pid) for pid in [postmaster, *family])
    print("processor seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))


def stages_of(connection: database.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT stage, count(*) FROM deliveries GROUP BY stage").fetchall())


def processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds} s in vain")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
