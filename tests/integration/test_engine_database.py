"""The database: where it runs, how its schema grows, and that a job is queued with the stage or not at all."""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest

from lading.delivery import Delivery, DeliveryId, Labels, Stage, new_delivery_id
from lading.engine import admission, database, deliveries, jobs, steps, worker
from lading.engine.database import Connection
from lading.engine.deliveries import Change, Superseded, Told
from lading.engine.judge import judge
from lading.engine.ledger import Ledger, NotNow
from lading.engine.parts import Parts
from lading.engine.postgres import Cluster
from lading.engine.reaper import Reaper, wake_idle
from lading.engine.steps import Desk
from lading.errors import EngineError, Rejected, TargetUnavailable
from lading.pipeline import IMPORT_RECORD
from lading.testing.engine_site import bare_database
from lading.testing.faultproxy import FaultProxy


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bare_database(tmp_path_factory.mktemp("db")) as made:
        yield made


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with database.connect(dsn) as made:
        made.execute("TRUNCATE deliveries, procrastinate_jobs, procrastinate_workers CASCADE")
        yield made


def arrive(connection: Connection) -> deliveries.Row:
    delivery = Delivery(new_delivery_id(), "mri", Labels("P", "sub-001", "S1"))
    deliveries.register(connection, "main", "repo", delivery, 0)
    row = deliveries.load(connection, delivery.id)
    assert row is not None
    return row


def queued(connection: Connection) -> list[dict[str, object]]:
    return [row[0] for row in connection.execute("SELECT args FROM procrastinate_jobs ORDER BY id").fetchall()]


def test_the_last_who_leaves_stops_the_database(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "pg")
    with cluster.used() as dsn, Cluster(tmp_path / "pg").used(), psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("lading",)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)

    assert cluster.pid() is None


def test_a_deep_home_has_its_socket_elsewhere_and_leaves_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / ("deep" * 20) / "pg")
    with cluster.used() as dsn:
        folder = Path(psycopg.conninfo.conninfo_to_dict(dsn)["host"])
        psycopg.connect(dsn).close()
        assert tmp_path not in folder.parents

    assert not folder.exists()


def test_a_host_that_vanishes_without_a_word_is_noticed(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {**database._LIMITS, "keepalives_idle": 1, "keepalives_interval": 1, "tcp_user_timeout": 2_000}
    monkeypatch.setattr(database, "_LIMITS", limits)
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    with FaultProxy((str(parts["host"]), 5432)) as proxy:
        there = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
        with database.connect(there) as asking, database.connect(there) as waiting, ThreadPoolExecutor(1) as threads:
            asked = threads.submit(waiting.execute, "SELECT pg_sleep(60)")
            time.sleep(0.5)
            proxy.vanish()

            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError):
                asking.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                asked.result()
        with pytest.raises(EngineError, match="connecting"):
            database.connect(f"{there} connect_timeout=2")

    assert time.monotonic() - began < 15


