"""The server's figures, from a real database and, where it matters, a real server."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import psycopg
import pytest

from lading.config import Config, load
from lading.delivery import Delivery, Labels, Stage, new_delivery_id
from lading.engine import database, deliveries, jobs, postgres
from lading.engine.chores import compact
from lading.engine.database import Connection
from lading.engine.deliveries import Change, Told
from lading.engine.postgres import Cluster
from lading.metrics.collecting import Collector
from lading.metrics.server import QUESTIONS
from lading.metrics.text import exposition
from lading.testing.engine_site import engine_site
from lading.testing.scraping import Figures, read

HOSTILE = 'mri"} 1\nlading_up{program="server'
SETTINGS = """
home = "home"
[inboxes.main]
path = "inbox"
[repositories.repo]
kind = "folder"
[routes.mri]
inbox = "main"
[routes."a \\"route\\" \\n{x=\\"y\\"} 1"]
inbox = "main"
"""
QUOTED = 'a "route" \n{x="y"} 1'


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """Settings whose embedded database runs, without a server."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "lading.toml").write_text(SETTINGS)
    made = load(folder / "lading.toml")
    with postgres.database(made) as dsn:
        database.migrate(dsn)
        yield made


@pytest.fixture
def connection(config: Config) -> Iterator[Connection]:
    with database.connect(postgres.dsn_of(config)) as made:
        made.execute("TRUNCATE deliveries, tallies, repositories, pauses, reports, alarms, procrastinate_jobs CASCADE")
        yield made


def figures(config: Config) -> Figures:
    with closing(Collector(config, ("server",))) as collector:
        return read(exposition(collector.figures())[0].decode())


def arrive(connection: Connection, *, route: str = "mri", size: int = 1000, files: int = 3) -> deliveries.Row:
    delivery = Delivery(new_delivery_id(), route, Labels("P", "sub-001", "S1"), files=files, bytes=size)
    deliveries.register(connection, "main", "repo", delivery, 0)
    row = deliveries.load(connection, delivery.id)
    assert row is not None
    return row


FAILURE = {"code": "target-unavailable", "actor": "nobody", "retried": True, "message": "away", "safe": "", "next": ""}


def fail(connection: Connection, row: deliveries.Row, at: Stage, *, in_s: float = 5.0) -> None:
    """As a worker records it."""
    again = None if at is Stage.HELD else datetime.now(UTC) + timedelta(seconds=in_s)
    deliveries.advance(connection, row, at, Change(attempt=1, not_before=again, error=FAILURE), Told("failed"))


def test_deliveries_by_route_and_stage_with_the_age_of_the_oldest(config: Config, connection: Connection) -> None:
    old, _, refused = arrive(connection), arrive(connection), arrive(connection)
    connection.execute("UPDATE deliveries SET arrived_at = now() - interval '2 hours' WHERE id = %s", (old.id,))
    deliveries.advance(connection, refused, Stage.REJECTED)

    found = figures(config)

    assert found.labelled("lading_up", program="server") == 1
    assert found.labelled("lading_deliveries", route="mri", stage="ARRIVED") == 2
    assert found.labelled("lading_deliveries_bytes", route="mri", stage="ARRIVED") == 2000
    assert found.labelled("lading_deliveries", route="mri", stage="REJECTED") == 1
    assert found.labelled("lading_deliveries", route="mri", stage="HELD") == 0
    assert 7200 <= found.labelled("lading_oldest_delivery_age_seconds", route="mri", stage="ARRIVED") < 7200 + 600
    assert "lading_oldest_delivery_age_seconds{route='mri',stage='HELD'}" not in found


def test_a_paused_delivery_is_counted_as_paused(config: Config, connection: Connection) -> None:
    row = arrive(connection)
    connection.execute("UPDATE deliveries SET paused = true WHERE id = %s", (row.id,))

    found = figures(config)

    assert found.labelled("lading_deliveries", route="mri", stage="PAUSED") == 1
    assert found.labelled("lading_deliveries", route="mri", stage="ARRIVED") == 0


def test_what_was_verified_is_counted_once_and_for_ever(config: Config, connection: Connection) -> None:
    for _ in range(3):
        row = arrive(connection, size=1 << 40, files=5)
        deliveries.advance(connection, row, Stage.IMPORTED)
        deliveries.advance(connection, row, Stage.VERIFIED)
        deliveries.advance(connection, row, Stage.VERIFIED)  # read back again

    before = figures(config)
    compact(connection)
    after = figures(config)

    for found in (before, after):
        assert found.labelled("lading_ended_total", route="mri", stage="VERIFIED") == 3
        assert found.labelled("lading_verified_files_total", route="mri") == 15
        assert found.labelled("lading_verified_bytes_total", route="mri") == 3 << 40
    row_count = connection.execute("SELECT count(*) FROM tallies").fetchone()
    assert row_count == (1,)


