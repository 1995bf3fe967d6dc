"""Kill everything, often: every delivery ends VERIFIED or REJECTED, none is imported twice, none is lost."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lading.testing.dicom import write_series
from lading.testing.facility import Facility

DELIVERIES = 32
KILLS = 64


def _database(site: Facility) -> list[psutil.Process]:
    """The embedded PostgreSQL of this site and nobody else's."""
    data = str(site.root / "state" / "postgres")
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        with suppress(psutil.Error):
            if "postgres" in (process.info["name"] or "") and any(
                data in word for word in process.info["cmdline"] or ()
            ):
                found.append(process)
    return found


def _workers(site: Facility) -> list[psutil.Process]:
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process(site.programs["server"].pid).children(recursive=True):
            with suppress(psutil.Error):
                if "lading.engine.worker" in process.cmdline():
                    found.append(process)
    return found


def _write_next(site: Facility, number: int) -> None:
    participant = f"sub-{number:03d}" if number % 8 else f"sub-X{number:02d}"
    staging = site.root / "staging" / str(number)
    write_series(staging, 1 + number % 4)
    target = site.instrument / "DEMO" / participant / f"{participant}_MR1"
    target.parent.mkdir(parents=True)
    staging.rename(target)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_sixty_kills_a_frozen_worker_and_a_database_outage_lose_and_double_nothing(make_site, tmp_path: Path) -> None:
    chance = random.Random(20261120)
    site = make_site(quiet=0.5, stale_after=4, workers=2)
    site.start_server()
    site.start_agent()
    kills, written = 0, 0

    while kills < KILLS:
        if written < DELIVERIES:
            _write_next(site, written)
            written += 1
        time.sleep(chance.uniform(0.2, 2.5))
        victim = chance.choice(["agent", "server", "worker", "worker"])
        if victim == "worker":
            with suppress(psutil.Error, IndexError):
                chance.choice(_workers(site)).kill()
                kills += 1
        else:
            site.kill(victim)
            kills += 1
            (site.start_agent if victim == "agent" else site.start_server)()
        if kills == KILLS // 3:
            _freeze_a_worker(site)
        if kills == 2 * KILLS // 3:
            _take_the_database_away(site, 20)
    found = site.settle(DELIVERIES, seconds=300, final=("VERIFIED", "REJECTED"))

    counts = site.xnat("GET", "counts")
    by_stage = {stage: [d for d in found if d["stage"] == stage] for stage in ("VERIFIED", "REJECTED")}
    print(f"crash test: {kills} kills, {len(found)} deliveries, {len(by_stage['VERIFIED'])} verified, "
          f"{len(by_stage['REJECTED'])} rejected, {counts}")  # fmt: skip
    assert len(found) == DELIVERIES
    assert len(by_stage["REJECTED"]) == DELIVERIES // 8
    assert counts["archive_sessions"] == len(by_stage["VERIFIED"]) == DELIVERIES - DELIVERIES // 8
    assert counts["archived_duplicates"] == 0
    assert all(times == 1 for times in counts["imports_per_label"].values())
    assert counts["archived_objects"] == sum(d["files"] for d in by_stage["VERIFIED"])
    for delivery in by_stage["VERIFIED"]:
        assert site.ask("receipt", str(delivery["id"]))["proves_all"]
    assert sum(1 for _ in site.instrument.rglob("*.dcm")) == sum(1 + n % 4 for n in range(DELIVERIES))


def _freeze_a_worker(site: Facility) -> None:
    site.until(lambda: bool(_workers(site)), seconds=60, why="workers run")
    frozen = _workers(site)[0]
    frozen.suspend()
    time.sleep(10)
    with suppress(psutil.Error):
        frozen.resume()


def _take_the_database_away(site: Facility, seconds: float) -> None:
    """Freeze the whole cluster, as a stalled host does, then kill it: the supervisor must bring it back."""
    database = _database(site)
    for process in database:
        with suppress(psutil.Error):
            os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    for process in database:
        with suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)
