"""What already lies in a slot behind a protocol, remembered in a few bytes per file; what does not belong there goes.

A table of 64-bit hashes answers "is this there, of this size and time?" for a million files in 32 MB, in any order of
listing. Two paths with the same hash (one chance in 10^7 for a million files) are found out by the inbox, which reads all.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from enum import Enum

from lading.manifest import Entry
from transport.remote import RemoteFile, RemoteFiles


class Found(Enum):
    """What a listing says about a listed file: ABSENT, there with its SIZE, or with size and TIME."""

    ABSENT = 0
    SIZE = 1
    TIME = 2


class There:
    """What a slot held when it was looked through."""

    def __init__(self, capacity: int, *, with_times: bool) -> None:
        self._seen = Hashes(2 * capacity)
        self._with_times = with_times

    def add(self, file: RemoteFile) -> None:
        """Remember a listed file."""
        self._seen.add(f"{file.path}\0{file.size}")
        if file.mtime is not None:
            self._seen.add(f"{file.path}\0{file.size}\0{int(file.mtime)}")

    def of(self, entry: Entry) -> Found:
        """What was found for `entry`. Where times are not kept, a SIZE is all that can be."""
        if self._with_times and f"{entry.path}\0{entry.size}\0{entry.mtime_ns // 10**9}" in self._seen:
            return Found.TIME
        return Found.SIZE if f"{entry.path}\0{entry.size}" in self._seen else Found.ABSENT


class Wanted:
    """The files of a manifest, their folders, and the parts that may become them."""

    def __init__(self, files: int) -> None:
        self._paths = Hashes(3 * files)

    def add(self, path: str, part: str = "") -> None:
        """`path` is wanted; `part` is how it is called until it is whole."""
        self._paths.add(path)
        if part:
            self._paths.add(part)
        while (path := path.rpartition("/")[0]) and f"{path}/" not in self._paths:
            self._paths.add(f"{path}/")

    def __contains__(self, file: RemoteFile) -> bool:
        return file.path + ("/" if file.folder else "") in self._paths and file.size >= 0


class Hashes:
    """A set of texts, as 8 to 16 bytes each; says yes by mistake once in 2^64 / (number of texts)."""

    def __init__(self, capacity: int) -> None:
        size = 16
        while size < capacity * 3 // 2:
            size *= 2
        self._table = array("Q", bytes(8 * size))
        self._mask = size - 1
        self._count = 0

    def add(self, text: str) -> None:
        """Put `text` into the set."""
        at, found = self._find(text)
        if found:
            return
        if self._count * 4 > self._mask * 3:
            self._grow()
            at, _ = self._find(text)
        self._table[at] = _hash(text)
        self._count += 1

    def __contains__(self, text: str) -> bool:
        return self._find(text)[1]

    def _find(self, text: str) -> tuple[int, bool]:
        key = _hash(text)
        at = key & self._mask
        while (there := self._table[at]) and there != key:
            at = (at + 1) & self._mask
        return at, there == key

    def _grow(self) -> None:
        old = self._table
        size = 2 * len(old)
        self._table, self._mask = array("Q", bytes(8 * size)), size - 1
        for key in old:
            if key:
                at = key & self._mask
                while self._table[at]:
                    at = (at + 1) & self._mask
                self._table[at] = key


def files_below(files: RemoteFiles, folder: str) -> Iterator[RemoteFile]:
    """Every file below `folder`, with paths relative to it; folders too, after nothing in particular."""
    waiting = [folder]
    while waiting:
        inner = waiting.pop()
        for found in files.listed(inner):
            yield RemoteFile(
                found.path.removeprefix(f"{folder}/"),
                found.size,
                found.mtime,
                found.folder,
                found.digests,
                found.version,
            )
            if found.folder:
                waiting.append(found.path)


def tidied(files: RemoteFiles, folder: str, wanted: Wanted, there: There) -> There:
    """Look through `folder`: remember in `there` what is wanted, remove what is not."""
    for surplus in list(_surplus(files, folder, wanted, there)):
        files.remove(surplus)
    return there


def _surplus(files: RemoteFiles, folder: str, wanted: Wanted, there: There) -> Iterable[str]:
    waiting = [folder]
    while waiting:
        inner = waiting.pop()
        for found in files.listed(inner):
            relative = RemoteFile(found.path.removeprefix(f"{folder}/"), found.size, found.mtime, found.folder)
            if relative not in wanted:
                yield found.path
            elif found.folder:
                waiting.append(found.path)
            else:
                there.add(relative)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1
