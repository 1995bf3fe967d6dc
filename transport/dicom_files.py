"""The files that data sets are sent from: where the data set begins, and its bytes."""

import mmap
import os
import struct
from typing import BinaryIO


def dataset_start(file: BinaryIO) -> int:
    """Where the data set begins behind preamble and file meta group. Raises ValueError when the file does not say."""
    head = os.pread(file.fileno(), 144, 0) if hasattr(os, "pread") else file.read(144)
    if len(head) < 144 or head[128:132] != b"DICM":
        raise ValueError("it has no preamble")
    group, element, vr, length = struct.unpack_from("<HH2sH", head, 132)
    if (group, element, vr, length) != (2, 0, b"UL", 4):
        raise ValueError("its file meta group has no length")
    start: int = 144 + struct.unpack_from("<L", head, 140)[0]
    return start


def mapped(file: BinaryIO, start: int, count: int) -> memoryview | None:
    """A part of the file as memory, for the kernel alone to read: it copies once less, and says EFAULT where the disk fails.

    In our own hands a page that cannot be read would end the process. None where there is no such memory to be had.
    """
    before = start % mmap.ALLOCATIONGRANULARITY
    try:
        found = mmap.mmap(file.fileno(), before + count, access=mmap.ACCESS_READ, offset=start - before)
    except (OSError, ValueError):  # a file system without it, or a file that became shorter
        return None
    return memoryview(found)[before : before + count]


def filled(file: BinaryIO, start: int, block: memoryview) -> memoryview:
    """`block`, filled from the file."""
    file.seek(start)
    filled = 0
    while filled < len(block):
        count = file.readinto(block[filled:])  # type: ignore[attr-defined]  # typeshed gives it to raw files only
        if not count:
            raise EOFError("the file is shorter than it was")
        filled += count
    return block
