"""The outbox remembers, also for several processes at a time."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lading.agent.outbox import OUTBOX_NAME, Outbox, Outgoing, WatchReport
from lading.delivery import Labels, Stage
from lading.errors import ConfigError, EngineError, OutOfSpace, Unreachable
from lading.findings import warning

LABELS = Labels("P1", "sub-001", "s1")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock) -> Outbox:
    return Outbox(tmp_path / "home", clock=clock)


def take(outbox: Outbox, root: str = "/data/P1/sub-001/s1") -> Outgoing:
    return outbox.take(Path(root), "mri", LABELS, fingerprint="f1", clean=True, grace_s=60)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_nobody_else_reads_the_outbox(outbox: Outbox, tmp_path: Path) -> None:
    take(outbox)

    files = list((tmp_path / "home").iterdir())

    assert {path.name for path in files} >= {OUTBOX_NAME, f"{OUTBOX_NAME}-wal"}
    assert not any(path.stat().st_mode & 0o077 for path in files)


def test_what_was_taken_is_there_after_a_restart(outbox: Outbox, tmp_path: Path) -> None:
    item = take(outbox)
    outbox.journal(item.id).note("task", "42")
    outbox.record(item.id, [warning("zero-byte", "a.dcm holds no bytes", path="a.dcm")])
    outbox.close()

    again = Outbox(tmp_path / "home")

    assert again.get(item.id).delivery.labels == LABELS
    assert [e.stage for e in again.events(item.id)] == [Stage.FOUND, Stage.READY]
    assert again.journal(item.id).recall("task") == "42"
    assert [f.code for f in again.findings(item.id)] == ["zero-byte"]
    assert again.taken("mri", Path("/data/P1/sub-001/s1")) == (item.id, "f1")


def test_names_that_are_no_text_are_kept(outbox: Outbox) -> None:
    root = Path("/data/P1/sub-001/") / b"caf\xe9".decode("utf-8", "surrogateescape")

    item = outbox.take(root, "mri", LABELS, fingerprint="f1")
    outbox.record(item.id, [warning("name", "odd", path=root.name)])

    assert outbox.get(item.id).root == root
    assert outbox.findings(item.id)[0].path == root.name


def test_a_delivery_put_off_is_not_carriable_before_its_time(outbox: Outbox, clock: Clock) -> None:
    item = take(outbox)
    outbox.fail(item.id, Stage.READY, Unreachable("no answer"), again_in=30)

    assert outbox.carriable() == []
    clock.now += 31
    assert [i.id for i in outbox.carriable()] == [item.id]
    assert outbox.get(item.id).error == "no answer"


def test_a_clock_that_was_set_back_delays_nothing_for_years(outbox: Outbox, clock: Clock) -> None:
    item = take(outbox)
    outbox.fail(item.id, Stage.READY, Unreachable("no answer"), again_in=30)

    clock.now -= 365 * 86_400

    assert [i.id for i in outbox.carriable()] == [item.id]


def test_a_full_disk_is_held_and_looked_at_again_by_itself(outbox: Outbox, clock: Clock) -> None:
    item = take(outbox)
    outbox.fail(item.id, Stage.HELD, OutOfSpace("80 MB needed, 64 MB free"), again_in=60, resume=Stage.READY)

    assert outbox.has_cargo()
    clock.now += 61
    assert [i.id for i in outbox.carriable()] == [item.id]


def test_more_urgent_and_then_older_deliveries_go_first(outbox: Outbox, clock: Clock) -> None:
    first = take(outbox, "/data/1")
    clock.now += 1
    second = take(outbox, "/data/2")
    clock.now += 1
    urgent = outbox.take(Path("/data/3"), "mri", LABELS, fingerprint="f", priority=5)

    assert [i.id for i in outbox.carriable()] == [urgent.id, first.id, second.id]


def test_a_paused_delivery_goes_on_where_the_carry_under_way_left_it(outbox: Outbox) -> None:
    item = take(outbox)
    outbox.move(item.id, Stage.SENDING)
    outbox.pause(item.id)
    outbox.move(item.id, Stage.ARRIVED, arrived_at=1.0, digest="d")
    assert outbox.get(item.id).stage is Stage.PAUSED
    assert outbox.carriable() == []

    outbox.resume(item.id)

    assert outbox.get(item.id).stage is Stage.ARRIVED


def test_a_cancelled_delivery_stays_cancelled(outbox: Outbox) -> None:
    item = take(outbox)
    outbox.cancel(item.id)

    outbox.move(item.id, Stage.SENDING, "too late")

    assert outbox.get(item.id).stage is Stage.CANCELLED


def test_a_delivery_being_carried_is_not_called_cancelled(outbox: Outbox) -> None:
    item = take(outbox)
    carrying = outbox.lock(item.id)
    assert carrying.acquire()

    with pytest.raises(ConfigError, match="being carried"):
        outbox.cancel(item.id)

    carrying.release()
    outbox.cancel(item.id)
    assert outbox.get(item.id).stage is Stage.CANCELLED


def test_what_the_inbox_has_cannot_be_cancelled_here(outbox: Outbox) -> None:
    item = take(outbox)
    outbox.move(item.id, Stage.ARRIVED, arrived_at=1.0)

    with pytest.raises(ConfigError, match="in the inbox already"):
        outbox.cancel(item.id)


def test_only_one_process_or_thread_works_on_a_delivery_and_a_dead_one_on_none(outbox: Outbox) -> None:
    item = take(outbox)
    path = outbox.lock(item.id).path
    script = f"""
