"""Deliveries that have come as far as a published parcel, made by the real inbox."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.inbox import Inbox
from lading.manifest import NameLimits, make
from lading.seal import seal


def publish(
    inbox: Inbox,
    labels: Labels,
    files: Mapping[str, bytes],
    *,
    route: str = "mri",
    algorithms: Sequence[str] = ("md5",),
) -> Parcel:
    """A parcel of `files` (relative POSIX path → content), lying published at PROJECT/participant/SESSION.

    `algorithms`: the digests that its sender made besides SHA-256.
    """
    delivery = Delivery(new_delivery_id(), route, labels)
    slot = inbox.reserve(delivery.id)
    for path, content in files.items():
        file = slot / "data" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    seal(slot, delivery, make(slot / "data", slot, algorithms=algorithms))
    inbox.accept(delivery.id)
    return inbox.publish(inbox.parcel(delivery.id))


def parcel_at(folder: Path, papers: Path, *, route: str = "microscopy") -> Parcel:
    """A parcel of the files that lie in `folder`, as if an inbox had published it there. `papers` is made; it must be elsewhere."""
    papers.mkdir(parents=True)
    delivery = Delivery(new_delivery_id(), route, Labels("DEMO", "sub-001", "S1"))
    return Parcel(delivery, folder, make(folder, papers, limits=NameLimits.EXACT), published=True)


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`: relative POSIX path → content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
