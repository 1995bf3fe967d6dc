"""The server under murder: nothing is lost, nothing is imported twice."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from lading.delivery import Stage
from lading.engine.postgres import Cluster
from lading.testing.engine_site import EngineSite, engine_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def times_sent(site: EngineSite) -> Counter[int]:
    """How many deliveries were sent to the repository how many times."""
    sent = Counter(id_ for *_, id_, act in site.acts() if act == "sent")
    return Counter(sent[id_] for id_ in site.placed)


def test_workers_and_servers_killed_at_random_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    dice = random.Random(20261120)
    kills = 0

    def murder() -> None:
        nonlocal kills
        time.sleep(dice.uniform(0.1, 1.0))
        if kills >= 30:
            return
        if dice.random() < 0.2:
            site.kill()
            site.start()
            kills += 1
        elif pids := site.worker_pids():
            with suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)
                kills += 1

    with engine_site(tmp_path, workers=2) as site:
        (site.repo / "delay").write_text("0.3")
        for number in range(30):
            site.put(f"S{number}", sender=f"user{number % 4}", participant="sub-x" if number % 10 == 9 else "sub-001")
        site.until(Stage.VERIFIED, Stage.REJECTED, seconds=240, meanwhile=murder)

        # Killed after "sent" was written, before the import was committed: the next run asked and found it there.
        assert site.stages() == {Stage.VERIFIED: 27, Stage.REJECTED: 3}
        assert kills >= 20
        assert times_sent(site)[1] == 27
        assert max(times_sent(site)) == 1
        assert all(receipt.proves_all for id_ in site.placed if (receipt := site.inbox.read_receipt(id_)) and receipt.stage is Stage.VERIFIED)  # fmt: skip  # noqa: E501


def test_a_frozen_worker_keeps_its_delivery_and_goes_on_when_it_wakes(tmp_path: Path) -> None:
    with engine_site(tmp_path, workers=2, concurrency=1) as site:
        (site.repo / "delay").write_text("3")
        first = site.put("S1")
        site.until(Stage.IMPORTING)
        frozen = next(pid for _, pid, _, act in wait_for_acts(site) if act == "begin")
        os.kill(frozen, signal.SIGSTOP)
        others = [site.put(f"S{number}") for number in range(2, 5)]
        try:
            site.until(Stage.VERIFIED, ids=others)
            time.sleep(8)  # longer than a silent worker is given
            while_frozen = site.stages([first])
        finally:
            os.kill(frozen, signal.SIGCONT)
        site.until(Stage.VERIFIED)

        assert while_frozen == {Stage.IMPORTING: 1}
        assert times_sent(site) == {1: 4}
        assert Counter(act for *_, act in site.acts())["begin"] == 4


def test_what_a_dead_worker_held_is_taken_over_within_seconds(tmp_path: Path) -> None:
    # Whoever only waits for a worker to be taken for dead waits longer than this test.
    with engine_site(tmp_path, workers=2, concurrency=1, more="stale_after = 3600.0") as site:
        (site.repo / "delay").write_text("2")
        delivery = site.put("S1")
        site.until(Stage.IMPORTING)
        os.kill(next(pid for _, pid, _, act in wait_for_acts(site) if act == "begin"), signal.SIGKILL)
        site.until(Stage.VERIFIED, seconds=120)

        assert any("its worker was gone" in event.note for event in site.ledger.show(delivery).events)
        assert times_sent(site) == {1: 1}


def test_a_database_that_is_away_for_twenty_seconds_is_waited_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "elsewhere")
    cluster.start()
    try:
        with engine_site(tmp_path / "site", database=cluster.dsn, workers=2) as site:
            (site.repo / "delay").write_text("1")
            for number in range(12):
                site.put(f"S{number}")
            site.until(Stage.ACCEPTED, Stage.QUEUED, Stage.IMPORTING, Stage.IMPORTED, Stage.VERIFIED)
            assert site.process is not None
            cluster.stop("immediate")
            time.sleep(20)
            site.put("meanwhile")
            assert site.process.poll() is None
            cluster.start()
            site.until(Stage.VERIFIED, seconds=120)

            assert times_sent(site) == {1: 13}
            # A worker that lost its locks ended at once: no import ran beside its own repetition.
            assert site.most_at_once() <= 2 + len([1 for *_, act in site.acts() if act == "begin"]) - 13
    finally:
        cluster.stop()


def test_the_embedded_database_is_started_again_when_it_dies(tmp_path: Path) -> None:
    with engine_site(tmp_path, workers=2) as site:
        site.put("S1")
        site.until(Stage.VERIFIED)
        database = Cluster(site.config.home / "postgres").pid()
        assert database is not None
        os.kill(database, signal.SIGKILL)
        site.put("S2")
        site.until(Stage.VERIFIED)


def wait_for_acts(site: EngineSite) -> list[tuple[float, int, str, str]]:
    deadline = time.monotonic() + 120
    while not site.acts() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [(at, pid, str(id_), act) for at, pid, id_, act in site.acts()]
