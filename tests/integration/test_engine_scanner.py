"""What the scanner makes of slots that cannot be read, and of a database that forgot what it was told."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lading.config import load
from lading.delivery import Slot, Stage
from lading.engine import database, deliveries
from lading.engine.chores import Chores
from lading.engine.database import Connection
from lading.engine.scanner import Scanner
from lading.errors import AccessDenied
from lading.inbox import Inbox
from lading.seal import SEAL_NAME
from lading.testing.deliveries import fill, send
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


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other accounts can reach. Not below pytest's: every pytest that starts makes that one private again."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def an_ordinary_account(root: Path) -> Iterator[None]:
    """Whoever runs the test, as an account that owns what is below `root` and may not read what it is forbidden to."""
    if os.geteuid() != 0:
        yield
        return
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode & 0o7777
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_seal_that_may_not_be_read_stops_nobody_and_is_said(connection: Connection, reachable: Path) -> None:
    site = EngineSite(reachable / "site", database="postgresql://unused")
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


def test_an_inbox_that_is_called_otherwise_now_keeps_its_deliveries(connection: Connection, tmp_path: Path) -> None:
    """They are held, with what is the matter; before, those not proven yet were put into quarantine as somebody else's."""
    before = EngineSite(tmp_path / "site", database="postgresql://unused")
    published, sealed = before.put("S1"), before.put("S2")
    assert Scanner(FolderParts(before.config)).scan(connection) == 2
    before.inbox.publish(before.inbox.accept(published))
    settings = before.settings.read_text()
    before.settings.write_text(settings.replace("inboxes.main", "inboxes.intake").replace('"main"', '"intake"'))
    scanner = Scanner(FolderParts(load(before.settings)))

    assert scanner.reconcile(connection) == 0
    assert scanner.scan(connection) == 0

    assert before.inbox.parcel(published).published
    assert list(before.inbox.arrivals()) == [sealed]
    assert not any((before.inbox.root / ".lading/quarantine").iterdir())


def test_a_stolen_id_that_cannot_be_set_aside_keeps_no_other_from_arriving(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = f'[inboxes.other]\npath = "{tmp_path}/other"'
    site = EngineSite(tmp_path / "site", database="postgresql://unused", more=more)
    other = Inbox.create(tmp_path / "other")
    stolen = site.put("S1")
    scanner = Scanner(FolderParts(site.config))
    assert scanner.scan(connection) == 1
    shutil.copytree(site.inbox.root / Slot(stolen).path, other.root / Slot(stolen).path)
    honest = send(other, fill(tmp_path / "source"))

    def forbidden(inbox: Inbox, *_: object) -> None:
        raise AccessDenied(f"moving something to quarantine in {inbox.root}: Permission denied")

    monkeypatch.setattr(Inbox, "quarantine", forbidden)

    assert scanner.scan(connection) == 1
    found = deliveries.load(connection, honest.id)
    assert found is not None
    assert found.inbox == "other"


def test_a_dropped_folder_that_cannot_be_taken_in_keeps_no_other_waiting(dsn: str, reachable: Path) -> None:
    site = EngineSite(reachable / "site", database="postgresql://unused")
    for session in ("S1", "S2"):
        folder = site.inbox.root / "P/sub-001" / session
        folder.mkdir(parents=True)
        (folder / "a.dcm").write_bytes(b"dropped")
    with an_ordinary_account(site.root):
        (site.inbox.root / "P/sub-001/S1").chmod(0o555)  # whose ".." can then not be changed
        chores = Chores(site.config, dsn, FolderParts(site.config))
        chores.start()
        try:
            deadline = time.monotonic() + 60
            while (site.inbox.root / "P/sub-001/S2").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            chores.stop()

    assert not (site.inbox.root / "P/sub-001/S2").exists()
    assert (site.inbox.root / "P/sub-001/S1/a.dcm").exists()
    left = [slot for slot in (site.inbox.root / ".lading/accepting").iterdir() if not (slot / "data").exists()]
    assert len(left) <= 1  # the attempt under way


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
