"""The straight line's last promise: nothing is called VERIFIED unless every file of the manifest has its verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lading import pipeline
from lading.delivery import FileOutcome, Labels, Outcome, Parcel, Stage
from lading.inbox import Inbox, InboxLimits
from lading.pipeline import Unproven, Work
from lading.ports import Importer, ImportRecord
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
