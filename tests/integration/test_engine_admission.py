"""Who may import next, on a real database without a server; and that the limit holds over real worker processes."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lading.delivery import Delivery, DeliveryId, Labels, Stage, new_delivery_id
from lading.engine import admission, database, deliveries, jobs
from lading.engine.admission import LARGE_BYTES, admit
from lading.engine.database import Connection
from lading.engine.reaper import wake_idle
from lading.testing.engine_site import bare_database, engine_site


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bare_database(tmp_path_factory.mktemp("db")) as made:
        yield made


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with database.connect(dsn) as made:
        made.execute("TRUNCATE deliveries, repositories, pauses, turns, procrastinate_jobs CASCADE")
        admission.limit(made, "repo", 2)
        yield made


def queue(connection: Connection, owner: str, *, priority: int = 0, size: int = 1) -> DeliveryId:
    id_ = new_delivery_id()
    delivery = Delivery(id_, "mri", Labels(owner, "sub-001", id_[-6:]), bytes=size, sender=f"{owner}@lab")
    deliveries.register(connection, "main", "repo", delivery, priority)
    row = deliveries.load(connection, id_)
    assert row is not None
    deliveries.advance(connection, row, Stage.QUEUED)
    return id_


def finish(connection: Connection, id_: DeliveryId) -> None:
    row = deliveries.load(connection, id_)
    assert row is not None
    deliveries.advance(connection, row, Stage.IMPORTED)


def served(connection: Connection) -> list[str]:
    """The projects in the order in which they get the slots, each finishing before the next is admitted."""
    order = []
    while admitted := admit(connection, "repo"):
        for id_ in admitted:
            row = deliveries.load(connection, id_)
            assert row is not None
            order.append(row.project)
            finish(connection, id_)
    return order


def test_no_more_than_the_limit_is_admitted_and_a_free_slot_is_filled(connection: Connection) -> None:
    waiting = [queue(connection, "alice") for _ in range(5)]

    first = admit(connection, "repo")
    again = admit(connection, "repo")
    finish(connection, first[0])
    then = admit(connection, "repo")

    assert (first, again, then) == (waiting[:2], [], [waiting[2]])


def test_owners_take_turns_however_much_one_of_them_brings(connection: Connection) -> None:
    admission.limit(connection, "repo", 1)
    for owner, count in (("alice", 30), ("bob", 3), ("carol", 3), ("dave", 2), ("erin", 1), ("frank", 1)):
        for _ in range(count):
            queue(connection, owner)

    order = served(connection)

    assert Counter(order[:6]) == dict.fromkeys(["alice", "bob", "carol", "dave", "erin", "frank"], 1)
    assert Counter(order[:10])["alice"] == 2
    assert len(order) == 40


def test_priority_goes_before_any_turn(connection: Connection) -> None:
    admission.limit(connection, "repo", 1)
    for owner in ("alice", "bob"):
        queue(connection, owner)
    queue(connection, "alice", priority=10)

    assert served(connection) == ["alice", "bob", "alice"]


def test_giants_leave_a_slot_for_the_small(connection: Connection) -> None:
    giants = [queue(connection, "alice", size=LARGE_BYTES * 10) for _ in range(2)]
    assert admit(connection, "repo") == giants[:1]

    small = queue(connection, "bob")
    assert admit(connection, "repo") == [small]

    finish(connection, small)
    assert admit(connection, "repo") == []
    finish(connection, giants[0])
    assert admit(connection, "repo") == giants[1:]


def test_with_a_single_slot_a_giant_gets_it(connection: Connection) -> None:
    admission.limit(connection, "repo", 1)
    giant = queue(connection, "alice", size=LARGE_BYTES)

    assert admit(connection, "repo") == [giant]


@pytest.mark.parametrize("target", ["all", "route:mri", "repository:repo"])
def test_nothing_paused_is_admitted(connection: Connection, target: str) -> None:
    queue(connection, "alice")
    connection.execute("INSERT INTO pauses VALUES (%s)", (target,))
    assert admit(connection, "repo") == []

    connection.execute("TRUNCATE pauses")
    assert len(admit(connection, "repo")) == 1


def test_while_a_repository_is_down_one_delivery_asks_for_all(connection: Connection) -> None:
    for _ in range(5):
        queue(connection, "alice")
    now = datetime.now(UTC)

    admission.has_failed(connection, "repo", now, "502")
    assert admit(connection, "repo") == []
    connection.execute("UPDATE repositories SET retry_at = now() - interval '1 second'")
    probing = admit(connection, "repo")
    assert len(probing) == 1

    admission.has_answered(connection, "repo")
    assert len(admit(connection, "repo")) == 1  # the second of two slots


def test_several_failures_of_one_outage_are_one(connection: Connection) -> None:
    now = datetime.now(UTC)

    waits = {admission.has_failed(connection, "repo", now, "502") for _ in range(6)}

    assert waits == {now + timedelta(seconds=5)}


def test_a_clock_that_was_wrong_for_a_while_makes_nobody_wait_for_long(connection: Connection) -> None:
    """A machine that believed in tomorrow wrote down when to try again; then its clock was put right."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    admission.has_failed(connection, "repo", tomorrow, "it is away")
    importing, checking = queue(connection, "alice"), new_delivery_id()
    connection.execute("UPDATE deliveries SET not_before = %s", (tomorrow,))
    deliveries.register(connection, "main", "repo", Delivery(checking, "mri", Labels("bob", "s", "e")), 0)
    jobs.queue(connection, jobs.Job(checking, 1, "accept"), at=tomorrow)

    wake_idle(connection)

    assert admit(connection, "repo") == [importing]
    due = "SELECT args ->> 'delivery' FROM procrastinate_jobs WHERE scheduled_at IS NULL OR scheduled_at <= now()"
    assert {row[0] for row in connection.execute(due).fetchall()} == {importing, checking}
    again = admission.has_failed(connection, "repo", datetime.now(UTC), "it is away")
    assert again < datetime.now(UTC) + timedelta(minutes=20)


def test_two_workers_never_give_the_same_slot_away(connection: Connection, dsn: str) -> None:
    for owner in range(40):
        queue(connection, f"user{owner}")

    def admit_elsewhere(_: int) -> list[DeliveryId]:
        with database.connect(dsn) as own:
            return admit(own, "repo")

    with ThreadPoolExecutor(8) as threads:
        admitted = [id_ for found in threads.map(admit_elsewhere, range(24)) for id_ in found]

    assert len(admitted) == len(set(admitted)) == 2


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_forty_deliveries_by_six_users_never_import_more_than_two_at_once_over_four_workers(tmp_path: Path) -> None:
    with engine_site(tmp_path, serving=False, workers=4, concurrency=4, imports=2) as site:
        (site.repo / "delay").write_text("0.15")
        for number in range(40):
            site.put(f"S{number}", project=f"user{min(number // 4, 5)}")
        urgent = site.put("urgent", project="user0", priority=50)
        site.start()
        site.until(Stage.VERIFIED, seconds=120)

        begun = [id_ for *_, id_, act in site.acts() if act == "begin"]
        assert site.most_at_once() == 2
        assert len(begun) == len(set(begun)) == 41
        assert begun.index(urgent) < 12
