"""Deliveries made by hand, the way a foreign sender would make them, for tests of what receives them."""

import os
import shutil
from pathlib import Path

from lading.delivery import Delivery, DeliveryId, Labels, new_delivery_id
from lading.filters import FileRules
from lading.inbox import PAPERS, Inbox, seal
from lading.manifest import make

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
