"""When cleaning meets the worst moment: another route still needs the source, the share goes away, the receipt is strange."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lading.agent import cleaner
from lading.agent.cleaner import rehearse, undo_list
from lading.agent.outbox import Outgoing
from lading.delivery import Receipt, Stage
from lading.inbox import Inbox
from lading.listing.below import Below
from lading.listing.entries import Entry
from lading.listing.hashing import rehash
from lading.listing.reading import Verdict
from lading.staging.receipts import receipt_json
from lading.testing.instrument import FILES, AnsweringServer, Instrument, delivered, delivered_but_unanswered

DAY = 86_400.0
SESSION = "P1/sub-001/s1"


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    made.configure(watch="quiet = 0\nclean = true\ngrace_days = 7")
    return made


@pytest.fixture
def server(instrument: Instrument) -> AnsweringServer:
    return AnsweringServer(instrument.inbox)


def write_receipt(instrument: Instrument, item: Outgoing, receipt: Receipt) -> None:
    path = instrument.inbox_root / ".lading" / "receipts" / f"{item.id}.json"
    path.write_text(receipt_json(receipt), encoding="ascii")


@pytest.mark.skipif(os.name != "posix", reason="other systems have no time of the last change")
def test_a_file_rewritten_while_the_source_is_read_again_is_kept_whatever_its_size_and_time(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading a source again takes hours, and some programs set the time of a file back (`cp -p`): such a file was removed, unread.
    item = delivered(instrument, server)
    path = instrument.data / SESSION / "a.dcm"
    again = FILES["a.dcm"].upper()

    def rewritten_meanwhile(root: Path, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Verdict]]:
        yield from rehash(root, entries)
        before = path.stat()
        path.write_bytes(again)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    instrument.later(8 * DAY)
    with monkeypatch.context() as patched:
        patched.setattr(cleaner, "rehash", rewritten_meanwhile)
        instrument.turn()

    kept = instrument.only()
    assert instrument.left(SESSION) == FILES | {"a.dcm": again}
    assert (kept.stage, kept.error_code) == (Stage.VERIFIED, "source-in-use")
    assert kept.next_command == f"lading show {kept.id}"
    instrument.later(301)
    instrument.turn()
    assert instrument.only().stage is Stage.HELD
    assert instrument.codes(item.id) == ["source-differs"]
    assert path.read_bytes() == again


def test_a_source_that_another_route_still_needs_is_kept(instrument: Instrument, server: AnsweringServer) -> None:
    # Seen: the route to one repository removed what the route to the other, whose inbox was away for long, had yet to carry.
    other = instrument.base / "other-inbox"
    route = f'[routes.copy]\ntransport = {{ kind = "local", path = "{other}" }}'
    second = f'[[agent.watch]]\npath = "{instrument.data}"\nroute = "copy"\nquiet = 0'
    instrument.configure(watch=f"quiet = 0\nclean = true\ngrace_days = 7\n{second}", route=route)
    instrument.write(SESSION, FILES)
    instrument.turn()
    server.serve()
    instrument.later(1)
    instrument.turn()
    (item,) = instrument.outbox.deliveries(Stage.VERIFIED)
    (waiting,) = [one for one in instrument.outbox.deliveries() if one.id != item.id]

    instrument.later(8 * DAY)
    instrument.turn()

    assert instrument.left(SESSION) == FILES
    assert instrument.outbox.get(item.id).stage is Stage.VERIFIED
    assert waiting.id in instrument.outbox.get(item.id).error
    assert waiting.id in rehearse(instrument.outbox, instrument.parts, item.id).kept

    other.mkdir()
    copies = AnsweringServer(Inbox.create(other))
    for _ in range(2):
        instrument.later(600)
        instrument.turn()
        copies.serve()
    for _ in range(2):
        instrument.later(600)
        instrument.turn()
    assert instrument.outbox.get(item.id).stage is Stage.CLEANED
    assert not (instrument.data / SESSION).exists()


def half_cleaned(instrument: Instrument, server: AnsweringServer) -> Outgoing:
    """The power went after the first file."""
    item = delivered(instrument, server)
    instrument.outbox.move(item.id, Stage.CLEANABLE)
    (instrument.data / SESSION / "a.dcm").unlink()
    return item


def test_half_cleaned_and_unmounted_it_is_not_called_cleaned(instrument: Instrument, server: AnsweringServer) -> None:
    half_cleaned(instrument, server)
    away = instrument.data.rename(instrument.base / "away")
    instrument.data.mkdir()
    instrument.turn()
    assert instrument.only().stage is Stage.CLEANABLE
    assert "mounted" in instrument.only().error

    instrument.data.rmdir()
    away.rename(instrument.data)
    instrument.later(600)
    instrument.turn()

    assert instrument.only().stage is Stage.CLEANED
    assert not (instrument.data / SESSION).exists()


@pytest.mark.parametrize("where", ["", "scans"], ids=["the source itself", "a folder in it"])
def test_half_cleaned_it_waits_for_the_mount_that_it_is_or_holds(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # Seen: an unmounted source is an empty folder, so every file of it was called removed.
    item = delivered(instrument, server)
    mount = instrument.data / SESSION / where
    away = instrument.base / "away"
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mount and not away.exists())
    real = Below.unlink

    def unmounted(below: Below, name: str) -> None:
        real(below, name)
        mount.rename(away)
        mount.mkdir()
        raise KeyboardInterrupt

    instrument.later(8 * DAY)
    with monkeypatch.context() as patched:
        patched.setattr(Below, "unlink", unmounted)
        with pytest.raises(KeyboardInterrupt):
            cleaner.clean(instrument.outbox, instrument.parts, item.id)
    assert not cleaner.clean(instrument.outbox, instrument.parts, item.id)
    assert instrument.only().stage is Stage.CLEANABLE
    assert f"{mount} is not there; is the disk mounted?" in instrument.only().error

    mount.rmdir()
    away.rename(mount)
    assert cleaner.clean(instrument.outbox, instrument.parts, item.id)

    assert instrument.only().stage is Stage.CLEANED
    assert not [path for path in (instrument.data / SESSION).rglob("*") if path.is_file()]


def test_a_source_that_is_a_mount_point_is_emptied_and_stays(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = delivered(instrument, server)
    root = instrument.data / SESSION
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == root)
    instrument.later(8 * DAY)

    assert cleaner.clean(instrument.outbox, instrument.parts, item.id)

    assert list(root.iterdir()) == []
    assert instrument.outbox.events(item.id)[-1].note == (
        f"3 files removed from {item.root} (the folder stays: mount points are not removed)"
    )


def test_cut_short_after_the_folder_itself_went_it_is_cleaned(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = delivered(instrument, server)
    instrument.later(8 * DAY)
    real = cleaner._remove_empty_folders

    def dies(root: Path) -> None:
        real(root)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cleaner, "_remove_empty_folders", dies)
        with pytest.raises(KeyboardInterrupt):
            cleaner.clean(instrument.outbox, instrument.parts, item.id)
    assert instrument.only().stage is Stage.CLEANABLE
    assert not (instrument.data / SESSION).exists()

    assert cleaner.clean(instrument.outbox, instrument.parts, item.id)

    assert instrument.only().stage is Stage.CLEANED


def test_half_cleaned_it_does_not_ask_all_the_time(instrument: Instrument, server: AnsweringServer) -> None:
    item = half_cleaned(instrument, server)
    away = instrument.inbox_root.rename(instrument.base / "away")
    instrument.turn()
    assert not instrument.outbox.cleanable()

    away.rename(instrument.inbox_root)
    instrument.later(600)
    instrument.turn()

    assert instrument.outbox.get(item.id).stage is Stage.CLEANED


Change = Callable[[Receipt], Receipt]


@pytest.mark.parametrize(
    "change",
    [lambda good: replace(good, files=0, counts={}), lambda good: replace(good, files=2, counts={"verified": 2})],
    ids=["no file at all", "one file less"],
)
def test_a_receipt_for_fewer_files_than_were_sent_removes_nothing(
    instrument: Instrument, server: AnsweringServer, change: Change
) -> None:
    item = delivered(instrument, server)
    good = server.inbox.read_receipt(item.id)
    assert good is not None
    write_receipt(instrument, item, change(good))

    instrument.later(8 * DAY)
    instrument.turn()

    assert instrument.left(SESSION) == FILES
    assert instrument.only().stage is Stage.HELD


@pytest.mark.parametrize(
    "change",
    [lambda good: replace(good, digest=""), lambda good: replace(good, delivery="20200101-000000-0000000000")],
    ids=["about no content", "of another delivery"],
)
def test_a_receipt_that_is_not_about_this_verifies_nothing(
    instrument: Instrument, server: AnsweringServer, change: Change
) -> None:
    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id)
    good = server.inbox.read_receipt(item.id)
    assert good is not None
    write_receipt(instrument, item, change(good))

    instrument.later(1)
    instrument.turn()

    assert instrument.only().stage is Stage.ARRIVED
    assert instrument.codes(item.id) == ["receipt-for-other-content"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system which folder a descriptor is of")
def test_the_name_of_the_undo_list_is_on_the_disk_before_a_file_goes(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = delivered(instrument, server)
    instrument.later(8 * DAY)
    flushed: list[str] = []
    before_the_first: list[list[str]] = []
    fsync, unlink = os.fsync, Below.unlink

    def noted(fd: int) -> None:
        flushed.append(os.path.realpath(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def removing(self: Below, name: str) -> None:
        before_the_first.append(list(flushed))
        unlink(self, name)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Below, "unlink", removing)
    assert cleaner.clean(instrument.outbox, instrument.parts, item.id)

    assert str(undo_list(instrument.outbox, item.id).parent.resolve()) in before_the_first[0]
