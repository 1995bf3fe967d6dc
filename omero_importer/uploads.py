"""Sends one file to a RawFileStore, block after block, several on their way at once."""

import hashlib
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lading.disk import open_strange
from lading.errors import Corrupted
from lading.manifest import Entry
from omero_importer import errors
from omero_importer.hashes import ALGORITHMS, MANIFEST_NAMES, Hasher
from omero_importer.ice import Ice, omero

_UNDER_WAY = 3
"""Messages of one file on their way: enough to hide the way there and back, and to read while OMERO writes."""
_ATTEMPTS = 3
_SLOWEST_HASH = 20_000_000
"""On close the server reads the whole file again; no disk of a server is slower than so many bytes a second."""


def checksum_known(entry: Entry, algorithm: str) -> str:
    """What the manifest has of that algorithm, "" when it has not."""
    return entry.digests.get(MANIFEST_NAMES.get(algorithm, ""), "")


def send_file(
    store: "omero.api.RawFileStorePrx",
    path: Path,
    entry: Entry,
    *,
    algorithm: str,
    block: int,
    timeout: float,
    told: Callable[[int], None],
    save: bool = False,
) -> str:
    """Write the file into `store` and close it; OMERO's checksum of what was sent. `save`: a store that does not on closing.

    `told` hears of the bytes as they arrive. `timeout` (seconds) bounds what closing takes at least. Raises Corrupted when the
    file is not what the manifest says; and as Ice does.
    """
    known = checksum_known(entry, algorithm)
    hasher = None if known else ALGORITHMS[algorithm]()
    # What the manifest cannot vouch for in OMERO's algorithm, it vouches for in its own.
    witness = None if known else hashlib.sha256()
    try:
        _send_blocks(store, path, entry, block, hashers=[h for h in (hasher, witness) if h is not None], told=told)
    except BaseException:
        with suppress(Ice.Exception):
            store.close()
        raise
    patient = store
    if entry.size > _SLOWEST_HASH:  # else the time that every answer may take is enough
        patience = timeout + entry.size / _SLOWEST_HASH
        patient = type(store).uncheckedCast(store.ice_invocationTimeout(int(patience * 1000)))
    if save:
        patient.save()
    patient.close()
    if witness is not None and witness.hexdigest() != entry.sha256:
        raise _changed(entry)
    return known or (hasher.hexdigest() if hasher else "")


def _send_blocks(
    store: "omero.api.RawFileStorePrx",
    path: Path,
    entry: Entry,
    block: int,
    *,
    hashers: list[Hasher],
    told: Callable[[int], None],
) -> None:
    under_way: deque[tuple[Ice.AsyncResult, bytes, int]] = deque()
    offset = 0
    try:
        source = open_strange(path)
    except (OSError, ValueError) as exc:
        raise _changed(entry) from exc
    with source:
        while content := source.read(block):
            if offset + len(content) > entry.size:
                raise _changed(entry)
            under_way.append((store.begin_write(content, offset, len(content)), content, offset))
            for hasher in hashers:
                hasher.update(content)
            offset += len(content)
            if len(under_way) >= _UNDER_WAY:
                told(_arrived(store, *under_way.popleft()))
        while under_way:
            told(_arrived(store, *under_way.popleft()))
    if offset != entry.size:
        raise _changed(entry)
    if not offset:
        store.write(b"", 0, 0)  # or the file would not be there at all


def _arrived(store: "omero.api.RawFileStorePrx", result: "Ice.AsyncResult", content: bytes, offset: int) -> int:
    """Wait for one block; where the server was only busy, send that block once more."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if attempt == 1:
                store.end_write(result)
            else:
                store.write(content, offset, len(content))
        except omero.ConcurrencyException as exc:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(min(5.0, errors.back_off_s(exc) or 0.2 * attempt) * random.uniform(0.75, 1.25))  # noqa: S311
        else:
            break
    return len(content)


def _changed(entry: Entry) -> Corrupted:
    return Corrupted(
        f"sending {entry.path}: the file in the inbox is not what its manifest says",
        paths=[entry.path],
        safe="OMERO has made no image of it.",
        next_command="lading doctor",
    )