def test_the_proven_of_earlier_releases_count_too(config: Config, connection: Connection) -> None:
    for stage in (Stage.VERIFIED, Stage.VERIFIED, Stage.HELD):
        deliveries.advance(connection, arrive(connection), stage, Change(error=FAILURE))
    connection.execute("DROP TABLE tallies")
    connection.execute("DROP FUNCTION lading_tally_ended, lading_tally_failed CASCADE")
    connection.execute("DROP INDEX deliveries_refused")
    connection.execute("DELETE FROM lading_migrations WHERE name = 'lading/0004_tallies.sql'")

    assert database.migrate(postgres.dsn_of(config)) == ["lading/0004_tallies.sql"]
    found = figures(config)

    assert found.labelled("lading_ended_total", route="mri", stage="VERIFIED") == 2
    assert found.labelled("lading_ended_total", route="mri", stage="HELD") == 1
    assert found.labelled("lading_verified_bytes_total", route="mri") == 2000


def test_adding_up_loses_nothing_while_others_count(config: Config, connection: Connection) -> None:
    done = Event()

    def add_up() -> None:
        with database.connect(postgres.dsn_of(config)) as own:
            while not done.is_set():
                compact(own)

    seen = []
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(add_up) for _ in range(2)]
        try:
            for _ in range(100):
                deliveries.advance(connection, arrive(connection), Stage.VERIFIED)
                row = connection.execute("SELECT sum(number), sum(bytes) FROM tallies").fetchone()
                seen.append(row)
        finally:
            done.set()
        for one in both:
            one.result(timeout=60)

    assert seen == [(number, number * 1000) for number in range(1, 101)]


def test_what_a_seal_claims_cannot_overflow_a_counter(config: Config, connection: Connection) -> None:
    for _ in range(3):
        row = arrive(connection, size=2**63 - 1, files=2**63 - 1)
        deliveries.advance(connection, row, Stage.REJECTED)
    compact(connection)

    assert figures(config).labelled("lading_ended_total", route="mri", stage="REJECTED") == 3


def test_every_failed_attempt_counts_and_nothing_else_does(config: Config, connection: Connection) -> None:
    row = arrive(connection)
    for seconds in (5.0, 10.0, 20.0):
        fail(connection, row, Stage.ARRIVED, in_s=seconds)
    failing = figures(config)
    # What moves a delivery without failing: a slot is given, an operator pauses and retries, a worker was gone.
    connection.execute("UPDATE deliveries SET stage = 'IMPORTING', not_before = NULL WHERE id = %s", (row.id,))
    connection.execute("UPDATE deliveries SET paused = true WHERE id = %s", (row.id,))
    connection.execute("UPDATE deliveries SET paused = false, epoch = epoch WHERE id = %s", (row.id,))
    fail(connection, row, Stage.HELD)
    held = figures(config)
    deliveries.advance(connection, row, Stage.QUEUED)
    found = figures(config)

    labels = {"route": "mri", "code": "target-unavailable"}
    assert failing.labelled("lading_failed_attempts_total", **labels) == 3
    assert failing.labelled("lading_deliveries_failing", **labels) == 1
    assert held.labelled("lading_failed_attempts_total", **labels) == 4
    assert held.labelled("lading_ended_total", route="mri", stage="HELD") == 1
    assert found.labelled("lading_failed_attempts_total", **labels) == 4
    assert "lading_deliveries_failing{code='target-unavailable',route='mri'}" not in found


def test_strangers_cannot_make_labels_and_routes_with_odd_names_are_one_label(
    config: Config, connection: Connection
) -> None:
    for number in range(20):
        arrive(connection, route=f"{HOSTILE} {number}")
    deliveries.advance(connection, arrive(connection, route=HOSTILE), Stage.REJECTED)
    arrive(connection, route=QUOTED)

    found = figures(config)

    assert found.labelled("lading_deliveries", route="(unknown)", stage="ARRIVED") == 20
    assert found.labelled("lading_ended_total", route="(unknown)", stage="REJECTED") == 1
    assert found.labelled("lading_deliveries", route=QUOTED, stage="ARRIVED") == 1
    assert not any('mri"}' in name for name in found)


