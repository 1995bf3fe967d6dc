"""The manifest that is made beside an rsync: what is sealed was hashed, and did not change while it was sent."""

import os
import shutil
import threading
import time
from collections.abc import Callable

import pytest

from lading.delivery import Cargo, Delivery, DeliveryId, Labels, Slot
from lading.errors import AccessDenied, SourceChanged, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.manifest import NameLimits, make
from lading.ports import NoProgress, Progress
from lading.seal import is_sealed, read_seal
from lading.testing import trees
from lading.testing.carrying import FileJournal
from lading.testing.expecting import AtFirst, Told
from transport import rsync, rsync_beside
from transport.rsync import RsyncConfig, RsyncTransport
from transport.rsync_beside import ListedBeside, Look, look_at

needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")


@pytest.fixture
def cargo(tmp_path) -> Cargo:
    source = trees.write(tmp_path / "source", {"a": b"1", "b/c": trees.noise(1, 100_000), "b/Thumbs.db": b"junk"})
    return Cargo(Delivery(DeliveryId("delivery-1"), "r", Labels("P", "s", "e")), source, tmp_path / "papers")


@pytest.fixture
def inbox(tmp_path) -> Inbox:
    return Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))


def _looked(cargo: Cargo) -> Look:
    look = look_at(cargo, NameLimits.POSIX)
    assert look is not None
    cargo.papers.mkdir()
    return look


def _write_over(path, content: bytes) -> None:
    """As `cp -p` does: size and time stay."""
    before = path.stat()
    path.write_bytes(content)
    while path.stat().st_ctime_ns == before.st_ctime_ns or path.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(path, ns=(0, before.st_mtime_ns))


def test_what_is_untouched_or_only_has_another_mode_is_not_refused(cargo):
    look = _looked(cargo)
    manifest = make(cargo.root, cargo.papers)
    look.refuse_listed_otherwise(manifest)
    (cargo.root / "a").chmod(0o600)
    trees.write(cargo.root, {"later": b"belongs to no list"})

    look.refuse_changed(manifest)

    assert (look.load.files, look.load.bytes) == (2, 100_001)


def _change(file, how: str) -> None:
    if how == "content":
        _write_over(file, trees.noise(2, 100_000))
    elif how == "time":
        os.utime(file, ns=(0, 1))
    elif how == "more":
        trees.write(file.parent, {"later": b""})
    else:
        file.unlink()
        if how == "link":
            file.symlink_to("a")


@pytest.mark.parametrize("how", ["content", "time", "gone", "link"])
def test_a_source_that_changed_after_it_was_listed_is_refused(cargo, how):
    look = _looked(cargo)
    manifest = make(cargo.root, cargo.papers)
    _change(cargo.root / "b" / "c", how)

    with pytest.raises(SourceChanged):
        look.refuse_changed(manifest)


@pytest.mark.parametrize("how", ["content", "time", "gone", "more"])
def test_a_source_that_changed_before_it_was_listed_is_refused(cargo, how):
    look = _looked(cargo)
    _change(cargo.root / "b" / "c", how)

    with ListedBeside(cargo, NameLimits.POSIX, look) as listed, pytest.raises(SourceChanged):
        listed.manifest()
    assert not is_sealed(cargo.papers)


def test_what_is_too_many_or_unfit_is_listed_first(cargo, monkeypatch):
    monkeypatch.setattr(rsync_beside, "LISTED_AT_MOST", 1)
    assert look_at(cargo, NameLimits.POSIX) is None
    monkeypatch.undo()
    (cargo.root / "link").symlink_to("a")
    assert look_at(cargo, NameLimits.POSIX) is None