import sys; from pathlib import Path; from lading.agent.locks import FileLock
print(FileLock(Path({str(path)!r})).acquire(), flush=True); sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        mine = outbox.lock(item.id)
        assert not mine.acquire()
        assert mine.holder() == other.pid
    finally:
        other.kill()
        other.wait()

    assert mine.holder() is None
    assert mine.acquire()
    assert not outbox.lock(item.id).acquire()
    mine.release()


def test_a_damaged_outbox_is_said_and_not_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / OUTBOX_NAME).write_bytes(b"this is no database" * 100)

    with pytest.raises(EngineError, match="outbox"):
        Outbox(home)

    assert (home / OUTBOX_NAME).read_bytes().startswith(b"this is no database")


def test_an_outbox_of_a_newer_version_is_left_alone(outbox: Outbox, tmp_path: Path) -> None:
    outbox.close()
    db = sqlite3.connect(tmp_path / "home" / OUTBOX_NAME)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(EngineError, match="newer"):
        Outbox(tmp_path / "home")


def test_trouble_with_a_watched_folder_is_news_only_once(outbox: Outbox) -> None:
    report = WatchReport(Path("/data"), 1.0, error="not there", next_command="lading doctor")

    assert outbox.report_watch(report)
    assert not outbox.report_watch(report)
    assert outbox.watches()[0].error == "not there"
    assert outbox.report_watch(WatchReport(Path("/data"), 2.0))


_OPENING = """
import sys
from pathlib import Path
from lading.agent.outbox import Outbox
sys.stdin.readline()
for _ in range(25):
    outbox = Outbox(Path(sys.argv[1]))
    outbox.deliveries()
    outbox.close()
"""


def test_many_processes_may_open_a_new_outbox_at_the_same_moment(tmp_path: Path) -> None:
    # Seen: SQLite answers "database is locked" without waiting while another process switches the new file to WAL.
    command = [sys.executable, "-c", _OPENING, str(tmp_path / "home")]
    openers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]

    for opener in openers:
        assert opener.stdin
        opener.stdin.write(b"\n")
        opener.stdin.flush()

    assert [(opener.communicate(timeout=120)[1], opener.returncode) for opener in openers] == [(b"", 0)] * 6


_TAKING = """
import sys
from pathlib import Path
from lading.agent.outbox import Outbox
from lading.delivery import Labels
outbox = Outbox(Path(sys.argv[1]))
outbox.take(Path("/data", sys.argv[2]), "r", Labels("P", "a", "b"), fingerprint="f")
outbox.close()
"""


def test_a_second_look_in_one_process_does_not_take_the_first_ones_locks_away(tmp_path: Path) -> None:
    # Seen: `send --wait` looks from two threads; the background carrier ended and took the journal away under both.
    home = tmp_path / "home"
    first = Outbox(home)
    second = Outbox(home)

    def theirs(name: str) -> None:
        subprocess.run([sys.executable, "-c", _TAKING, str(home), name], check=True, timeout=60)

    theirs("one")
    second.take(Path("/data/ours"), "r", Labels("P", "a", "c"), fingerprint="f")
    theirs("two")

    assert {item.root.name for item in first.deliveries()} == {"one", "ours", "two"}
    assert {item.root.name for item in second.deliveries()} == {"one", "ours", "two"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux says which files are open")
def test_threads_that_ended_leave_no_open_files_behind(outbox: Outbox, tmp_path: Path) -> None:
    def open_files() -> int:
        links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return sum(link.startswith(str(tmp_path / "home" / OUTBOX_NAME)) for link in links)

    def ask() -> None:
        outbox.deliveries()
        asked.append(open_files())

    asked: list[int] = []
    for _ in range(50):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert max(asked) <= asked[0] + 3, "an agent whose link is down all night starts a thread for every attempt"
    assert outbox.deliveries() == []
