"""What stops a delivery at the agent, who is told, and how it goes on."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from lading.agent import loop
from lading.agent.reporting import conditions
from lading.delivery import Cargo, DeliveryId, Receipt, Slot, Stage
from lading.errors import AccessDenied, ConfigError, OutOfSpace, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import Journal, Progress, Transport
from lading.testing.instrument import (
    FILES,
    AnsweringServer,
    CutOff,
    Instrument,
    PartsWith,
    delivered,
    delivered_but_unanswered,
    hashes,
)


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


@pytest.fixture
def server(instrument: Instrument) -> AnsweringServer:
    return AnsweringServer(instrument.inbox)


def test_an_inbox_that_is_not_mounted_gets_nothing_and_is_tried_again(tmp_path: Path) -> None:
    instrument = Instrument(tmp_path)  # its inbox is an empty folder
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()

    item = instrument.only()
    assert item.stage is Stage.READY
    assert item.error_code == "unreachable"
    assert "sentinel" in item.error
    assert item.next_command
    assert list(instrument.inbox_root.iterdir()) == []

    _ = instrument.inbox
    instrument.later(5)
    instrument.turn()
    assert instrument.only().stage is Stage.ARRIVED
    assert instrument.only().error == ""


def test_a_source_that_was_renamed_on_its_way_is_not_said_of_the_inbox(instrument: Instrument) -> None:
    # Seen: operators got "the inbox of route mri is not reachable", and nobody was told which folder is missing.
    root = instrument.write("P1/sub-001/s1", FILES)
    instrument.turn(PartsWith(instrument.parts, CutOff(instrument.parts.transport("mri"))))
    assert [c.key for c in conditions(instrument.outbox)] == ["route/mri/unreachable"]
    root.rename(root.with_name("s1-corrected"))
    for _ in range(2):
        instrument.later(600)
        instrument.turn()

    renamed, gone = instrument.outbox.deliveries()
    assert renamed.stage is Stage.ARRIVED
    assert (gone.stage, gone.error_code) == (Stage.FOUND, "source-away")
    assert str(root) in gone.error
    assert gone.next_command.startswith(f"lading cancel {gone.id} ")
    (away,) = conditions(instrument.outbox)
    assert (away.key, away.next_command) == ("source/mri", gone.next_command)

    instrument.outbox.cancel(gone.id)
    assert conditions(instrument.outbox) == []


@pytest.mark.root
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_refused_with_figures_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    instrument = Instrument(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", instrument.inbox_root], check=True)
    try:
        Inbox.create(instrument.inbox_root, limits=InboxLimits(keep_free_bytes=0))
        ballast = instrument.inbox_root / "ballast"
        ballast.write_bytes(bytes(3 << 20))
        instrument.write("P1/sub-001/s1", {"big.dcm": os.urandom(2 << 20)})
        instrument.turn()
        item = instrument.only()
        assert (item.stage, item.error_code) == (Stage.HELD, "out-of-space")
        assert any(character.isdigit() for character in item.error)
        assert not list(instrument.inbox_root.rglob("big.dcm"))

        ballast.unlink()
        instrument.later(61)
        instrument.turn()
        assert instrument.only().stage is Stage.ARRIVED
    finally:
        subprocess.run(["umount", instrument.inbox_root], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_filled_on_the_way_needs_room_only_for_the_rest(tmp_path: Path) -> None:
    instrument = Instrument(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", instrument.inbox_root], check=True)
    try:
        Inbox.create(instrument.inbox_root, limits=InboxLimits(keep_free_bytes=0))
        root = instrument.write("P1/sub-001/s1", {f"{n}.dcm": os.urandom(1 << 20) for n in range(5)})
        unlucky = FullAtTheEnd(instrument.parts.transport("mri"), instrument.inbox_root, missing="4.dcm")
        instrument.turn(PartsWith(instrument.parts, unlucky))
        assert instrument.only().stage is Stage.HELD

        (instrument.inbox_root / "ballast").write_bytes(bytes(2 << 20))  # less than 5 MB are free, more than one
        instrument.later(61)
        instrument.turn()

        assert instrument.only().stage is Stage.ARRIVED
        instrument.inbox.accept(instrument.only().id)
        assert len(list(root.iterdir())) == 5
    finally:
        subprocess.run(["umount", instrument.inbox_root], check=True)


class FullAtTheEnd(CutOff):
    """Carries for real, then has one file and the seal missing: the disk was full."""

    def __init__(self, real: Transport, inbox: Path, *, missing: str) -> None:
        super().__init__(real)
        self.inbox, self.missing = inbox, missing

    def fail(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        self.real.carry(cargo, slot, journal, progress)
        (self.inbox / slot.path / "manifest.json").unlink()
        (self.inbox / slot.data / self.missing).unlink()
        raise OutOfSpace("1 MB needed, 0 bytes free")


def test_a_source_that_may_not_be_sent_is_refused_and_goes_once_it_is_mended(instrument: Instrument) -> None:
    root = instrument.write("P1/sub-001/s1", FILES)
    (root / "link.dcm").symlink_to("/etc/hostname")
    instrument.turn()
    item = instrument.only()
    assert item.stage is Stage.REJECTED
    assert "symlink" in instrument.codes(item.id)
    assert not list(instrument.inbox.arrivals())

    (root / "link.dcm").unlink()
    instrument.turn()

    assert instrument.only().stage is Stage.ARRIVED
    assert "symlink" not in instrument.codes(item.id)


def test_a_source_that_changes_after_it_was_listed_is_listed_again(
    instrument: Instrument, server: AnsweringServer
) -> None:
    parts = PartsWith(instrument.parts, CutOff(instrument.parts.transport("mri")))
    root = instrument.write("P1/sub-001/s1", FILES)
    instrument.turn(parts)
    assert instrument.only().error == "the line went dead"
    with (root / "b.dcm").open("ab") as file:
        file.write(b"!")

    instrument.later(10)
    instrument.turn(parts)
    item = instrument.only()
    assert (item.stage, item.error_code) == (Stage.FOUND, "source-changed")
    assert "b.dcm" in item.error
    instrument.later(10)
    instrument.turn(parts)

    assert instrument.only().stage is Stage.ARRIVED
    server.serve()
    assert (instrument.inbox_root / "P1/sub-001/s1/b.dcm").read_bytes() == b"image two!"
    replanned = [e.note for e in instrument.outbox.events(item.id) if "re-planned" in e.note]
    assert len(replanned) == 1
    assert instrument.only().delivery.digest in replanned[0]


def test_a_file_that_goes_before_it_was_sent_does_not_haunt_the_slot(
    instrument: Instrument, server: AnsweringServer
) -> None:
    class CutOffLate(CutOff):
        def fail(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
            self.real.carry(cargo, slot, journal, progress)
            (instrument.inbox_root / slot.path / "manifest.json").unlink()
            (instrument.inbox_root / slot.data / "a.dcm").unlink()  # the line went before this file and the seal
            raise Unreachable("the line went dead")

    parts = PartsWith(instrument.parts, CutOffLate(instrument.parts.transport("mri")))
    root = instrument.write("P1/sub-001/s1", FILES)
    instrument.turn(parts)
    (root / "b.dcm").unlink()
    (root / "a.dcm").write_bytes(b"written anew")

    for _ in range(4):
        instrument.later(20)
        instrument.turn(parts)
    server.serve()

    assert set(hashes(instrument.inbox_root)) == {"P1/sub-001/s1/a.dcm", "P1/sub-001/s1/scans/c.dcm"}


def test_files_that_come_after_the_session_was_sent_wait_for_a_person(
    instrument: Instrument, server: AnsweringServer
) -> None:
    sent = delivered(instrument, server)
    instrument.write("P1/sub-001/s1", {"late.dcm": b"series four"})
    instrument.turn()

    late, first = instrument.outbox.deliveries()
    assert (first.id, first.stage) == (sent.id, Stage.VERIFIED)
    assert (late.stage, late.error_code) == (Stage.HELD, "late-files")
    assert "late.dcm" in late.error
    instrument.later(100)
    instrument.turn()
    assert len(instrument.outbox.deliveries()) == 2


def test_a_second_agent_on_the_same_home_says_so(instrument: Instrument) -> None:
    lock = loop.agent_lock(instrument.config.home)
    assert lock.acquire()
    try:
        with pytest.raises(ConfigError, match=str(os.getpid())):
            loop.run(instrument.config, instrument.parts, instrument.outbox, stop=threading.Event())
    finally:
        lock.release()


class Failing(CutOff):
    """Its carries meet an error of the test's choice."""

    def __init__(self, real: Transport, failure: Exception) -> None:
        super().__init__(real)
        self.failure = failure

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        self.carries += 1
        raise self.failure


