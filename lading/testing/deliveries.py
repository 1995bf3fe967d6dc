"""Deliveries made by hand, the way a foreign sender would make them, and the answers to them, for tests of what receives them."""

import os
import shutil
from pathlib import Path

from lading.delivery import Delivery, DeliveryId, FileOutcome, Labels, Outcome, Parcel, Receipt, Stage, new_delivery_id
from lading.filters import FileRules
from lading.inbox import PAPERS, Inbox, seal
from lading.manifest import make

KEY = b"k" * 32
"""What the server of these tests signs with."""
FILES = {"a.dcm": b"first", "series 2/b.dcm": b"second" * 1000, "series 2/empty": b"", "notes.txt": b"x" * 70_000}


def fill(root: Path, files: dict[str, bytes] | None = None) -> Path:
    """Write `files` (relative POSIX → content) below `root`; returns `root`."""
    for name, content in (files or FILES).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def send(
    inbox: Inbox,
    source: Path,
    *,
    labels: Labels | None = None,
    delivery_id: DeliveryId | None = None,
    algorithms: tuple[str, ...] = (),
) -> Delivery:
    """A whole delivery from `source`: data, lists, seal, in that order."""
    delivery = Delivery(
        id=delivery_id or new_delivery_id(), route="mri", labels=labels or Labels("P", "s1", "e1"), sender="anna@mr1"
    )
    papers = source.parent / f"papers-{delivery.id}"
    papers.mkdir(exist_ok=True)
    manifest = make(source, papers, rules=FileRules(junk=False), algorithms=algorithms)
    seal(papers, delivery, manifest)
    slot = inbox.reserve(delivery.id)
    shutil.copytree(source, slot / "data", dirs_exist_ok=True)
    for name in PAPERS:
        shutil.copy2(papers / name, slot / name)
    return delivery


def tree(root: Path) -> dict[str, bytes]:
    """Every regular file below `root`, by our own walk."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def slot_of(inbox: Inbox, delivery: str) -> Path:
    """Where a sender puts it."""
    return inbox.root / ".lading/incoming" / delivery


def receipt_of(parcel: Parcel, stage: Stage = Stage.VERIFIED) -> Receipt:
    """An answer about the whole of it, not signed yet."""
    d = parcel.delivery
    return Receipt(
        delivery=d.id,
        route=d.route,
        labels=d.labels,
        stage=stage,
        digest=d.digest,
        files=d.files,
        bytes=d.bytes,
        counts={},
        repository={},
        findings=(),
        files_digest="",
        at=d.created_at,
    )


def prove(inbox: Inbox, parcel: Parcel, outcome: Outcome = Outcome.VERIFIED) -> None:
    """Write the receipt into the inbox, with the same outcome for every file."""
    outcomes = [FileOutcome(e.path, e.size, e.sha256, outcome) for e in parcel.manifest]
    inbox.write_receipt(receipt_of(parcel), outcomes, KEY)
