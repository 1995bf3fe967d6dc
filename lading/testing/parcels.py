"""Deliveries that have come as far as a published parcel, made by the real inbox."""

from collections.abc import Mapping
from pathlib import Path

from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.inbox import Inbox
from lading.manifest import make
from lading.seal import seal


def publish(inbox: Inbox, labels: Labels, files: Mapping[str, bytes], *, route: str = "mri") -> Parcel:
    """A parcel of `files` (relative POSIX path → content), lying published at PROJECT/participant/SESSION."""
    delivery = Delivery(new_delivery_id(), route, labels)
    slot = inbox.reserve(delivery.id)
    for path, content in files.items():
        file = slot / "data" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    seal(slot, delivery, make(slot / "data", slot, algorithms=("md5",)))
    inbox.accept(delivery.id)
    return inbox.publish(inbox.parcel(delivery.id))


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`: relative POSIX path → content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
