"""The outbox at the worst moment: the disk is full, a carry ends while somebody pauses or cancels."""

import contextlib
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from lading.agent.outbox import Outbox, Outgoing
from lading.delivery import Labels, Stage
from lading.errors import ConfigError, EngineError
from lading.locks import FileLock
from lading.memories import AgentMemory
from lading.testing.site import small_disk


def take(outbox: Outbox) -> Outgoing:
    return outbox.take(Path("/data/P1/a/s1"), "mri", Labels("P1", "a", "s1"), fingerprint="f")


def test_what_arrives_while_somebody_cancels_is_not_called_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "home")
    item = take(outbox)
    outbox.move(item.id, Stage.SENDING)
    acquire = FileLock.acquire

    def after_the_carry(self: FileLock, *, patience: float = 0.0) -> bool:
        outbox.move(item.id, Stage.ARRIVED, arrived_at=1.0)
        return acquire(self, patience=patience)

    with monkeypatch.context() as patched:
        patched.setattr(FileLock, "acquire", after_the_carry)
        with pytest.raises(ConfigError, match="in the inbox already"):
            outbox.cancel(item.id)

    assert outbox.get(item.id).stage is Stage.ARRIVED


def test_what_arrives_while_somebody_pauses_is_not_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path / "home")
    item = take(outbox)
    outbox.move(item.id, Stage.SENDING)
    get = Outbox.get

    def just_before_it_arrives(self: Outbox, delivery: str) -> Outgoing:
        found = get(self, item.id)
        if found.stage is Stage.SENDING:
            outbox.move(item.id, Stage.ARRIVED, arrived_at=1.0)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "get", just_before_it_arrives)
        with pytest.raises(ConfigError, match="cannot be paused"):
            outbox.pause(item.id)

    assert outbox.get(item.id).stage is Stage.ARRIVED


def test_what_arrives_while_all_is_paused_keeps_nothing_from_being_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen: `lading pause all` ended with "is ARRIVED and cannot be paused", and what came after it in the list was not PAUSED.
    outbox = Outbox(tmp_path / "home")
    waits, arrives = (
        outbox.take(Path(f"/data/P1/a/{name}"), "mri", Labels("P1", "a", name), fingerprint="f")
        for name in ("s1", "s2")
    )
    deliveries = Outbox.deliveries

    def just_before_it_arrives(self: Outbox, *stages: Stage, limit: int = 100) -> list[Outgoing]:
        found = deliveries(self, *stages, limit=limit)
        if outbox.pauses():
            outbox.move(arrives.id, Stage.ARRIVED, arrived_at=1.0)
        return sorted(found, key=lambda item: item.id != arrives.id)

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "deliveries", just_before_it_arrives)
        AgentMemory(outbox).pause("mri")

    assert outbox.get(arrives.id).stage is Stage.ARRIVED
    assert outbox.get(waits.id).stage is Stage.PAUSED


def test_a_full_disk_is_said_and_passes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        outbox = Outbox(disk / "home")
        item = take(outbox)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)

        with pytest.raises(EngineError, match="full"):
            outbox.remark(item.id, "x" * 10_000)
        with pytest.raises(EngineError, match="No space"):
            outbox.lock(item.id).acquire()

        filler.unlink()
        outbox.remark(item.id, "there is room again")
        lock = outbox.lock(item.id)
        assert lock.acquire()
        lock.release()
        outbox.close()


def test_a_commit_that_fails_is_taken_back(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "home")
    item = take(outbox)
    with outbox.writing() as db:
        db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE child (parent REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    outbox._connections.here().execute("PRAGMA foreign_keys = ON")

    with pytest.raises(EngineError, match="FOREIGN KEY"), outbox.writing() as db:
        db.execute("INSERT INTO child VALUES (1)")  # COMMIT itself refuses it, and leaves the transaction open

    outbox.remark(item.id, "goes on")
    other = sqlite3.connect(tmp_path / "home" / "outbox.sqlite", timeout=0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_it_is_not_closed_under_a_thread_that_works(tmp_path: Path) -> None:
    # Seen: an agent that was told to stop while a carry went on ended with a segmentation fault.
    outbox = Outbox(tmp_path / "home")
    item = take(outbox)
    begun, closed = threading.Event(), threading.Event()

    def work() -> None:
        with outbox.writing() as db:
            begun.set()
            closed.wait(60)
            db.execute("UPDATE deliveries SET attempt = 7 WHERE id = ?", (item.id,))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    outbox.close()
    closed.set()
    thread.join()

    assert outbox.get(item.id).attempt == 7
    outbox.close()


def test_a_full_disk_is_named_where_sqlite_speaks_of_an_io_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        home = disk / "home"
        Outbox(home).close()
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)

        with pytest.raises(EngineError, match="0 bytes are free") as caught:
            Outbox(home)

    assert caught.value.next_command == f"df -h {home}"


def test_a_damaged_file_is_to_be_put_aside(tmp_path: Path) -> None:
    home = tmp_path / "the agent's home"
    home.mkdir()
    path = home / "outbox.sqlite"
    path.write_bytes(b"no database" * 1000)

    with pytest.raises(EngineError, match="not a database") as caught:
        Outbox(home)

    assert "every watched folder again" in caught.value.safe
    subprocess.run(caught.value.next_command, shell=True, check=True)
    assert take(Outbox(home)).stage is Stage.READY
