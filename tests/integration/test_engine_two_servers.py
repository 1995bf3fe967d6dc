"""Two servers with databases of their own, given the same inbox and the same repository: each delivery is imported once."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading import doctor
from lading.delivery import Stage
from lading.engine.deliveries import Row
from lading.engine.server import HEARTBEAT
from lading.engine.serving import BELIEVED_S
from lading.staging.serving import SERVING
from lading.testing.engine_site import EngineSite, engine_site

pytestmark = pytest.mark.timeout(180)


@contextmanager
def a_second_server(root: Path, first: EngineSite) -> Iterator[EngineSite]:
    """With a home and a database of its own; inbox and repository are those of the first one, which serves already."""
    wait((first.inbox.root / SERVING).exists)
    root.mkdir()
    (root / "inbox").symlink_to(first.inbox.root)
    (root / "repo").symlink_to(first.repo)
    with engine_site(root) as made:
        wait((made.config.home / HEARTBEAT).exists)
        yield made


def said(site: EngineSite) -> str:
    return " ".join(each.text for each in doctor.pulse(site.config) if each.area == "inbox main")


def wait(until: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def sent(site: EngineSite) -> int:
    return [act for *_, act in site.acts()].count("sent")


def rows(site: EngineSite) -> list[Row]:
    return list(site.ledger.deliveries(limit=100))


def test_the_second_server_leaves_the_inbox_alone_until_the_first_one_ends(tmp_path: Path) -> None:
    with engine_site(tmp_path / "a") as first, a_second_server(tmp_path / "b", first) as second:
        (first.repo / "delay").write_text("0.3")
        for number in range(8):
            first.put(f"S{number}", files=20, size=50_000)
        first.until(Stage.VERIFIED)

        assert sent(first) == 8
        assert rows(second) == []
        assert said(first) == ""
        assert f"process {first.process.pid if first.process else 0}" in said(second)

        first.stop()
        later = second.put("S8")
        second.until(Stage.VERIFIED, seconds=30)

        assert sent(first) == 9
        assert [row.id for row in rows(second)] == [later]
        assert said(second) == ""
        assert "inbox served here" in (second.root / "log").read_text()


def test_what_a_server_had_begun_waits_when_another_serves_the_inbox_by_then(tmp_path: Path) -> None:
    """As after a long freeze: the one that wakes has work in hand, and does not go on with it."""
    with engine_site(tmp_path / "a") as first, a_second_server(tmp_path / "b", first) as second:
        first.ledger.pause_target("repository:repo")
        delivery = first.put("S1")
        first.until(Stage.QUEUED)
        assert first.process is not None
        os.kill(first.process.pid, signal.SIGSTOP)
        (first.inbox.root / SERVING).unlink()
        second.until(Stage.VERIFIED, ids=[delivery])

        os.kill(first.process.pid, signal.SIGCONT)
        wait(lambda: "served by" in said(first))
        time.sleep(BELIEVED_S)  # what its worker read last
        first.ledger.resume_target("repository:repo")
        wait(lambda: "served by" in str((rows(first)[0].error or {}).get("message")))

        assert sent(first) == 1
        assert first.stages() == {Stage.QUEUED: 1}
