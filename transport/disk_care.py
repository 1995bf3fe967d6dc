"""Prepares a removable disk, and looks over what is on it: is it safe to unplug, is everything whole?"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from lading.delivery import DeliveryId, Slot, delivery_id
from lading.disk import is_real_folder, sync_folder, write_durably
from lading.errors import Rejected, Unreachable
from lading.inbox import InboxLimits
from lading.manifest import Manifest
from lading.seal import is_sealed, read_seal
from lading.shell import typed
from lading.staging import sentinel
from lading.staging.slots import SYSTEM
from transport import check_delivery
from transport.disk_proof import damaged, flush
from transport.foreign import TARGET, shown, translating
from transport.volumes import Volume, prepare, read

CHECKER = "check-delivery.py"
_KEEP_FREE = 64 << 20  # room for receipts and the file system's own work; nothing else lives on the disk
_MAX_NAMED = 1000


class Standing(StrEnum):
    """How a delivery on the disk stands."""

    WHOLE = "whole"
    TAKEN = "taken"  # the seal alone is left: its data was handed over
    UNFINISHED = "unfinished"  # not sealed: a carry is under way, or was interrupted
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """One delivery on the disk. `wrong`: up to 1000 paths that are missing or differ; `note`: why it cannot be checked."""

    delivery: DeliveryId
    standing: Standing
    files: int = 0
    bytes: int = 0
    wrong: tuple[str, ...] = ()
    note: str = ""


def prepare_disk(root: Path) -> Volume:
    """Make the folder `root` of a disk a waypoint with an identity, and put the checker beside it. What is there stays.

    Raises ConfigError, AccessDenied, OutOfSpace, Unreachable.
    """
    with translating(f"cannot prepare the disk at {shown(root)}", TARGET):
        for folder in (SYSTEM, f"{SYSTEM}/incoming", f"{SYSTEM}/receipts"):
            (root / folder).mkdir(exist_ok=True)
        sentinel.write(root, InboxLimits(keep_free_bytes=_KEEP_FREE))
        made = prepare(root)
        write_durably(root / CHECKER, Path(check_delivery.__file__).read_bytes(), mode=0o644)
        sync_folder(root)
    return made


def look_over(root: Path) -> Iterator[OnDisk]:
    """Flush the disk, then read back everything that lies on it, delivery by delivery.

    Raises Unreachable, AccessDenied, ConfigError.
    """
    with translating(f"cannot look at the disk at {shown(root)}", TARGET):
        if read(root) is None:
            raise Unreachable(
                f"{shown(root)} is no disk that was prepared; is it mounted?",
                next_command=typed("lading", "disk", "prepare", shown(root)),
            )
        names = sorted(os.listdir(root / SYSTEM / "incoming"))
    for name in names:
        try:
            delivery = delivery_id(name)
        except ValueError:
            continue  # no agent makes such a folder
        if is_real_folder(root / Slot(delivery).path):
            yield _look_at(root, delivery)


def _look_at(root: Path, delivery: DeliveryId) -> OnDisk:
    slot = Slot(delivery)
    papers = root / slot.path
    with translating(f"cannot look at {slot.path}", TARGET):
        if not is_sealed(papers):
            return OnDisk(delivery, Standing.UNFINISHED)
        if not is_real_folder(root / slot.data):
            return OnDisk(delivery, Standing.TAKEN)
    flush(root, slot.path)
    try:
        sealed = read_seal(papers)
        manifest = Manifest.open(papers)
        if manifest.summary.digest != sealed.summary.digest:
            return OnDisk(delivery, Standing.DAMAGED, note="its list is not the one that was sealed")
    except Rejected as exc:
        return OnDisk(delivery, Standing.DAMAGED, note=exc.message)
    wrong = tuple(islice(damaged(root, slot.data, manifest), _MAX_NAMED))
    standing = Standing.DAMAGED if wrong else Standing.WHOLE
    return OnDisk(delivery, standing, manifest.summary.files, manifest.summary.bytes, wrong)
