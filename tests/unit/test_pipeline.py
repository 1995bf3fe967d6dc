"""The straight line's last promise: nothing is called VERIFIED unless every file of the manifest has its verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lading import pipeline
from lading.delivery import Delivery, FileOutcome, Labels, Outcome, Parcel, Stage, new_delivery_id
from lading.errors import Corrupted, SourceChanged, UnexpectedFault
from lading.inbox import Inbox, InboxLimits
from lading.pipeline import Unproven, Work
from lading.ports import Importer, ImportRecord
from lading.testing.deliveries import fill, send
from lading.testing.fakes import FolderImporter
from lading.testing.parcels import publish

FILES = {"a.dcm": b"a", "b.dcm": b"b", "c/d.dcm": b"d"}
KEY = b"the key of the tests, 32 bytes.."


class Telling(FolderImporter):
    """Passes verdicts on as `change` makes them."""

    def __init__(self, folder: Path, verdicts: Iterable[tuple[str, Outcome]]) -> None:
        super().__init__(folder)
        self._verdicts = list(verdicts)

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterator[FileOutcome]:
        entries = {entry.path: entry for entry in parcel.manifest}
        for path, outcome in self._verdicts:
            yield FileOutcome(path, entries[path].size, entries[path].sha256, outcome, "sha256")


@dataclass
class Route:
    importer: Importer
    checks: tuple[()] = ()


class Journal:
    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def note(self, key: str, value: str) -> None:
        self._notes[key] = value

    def recall(self, key: str) -> str | None:
        return self._notes.get(key)


def work(tmp_path: Path, verdicts: Iterable[tuple[str, Outcome]]) -> Work:
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    parcel = publish(inbox, Labels("DEMO", "sub-001", "MR1"), FILES)
    route = Route(Telling(tmp_path / "repository", verdicts))
    return Work(parcel.delivery, inbox, route, Journal(), KEY, tuple)


def accepted(tmp_path: Path) -> Work:
    """A delivery that was accepted a moment ago, and lies where its sender may still have a file of it open."""
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    sent = send(inbox, fill(tmp_path / "source", FILES))
    made = Work(sent, inbox, Route(FolderImporter(tmp_path / "repository")), Journal(), KEY, tuple)
    return replace(made, delivery=replace(sent, stage=pipeline.accept(made).to))


def test_a_file_that_is_written_to_after_its_acceptance_is_asked_for_again(tmp_path: Path) -> None:
    """The inbox gave the slot back; the delivery was held, its sender heard nothing, and waited."""
    here = accepted(tmp_path)
    (here.inbox.parcel(here.delivery.id).root / "a.dcm").write_bytes(b"A")

    step = pipeline.check(here)

    receipt = here.inbox.read_receipt(here.delivery.id)
    assert step.to is Stage.SENDING
    assert receipt is not None
    assert receipt.stage is Stage.SENDING
    assert [finding.path for finding in receipt.findings] == ["a.dcm"]


def test_a_server_that_died_while_it_gave_a_touched_slot_back_begins_anew(tmp_path: Path) -> None:
    here = accepted(tmp_path)
    (here.inbox.parcel(here.delivery.id).root / "a.dcm").write_bytes(b"A")
    with pytest.raises(Corrupted):
        here.inbox.publish(here.inbox.parcel(here.delivery.id))

    again = pipeline.check(here)

    assert again.to is Stage.ARRIVED
    with pytest.raises(Corrupted):  # which asks for the files again
        pipeline.accept(here)


def test_a_dropped_folder_that_is_written_to_after_its_acceptance_is_listed_again(tmp_path: Path) -> None:
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    fill(inbox.root / "P/s1/e1", FILES)
    list(inbox.bare(quiet_s=0, now=0))
    (bare,) = inbox.bare(quiet_s=0, now=1)
    dropped = Delivery(new_delivery_id(), "mri", bare.labels)
    inbox.adopt(bare, dropped)
    here = Work(dropped, inbox, Route(FolderImporter(tmp_path / "repository")), Journal(), KEY, tuple)
    pipeline.accept(here)
    (inbox.parcel(dropped.id).root / "a.dcm").write_bytes(b"A")

    with pytest.raises(SourceChanged):
        pipeline.check(here)
    stages = [pipeline.check(here).to, pipeline.accept(here).to, pipeline.check(here).to]

    assert stages == [Stage.ARRIVED, Stage.ACCEPTED, Stage.QUEUED]
    assert (inbox.root / "P/s1/e1/a.dcm").read_bytes() == b"A"


def test_a_delivery_that_was_set_aside_is_not_begun_anew(tmp_path: Path) -> None:
    here = accepted(tmp_path)
    here.inbox.quarantine(here.delivery.id, ())

    with pytest.raises(UnexpectedFault):
        pipeline.check(here)


def test_a_verdict_on_every_file_is_a_proof(tmp_path: Path) -> None:
    here = work(tmp_path, [("a.dcm", Outcome.VERIFIED), ("b.dcm", Outcome.FILTERED), ("c/d.dcm", Outcome.VERIFIED)])

    step = pipeline.verify(here)

    receipt = here.inbox.read_receipt(here.delivery.id)
    assert step.to is Stage.VERIFIED
    assert receipt is not None
    assert receipt.stage is Stage.VERIFIED


@pytest.mark.parametrize(
    "told",
    [(), ("a.dcm", "b.dcm"), ("a.dcm", "b.dcm", "c/d.dcm", "c/d.dcm"), ("a.dcm", "b.dcm", "b.dcm")],
    ids=["nothing", "one file is forgotten", "one file is told twice", "one file is told instead of another"],
)
def test_an_importer_that_forgets_a_file_has_proven_nothing(tmp_path: Path, told: tuple[str, ...]) -> None:
    here = work(tmp_path, [(path, Outcome.VERIFIED) for path in told])

    with pytest.raises(Unproven, match=f"{len(told)} verdicts on 3 files"):
        pipeline.verify(here)

    receipt = here.inbox.read_receipt(here.delivery.id)
    assert receipt is not None
    assert receipt.stage is Stage.HELD
    assert not receipt.proves_all
