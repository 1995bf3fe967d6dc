"""The server, in processes of its own, from a sealed slot to a receipt."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lading.delivery import DeliveryId, Labels, Outcome, Slot, Stage
from lading.engine import database, postgres
from lading.engine.chores import Chores
from lading.engine.ledger import NotNow
from lading.engine.memory import ServerMemory
from lading.engine.scanner import Scanner
from lading.errors import LadingError
from lading.inbox import SEAL_NAME, Inbox
from lading.testing.engine_site import EngineSite, engine_site
from lading.testing.fakes import folder_parts

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EngineSite]:
    with engine_site(tmp_path) as made:
        yield made


def test_a_sealed_delivery_reaches_its_receipt_and_nothing_is_left_running(tmp_path: Path) -> None:
    with engine_site(tmp_path, workers=2) as site:
        delivery = site.put("S1")
        site.until(Stage.VERIFIED)
        pids = [site.process.pid, *site.worker_pids()] if site.process else []
        database = int((site.config.home / "postgres/data/postmaster.pid").read_text().split()[0])
        events = [event.stage for event in site.ledger.show(delivery).events]

    receipt = site.inbox.read_receipt(delivery)
    assert receipt is not None
    assert receipt.proves_all
    assert [outcome.outcome for outcome in site.inbox.read_outcomes(delivery)] == [Outcome.VERIFIED] * 3
    assert (tmp_path / "inbox/P/sub-001/S1/0002.dcm").exists()
    assert events == ["ARRIVED", "ACCEPTED", "QUEUED", "IMPORTING", "IMPORTED", "VERIFIED"]
    assert len(pids) == 3
    assert [pid for pid in [*pids, database] if _lives(pid)] == []
    assert not (site.config.home / "server.json").exists()


def test_a_refused_delivery_waits_in_quarantine_until_it_is_fixed(site: EngineSite) -> None:
    delivery = site.put("S1", participant="sub-O01")
    site.until(Stage.REJECTED)

    view = site.ledger.show(delivery)
    receipt = site.inbox.read_receipt(delivery)
    assert [finding.code for finding in view.findings] == ["label-invalid"]
    assert receipt is not None
    assert (receipt.stage, receipt.findings) == (Stage.REJECTED, view.findings)
    assert (site.inbox.root / ".lading/quarantine" / delivery / "findings.json").exists()
    assert site.acts() == []
    (listed,) = ServerMemory(site.ledger, site.config).recent(stages=(), limit=10)
    assert listed.findings == view.findings, "the list of a pure server tells what to do, too"

    site.ledger.fix(delivery, Labels("P", "sub-001", "S1"))
    site.until(Stage.VERIFIED)

    mended = site.inbox.read_receipt(delivery)
    assert mended is not None
    assert mended.proves_all
    assert mended.labels == Labels("P", "sub-001", "S1")
    assert site.ledger.show(delivery).findings == ()
    assert (site.inbox.root / "P/sub-001/S1/0000.dcm").exists()


def test_damaged_files_are_asked_for_again(tmp_path: Path) -> None:
    with engine_site(tmp_path, serving=False) as site:
        delivery = site.put("S1")
        slot = site.inbox.root / Slot(delivery).path
        good, papers = (slot / "data/0001.dcm").read_bytes(), (slot / SEAL_NAME).read_bytes()
        (slot / "data/0001.dcm").write_bytes(good.replace(b".", b",", 1))
        site.start()
        site.until(Stage.SENDING)

        receipt = site.inbox.read_receipt(delivery)
        assert receipt is not None
        assert receipt.stage is Stage.SENDING
        assert [(finding.code, finding.path) for finding in receipt.findings] == [("corrupted", "0001.dcm")]
        assert (slot / "data/0000.dcm").exists()
        assert not (slot / "data/0001.dcm").exists()

        (slot / "data/0001.dcm").write_bytes(good)
        (slot / SEAL_NAME).write_bytes(papers)
        site.until(Stage.VERIFIED)
        assert site.ledger.show(delivery).findings == ()


def test_a_hostile_seal_is_refused_and_stops_nobody(tmp_path: Path) -> None:
    with engine_site(tmp_path, serving=False) as site:
        hostile = [site.put(f"S{number}") for number in range(6)]
        papers = [site.inbox.root / Slot(delivery).path / SEAL_NAME for delivery in hostile]
        papers[0].write_text("{")
        for path, key, value in (
            (papers[1], "priority", 10**30),
            (papers[2], "sender", "nul \0 and half a pair \ud800"),
            (papers[3], "route", "\0"),
            (papers[4], "labels", {"project": "..", "participant": "\0", "session": "\ud800"}),
            (papers[5], "created_at", "0001-01-01T00:00:00+14:00"),
        ):
            path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        honest = site.put("honest")
        site.start()
        site.until(Stage.VERIFIED, ids=[honest])
        site.until(Stage.VERIFIED, Stage.REJECTED, Stage.HELD, ids=hostile)

        assert site.stages([hostile[0], hostile[4], hostile[5]]) == {Stage.REJECTED: 3}
        assert "worker ends" not in (site.root / "log").read_text()


def test_a_repository_that_is_down_costs_no_attempt_and_few_words(tmp_path: Path) -> None:
    with engine_site(tmp_path, serving=False, attempts=2) as site:
        (site.repo / "down").touch()
        for number in range(10):
            site.put(f"S{number}")
        site.start()
        site.until(Stage.QUEUED, Stage.IMPORTING)
        time.sleep(8)
        (repository,) = site.ledger.repositories()
        waiting = site.stages()
        (site.repo / "down").unlink()
        site.until(Stage.VERIFIED, seconds=60)

        assert repository.down_since is not None
        assert waiting[Stage.HELD] == 0
        told = [event for _, _, event in site.ledger.events() if event.note.startswith("waiting")]
        assert len(told) <= 4
        assert {row.attempt for row in site.ledger.deliveries()} == {0}
        assert site.ledger.repositories()[0].down_since is None


def test_imports_begin_at_the_repositorys_hours_only(tmp_path: Path) -> None:
    with engine_site(tmp_path, serving=False) as site:
        later = datetime.now() + timedelta(hours=2)  # noqa: DTZ005 - the clock on the wall
        closed = f'hours = ["{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"]'
        settings = site.settings.read_text()
        site.settings.write_text(settings.replace("imports = ", f"{closed}\nimports = ", 1))
        site.put("S1")
        site.start()
        site.until(Stage.QUEUED)
        time.sleep(3)
        waiting = site.stages()
        site.stop()
        site.settings.write_text(settings)
        site.start()
        site.until(Stage.VERIFIED)

        assert waiting == {Stage.QUEUED: 1}


def test_what_a_repository_lost_is_sent_again_and_proven(site: EngineSite) -> None:
    (site.repo / "drop").mkdir(exist_ok=True)
    (site.repo / "drop" / "S1").write_text("2")
    delivery = site.put("S1")
    site.until(Stage.VERIFIED)

    notes = [event.note for event in site.ledger.show(delivery).events]
    assert any(note.startswith("repair 1 of 3") for note in notes)
    assert [act for *_, act in site.acts()].count("sent") == 2
    receipt = site.inbox.read_receipt(delivery)
    assert receipt is not None
    assert receipt.proves_all


def test_what_the_repository_refuses_is_held_until_somebody_retries(site: EngineSite) -> None:
    (site.repo / "refuse").mkdir(exist_ok=True)
    (site.repo / "refuse" / "S1").write_text("no such project")
    delivery = site.put("S1")
    site.until(Stage.HELD)

    row = site.ledger.show(delivery).row
    assert row.error is not None
    assert (row.error["code"], row.error["next"]) == ("refused", "ask its owner")
    with pytest.raises(NotNow, match="possible now: cancel, retry"):
        site.ledger.pause(delivery)

    (site.repo / "refuse" / "S1").unlink()
    site.ledger.retry(delivery)
    site.until(Stage.VERIFIED)


def test_a_cancelled_delivery_keeps_its_files_and_tells_the_sender(site: EngineSite) -> None:
    first = site.put("S1")
    site.until(Stage.VERIFIED, ids=[first])
    site.ledger.pause_target("repository:repo")
    delivery = site.put("S2")
    site.until(Stage.QUEUED, ids=[delivery])

    site.ledger.cancel(delivery)
    site.until(Stage.CANCELLED, ids=[delivery])

    receipt = site.inbox.read_receipt(delivery)
    assert receipt is not None
    assert receipt.stage is Stage.CANCELLED
    assert (site.inbox.root / ".lading/quarantine" / delivery / "data/0000.dcm").exists()
    assert not (site.inbox.root / "P/sub-001/S2").exists()
    with pytest.raises(NotNow):
        site.ledger.cancel(first)


def test_a_paused_delivery_goes_on_where_it_was(site: EngineSite) -> None:
    (site.repo / "delay").write_text("1")
    delivery = site.put("S1")
    # IMPORTING says that the slot was given; paused before the import begins, the delivery would go back to QUEUED.
    deadline = time.monotonic() + 60
    while "begin" not in [act for *_, act in site.acts()] and time.monotonic() < deadline:
        time.sleep(0.02)
    site.ledger.pause(delivery)
    site.until(Stage.IMPORTED)
    time.sleep(1.5)
    assert site.stages() == {Stage.IMPORTED: 1}

    site.ledger.resume(delivery)
    site.until(Stage.VERIFIED)
    assert [act for *_, act in site.acts()].count("sent") == 1


def test_verifying_again_finds_what_the_repository_has_lost_since(site: EngineSite) -> None:
    delivery = site.put("S1")
    site.until(Stage.VERIFIED)
    (site.repo / "held" / "P+sub-001+S1").write_text("")

    site.ledger.verify(delivery)
    site.until(Stage.HELD)

    assert {finding.code for finding in site.ledger.show(delivery).findings} == {"not-verified-missing"}
    receipt = site.inbox.read_receipt(delivery)
    assert receipt is not None
    assert not receipt.proves_all


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_errand_that_has_to_wait_says_so_once_and_is_done_at_last(site: EngineSite) -> None:
    delivery = site.put("S1")
    site.until(Stage.VERIFIED)
    (site.repo / "down").touch()
    site.ledger.verify(delivery)
    attempts: set[datetime] = set()
    site.until(
        Stage.HELD,
        seconds=240,
        meanwhile=lambda: _let_it_come_back_after(3, attempts, site, delivery),
    )

    said = [event.note for event in site.ledger.show(delivery).events if "verify-again" in event.note]
    assert len(said) == 1


def _let_it_come_back_after(attempts: int, seen: set[datetime], site: EngineSite, delivery: DeliveryId) -> None:
    row = site.ledger.show(delivery).row
    if row.error is not None:
        seen.add(row.updated_at)
    if len(seen) >= attempts:
        (site.repo / "held" / "P+sub-001+S1").write_text("")  # what it has lost meanwhile is found
        (site.repo / "down").unlink(missing_ok=True)


def test_a_dropped_folder_is_taken_in_when_it_is_quiet(site: EngineSite) -> None:
    folder = site.inbox.root / "P/sub-007/S7"
    folder.mkdir(parents=True)
    (folder / "0001.dcm").write_bytes(b"dropped by hand")
    (folder / "Thumbs.db").write_bytes(b"junk")
    wait_for_rows(site, 1)
    (row,) = site.ledger.deliveries()
    site.until(Stage.VERIFIED, ids=[row.delivery.id])

    view = site.ledger.show(row.delivery.id)
    assert view.row.labels == Labels("P", "sub-007", "S7")
    assert view.row.files == 1
    assert "unverified-at-source" in {finding.code for finding in view.findings}


def test_what_was_verified_long_ago_leaves_the_inbox(tmp_path: Path) -> None:
    with engine_site(tmp_path, keep_days=0.0) as site:
        delivery = site.put("S1")
        site.until(Stage.VERIFIED)
        chores = Chores(site.config, site.dsn, folder_parts(site.config))
        withdrawn = chores.tidy("main", site.inbox)
        again = chores.tidy("main", site.inbox)

        assert (withdrawn, again) in (([delivery], []), ([], []))  # the server's own chores may have been faster
        assert not (site.inbox.root / "P/sub-001/S1").exists()
        assert site.inbox.read_receipt(delivery) is not None


def wait_for_rows(site: EngineSite, count: int) -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        with suppress(LadingError):
            if len(site.ledger.deliveries()) >= count:
                return
        time.sleep(0.1)
    raise AssertionError((site.root / "log").read_text()[-2000:])


def test_what_a_lost_database_knew_is_found_in_the_inbox(tmp_path: Path) -> None:
    with engine_site(tmp_path) as site:
        (site.repo / "refuse").mkdir(exist_ok=True)
        (site.repo / "refuse" / "S2").write_text("not today")
        proven, unproven = site.put("S1"), site.put("S2")
        site.until(Stage.VERIFIED, Stage.HELD)
        site.stop()
        with psycopg_connection(site) as connection:
            connection.execute("TRUNCATE deliveries CASCADE")
        (site.repo / "refuse" / "S2").unlink()
        site.start()
        site.until(Stage.VERIFIED, ids=[unproven])

        assert site.stages([proven]) == {}  # its receipt says all there is to say
        assert [act for *_, act in site.acts()].count("sent") == 2


def test_a_second_inbox_cannot_take_over_an_id(tmp_path: Path) -> None:
    with engine_site(tmp_path) as site:
        delivery = site.put("S1")
        site.until(Stage.VERIFIED)
        other = Inbox.create(tmp_path / "other")
        shutil.copytree(site.inbox.root / ".lading/accepted" / delivery, other.reserve(delivery), dirs_exist_ok=True)
        with database.connect(site.dsn) as connection:
            parts = folder_parts(site.config)
            parts.inboxes = {"main": site.inbox, "other": other}
            assert Scanner(parts).scan(connection) == 0

        assert site.stages() == {Stage.VERIFIED: 1}
        findings = json.loads((other.root / ".lading/quarantine" / delivery / "findings.json").read_text())["findings"]
        assert [finding["code"] for finding in findings] == ["id-taken"]


@contextmanager
def psycopg_connection(site: EngineSite) -> Iterator[database.Connection]:
    with postgres.database(site.config) as dsn, database.connect(dsn) as connection:
        yield connection


def test_an_unknown_id_and_an_ambiguous_one_are_told_apart(site: EngineSite) -> None:
    site.put("S1")
    site.put("S2")
    site.until(Stage.VERIFIED)

    with pytest.raises(LadingError, match="no delivery 'zzz' here"):
        site.ledger.find("zzz")
    with pytest.raises(LadingError, match="fits 2 deliveries"):
        site.ledger.find("2026" if site.placed[0].startswith("2026") else site.placed[0][:4])
    assert site.ledger.find(site.placed[0][-6:]) == site.placed[0]


def _lives(pid: int) -> bool:
    try:
        # A container's first process may be slow to bury orphans: a zombie does not run.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
