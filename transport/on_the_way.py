"""A delivery whose manifest is made while it is carried: every file of the source is read once, for both.

What the folder looks like before anything is read stands in for the list: its `shape`. An attempt that was cut off goes on as
long as the folder keeps its shape; parts are then found by size and time, and whole files are hashed where they lie, not sent.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lading.delivery import Cargo
from lading.errors import UnexpectedFault
from lading.manifest import Entry, Filtered, Manifest, NameLimits, Seen, survey, write

SHAPE = "shape "
"""How a shape begins: no digest of a list does."""
LISTED_AT_MOST = 10_000
"""Files of a folder that is listed on the way: their digests wait in memory, under 1 KB each, until the list is written."""


@dataclass(frozen=True)
class Load:
    """What is to be carried. `entries` may be gone through several times."""

    entries: Iterable[Entry]
    files: int
    bytes: int

    @classmethod
    def of(cls, manifest: Manifest) -> "Load":
        """What a manifest lists."""
        return cls(manifest, manifest.summary.files, manifest.summary.bytes)


class Listing:
    """The files of an unsealed cargo: `load` without digests, which `found` adds as they are read. For several threads."""

    def __init__(self, cargo: Cargo, entries: list[Entry], filtered: list[Filtered]) -> None:
        self._cargo, self._filtered = cargo, filtered
        self._digests: dict[str, Mapping[str, str]] = {}
        self._entries = entries
        self.load = Load(entries, len(entries), sum(entry.size for entry in entries))
        self.shape = shape_of(entries)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The digests that every file needs, SHA-256 among them."""
        return ("sha256", *(name for name in self._cargo.algorithms if name != "sha256"))

    def found(self, entry: Entry, digests: Mapping[str, str]) -> None:
        """These are the digests of its content, all of which was read."""
        self._digests[entry.path] = digests

    def written(self) -> Manifest:
        """The manifest, among the cargo's papers. See lading.manifest.write for what it raises."""
        unread = [entry.path for entry in self._entries if not self._digests.get(entry.path)]
        if unread:
            raise UnexpectedFault(f"{len(unread)} files were carried and never hashed, first {unread[0]!r:.200}")
        self._cargo.papers.mkdir(parents=True, exist_ok=True)
        whole = (Entry(one.path, one.size, one.mtime_ns, self._digests[one.path]) for one in self._entries)
        return write(self._cargo.papers, whole, self._filtered, algorithms=self.algorithms)


def listing_of(cargo: Cargo, names: NameLimits) -> Listing | None:
    """The files of an unsealed cargo; None when they are too many, or not fit to be sent (then making the manifest says why).

    Reads no content. Raises Unreachable, AccessDenied, SourceChanged.
    """
    look = survey(cargo.root, rules=cargo.rules, limits=names)
    entries: list[Entry] = []
    filtered: list[Filtered] = []
    for seen in look:
        if isinstance(seen, Filtered):
            filtered.append(seen)
        else:
            entries.append(_entry(seen))
        if len(entries) + len(filtered) > LISTED_AT_MOST:
            return None
    return None if look.refuses else Listing(cargo, entries, filtered)


def unread(cargo: Cargo, names: NameLimits) -> Iterator[Entry]:
    """The files of an unsealed cargo as its folder shows them, streamed."""
    return (
        _entry(seen) for seen in survey(cargo.root, rules=cargo.rules, limits=names) if not isinstance(seen, Filtered)
    )


def _entry(seen: Seen) -> Entry:
    return Entry(seen.path, seen.size, seen.mtime_ns, {})


def shape_of(entries: Iterable[Entry]) -> str:
    """Stands for names, sizes and times: equal for a folder and for the manifest that was made of it, unless it changed."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.path}\0{entry.size}\0{entry.mtime_ns}\n".encode("utf-8", "surrogatepass"))
    return f"{SHAPE}{digest.hexdigest()}"
