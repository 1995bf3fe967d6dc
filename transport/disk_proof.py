"""Reads a slot of a disk back from the disk itself, not from what the system still remembers of it.

"Safe to unplug" is said after this and never before: everything is flushed, the caches are dropped, every listed file is read
and hashed. Where the system lets nobody drop caches (Windows; another account's device), the reading may be answered from memory;
the importing side reads everything again in any case.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lading.manifest import Entry
from lading.seal import SEAL_NAME
from transport.bodies import Folder
from transport.foreign import TARGET, shown, translating
from transport.landing import Landing
from transport.remote import BLOCK
from transport.volumes import mount_of

_BLKFLSBUF = 0x1261


def flush(root: Path, slot: str) -> None:
    """What lies in the folder `slot` below `root` is on the disk. Raises OSError translated as of a target."""
    with translating(f"cannot flush the disk at {shown(root)}", TARGET):
        with Landing(root / slot) as landing:
            landing.make_durable()
        # A file system in user space hears of that call only for one file, and then flushes its whole device.
        for path in (root / slot / SEAL_NAME, root / slot):
            with suppress(FileNotFoundError, PermissionError, IsADirectoryError):
                _fsync(path)


def drop_device_cache(root: Path) -> bool:
    """Forget what the system remembers of the disk's device; whether that was possible."""
    mount = mount_of(root)
    if mount is None or not mount.device:
        return False
    import fcntl  # noqa: PLC0415 - not on Windows, and only where there is a device

    try:
        fd = os.open(mount.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def damaged(root: Path, slot_data: str, entries: Iterable[Entry]) -> Iterator[str]:
    """The paths whose content on the disk is not what `entries` list, or that are not there. Reads everything."""
    drop_device_cache(root)
    below = Folder(root / slot_data)
    try:
        for entry in entries:
            if not _is_intact(below, entry, root):
                yield entry.path
    finally:
        below.close()


def _is_intact(below: Folder, entry: Entry, root: Path) -> bool:
    try:
        fd = below.open(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    digest, size = hashlib.sha256(), 0
    try:
        with translating(f"cannot read {shown(entry.path)} back from the disk at {shown(root)}", TARGET):
            forget(fd)
            while block := os.read(fd, BLOCK):
                digest.update(block)
                size += len(block)
            forget(fd)
    finally:
        os.close(fd)
    return size == entry.size and digest.hexdigest() == entry.sha256


def forget(fd: int) -> None:
    """Let the system forget what it remembers of the open file. Only what was flushed is forgotten."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