def test_the_maker_keeps_near_the_sender_and_is_given_up_with_it(cargo, monkeypatch):
    monkeypatch.setattr(rsync_beside, "AHEAD", 50_000)
    look = _looked(cargo)
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        assert not listed.is_made(0.3), "100 KB were hashed, none was sent"
        told = Told()
        listed.heard(told).advance(files=1, bytes=60_000)
        assert listed.is_made(30)
        assert told.bytes == 60_000
        assert listed.manifest().summary.files == 2
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        listed.hurry()
        assert listed.is_made(30)
    shutil.rmtree(cargo.papers)

    begun = time.monotonic()
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        pass

    assert time.monotonic() - begun < 10, "nobody waits for a list that nobody wants"
    assert not list(cargo.papers.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lading-list")]


def test_the_sender_hears_that_there_will_be_no_list(cargo):
    look = _looked(cargo)
    (cargo.root / "a").unlink()
    (cargo.root / "b" / "c").unlink()
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        with pytest.raises(Exception, match=r"cannot be sent|no file to send"):
            listed.is_made(30)
        with pytest.raises(Exception, match=r"cannot be sent|no file to send"):
            listed.heard(NoProgress()).advance(bytes=1)


def test_what_making_the_list_met_is_told_and_not_what_rsync_makes_of_it(cargo, monkeypatch):
    def failing(*_: object, **__: object) -> None:
        raise Unreachable("the disk is away")

    look = _looked(cargo)
    monkeypatch.setattr(rsync_beside, "make", failing)
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        with pytest.raises(Unreachable, match="the disk is away"):
            listed.is_made(30)
        with pytest.raises(Unreachable, match="the disk is away") as told, listed.explaining():
            raise AccessDenied("some files could not be carried")
        assert isinstance(told.value.__cause__, AccessDenied)
    monkeypatch.undo()
    with ListedBeside(cargo, NameLimits.POSIX, look) as listed:
        assert listed.is_made(30)
        with pytest.raises(AccessDenied, match="could not be carried"), listed.explaining():
            raise AccessDenied("some files could not be carried")


class _AtOnce:
    """Does something once, at the first word about the carry."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do: Progress = AtFirst(do)
        self.advance = self._do.advance


def _transport(tmp_path, inbox: Inbox) -> RsyncTransport:
    return RsyncTransport(RsyncConfig(target=str(inbox.root)), state=tmp_path / "state")


@needs_rsync
def test_a_source_written_over_while_it_is_sent_is_compared_by_content_next_time(tmp_path, cargo, inbox):
    transport, slot, journal = _transport(tmp_path, inbox), Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    file = cargo.root / "b" / "c"

    with pytest.raises(SourceChanged):
        transport.carry(cargo, slot, journal, _AtOnce(lambda: _write_over(file, trees.noise(2, 100_000))))
    assert not is_sealed(cargo.papers)
    assert not (inbox.root / slot.path / "manifest.json").exists()
    there = inbox.root / slot.data / "b" / "c"
    assert there.stat().st_size == 100_000
    assert there.stat().st_mtime_ns == file.stat().st_mtime_ns, "size and time prove nothing"

    def cut() -> None:
        raise Unreachable("cut off by the test")

    with pytest.raises(Unreachable):
        transport.carry(cargo, slot, journal, _AtOnce(cut))
    transport.carry(cargo, slot, journal, NoProgress())

    assert there.read_bytes() == file.read_bytes()
    inbox.accept(slot.delivery)


@needs_rsync
def test_a_folder_that_changed_since_it_began_to_be_carried_is_told_once(tmp_path, cargo, inbox):
    transport, slot, journal = _transport(tmp_path, inbox), Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")

    def cut() -> None:
        raise Unreachable("cut off by the test")

    with pytest.raises(Unreachable):
        transport.carry(cargo, slot, journal, _AtOnce(cut))
    (cargo.root / "a").unlink()
    trees.write(cargo.root, {"d": b"4"})

    with pytest.raises(SourceChanged, match="than when it began"):
        transport.carry(cargo, slot, journal, NoProgress())
    assert not is_sealed(cargo.papers)
    transport.carry(cargo, slot, journal, NoProgress())

    assert set(trees.look(inbox.root / slot.data)) == {"b/c", "d"}
    inbox.accept(slot.delivery)


@needs_rsync
@pytest.mark.parametrize("early", [True, False])
def test_the_papers_go_before_or_after_the_files_and_the_seal_last(tmp_path, cargo, inbox, monkeypatch, early):
    order: list[str] = []
    monkeypatch.setattr(ListedBeside, "is_made", lambda listed, _: early and bool(listed._made.result()))
    send, move = RsyncTransport._send, RsyncTransport._move

    def noted(self, papers, names, to):
        order.append(" ".join(names))
        send(self, papers, names, to)

    def files_noted(self, *args, **options):
        order.append("files")
        return move(self, *args, **options)

    monkeypatch.setattr(RsyncTransport, "_send", noted)
    monkeypatch.setattr(RsyncTransport, "_move", files_noted)
    papers = "manifest.jsonl manifest-sha256.txt filtered.jsonl"
    slot, told = Slot(cargo.delivery.id), Told()

    _transport(tmp_path, inbox).carry(cargo, slot, FileJournal(tmp_path / "journal"), told)

    assert order == ([papers, "files"] if early else ["", "files", papers]) + ["manifest.json"]
    assert (told.files, told.bytes) == (2, 100_001)
    assert inbox.accept(slot.delivery).delivery.files == 2


@needs_rsync
def test_what_an_earlier_attempt_brought_is_planned_for_no_more(tmp_path, cargo, inbox):
    transport, slot, journal = _transport(tmp_path, inbox), Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    before = transport.plan(cargo, slot)

    def spoil() -> None:
        os.utime(cargo.root / "a", ns=(0, 1))

    with pytest.raises(SourceChanged):
        transport.carry(cargo, slot, journal, _AtOnce(spoil))
    after = transport.plan(cargo, slot)

    assert (before.files, before.bytes, before.files_already_there) == (2, 100_001, 0)
    assert (after.files, after.bytes, after.files_already_there) == (1, 1, 1)


_STUMBLING = """\
#!/bin/sh
case "$*" in
*/data/*) touch '{begun}'; sleep 1; echo 'rsync: read errors mapping "a": Input/output error (5)' >&2; exit 23 ;;
*) exec rsync "$@" ;;
esac
"""


@needs_rsync
def test_a_disk_that_goes_under_both_is_what_the_list_says_it_is(tmp_path, cargo, inbox, monkeypatch):
    begun, program = tmp_path / "begun", tmp_path / "rsync-there"
    program.write_text(_STUMBLING.format(begun=begun))
    program.chmod(0o755)

    def failing(*_: object, **__: object) -> None:
        while not begun.exists():
            time.sleep(0.01)
        raise Unreachable("reading a: Input/output error")

    monkeypatch.setattr(rsync_beside, "make", failing)
    transport = RsyncTransport(RsyncConfig(target=str(inbox.root), program=str(program)), state=tmp_path / "state")

    with pytest.raises(Unreachable, match="reading a"):
        transport.carry(cargo, Slot(cargo.delivery.id), FileJournal(tmp_path / "journal"), NoProgress())


@needs_rsync
def test_of_our_own_folder_nothing_is_sent(tmp_path, cargo, inbox, monkeypatch):
    monkeypatch.setattr(ListedBeside, "is_made", lambda *_: False)
    trees.write(tmp_path / "state", {"outbox.db": b"ours", "keys/one": b"ours"})
    slot = Slot(cargo.delivery.id)

    _transport(tmp_path, inbox).carry(cargo, slot, FileJournal(tmp_path / "journal"), NoProgress())

    papers = {"filtered.jsonl", "manifest-sha256.txt", "manifest.json", "manifest.jsonl"}
    assert {path.name for path in (inbox.root / slot.path).iterdir()} == {"data", *papers}
    assert set(trees.look(tmp_path / "state")) == {"outbox.db", "keys/one"}


@needs_rsync
def test_what_is_listed_first_is_listed_before_anybody_logs_in(tmp_path, cargo, inbox, monkeypatch):
    monkeypatch.setattr(rsync_beside, "LISTED_AT_MOST", 1)
    connected = RsyncTransport._over_one_connection
    seen: list[bool] = []

    def noted(self, doing):
        seen.append(is_sealed(cargo.papers))
        return connected(self, doing)

    monkeypatch.setattr(RsyncTransport, "_over_one_connection", noted)

    _transport(tmp_path, inbox).carry(cargo, Slot(cargo.delivery.id), FileJournal(tmp_path / "journal"), NoProgress())

    assert seen == [True], "the line would be idle while a large folder is read"
    inbox.accept(cargo.delivery.id)


@needs_rsync
def test_digests_that_are_new_are_not_made_once_more(tmp_path, cargo, inbox, monkeypatch):
    def again(*_: object) -> None:
        raise AssertionError("the whole source was read a second time")

    monkeypatch.setattr(rsync, "refuse_other_content", again)
    journal, slot = FileJournal(tmp_path / "journal"), Slot(cargo.delivery.id)
    journal.note("rsync-begun", "doubted")

    _transport(tmp_path, inbox).carry(cargo, slot, journal, NoProgress())

    inbox.accept(slot.delivery)
    assert journal.recall("rsync-begun") == read_seal(cargo.papers).summary.list_digest


@needs_rsync
def test_what_came_back_is_compared_by_content_also_under_another_list(tmp_path, cargo, inbox):
    transport, slot, journal = _transport(tmp_path, inbox), Slot(cargo.delivery.id), FileJournal(tmp_path / "journal")
    transport.carry(cargo, slot, journal, NoProgress())
    _write_over(inbox.root / slot.data / "b" / "c", trees.noise(3, 100_000))
    trees.write(cargo.root, {"a": b"another"})
    shutil.rmtree(cargo.papers)

    transport.carry(cargo, slot, journal, NoProgress())

    inbox.accept(slot.delivery)
