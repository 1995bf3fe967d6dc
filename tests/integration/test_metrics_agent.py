"""The agent's figures, from a real outbox; reading them changes nothing."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lading.agent.live_book import Link, LiveBook, LiveState
from lading.agent.outbox import OUTBOX_NAME, Outbox
from lading.agent.outgoing import Outgoing, WatchReport
from lading.config import Config, load
from lading.delivery import Labels, Stage
from lading.deposit import Settled
from lading.errors import Unreachable
from lading.metrics import agent, live
from lading.metrics.collecting import Collector
from lading.metrics.text import exposition
from lading.testing.scraping import Figures, read

SETTINGS = """
home = "home"
[routes.mri]
transport = { kind = "local", path = "inbox" }
[routes.em]
transport = { kind = "local", path = "inbox" }
live = { settle = 1.0 }
[[agent.watch]]
path = "instrument"
route = "mri"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "lading.toml").write_text(SETTINGS)
    return load(tmp_path / "lading.toml")


@pytest.fixture
def outbox(config: Config) -> Iterator[Outbox]:
    with closing(Outbox(config.home)) as made:
        yield made


def figures(config: Config) -> Figures:
    with closing(Collector(config, ("agent",))) as collector:
        return read(exposition(collector.figures())[0].decode())


def take(outbox: Outbox, name: str) -> Outgoing:
    return outbox.take(Path("/data") / name, "mri", Labels("P", "sub-001", name), fingerprint=name)


def test_deliveries_their_bytes_and_the_oldest(config: Config, outbox: Outbox) -> None:
    half, failing, there = take(outbox, "half"), take(outbox, "failing"), take(outbox, "there")
    outbox.move(half.id, Stage.SENDING, bytes=1000, sent_bytes=400, files=2)
    with outbox.writing() as db:
        db.execute("UPDATE deliveries SET created_at = ? WHERE id = ?", (time.time() - 3600, half.id))
    outbox.fail(failing.id, Stage.READY, Unreachable("gone"), again_in=60)
    outbox.move(there.id, Stage.ARRIVED, arrived_at=time.time(), bytes=500, sent_bytes=0)

    found = figures(config)

    assert found.labelled("lading_up", program="agent") == 1
    assert found.labelled("lading_agent_deliveries", route="mri", stage="SENDING") == 1
    assert found.labelled("lading_agent_deliveries", route="mri", stage="ARRIVED") == 1
    assert found.labelled("lading_agent_deliveries", route="mri", stage="HELD") == 0
    assert found.labelled("lading_agent_unsent_bytes", route="mri") == 600
    assert 3600 <= found.labelled("lading_agent_oldest_delivery_age_seconds", route="mri", stage="SENDING") < 4200
    assert found.labelled("lading_agent_deliveries_failing", route="mri", code="unreachable") == 1
    assert found["lading_agent_verified_total"] == 0
    assert "lading_agent_last_receipt_timestamp_seconds" not in found


def test_receipts(config: Config, outbox: Outbox) -> None:
    at = time.time() - 50
    for number, stage in enumerate((Stage.VERIFIED, Stage.CLEANABLE, Stage.CLEANED)):
        outbox.move(take(outbox, stage).id, stage, arrived_at=at, verified_at=at - 100 * number)

    found = figures(config)

    assert found["lading_agent_verified_total"] == 3
    assert found["lading_agent_last_receipt_timestamp_seconds"] == pytest.approx(at, abs=1)


def test_watched_folders(config: Config, outbox: Outbox) -> None:
    (watch,) = config.agent.watch
    outbox.report_watch(WatchReport(watch.path, 1234.5, waiting=(("S1", "still growing"), ("S2", "no marker"))))
    outbox.report_watch(WatchReport(Path("/no/longer/watched"), 1.0))

    found = figures(config)

    assert found.labelled("lading_watch_up", path=str(watch.path)) == 1
    assert found.labelled("lading_watch_scan_timestamp_seconds", path=str(watch.path)) == 1234.5
    assert found.labelled("lading_watch_incomplete", path=str(watch.path)) == 2
    assert not any("no/longer" in name for name in found)
    outbox.report_watch(WatchReport(watch.path, 1235.0, error="not mounted"))
    assert figures(config).labelled("lading_watch_up", path=str(watch.path)) == 0


def test_without_an_outbox_there_is_none_afterwards(config: Config) -> None:
    found = figures(config)

    assert found.labelled("lading_up", program="agent") == 0
    assert not config.home.exists()


def test_a_spoilt_outbox_is_a_figure(config: Config, outbox: Outbox) -> None:
    outbox.close()
    (config.home / OUTBOX_NAME).write_bytes(b"this is no database" * 1000)

    assert figures(config).labelled("lading_up", program="agent") == 0