def test_every_connection_has_limits_and_those_of_the_settings_win(dsn: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    with FaultProxy((str(parts["host"]), 5432)) as proxy:
        there = psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
        assert _limits_of(there) == (1, 10, 5, 3, 25_000)
        assert _limits_of(f"{there} keepalives_idle=7 tcp_user_timeout=9000") == (1, 7, 5, 3, 9000)
        assert _limits_of(f"{there} keepalives=0")[0] == 0
    assert psycopg.conninfo.conninfo_to_dict(database.conninfo(f"{dsn} connect_timeout=3"))["connect_timeout"] == "3"


def _limits_of(dsn: str) -> tuple[int, ...]:
    with database.connect(dsn) as connection, socket.socket(fileno=os.dup(connection.fileno())) as line:
        tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        alive = line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return (alive, *(line.getsockopt(socket.IPPROTO_TCP, option) for option in tcp))


def test_migrating_twice_and_from_many_processes_is_one_migration(tmp_path: Path) -> None:
    with Cluster(tmp_path / "pg").used() as dsn:
        with ThreadPoolExecutor(4) as threads:
            applied = list(threads.map(database.migrate, [dsn] * 4))

            everything = 1 + len(list(Path(database.__file__).parent.glob("sql/*.sql")))  # Procrastinate's is one
        assert sorted(map(len, applied)) == [0, 0, 0, everything]
        with database.connect(dsn) as connection:
            connection.execute("INSERT INTO lading_migrations VALUES ('lading/9999_future.sql', 'x')")
            with pytest.raises(EngineError, match="newer lading"):
                database.migrate(dsn)
            connection.execute("DELETE FROM lading_migrations WHERE name LIKE '%9999%'")
            connection.execute("UPDATE lading_migrations SET checksum = 'x' WHERE name LIKE 'lading/%'")
            with pytest.raises(EngineError, match="differs from what was applied"):
                database.migrate(dsn)


def test_a_job_is_queued_with_the_transaction_or_not_at_all(connection: Connection) -> None:
    job = jobs.Job(DeliveryId("20260504-1"), 1, "accept")
    with connection.transaction(force_rollback=True):
        jobs.queue(connection, job)
    assert queued(connection) == []

    jobs.queue(connection, job)
    assert queued(connection) == [{"delivery": "20260504-1", "epoch": 1, "step": "accept"}]


def test_a_worker_ends_a_job_and_takes_the_next_in_one(connection: Connection) -> None:
    for number in (1, 2):
        jobs.queue(connection, jobs.Job(DeliveryId(f"20260504-{number}"), 1, "accept"), priority=number)
    jobs.queue(connection, jobs.Job(DeliveryId("20260504-3"), 1, "accept"), at=datetime.now(UTC) + timedelta(hours=1))
    (worker,) = connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()").fetchone() or (0,)

    first = jobs.end_and_take(connection, jobs.Taken(0, jobs.Job(DeliveryId("gone"), 1, "accept")), worker)
    assert first is not None
    assert first.job == jobs.Job(DeliveryId("20260504-2"), 1, "accept")
    second = jobs.end_and_take(connection, first, worker)
    assert second is not None
    assert second.job.delivery == "20260504-1"
    doing = connection.execute("SELECT id, worker_id FROM procrastinate_jobs WHERE status = 'doing'").fetchall()
    assert doing == [(second.id, worker)]

    assert jobs.end_and_take(connection, second, worker) is None
    assert [args["delivery"] for args in queued(connection)] == ["20260504-3"]


def test_a_stage_comes_with_its_event_and_the_next_job(connection: Connection) -> None:
    row = arrive(connection)
    following = jobs.Job(row.delivery.id, row.epoch, "check")

    deliveries.advance(connection, row, Stage.ACCEPTED, told=Told("3 files", 0.5, "accept", following))

    events = deliveries.events_of(connection, row.id)
    assert [(event.stage, event.note) for event in events] == [("ARRIVED", "in inbox main"), ("ACCEPTED", "3 files")]
    assert [args["step"] for args in queued(connection)] == ["check"]


def test_whoever_was_fenced_out_records_nothing(connection: Connection) -> None:
    row = arrive(connection)
    deliveries.fence(connection, row)

    with pytest.raises(Superseded):
        deliveries.advance(
            connection, row, Stage.ACCEPTED, told=Told("late", then=jobs.Job(row.delivery.id, 1, "check"))
        )

    kept = deliveries.load(connection, row.id)
    assert kept is not None
    assert (kept.stage, queued(connection), len(deliveries.events_of(connection, row.id))) == ("ARRIVED", [], 1)


def test_a_paused_delivery_moves_but_its_next_step_is_not_queued(connection: Connection) -> None:
    row = arrive(connection)
    connection.execute("UPDATE deliveries SET paused = true")

    paused = deliveries.advance(
        connection, row, Stage.ACCEPTED, Change(), Told("", then=jobs.Job(row.delivery.id, 1, "check"))
    )

    assert (paused, queued(connection)) == (True, [])
    assert wake_idle(connection) == 0
    connection.execute("UPDATE deliveries SET paused = false")
    assert wake_idle(connection) == 1
    assert wake_idle(connection) == 0
    assert [args["step"] for args in queued(connection)] == ["check"]


@pytest.mark.parametrize("present", [False, True])
def test_only_the_jobs_of_workers_that_are_gone_are_taken_over(connection: Connection, dsn: str, present: bool) -> None:
    row = arrive(connection)
    jobs.queue(connection, jobs.Job(row.delivery.id, row.epoch, "accept"))
    (worker,) = connection.execute(
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour') RETURNING id"
    ).fetchone() or (0,)
    connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", (worker,))
    clock = [0.0]
    reaper = Reaper(timedelta(seconds=6), monotonic=lambda: clock[0])

    with database.connect(dsn, "the worker") as own:
        if present:
            jobs.announce(own, worker)
        assert reaper.reap(connection) == 0  # its own beats are not yet unbroken for long enough
        clock[0] += 7
        taken = reaper.reap(connection)

    assert taken == (0 if present else 1)
    kept = deliveries.load(connection, row.id)
    assert kept is not None
    assert kept.epoch == (1 if present else 2)
    assert [args["epoch"] for args in queued(connection)] == [kept.epoch]


def test_what_somebody_still_holds_is_not_taken_over(connection: Connection, dsn: str) -> None:
    row = arrive(connection)
    jobs.queue(connection, jobs.Job(row.delivery.id, row.epoch, "accept"))
    connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    reaper = Reaper(timedelta(seconds=0))

    with database.connect(dsn, "frozen") as frozen, deliveries.held(frozen, row.id) as got:
        assert got
        assert reaper.reap(connection) == 0
    time.sleep(0.1)
    assert reaper.reap(connection) == 1


@pytest.mark.parametrize("said", ["sending a\udcff.txt", "the answer was \0", "C:\\u0000 is no path"])
def test_a_failure_may_name_files_that_are_no_text(connection: Connection, said: str) -> None:
    """PostgreSQL refuses such words; a worker that cannot record a failure ends, and so did the next, and the next."""
    admission.limit(connection, "repo", 1)
    row = arrive(connection)
    failure = TargetUnavailable(said)
    verdict = judge(failure, row, datetime.now(UTC), attempts=3)

    admission.has_failed(connection, "repo", datetime.now(UTC), failure.message)
    deliveries.advance(connection, row, verdict.to, verdict.change, Told(verdict.note))

    found = deliveries.load(connection, row.id)
    assert found is not None
    assert found.error is not None
    assert found.error["message"] == said.replace("\udcff", "\\udcff").replace("\0", "\\x00")


def test_labels_that_cannot_name_folders_change_nothing(connection: Connection, dsn: str) -> None:
    """The delivery was taken out of its session folder first, and refused then; a retry could not find it any more."""
    row = arrive(connection)
    deliveries.advance(connection, row, Stage.QUEUED)
    ledger = Ledger(dsn)
    try:
        with pytest.raises(Rejected, match="slash") as caught:
            ledger.fix(DeliveryId(row.id), Labels("P", "sub-001", "a/b"))
    finally:
        ledger.close()

    found = deliveries.load(connection, row.id)
    assert found is not None
    assert (found.stage, found.epoch) == (Stage.QUEUED, row.epoch)
    assert queued(connection) == []
    assert caught.value.safe == "nothing was changed"
    assert caught.value.next_command == f"lading fix {row.id} --session NEW-LABEL"


def test_what_was_never_imported_is_not_read_back(connection: Connection, dsn: str) -> None:
    """The importer was asked about an import that there is no record of, and failed in a way that nobody foresaw."""
    row = arrive(connection)
    deliveries.advance(connection, row, Stage.HELD, Change(held_from=Stage.QUEUED))
    ledger = Ledger(dsn)
    try:
        with pytest.raises(NotNow, match="never imported"):
            ledger.verify(DeliveryId(row.id))
        assert queued(connection) == []

        deliveries.TableJournal(connection, row.id).note(IMPORT_RECORD, "{}")
        ledger.verify(DeliveryId(row.id))
    finally:
        ledger.close()

    assert [job["step"] for job in queued(connection)] == ["verify-again"]


def test_words_that_no_database_takes_hold_their_delivery_and_end_no_worker(
    connection: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An importer's note, say. Each worker that was given the delivery ended."""
    row = arrive(connection)
    left: list[str] = []
    parts = cast("Parts", SimpleNamespace(route=lambda _: SimpleNamespace(attempts=8)))
    monkeypatch.setattr(worker, "_leave", left.append)

    def notes(at: Connection, *_: object) -> None:
        deliveries.TableJournal(at, row.id).note("answer", "no text: \0")

    monkeypatch.setattr(steps, "_do", notes)
    with database.pool(dsn, 1) as pool:
        worker._guarded(Desk(pool, parts), jobs.Job(DeliveryId(row.id), row.epoch, "accept"))

    found = deliveries.load(connection, row.id)
    assert left == []
    assert found is not None
    assert found.stage == Stage.HELD
    assert found.error is not None
    assert "NUL" in str(found.error["message"])
