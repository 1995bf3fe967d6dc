"""The parcel's own files as they lie in the inbox, for those who send them or compare with them.

Senders share the published folders with us: what lies there may have been replaced since it was accepted, by other content, or
by a link to a file of somebody else's that we may read and they may not. So no link is followed, in no folder on the way, and
nothing is compared with that has not the manifest's SHA-256 still.
"""

import hashlib
from io import BufferedReader
from pathlib import Path

from lading.errors import Corrupted
from lading.listing.below import open_below
from lading.manifest import Entry
from xnat_importer.dicom import Substance, substance

_BLOCK = 1 << 20


def opened(root: Path, entry: Entry, *, inbox: Path | None = None) -> BufferedReader:
    """The file of `entry` below the parcel's `root`, for reading. Folders are real ones from `inbox` down, where `root` is in it.

    Raises Corrupted when there is no such regular file, or a link on the way to it.
    """
    try:
        return open_below(root, entry.path, within=inbox)
    except (OSError, ValueError) as exc:
        raise _changed(entry) from exc


def md5(root: Path, entry: Entry, *, inbox: Path | None = None) -> str:
    """The MD5 that the manifest does not tell, of the copy; "" when that is gone, or not what the manifest is about any more."""
    digest, witness = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with opened(root, entry, inbox=inbox) as copy:
            while block := copy.read(_BLOCK):
                digest.update(block)
                witness.update(block)
    except (OSError, Corrupted):
        return ""
    return digest.hexdigest() if witness.hexdigest() == entry.sha256 else ""


def content(root: Path, entry: Entry, *, inbox: Path | None = None) -> Substance | None:
    """What is in the copy of a DICOM object; None when it is gone, unreadable, or not what the manifest is about any more."""
    try:
        with opened(root, entry, inbox=inbox) as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() != entry.sha256:
                return None
            copy.seek(0)
            return substance(copy)
    except (OSError, Corrupted):
        return None


def _changed(entry: Entry) -> Corrupted:
    return Corrupted(
        f"sending {entry.path}: the file in the inbox is not what its manifest says",
        paths=[entry.path],
        safe="It was not sent.",
        next_command="lading doctor",
    )
