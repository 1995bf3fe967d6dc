"""A temporary file for one upload or download: bodies need a length beforehand and may be sent twice, images may be large."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.disk import translated
from lading.errors import OutOfSpace

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def scratch(folder: Path, suffix: str, needed: int) -> Iterator[Path]:
    """An empty file in `folder`, gone afterwards. `needed` (bytes) is for the message.

    Raises OutOfSpace; when the file cannot even be made, AccessDenied and Unreachable too.
    """
    with translated("making a temporary file", folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix="lading-", suffix=suffix, dir=folder)
        os.close(handle)
    path = Path(name)
    try:
        yield path
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        raise OutOfSpace(
            f"keeping {max(needed, 0):,} bytes in {folder} for a moment: the disk, or our share of it, is full",
            safe="The files are in the inbox.",
            next_command="make room or set part_mb lower, then: lading retry",
        ) from exc
    finally:
        path.unlink(missing_ok=True)