def test_jobs_and_reports(config: Config, connection: Connection) -> None:
    row = arrive(connection)
    jobs.queue(connection, jobs.Job(row.delivery.id, 1, "accept"))
    jobs.queue(connection, jobs.Job(row.delivery.id, 1, "accept"), at=datetime.now(UTC) + timedelta(hours=1))
    connection.execute(
        "INSERT INTO reports (id, place, readers, subject, body, at) VALUES ('r', 'mail', '{}', 's', 'b', now() - interval '1 h')"
    )

    found = figures(config)

    assert found.labelled("lading_jobs", state="waiting") == 1
    assert found.labelled("lading_jobs", state="later") == 1
    assert found.labelled("lading_jobs", state="running") == 0
    assert found["lading_workers"] == 0
    assert found["lading_reports_waiting"] == 1
    assert found["lading_oldest_report_age_seconds"] >= 3600


def test_a_repository_that_is_away_or_paused(config: Config, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO repositories (name, imports, failures, down_since) VALUES ('repo', 2, 4, now()), ('other', 3, 0, NULL)"
    )
    connection.execute("INSERT INTO pauses VALUES ('repository:other')")
    row = arrive(connection)
    deliveries.advance(connection, row, Stage.IMPORTING)

    found = figures(config)

    assert found.labelled("lading_repository_up", repository="repo") == 0
    assert found.labelled("lading_repository_failures", repository="repo") == 4
    assert found.labelled("lading_repository_imports", repository="repo") == 1
    assert found.labelled("lading_repository_imports_limit", repository="repo") == 2
    assert found.labelled("lading_repository_up", repository="other") == 1
    assert found.labelled("lading_repository_paused", repository="other") == 1


def test_a_million_proven_deliveries_are_not_read(config: Config, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO deliveries (id, inbox, route, stage) SELECT 'd' || n, 'main', 'mri', 'VERIFIED'"
        " FROM generate_series(1, 60000) n"
    )
    connection.execute("ANALYZE deliveries")

    values = {"routes": ["mri"], "silent": timedelta(seconds=6)}
    for question in QUESTIONS:
        rows = psycopg.ClientCursor(connection).execute(f"EXPLAIN {question}", values).fetchall()
        plan = "\n".join(line for (line,) in rows)
        assert "Seq Scan on deliveries" not in plan, plan


def test_a_database_that_went_away_is_a_figure_and_its_return_too(config: Config, connection: Connection) -> None:
    cluster = Cluster(config.home / "postgres")
    with closing(Collector(config, ("server",), kept=0.0)) as collector:

        def taken() -> Figures:
            return read(exposition(collector.figures())[0].decode())

        assert taken().labelled("lading_up", program="server") == 1
        cluster.stop("immediate")
        try:
            away = taken()
        finally:
            cluster.start()
        back = taken()

    assert away.labelled("lading_up", program="server") == 0
    assert "lading_workers" not in away
    assert not any(name.startswith("lading_deliveries") for name in away)
    assert away.labelled("lading_inbox_up", inbox="main") == 0  # nobody made it; it is told all the same
    assert back.labelled("lading_up", program="server") == 1


def test_those_who_ask_at_once_share_one_look(config: Config, connection: Connection) -> None:
    with closing(Collector(config, ("server",), kept=3600.0)) as collector, ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(lambda _: collector.figures(), range(40)))

    assert len({id(look) for look in looks}) == 1


def until(true: Callable[[], bool], why: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


def test_a_server_at_work(tmp_path: Path) -> None:
    with engine_site(tmp_path / "site", keep_days=0.0, workers=2) as site:
        site.put("S1", files=4, size=500)
        site.put("S2", participant="mallory")
        site.until(Stage.VERIFIED, Stage.REJECTED)
        found = Figures()

        def complete() -> bool:
            found.update(figures(site.config))
            return "lading_chore_timestamp_seconds{chore='tidy'}" in found and found["lading_workers"] == 2

        until(complete, "the chores were done, and both workers are there")

    assert found.labelled("lading_running", program="server") == 1
    assert found["lading_server_heartbeat_age_seconds"] < 60
    assert found["lading_worker_heartbeat_age_seconds"] < 60
    assert found.labelled("lading_ended_total", route="mri", stage="VERIFIED") == 1
    assert found.labelled("lading_ended_total", route="mri", stage="REJECTED") == 1
    assert found.labelled("lading_verified_files_total", route="mri") == 4
    assert found.labelled("lading_verified_bytes_total", route="mri") == 2000
    assert found.labelled("lading_inbox_up", inbox="main") == 1
    assert found.labelled("lading_inbox_free_bytes", inbox="main") > 0
    assert found.labelled("lading_repository_imports_limit", repository="repo") == 2
    assert abs(found.labelled("lading_chore_timestamp_seconds", chore="adopt") - time.time()) < 600
