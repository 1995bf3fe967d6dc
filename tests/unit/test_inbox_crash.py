"""Killed with -9 at any line: whoever comes next finds everything, finishes it, and does nothing twice."""

import json
import os
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import lading.inbox
from lading.delivery import Delivery, DeliveryId, Labels, Outcome, Parcel, new_delivery_id
from lading.errors import Corrupted, LadingError, Rejected, UnexpectedFault, Unreachable
from lading.findings import error
from lading.inbox import Inbox
from lading.staging.slots import Slots
from lading.testing.deliveries import FILES, KEY, fill, prove, send, tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

LABELS = Labels("P", "s1", "e1")
OURS = Path(lading.inbox.__file__).parent
STAGING = ("acceptance", "bare", "publishing", "receipts", "slots")
WATCHED = {str(OURS / f"{name}.py") for name in ("inbox", "disk", "seal", *(f"staging/{part}" for part in STAGING))}
Work = Callable[[Inbox], object]
# Stride 1 takes some ten minutes: worth it after every change to the modules below.
STRIDE = int(os.environ.get("LADING_TEST_LINE_STRIDE", "37"))


def killed_at(line: int, inbox: Inbox, work: Work) -> bool:
    """Do the work in another process that dies at its `line`-th line in our modules; False when it came to an end."""
    pid = os.fork()
    if pid == 0:
        left = line

        def trace(frame: object, event: str, _: object) -> object:
            nonlocal left
            if event == "line":
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace if frame.f_code.co_filename in WATCHED else None  # type: ignore[attr-defined]

        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            work(inbox)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def at_every_line(tmp_path: Path, prepare: Callable[[Inbox, Path], Work], check: Callable[[Inbox], None]) -> None:
    """Prepare a fresh inbox, kill the work at the next line, check; until the work survives."""
    for line in range(1, 5000, STRIDE):
        place = tmp_path / str(line)
        inbox = Inbox.create(place / "inbox")
        work = prepare(inbox, place / "source")
        died = killed_at(line, inbox, work)
        check(Inbox.open(inbox.root))
        if not died:
            assert line > 20
            return
    pytest.fail("the work never came to an end")


def only_slot(inbox: Inbox) -> DeliveryId:
    found = {p.name.removesuffix(".checking") for p in inbox.root.glob(".lading/*/*-*-*") if p.is_dir()}
    (only,) = found
    return DeliveryId(only)


def finish(inbox: Inbox) -> Parcel:
    return inbox.publish(inbox.accept(only_slot(inbox)))


