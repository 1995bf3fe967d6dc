"""What the scanner makes of slots that cannot be read, and of a database that forgot what it was told."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading.delivery import Stage
from lading.engine import database, deliveries
from lading.engine.database import Connection
from lading.engine.scanner import Scanner
from lading.seal import SEAL_NAME
from lading.testing.engine_site import EngineSite, bare_database, engine_site
from lading.testing.fakes import FolderParts

NOBODY = 65534


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bare_database(tmp_path_factory.mktemp("db")) as made:
        yield made


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with database.connect(dsn) as made:
        made.execute("TRUNCATE deliveries, procrastinate_jobs, procrastinate_workers CASCADE")
        yield made


@contextmanager
def an_ordinary_account(root: Path) -> Iterator[None]:
    """Whoever runs the test, as an account that owns what is below `root` and may not read what it is forbidden to."""
    if os.geteuid() != 0:
        yield
        return
    for folder in root.parents:
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode & 0o7777
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_seal_that_may_not_be_read_stops_nobody_and_is_said(connection: Connection, tmp_path: Path) -> None:
    site = EngineSite(tmp_path / "site", database="postgresql://unused")
    closed, open_ = site.put("S1"), site.put("S2")
    (site.inbox.root / ".lading" / "incoming" / closed / SEAL_NAME).chmod(0)
    scanner = Scanner(FolderParts(site.config))

    with an_ordinary_account(site.root):
        found = scanner.scan(connection)

    assert found == 2
    rows = {row.id: row for row in deliveries.select(connection, "true")}
    assert rows[open_].session == "S2"
    assert rows[closed].stage == Stage.ARRIVED  # and accepting it will say what is the matter


def test_one_delivery_that_cannot_be_read_keeps_no_other_from_coming_back(
    connection: Connection, tmp_path: Path
) -> None:
    site = EngineSite(tmp_path / "site", database="postgresql://unused")
    ids = [site.put(f"S{number}") for number in range(3)]
    for delivery in ids:
        site.inbox.publish(site.inbox.accept(delivery))
    for delivery in ids[:2]:
        (site.inbox.root / ".lading" / "accepted" / delivery / SEAL_NAME).write_bytes(b"not a seal")

    found = Scanner(FolderParts(site.config)).reconcile(connection)

    assert found == 1
    assert [row.id for row in deliveries.select(connection, "true")] == [ids[2]]


def test_what_the_database_forgot_while_it_was_away_is_registered_again(tmp_path: Path) -> None:
    """As after a fail-over to a copy that lags behind."""
    with engine_site(tmp_path) as site:
        site.put("S0")
        site.until(Stage.VERIFIED)  # the server is there
        site.ledger.pause_target("all")
        delivery = site.put("S1")
        site.until(Stage.ARRIVED, ids=[delivery])
        with database.connect(site.dsn) as connection:
            connection.execute("TRUNCATE deliveries, procrastinate_jobs CASCADE")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lading supervisor'"
            )

        site.until(Stage.ARRIVED, ids=[delivery])