def test_a_writer_does_not_hold_up_a_reader(config: Config, outbox: Outbox) -> None:
    take(outbox, "one")
    with outbox.writing() as db:
        db.execute("UPDATE deliveries SET files = 7")

        found = figures(config)

    assert found.labelled("lading_up", program="agent") == 1
    assert found.labelled("lading_agent_deliveries", route="mri", stage="READY") == 1


def test_what_was_proven_long_ago_is_not_read(config: Config, outbox: Outbox) -> None:
    with outbox.writing() as db:
        db.executemany(
            "INSERT INTO deliveries (id, route, root, project, participant, session, stage, created_at, updated_at)"
            " VALUES (?, 'mri', x'00', 'P', 'S', 'M', 'CLEANED', 1, 1)",
            ((f"20260101-000000-{number:010}",) for number in range(20_000)),
        )

    found = figures(config)
    plans = [
        row["detail"]
        for question, values in agent.QUESTIONS
        if "LIMIT" not in question
        for row in outbox.rows(f"EXPLAIN QUERY PLAN {question}", *values)
    ]

    assert found["lading_agent_verified_total"] == 20_000
    assert any("SEARCH deliveries" in plan for plan in plans)
    assert not [plan for plan in plans if "SCAN deliveries" in plan], plans


def acquire(outbox: Outbox, name: str) -> LiveBook:
    """An acquisition on the live route, of three files at rest."""
    taken = outbox.take(Path("/data") / name, "em", Labels("P", "sub-001", name), fingerprint=name, live=True)
    book = LiveBook(outbox)
    book.get(taken.id)
    book.settle(taken.id, [Settled(f"movies/{number}.tif", 1000, number) for number in range(3)])
    return book


def test_live_acquisitions_their_lag_and_the_link(config: Config, outbox: Outbox) -> None:
    idle = figures(config)
    book = acquire(outbox, "one")
    (one,) = book.deliveries()
    with outbox.writing() as db:
        db.execute("UPDATE live_files SET settled_at = ? WHERE mtime_ns = 0", (time.time() - 1000,))
        db.execute("UPDATE deliveries SET created_at = 1000 WHERE live = 1")
    waiting = figures(config)
    book.link(one, Link.DOWN)
    down = figures(config)
    book.link(one, Link.UP)
    book.carried(one, [(row.settled, "0" * 64) for row in book.waiting(one, files=9, size=1 << 40)])
    outbox.amend(one, sent_files=3, sent_bytes=3000)  # as the push does with every STATUS.json
    there = figures(config)
    acquire(outbox, "two")
    book.put(one, state=LiveState.CLOSED)
    outbox.move(one, Stage.VERIFIED)
    closed = figures(config)

    assert idle.labelled("lading_live_files_waiting", route="em") == 0
    assert idle.labelled("lading_live_lag_seconds", route="em") == 0
    assert idle.labelled("lading_live_files_total", route="em") == 0
    assert "lading_live_link_up{route='em'}" not in {*idle, *waiting}
    assert waiting.labelled("lading_live_acquisitions", route="em", state="acquiring") == 1
    assert waiting.labelled("lading_live_files_waiting", route="em") == 3
    assert waiting.labelled("lading_live_bytes_waiting", route="em") == 3000
    assert 1000 <= waiting.labelled("lading_live_lag_seconds", route="em") < 1600
    assert not any(name.startswith("lading_agent_oldest") for name in waiting)
    assert down.labelled("lading_live_link_up", route="em") == 0
    assert there.labelled("lading_live_link_up", route="em") == 1
    assert there.labelled("lading_live_files_waiting", route="em") == 0
    assert there.labelled("lading_live_lag_seconds", route="em") == 0
    assert there.labelled("lading_live_files_total", route="em") == 3
    assert closed.labelled("lading_live_acquisitions", route="em", state="acquiring") == 1
    assert closed.labelled("lading_live_files_waiting", route="em") == 3
    assert closed.labelled("lading_live_files_total", route="em") == 3
    assert closed.labelled("lading_live_bytes_total", route="em") == 3000


def test_files_that_were_carried_are_not_counted_one_by_one(config: Config, outbox: Outbox) -> None:
    acquire(outbox, "one")

    plans = [row["detail"] for question in live.QUESTIONS for row in outbox.rows(f"EXPLAIN QUERY PLAN {question}")]

    files = [plan for plan in plans if plan.split()[1] == "f"]
    assert files == ["SCAN f USING INDEX live_files_waiting"], plans
    assert not [plan for plan in plans if plan.startswith("SCAN d")], plans


def test_an_outbox_from_before_live_mode_is_read(config: Config, outbox: Outbox) -> None:
    take(outbox, "one")
    with outbox.writing() as db:
        db.execute("DROP TABLE live")
        db.execute("ALTER TABLE deliveries DROP COLUMN live")

    found = figures(config)

    assert found.labelled("lading_up", program="agent") == 1
    assert found.labelled("lading_agent_deliveries", route="mri", stage="READY") == 1
    assert not any(name.startswith("lading_live") for name in found)
