"""Strangers who keep their hands on what we have begun with: swaps, links, second names, other accounts of the group."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.delivery import Labels, Parcel, Stage, new_delivery_id
from lading.errors import AccessDenied, Corrupted, LadingError, Rejected
from lading.inbox import Inbox, InboxLimits
from lading.staging.slots import Slots
from lading.testing.deliveries import FILES, KEY, fill, receipt_of, send, slot_of, tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and devices of POSIX")


def test_a_project_folder_that_is_a_link_is_not_followed(inbox: Inbox, source: Path, outside: Path) -> None:
    delivery = send(inbox, source)
    parcel = inbox.accept(delivery.id)
    (inbox.root / "P").symlink_to(outside, target_is_directory=True)

    with pytest.raises(Rejected):
        inbox.publish(parcel)

    assert tree(outside) == {"secret": b"keep out"}
    assert tree(parcel.root) == FILES


def test_a_folder_that_is_swapped_while_it_is_verified_never_gets_published(
    inbox: Inbox, tmp_path: Path, outside: Path
) -> None:
    """A sender who keeps swapping a folder for a link, from before the first look to after the last."""
    names = {f"series/{n:04}.dcm": b"x" * 2000 for n in range(400)}
    delivery = send(inbox, fill(tmp_path / "many", names))
    places = [inbox.root / ".lading" / p / delivery.id / "data" for p in ("incoming", "accepting")]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for data in places:
                try:
                    (data / "series").rename(data.parent / "hidden")
                    (data / "series").symlink_to(outside)
                    (data / "series").unlink()
                    (data.parent / "hidden").rename(data / "series")
                except OSError:
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        parcel = inbox.publish(inbox.accept(delivery.id))
    except LadingError:
        parcel = None
    finally:
        stop.set()
        attacker.join()

    if parcel is not None:
        assert tree(parcel.root) == names
        assert inbox.is_untouched(parcel)
    assert tree(outside) == {"secret": b"keep out"}


def test_a_file_with_a_second_name_elsewhere_is_taken_and_its_change_is_noticed(
    inbox: Inbox, source: Path, tmp_path: Path
) -> None:
    delivery = send(inbox, source)
    os.link(slot_of(inbox, delivery.id) / "data/a.dcm", tmp_path / "second-name")

    parcel = inbox.accept(delivery.id)
    (tmp_path / "second-name").write_bytes(b"FIRST")

    with pytest.raises(Corrupted):
        inbox.publish(parcel)


def test_a_file_that_keeps_its_size_and_time_but_not_its_content(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    parcel = inbox.accept(delivery.id)
    file = parcel.root / "a.dcm"
    before = file.stat()
    file.write_bytes(b"FIRST")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(Corrupted):
        inbox.publish(parcel)


@pytest.fixture
def shared(tmp_path: Path) -> Inbox:
    """An inbox of root's that the group of `as_sender` may use."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    for folder in (inbox.root, *inbox.root.rglob("*")):
        mode = folder.stat().st_mode & 0o7777
        os.chown(folder, 0, SENDERS)
        folder.chmod(mode)  # chown drops setgid
    return inbox


SENDERS = 54321


def as_sender(uid: int, work: Callable[[], object]) -> type[BaseException] | None:
    """Do the work under another account of the inbox's group; the kind of error it met, if any."""
    pid = os.fork()
    kinds: list[type[BaseException]] = [PermissionError, AccessDenied]
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(SENDERS)
            os.setuid(uid)
            os.umask(0o002)
            work()
            code = 0
        except tuple(kinds) as exc:
            code = 1 + kinds.index(type(exc))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code < 99
    return kinds[code - 1] if code else None


