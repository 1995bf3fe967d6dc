"""The agent's own disk is full: it says so, of that disk and of no inbox, and goes on by itself once there is room."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lading.agent import loop
from lading.agent.reporting import conditions
from lading.agent.sending import ensure_carrier
from lading.delivery import Stage
from lading.errors import OwnDiskFull
from lading.testing.instrument import FILES, AnsweringServer, Instrument, delivered
from lading.testing.site import run, small_disk

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "8m") as made:
        yield made


@pytest.fixture
def instrument(tmp_path: Path, disk: Path) -> Iterator[Instrument]:
    (tmp_path / "computer").mkdir()
    (tmp_path / "computer" / "home").symlink_to(disk)
    made = Instrument(tmp_path / "computer")
    made.configure(watch="quiet = 0\nclean = true\ngrace_days = 0")
    _ = made.inbox
    yield made
    made.outbox.close()


@contextmanager
def no_new_files(disk: Path) -> Iterator[None]:
    """The disk takes no file more; what is there, SQLite's files too, can be written over."""
    inodes = os.statvfs(disk)
    run("mount", "-o", f"remount,nr_inodes={inodes.f_files - inodes.f_ffree}", str(disk))
    try:
        yield
    finally:
        run("mount", "-o", "remount,nr_inodes=100000", str(disk))


def test_an_agent_or_a_carrier_that_cannot_be_started_says_why(instrument: Instrument, disk: Path) -> None:
    # Seen: a traceback, of `lading send` too, whose delivery was safely noted.
    with no_new_files(disk):
        with pytest.raises(OwnDiskFull, match="starting the agent"):
            loop.run(instrument.config, instrument.parts, instrument.outbox, stop=threading.Event(), once=True)
        with pytest.raises(OwnDiskFull, match="starting the background carrier"):
            ensure_carrier(instrument.config)


def test_what_cannot_be_listed_there_is_carried_once_there_is_room(instrument: Instrument, disk: Path) -> None:
    # Seen: "met an error nobody foresaw", HELD until somebody typed `lading retry`; or "the inbox of route mri is full".
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()
    root = instrument.write("P1/sub-001/s2", FILES)
    second = instrument.outbox.take(root, "mri", instrument.only().delivery.labels, fingerprint="s2")
    instrument.outbox.papers(second.id)
    (disk / "locks" / f"{second.id}.lock").touch()

    with no_new_files(disk):
        instrument.turn()
        held = instrument.outbox.get(second.id)
        assert (held.stage, held.error_code) == (Stage.HELD, "own-disk-full")
        assert "home" in held.error
        assert conditions(instrument.outbox) == []

    instrument.later(61)
    instrument.turn()
    assert instrument.outbox.get(second.id).stage is Stage.ARRIVED


def test_a_cleaning_that_cannot_be_noted_there_removes_nothing_and_is_done_once_there_is_room(
    instrument: Instrument, disk: Path
) -> None:
    server = AnsweringServer(instrument.inbox)
    instrument.configure(watch="quiet = 0\nclean = true\ngrace_days = 1")
    item = delivered(instrument, server)
    instrument.later(90_000)
    with no_new_files(disk):
        instrument.turn()
        assert instrument.outbox.get(item.id).stage is Stage.VERIFIED
        assert instrument.only().error_code == "own-disk-full"
        assert instrument.left("P1/sub-001/s1") == FILES

    instrument.later(301)
    instrument.turn()
    assert instrument.only().stage is Stage.CLEANED
