"""The life of a delivery in an inbox, looked at on the disk."""

import errno
import hmac
import json
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from lading import disk
from lading.delivery import FileOutcome, Labels, Outcome, Parcel, Receipt, Slot, Stage, new_delivery_id
from lading.errors import ConfigError, Corrupted, NotVerified, OutOfSpace, Rejected, UnexpectedFault, Unreachable
from lading.findings import error
from lading.inbox import SENTINEL, Inbox, InboxLimits, is_sealed, parse_receipt, receipt_json, sign, signature_is_valid
from lading.testing import deliveries
from lading.testing.deliveries import FILES, KEY, fill, send, slot_of, tree


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source")


def receipt_of(parcel: Parcel, stage: Stage = Stage.VERIFIED) -> Receipt:
    told = {"repository": {"kind": "xnat", "project": "P"}, "findings": (error("x", "y"),)}
    return replace(deliveries.receipt_of(parcel, stage), at=datetime(2026, 5, 4, tzinfo=UTC), **told)


def outcomes_of(parcel: Parcel, outcome: Outcome = Outcome.VERIFIED) -> list[FileOutcome]:
    return [FileOutcome(e.path, e.size, e.sha256, outcome, "md5", "/data/x") for e in parcel.manifest]


def test_a_sealed_delivery_is_accepted_and_published_whole(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    arrived = list(inbox.arrivals())

    accepted = inbox.accept(delivery.id)
    published = inbox.publish(accepted)

    assert arrived == [delivery.id]
    assert tree(accepted.root) == {}  # moved on
    assert published.root == inbox.root / "P/s1/e1"
    assert tree(published.root) == FILES
    assert published.published
    assert not accepted.published
    assert published.delivery.files == len(FILES)
    assert list(inbox.arrivals()) == []


def test_what_is_accepted_is_out_of_the_senders_reach(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)

    parcel = inbox.accept(delivery.id)

    closed = inbox.root / ".lading/accepting"
    assert parcel.root.is_relative_to(closed)
    assert stat.S_IMODE(closed.stat().st_mode) & 0o077 == 0
    assert not (slot_of(inbox, delivery.id) / "data").exists()
    assert is_sealed(slot_of(inbox, delivery.id))  # a sender killed before it noted its success sees that all is done


def test_every_step_may_be_repeated(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)

    first = inbox.publish(inbox.accept(delivery.id))
    again = inbox.publish(inbox.accept(delivery.id))

    assert (again.root, again.delivery) == (first.root, first.delivery)
    assert tree(inbox.root / "P/s1/e1") == FILES
    assert inbox.is_untouched(again)


def test_an_accepted_delivery_is_not_read_again(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    parcel = inbox.accept(delivery.id)
    (parcel.root / "a.dcm").write_bytes(b"FIRST")  # same size: only a second read could tell

    inbox.accept(delivery.id)  # does not look

    assert not inbox.is_untouched(parcel)


def test_a_write_that_failed_while_the_data_were_read_back_is_not_forgotten(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The system tells of it once: whoever flushes afterwards hears nothing.
    source = tmp_path / "many"
    source.mkdir()
    for number in range(disk.FEW_FILES + 1):
        (source / f"{number}.dat").write_bytes(bytes(1_000_000))
    delivery = send(inbox, source)
    outcomes = iter([OSError(errno.EIO, "Input/output error"), True, True])

    def flush(_: Path) -> bool:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    monkeypatch.setattr(disk, "_synced_file_system", flush)

    with pytest.raises(Unreachable, match="Input/output"):
        inbox.accept(delivery.id)

    assert inbox.accept(delivery.id).delivery.files == disk.FEW_FILES + 1


def test_data_that_was_touched_after_its_verification_is_not_published(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    parcel = inbox.accept(delivery.id)
    (parcel.root / "a.dcm").write_bytes(b"FIRST")

    with pytest.raises(Corrupted) as caught:
        inbox.publish(parcel)

    assert caught.value.paths == ("a.dcm",)
    assert not (inbox.root / "P/s1/e1").exists()


def test_a_file_that_is_planted_after_the_verification_is_refused(inbox: Inbox, source: Path) -> None:
    parcel = inbox.accept(send(inbox, source).id)
    (parcel.root / "planted").write_bytes(b"x")

    with pytest.raises(Rejected) as caught:
        inbox.publish(parcel)

    assert [f.code for f in caught.value.findings] == ["extra-file"]
    assert not (inbox.root / "P/s1/e1").exists()


def test_a_damaged_file_is_asked_for_again_and_only_that_one(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    slot = slot_of(inbox, delivery.id)
    (slot / "data/a.dcm").write_bytes(b"fisrt")
    (slot / "data/series 2/b.dcm").unlink()

    with pytest.raises(Corrupted) as caught:
        inbox.accept(delivery.id)
    kept = tree(slot / "data")
    sealed_then = is_sealed(slot)
    arrived_then = list(inbox.arrivals())
    send(inbox, source, delivery_id=delivery.id)
    parcel = inbox.publish(inbox.accept(delivery.id))

    assert caught.value.paths == ("a.dcm", "series 2/b.dcm")
    assert sorted(kept) == ["notes.txt", "series 2/empty"]
    assert not sealed_then
    assert arrived_then == []
    assert [p.read_bytes() for p in (inbox.root / ".lading/accepted" / delivery.id / "damaged").iterdir()] == [b"fisrt"]
    assert tree(parcel.root) == FILES


def test_a_list_that_was_damaged_on_the_way_is_asked_for_again(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    listing = slot_of(inbox, delivery.id) / "manifest.jsonl"
    listing.write_bytes(listing.read_bytes().replace(b"a.dcm", b"a\x00dcm"))

    with pytest.raises(Corrupted):
        inbox.accept(delivery.id)

    assert not is_sealed(slot_of(inbox, delivery.id))


def test_remains_of_a_killed_copy_are_moved_aside_and_not_published(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    data = slot_of(inbox, delivery.id) / "data"
    fill(data, {".a.dcm.Xy12ab": b"fi", "series 2/.rsync-partial/b.dcm": b"sec", ".in.notes.txt": b"x"})

    parcel = inbox.publish(inbox.accept(delivery.id))

    assert tree(parcel.root) == FILES
    assert len(list((inbox.root / ".lading/accepted" / delivery.id / "leftovers").iterdir())) == 3


def test_the_same_session_with_the_same_content_counts_as_delivered(inbox: Inbox, source: Path) -> None:
    first = inbox.publish(inbox.accept(send(inbox, source).id))
    second = send(inbox, source)

    parcel = inbox.publish(inbox.accept(second.id))

    assert parcel.root == first.root
    assert [f.code for f in inbox.notes(second.id)] == ["already-delivered"]
    assert inbox.notes(first.delivery.id) == ()
    assert inbox.is_untouched(parcel)
    assert tree(parcel.root) == FILES


def test_another_content_under_the_same_labels_is_refused_and_both_are_kept(inbox: Inbox, tmp_path: Path) -> None:
    inbox.publish(inbox.accept(send(inbox, fill(tmp_path / "one", {"a": b"1"})).id))
    other = send(inbox, fill(tmp_path / "two", {"a": b"2"}))
    parcel = inbox.accept(other.id)

    with pytest.raises(Rejected) as caught:
        inbox.publish(parcel)
    inbox.quarantine(other.id, caught.value.findings)

    assert [f.code for f in caught.value.findings] == ["session-exists"]
    assert tree(inbox.root / "P/s1/e1") == {"a": b"1"}
    assert tree(inbox.root / ".lading/quarantine" / other.id / "data") == {"a": b"2"}


def test_a_refused_delivery_is_released_under_other_labels(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source, labels=Labels("P", "sub-O01", "e1"))
    seal_before = (slot_of(inbox, delivery.id) / "manifest.json").read_bytes()
    inbox.accept(delivery.id)
    finding = error("participant-unknown", "sub-O01?", hint="lading fix")

    inbox.quarantine(delivery.id, [finding])
    inbox.quarantine(delivery.id, [finding])
    findings = json.loads((inbox.root / ".lading/quarantine" / delivery.id / "findings.json").read_text())
    in_quarantine = list(inbox.arrivals())
    inbox.release(delivery.id, Labels("P", "sub-001", "e1"))
    inbox.release(delivery.id, Labels("P", "sub-001", "e1"))
    parcel = inbox.publish(inbox.accept(delivery.id))

    assert findings["findings"] == [finding.as_dict()]
    assert in_quarantine == []
    assert parcel.delivery.labels == Labels("P", "sub-001", "e1")
    assert tree(inbox.root / "P/sub-001/e1") == FILES
    papers = inbox.root / ".lading/accepted" / delivery.id
    assert (papers / "manifest.json").read_bytes() == seal_before
    assert list(papers.glob("findings-*.json"))


def test_a_published_delivery_can_be_cancelled_into_quarantine_and_come_back(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    inbox.publish(inbox.accept(delivery.id))

    inbox.quarantine(delivery.id, [])
    gone = not (inbox.root / "P/s1/e1").exists()
    kept = tree(inbox.root / ".lading/quarantine" / delivery.id / "data")
    inbox.release(delivery.id)
    parcel = inbox.publish(inbox.accept(delivery.id))

    assert gone
    assert kept == FILES
    assert tree(parcel.root) == FILES


def test_a_receipt_is_signed_and_covers_its_list(inbox: Inbox, source: Path) -> None:
    parcel = inbox.publish(inbox.accept(send(inbox, source).id))

    written = inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)

    folder = inbox.root / ".lading/receipts"
    listed = (folder / f"{parcel.delivery.id}.files.jsonl").read_bytes()
    raw = json.loads((folder / f"{parcel.delivery.id}.json").read_text())
    signature = raw.pop("signature")
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    assert signature == hmac.new(KEY, canonical, "sha256").hexdigest()
    assert raw["files_digest"] == sha256(listed).hexdigest()
    assert raw["counts"] == {"verified": len(FILES)}
    assert written.proves_all
    assert inbox.read_receipt(parcel.delivery.id) == written
    assert list(inbox.read_outcomes(parcel.delivery.id)) == outcomes_of(parcel)
    assert signature_is_valid(written, KEY)
    assert not signature_is_valid(written, b"other" * 8)


@pytest.mark.parametrize(
    "change", [("files", 5), ("stage", "REJECTED"), ("digest", "0" * 64), ("counts", {"verified": 9})]
)
def test_a_receipt_that_was_altered_is_noticed(inbox: Inbox, source: Path, change: tuple[str, object]) -> None:
    parcel = inbox.accept(send(inbox, source).id)
    raw = json.loads(receipt_json(sign(receipt_of(parcel), KEY)))

    raw[change[0]] = change[1]

    assert not signature_is_valid(parse_receipt(json.dumps(raw)), KEY)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "delivery": "../../x"}', "9" * 5000])
def test_a_receipt_that_is_none_is_corrupted(text: str) -> None:
    with pytest.raises(Corrupted):
        parse_receipt(text)


@pytest.mark.parametrize(
    "change", [("at", "0001-01-01T00:00:00+14:00"), ("at", "9999-12-31T23:59:59-14:00"), ("repository", [1])]
)
def test_a_receipt_with_values_that_cannot_be_is_corrupted(
    inbox: Inbox, source: Path, change: tuple[str, object]
) -> None:
    parcel = inbox.accept(send(inbox, source).id)
    raw = json.loads(receipt_json(sign(receipt_of(parcel), KEY)))

    raw[change[0]] = change[1]

    with pytest.raises(Corrupted):
        parse_receipt(json.dumps(raw))


def test_without_a_receipt_there_is_none(inbox: Inbox) -> None:
    assert inbox.read_receipt(new_delivery_id()) is None
    assert list(inbox.read_outcomes(new_delivery_id())) == []


def test_a_published_copy_is_removed_only_against_a_receipt_that_proves_all(inbox: Inbox, source: Path) -> None:
    parcel = inbox.publish(inbox.accept(send(inbox, source).id))
    delivery = parcel.delivery.id

    for outcomes in (None, outcomes_of(parcel, Outcome.UNVERIFIED), outcomes_of(parcel)[1:]):
        if outcomes is not None:
            inbox.write_receipt(receipt_of(parcel), outcomes, KEY)
        with pytest.raises(NotVerified):
            inbox.withdraw(delivery, key=KEY)
    inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), b"forged" * 6)
    with pytest.raises(NotVerified):
        inbox.withdraw(delivery, key=KEY)
    still_there = tree(parcel.root)
    inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)
    inbox.withdraw(delivery, key=KEY)
    inbox.withdraw(delivery, key=KEY)

    assert still_there == FILES
    assert not parcel.root.exists()
    assert inbox.read_receipt(delivery) is not None
    assert (inbox.root / ".lading/accepted" / delivery / "manifest.jsonl").exists()


def test_a_published_copy_that_somebody_added_to_is_not_removed(inbox: Inbox, source: Path) -> None:
    parcel = inbox.publish(inbox.accept(send(inbox, source).id))
    inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)
    (parcel.root / "late.dcm").write_bytes(b"series 4")

    with pytest.raises(NotVerified):
        inbox.withdraw(parcel.delivery.id, key=KEY)

    assert tree(parcel.root) == FILES | {"late.dcm": b"series 4"}
    assert not inbox.is_untouched(parcel)


def test_a_folder_without_the_sentinel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="sentinel missing"):
        Inbox.open(tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "id": "x", "limits": {}}', '{"format": 1}'])
def test_a_foreign_sentinel_is_a_config_error(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lading").mkdir()
    (tmp_path / SENTINEL).write_text(text)

    with pytest.raises(ConfigError):
        Inbox.open(tmp_path)


def test_creating_an_inbox_again_keeps_its_identity(tmp_path: Path) -> None:
    first = Inbox.create(tmp_path / "in")

    same = Inbox.create(tmp_path / "in")
    smaller = Inbox.create(tmp_path / "in", limits=InboxLimits(max_files=7))

    assert first.id == same.id == smaller.id
    assert Inbox.open(tmp_path / "in").limits.max_files == 7


def test_reserving_twice_gives_the_same_slot_and_keeps_what_is_in_it(inbox: Inbox) -> None:
    delivery = new_delivery_id()
    slot = inbox.reserve(delivery)
    (slot / "data/x").write_bytes(b"half")

    again = inbox.reserve(delivery)

    assert again == slot == inbox.root / Slot(delivery).path
    assert tree(again) == {"data/x": b"half"}
    assert list(inbox.arrivals()) == []


def test_a_slot_is_not_reserved_when_the_disk_would_become_too_full(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    inbox = Inbox.create(tmp_path / "in", limits=InboxLimits(keep_free_bytes=free // 2))

    with pytest.raises(OutOfSpace, match=r"needs \d+ bytes .* \d+ are free"):
        inbox.reserve(new_delivery_id(), needed_bytes=free // 2 + (1 << 30))

    assert list((inbox.root / ".lading/incoming").iterdir()) == []


def test_a_delivery_nobody_knows_is_said_so(inbox: Inbox) -> None:
    unknown = new_delivery_id()

    for ask in (inbox.parcel, inbox.release, lambda d: inbox.quarantine(d, [])):
        with pytest.raises(UnexpectedFault, match=unknown):
            ask(unknown)
    with pytest.raises(Unreachable, match=unknown):
        inbox.accept(unknown)


def test_a_sender_that_carries_again_after_the_fact_does_no_harm(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    parcel = inbox.publish(inbox.accept(delivery.id))
    send(inbox, source, delivery_id=delivery.id)

    arrivals = list(inbox.arrivals())
    inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)
    inbox.withdraw(delivery.id, key=KEY)
    removed = inbox.sweep(older_than_s=-1)

    assert arrivals == []
    assert removed == (f".lading/incoming/{delivery.id}",)


def test_a_sweep_removes_temporaries_and_nothing_else(inbox: Inbox, source: Path) -> None:
    filling = inbox.reserve(new_delivery_id())
    (filling / "data/half").write_bytes(b"x")
    done = send(inbox, source)
    inbox.publish(inbox.accept(done.id))
    (inbox.root / ".lading/receipts/.tmp-0123").write_bytes(b"torn")
    before = set(tree(inbox.root))

    young = inbox.sweep(older_than_s=3600)
    old = inbox.sweep(older_than_s=-1)

    assert young == ()
    assert old == (".lading/receipts/.tmp-0123",)
    assert before - set(tree(inbox.root)) == {".lading/receipts/.tmp-0123"}


def test_a_folder_that_stands_for_two_deliveries_stays_until_both_are_withdrawn(inbox: Inbox, source: Path) -> None:
    """Of one session into two repositories, the slower one still needs the files."""
    first, second = (inbox.publish(inbox.accept(send(inbox, source).id)) for _ in range(2))
    assert first.root == second.root
    for parcel in (first, second):
        inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)

    inbox.withdraw(second.delivery.id)
    assert tree(inbox.parcel(first.delivery.id).root) == FILES
    inbox.withdraw(first.delivery.id)

    assert not first.root.exists()


def test_the_first_of_two_deliveries_of_one_folder_may_be_withdrawn_first(inbox: Inbox, source: Path) -> None:
    first, second = (inbox.publish(inbox.accept(send(inbox, source).id)) for _ in range(2))
    for parcel in (first, second):
        inbox.write_receipt(receipt_of(parcel), outcomes_of(parcel), KEY)

    inbox.withdraw(first.delivery.id)
    assert tree(inbox.parcel(second.delivery.id).root) == FILES
    assert list(inbox.bare(quiet_s=0, now=0.0)) == []  # it is nobody's dropped folder
    inbox.withdraw(second.delivery.id)

    assert not first.root.exists()


def test_cancelling_one_of_two_deliveries_of_one_folder_leaves_the_other_its_files(inbox: Inbox, source: Path) -> None:
    first, second = (inbox.publish(inbox.accept(send(inbox, source).id)) for _ in range(2))

    inbox.quarantine(first.delivery.id, [])

    assert tree(inbox.parcel(second.delivery.id).root) == FILES
    assert list(inbox.bare(quiet_s=0, now=0.0)) == []
    inbox.release(first.delivery.id, Labels("P", "s9", "other"))
    assert tree(inbox.publish(inbox.accept(first.delivery.id)).root) == FILES
    inbox.quarantine(second.delivery.id, [])
    assert not second.root.exists()
    assert tree(inbox.root / ".lading" / "quarantine" / second.delivery.id / "data") == FILES