def test_wrong_credentials_are_not_tried_again_and_again(instrument: Instrument) -> None:
    failing = Failing(instrument.parts.transport("mri"), AccessDenied("staging refused user 'lading'"))
    instrument.write("P1/sub-001/s1", FILES)

    for _ in range(3):
        instrument.turn(PartsWith(instrument.parts, failing))
        instrument.later(3600)

    assert failing.carries == 1
    assert instrument.only().stage is Stage.HELD
    assert instrument.only().next_command == f"lading retry {instrument.only().id}"


def test_a_bug_in_a_part_holds_its_delivery_and_not_the_agent(instrument: Instrument) -> None:
    failing = Failing(instrument.parts.transport("mri"), ZeroDivisionError("nobody foresaw this"))
    instrument.write("P1/sub-001/s1", FILES)
    instrument.write("P1/sub-002/s1", FILES)

    instrument.turn(PartsWith(instrument.parts, failing))

    items = instrument.outbox.deliveries()
    assert [(i.stage, i.error_code) for i in items] == [(Stage.HELD, "unexpected")] * 2
    assert "nobody foresaw this" in items[0].error

    instrument.outbox.retry(items[0].id)
    instrument.turn()
    assert instrument.outbox.get(items[0].id).stage is Stage.ARRIVED


def test_a_bug_in_asking_does_not_stop_the_agent(instrument: Instrument, server: AnsweringServer) -> None:
    class NoAnswer(CutOff):
        def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
            raise ZeroDivisionError("nobody foresaw this")

    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id)
    instrument.later(1)
    instrument.turn(PartsWith(instrument.parts, NoAnswer(instrument.parts.transport("mri"))))
    assert "nobody foresaw this" in instrument.only().error

    instrument.later(20)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED
    assert instrument.only().error == ""


def test_a_watched_folder_that_vanishes_is_reported_until_it_is_back(instrument: Instrument) -> None:
    aside = instrument.data.rename(instrument.base / "unmounted")
    instrument.turn()
    assert "mounted" in instrument.outbox.watches()[0].error

    aside.rename(instrument.data)
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()

    assert instrument.outbox.watches()[0].error == ""
    assert instrument.only().stage is Stage.ARRIVED