def test_while_a_delivery_is_accepted_and_published(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        delivery = send(inbox, fill(source))
        return lambda killed: killed.publish(killed.accept(delivery.id))

    def check(inbox: Inbox) -> None:
        parcel = finish(inbox)
        assert tree(inbox.root / "P/s1/e1") == FILES
        assert inbox.is_untouched(parcel)
        assert list(inbox.arrivals()) == []
        assert inbox.notes(parcel.delivery.id) == ()

    at_every_line(tmp_path, prepare, check)


def test_a_folder_whose_modes_were_changed_before_its_papers_were_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox.create(tmp_path / "inbox")
    delivery = send(inbox, fill(tmp_path / "source"))
    killed_when_filing(inbox, delivery.id, monkeypatch)
    (inbox.root / "P/s1/e1/a.dcm").chmod(0o600)

    parcel = finish(inbox)

    assert parcel.published
    assert inbox.is_untouched(parcel)
    assert inbox.notes(parcel.delivery.id) == ()


def test_a_folder_that_was_changed_before_its_papers_were_filed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox.create(tmp_path / "inbox")
    delivery = send(inbox, fill(tmp_path / "source"))
    killed_when_filing(inbox, delivery.id, monkeypatch)
    (inbox.root / "P/s1/e1/a.dcm").write_bytes(b"FIRST")

    with pytest.raises(UnexpectedFault, match="whole"):
        finish(inbox)

    assert not inbox.parcel(delivery.id).published


def killed_when_filing(inbox: Inbox, delivery: DeliveryId, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after -9 between the appearing of the session folder and the last move of its papers."""

    class KilledError(BaseException):
        pass

    def dies(*_: object) -> None:
        raise KilledError

    parcel = inbox.accept(delivery)
    with monkeypatch.context() as patched:
        patched.setattr(Slots, "file_away", dies)
        with pytest.raises(KilledError):
            inbox.publish(parcel)


def test_while_a_damaged_delivery_is_given_back(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        delivery = send(inbox, fill(source))
        (inbox.root / ".lading/incoming" / delivery.id / "data/a.dcm").write_bytes(b"fisrt")
        return lambda killed: killed.accept(delivery.id)

    def check(inbox: Inbox) -> None:
        delivery = only_slot(inbox)
        with pytest.raises((Corrupted, Unreachable)):
            inbox.accept(delivery)
        kept = tree(inbox.root / ".lading/incoming" / delivery / "data")
        assert kept == {n: c for n, c in FILES.items() if n != "a.dcm"}
        send(inbox, inbox.root.parent / "source", delivery_id=delivery)
        assert tree(finish(inbox).root) == FILES

    at_every_line(tmp_path, prepare, check)


def test_while_a_delivery_goes_to_quarantine_and_back(tmp_path: Path) -> None:
    fixed = Labels("P", "s2", "e1")

    def prepare(inbox: Inbox, source: Path) -> Work:
        delivery = send(inbox, fill(source))
        inbox.accept(delivery.id)

        def work(killed: Inbox) -> None:
            killed.quarantine(delivery.id, [error("label-invalid", "no")])
            killed.release(delivery.id, fixed)

        return work

    def check(inbox: Inbox) -> None:
        delivery = only_slot(inbox)
        inbox.quarantine(delivery, [error("label-invalid", "no")])
        inbox.release(delivery, fixed)
        assert finish(inbox).root == inbox.root / "P/s2/e1"
        assert tree(inbox.root / "P/s2/e1") == FILES

    at_every_line(tmp_path, prepare, check)


def test_while_a_published_delivery_is_cancelled(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        parcel = inbox.publish(inbox.accept(send(inbox, fill(source)).id))
        return lambda killed: killed.quarantine(parcel.delivery.id, [])

    def check(inbox: Inbox) -> None:
        delivery = only_slot(inbox)
        inbox.quarantine(delivery, [])
        assert tree(inbox.root / ".lading/quarantine" / delivery / "data") == FILES
        assert not (inbox.root / "P/s1/e1").exists()
        inbox.release(delivery)
        assert tree(finish(inbox).root) == FILES

    at_every_line(tmp_path, prepare, check)


def test_while_a_receipt_is_replaced(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        parcel = inbox.publish(inbox.accept(send(inbox, fill(source)).id))
        prove(inbox, parcel, Outcome.UNVERIFIED)
        return lambda killed: prove(killed, parcel)

    def check(inbox: Inbox) -> None:
        delivery = only_slot(inbox)
        raw = json.loads((inbox.root / f".lading/receipts/{delivery}.json").read_text())
        listed = sha256((inbox.root / f".lading/receipts/{delivery}.files.jsonl").read_bytes()).hexdigest()
        receipt = inbox.read_receipt(delivery)
        assert receipt is not None
        assert lading.inbox.signature_is_valid(receipt, KEY)
        if receipt.proves_all:
            assert raw["files_digest"] == listed
        prove(inbox, inbox.parcel(delivery))

    at_every_line(tmp_path, prepare, check)


def test_while_a_proven_copy_is_withdrawn(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        parcel = inbox.publish(inbox.accept(send(inbox, fill(source)).id))
        prove(inbox, parcel)
        return lambda killed: killed.withdraw(parcel.delivery.id, key=KEY)

    def check(inbox: Inbox) -> None:
        seen = tree(inbox.root / "P/s1/e1")
        assert seen in (FILES, {})  # never half of it
        inbox.withdraw(only_slot(inbox), key=KEY)
        assert not (inbox.root / "P/s1/e1").exists()
        assert list((inbox.root / ".lading/withdrawn").iterdir()) == []

    at_every_line(tmp_path, prepare, check)


@pytest.mark.parametrize("first", ["look", "withdraw", "sweep"])
@pytest.mark.parametrize("again", [FILES, {"new.dcm": b"new"}])
def test_while_a_copy_is_withdrawn_whose_session_is_dropped_again(
    tmp_path: Path, first: str, again: dict[str, bytes]
) -> None:
    # Seen: the claim outlived the folder; what was dropped in its place was taken for the old delivery's, for ever.
    def prepare(inbox: Inbox, source: Path) -> Work:
        parcel = inbox.publish(inbox.accept(send(inbox, fill(source)).id))
        prove(inbox, parcel)
        return lambda killed: killed.withdraw(parcel.delivery.id, key=KEY)

    def check(inbox: Inbox) -> None:
        old, session = only_slot(inbox), inbox.root / str(LABELS)
        if session.exists():
            return  # nobody could drop anything there yet
        fill(session, again)
        if first == "withdraw":
            inbox.withdraw(old, key=KEY)
        elif first == "sweep":
            inbox.sweep(older_than_s=0)
        (bare,) = dropped(inbox)
        delivery = Delivery(id=new_delivery_id(), route="mri", labels=bare.labels)
        inbox.adopt(bare, delivery)
        inbox.publish(inbox.accept(delivery.id))
        inbox.withdraw(old, key=KEY)
        assert tree(session) == again
        assert list((inbox.root / ".lading/withdrawn").iterdir()) == []
        assert dropped(inbox) == dropped(Inbox.open(inbox.root)) == []

    at_every_line(tmp_path, prepare, check)


def dropped(inbox: Inbox) -> list[lading.inbox.BareFolder]:
    list(inbox.bare(quiet_s=1, now=0))
    return list(inbox.bare(quiet_s=1, now=1))


def test_while_a_bare_folder_is_taken_in(tmp_path: Path) -> None:
    def prepare(inbox: Inbox, source: Path) -> Work:
        fill(inbox.root / str(LABELS), FILES | {"Thumbs.db": b"junk"})

        def work(killed: Inbox) -> None:
            for bare in dropped(killed):
                delivery = Delivery(id=new_delivery_id(), route="mri", labels=bare.labels)
                killed.adopt(bare, delivery)
                killed.publish(killed.accept(delivery.id))

        return work

    def check(inbox: Inbox) -> None:
        for bare in dropped(inbox):
            inbox.adopt(bare, Delivery(id=new_delivery_id(), route="mri", labels=bare.labels))
        for arrived in list(inbox.arrivals()):
            inbox.publish(inbox.accept(arrived))
        assert tree(inbox.root / str(LABELS)) == FILES
        assert dropped(inbox) == []

    at_every_line(tmp_path, prepare, check)


def test_several_workers_on_one_delivery_destroy_nothing(tmp_path: Path) -> None:
    """The engine excludes it; a worker that was frozen for an hour may still do it."""
    for attempt in range(8):
        inbox = Inbox.create(tmp_path / str(attempt) / "inbox")
        delivery = send(inbox, fill(tmp_path / str(attempt) / "source")).id

        ended = [os.waitpid(pid, 0)[1] for pid in [in_a_process(inbox, delivery) for _ in range(4)]]
        parcel = inbox.publish(inbox.accept(delivery))

        assert set(map(os.waitstatus_to_exitcode, ended)) <= {0, 1}  # done, or to be tried again
        assert tree(parcel.root) == FILES
        assert inbox.notes(delivery) == ()


def in_a_process(inbox: Inbox, delivery: DeliveryId) -> int:
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            inbox.publish(inbox.accept(delivery))
            code = 0
        except LadingError as exc:
            code = 3 if isinstance(exc, Rejected) else 1
        finally:
            os._exit(code)
    return pid