@pytest.mark.root
def test_senders_of_one_group_reach_their_own_slots_and_receipts_only(shared: Inbox, tmp_path: Path) -> None:
    anna, bert = 54001, 54002
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    first, second, berts = new_delivery_id(), new_delivery_id(), new_delivery_id()
    system = shared.root / ".lading"
    assert as_sender(anna, lambda: send(shared, fill(work / "a"), delivery_id=first)) is None
    assert (
        as_sender(bert, lambda: send(shared, fill(work / "b"), delivery_id=second, labels=Labels("P", "s2", "e")))
        is None
    )

    assert as_sender(bert, lambda: shared.reserve(berts)) is None

    parcel = shared.publish(shared.accept(first))
    shared.accept(second)
    shared.write_receipt(receipt_of(parcel, Stage.HELD), [], KEY)

    assert tree(parcel.root) == FILES
    for forbidden in (
        lambda: os.listdir(system / "accepting"),
        lambda: (system / "accepting" / second / "data/a.dcm").write_bytes(b"x"),
        lambda: (system / "receipts/forged.json").write_bytes(b"{}"),
        lambda: (system / "claims/forged.json").write_bytes(b"{}"),
        lambda: (system / "inbox.json").write_bytes(b"{}"),
        lambda: (system / "incoming" / berts).rename(system / "incoming/stolen-slot"),
    ):
        assert as_sender(anna, forbidden) is PermissionError
    assert as_sender(anna, lambda: shared.read_receipt(first).delivery) is None  # type: ignore[union-attr]
    assert as_sender(54003, lambda: shared.accept(second)) is AccessDenied


@pytest.fixture
def victim(inbox: Inbox, source: Path) -> Parcel:
    """A published session of somebody else's."""
    return inbox.publish(inbox.accept(send(inbox, source, labels=Labels("OTHER", "s1", "e1")).id))


def test_a_link_in_the_place_of_a_taken_slot_leads_to_nobodys_papers(
    inbox: Inbox, source: Path, victim: Parcel
) -> None:
    """As a sender makes it who is faster than the server's stub."""
    slots = Slots(inbox.root)
    papers = slots.accepted / victim.delivery.id
    before = tree(papers)
    delivery = send(inbox, source)
    (slot_of(inbox, delivery.id)).rename(slots.accepting / delivery.id)
    slot_of(inbox, delivery.id).symlink_to(papers)

    slots.leave_stub(delivery.id)
    after_stub = tree(papers)
    slots.give_back(delivery.id, [])

    assert after_stub == before
    assert tree(papers) == before


def test_a_folder_swapped_for_a_link_during_verification_gives_away_nobodys_files(
    inbox: Inbox, source: Path, victim: Parcel
) -> None:
    slots = Slots(inbox.root)
    delivery = send(inbox, source)
    slot = slots.take(delivery.id)
    assert slot is not None
    (slot / "data" / "linked").symlink_to(victim.root)
    name = next(iter(tree(victim.root)))

    slots.set_aside(slot, "damaged", [f"linked/{name}", "gone/entirely"])

    assert tree(victim.root) == FILES
    assert [path for path in (slot / "damaged").rglob("*") if path.is_file()] == []


def test_a_damaged_file_is_set_aside_from_any_depth(inbox: Inbox, source: Path) -> None:
    slots = Slots(inbox.root)
    delivery = send(inbox, source)
    slot = slots.take(delivery.id)
    assert slot is not None
    names = sorted(FILES)

    slots.set_aside(slot, "damaged", names)

    assert tree(slot / "data") == {}
    assert len(list((slot / "damaged").iterdir())) == len(names)


@pytest.mark.parametrize("name", ["\u6e2c" * 85, "\U0001f52c" * 63, "\udcff" * 255, "a" * 255])
def test_a_damaged_file_with_the_longest_name_there_is_is_asked_for_again(
    inbox: Inbox, tmp_path: Path, name: str
) -> None:
    delivery = send(inbox, fill(tmp_path / "long", {name: b"first", "b": b"second"}))
    slot = slot_of(inbox, delivery.id)
    (slot / "data" / name).write_bytes(b"FIRST")

    with pytest.raises(Corrupted) as caught:
        inbox.accept(delivery.id)

    assert caught.value.paths == (name,)
    assert tree(slot / "data") == {"b": b"second"}
    assert [path.read_bytes() for path in (slot / "damaged").iterdir()] == [b"FIRST"]
