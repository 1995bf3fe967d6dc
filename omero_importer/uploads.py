"""Sends files to RawFileStores, several messages on their way at once, from one thread.

A file being sent is a generator: it asks something of the server, and is resumed when it is its turn to have the answer. So many
small files keep the server busy without a thread for each: every thread more would cost both sides more than the file itself.
"""

import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, TypeAlias

from lading.errors import Corrupted
from lading.manifest import Entry
from omero_importer import errors
from omero_importer.hashes import ALGORITHMS, MANIFEST_NAMES, NO_PROOF, Hasher
from omero_importer.ice import Ice, omero

Sending: TypeAlias = Generator[None, None, str]
"""A file on its way. Returns OMERO's checksum of what was sent; closed early, it closes its store."""

_UNDER_WAY = 3
"""Messages of one file on their way: enough to hide the way there and back, and to read while OMERO writes."""
_ATTEMPTS = 3
_BLOCK = 1 << 20
_SLOWEST_HASH = 20_000_000
"""On close the server reads the whole file again; no disk of a server is slower than so many bytes a second."""


def checksum_known(entry: Entry, algorithm: str) -> str:
    """What the manifest has of that algorithm, "" when it has not, or when that proves nothing of what is sent."""
    return "" if algorithm in NO_PROOF else entry.digests.get(MANIFEST_NAMES.get(algorithm, ""), "")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file to be sent, and how.

    `open` opens it (raises OSError, ValueError). `entry`: its line of the manifest. `algorithm`: by which OMERO checks it. `block`:
    bytes per message. `timeout` (seconds) bounds what closing takes at least. `start`: so many bytes from its beginning are in the
    store already. `save`: for a store that does not do so when it is closed.
    """

    open: Callable[[], BufferedReader]
    entry: Entry
    algorithm: str
    block: int
    timeout: float
    start: int = 0
    save: bool = False


def send_file(store: "omero.api.RawFileStorePrx", file: Outgoing, told: Callable[[int], None]) -> str:
    """One file alone; its checksum. See `sending`."""
    (checksum,) = send_files([sending(store, file, told)], threading.Semaphore())
    return checksum


def send_files(files: Sequence[Sending], room: threading.Semaphore) -> list[str]:
    """Send them, as many at once as there is room for; their checksums, in order. Raises what `sending` does.

    Whoever shares `room` shares the number of files on their way. After an error the files that were begun are given up.
    """
    checksums = [""] * len(files)
    waiting = deque(enumerate(files))
    begun: deque[tuple[int, Sending]] = deque()
    try:
        while waiting or begun:
            while waiting and room.acquire(blocking=not begun):
                begun.append(waiting.popleft())
            index, file = begun[0]
            try:
                next(file)
            except StopIteration as end:
                checksums[index] = end.value
                begun.popleft()
                room.release()
            else:
                begun.rotate(-1)
    finally:
        for _, file in begun:
            file.close()
            room.release()
    return checksums


def sending(store: "omero.api.RawFileStorePrx", file: Outgoing, told: Callable[[int], None]) -> Sending:
    """Write the file into `store` and close it.

    `told` hears of the bytes as they arrive, in their order. Raises Corrupted when the file is not what the manifest says; and as
    Ice does.
    """
    entry = file.entry
    known = checksum_known(entry, file.algorithm)
    hasher = None if known else ALGORITHMS[file.algorithm]()
    # What the manifest cannot vouch for in OMERO's algorithm, it vouches for in its own.
    witness = None if known else hashlib.sha256()
    try:
        yield from _blocks(store, file, [h for h in (hasher, witness) if h is not None], told)
    except BaseException:
        with suppress(Ice.Exception):
            store.close()
        raise
    patient = store
    if entry.size > _SLOWEST_HASH:  # else the time that every answer may take is enough
        patience = file.timeout + entry.size / _SLOWEST_HASH
        patient = type(store).uncheckedCast(store.ice_invocationTimeout(int(patience * 1000)))
    if file.save:
        patient.save()
    closing = patient.begin_close()
    yield
    patient.end_close(closing)
    if witness is not None and witness.hexdigest() != entry.sha256:
        raise changed(entry)
    return known or (hasher.hexdigest() if hasher else "")


def _blocks(
    store: "omero.api.RawFileStorePrx", file: Outgoing, hashers: Sequence[Hasher], told: Callable[[int], None]
) -> Generator[None, None, None]:
    under_way: deque[tuple[Ice.AsyncResult, bytes, int]] = deque()
    entry = file.entry
    with _opened(file) as source:
        offset = _skipped(source, file, hashers)
        # One byte more than there should be is asked for: a file that has grown is not what the manifest says.
        while content := os.read(source.fileno(), min(file.block, entry.size - offset + 1)):
            if offset + len(content) > entry.size:
                raise changed(entry)
            under_way.append((store.begin_write(content, offset, len(content)), content, offset))
            for hasher in hashers:
                hasher.update(content)
            offset += len(content)
            if len(under_way) >= _UNDER_WAY:
                yield
                told(_arrived(store, *under_way.popleft()))
    if offset != entry.size:
        raise changed(entry)
    if not offset:
        store.write(b"", 0, 0)  # or the file would not be there at all
    while under_way:
        yield
        told(_arrived(store, *under_way.popleft()))


def _skipped(source: BinaryIO, file: Outgoing, hashers: Sequence[Hasher]) -> int:
    """Pass over what the store has already; the checksum of a file is that of all of it. Where to go on."""
    if not hashers:
        return os.lseek(source.fileno(), file.start, os.SEEK_SET)
    offset = 0
    while content := os.read(source.fileno(), min(file.block, file.start - offset)):
        for hasher in hashers:
            hasher.update(content)
        offset += len(content)
    return offset


def _opened(file: Outgoing) -> BufferedReader:
    try:
        return file.open()
    except (OSError, ValueError) as exc:
        raise changed(file.entry) from exc


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


def demand_unchanged(file: Callable[[], BufferedReader], entry: Entry) -> None:
    """Our copy of what a server stored otherwise is what the manifest says. Raises Corrupted: then it is no fault of the server."""
    digest = hashlib.sha256()
    try:
        with file() as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except (OSError, ValueError) as exc:
        raise changed(entry) from exc
    if digest.hexdigest() != entry.sha256:
        raise changed(entry)


def changed(entry: Entry, doing: str = "sending") -> Corrupted:
    """The parcel's file is not the one that the manifest is about."""
    return Corrupted(
        f"{doing} {entry.path}: the file in the inbox is not what its manifest says",
        paths=[entry.path],
        safe="OMERO has made no image of it.",
        next_command="lading doctor",
    )
