"""A delivery whose manifest is made beside the rsync that carries it, from the same files.

rsync does not hand out what it reads, so two read: the second finds in the system's memory what the first fetched from the
disk. What the folder showed before either began must be what it shows when both are through: only then does what was hashed
speak for what was sent, and only then is it sealed.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.delivery import Cargo
from lading.errors import LadingError, SourceChanged
from lading.manifest import Entry, Filtered, Manifest, NameLimits, Seen, Verdict, make, rehash, survey, unchanged
from lading.ports import Progress
from transport.foreign import shown
from transport.on_the_way import LISTED_AT_MOST, Load, shape_of, unread

AHEAD = 1 << 30
"""Bytes that may be hashed before they are sent: so many stay in the system's memory, and the disk reads each file once."""


class Look:
    """What the folder of an unsealed cargo showed before any of it was read: `load` (without digests) and `shape`."""

    def __init__(self, cargo: Cargo, names: NameLimits, seen: list[Seen]) -> None:
        self._cargo, self._names, self._seen = cargo, names, seen
        entries = [Entry(one.path, one.size, one.mtime_ns, {}) for one in seen]
        self.load = Load(entries, len(entries), sum(one.size for one in seen))
        self.shape = shape_of(entries)

    def refuse_listed_otherwise(self, manifest: Manifest) -> None:
        """Raises SourceChanged unless `manifest` lists what this look saw, and nothing was touched until now.

        Then the digests speak for the files as they were before anything was sent.
        """
        root = self._cargo.root
        if shape_of(manifest) != self.shape:
            refuse_changed(root, self.load.entries)
            raise SourceChanged(f"{shown(root)} changed while it was listed")
        touched = self._touched()
        if touched:
            raise SourceChanged(f"{shown(root / min(touched))} was touched while it was listed")

    def refuse_changed(self, manifest: Manifest) -> None:
        """When all was sent. Raises SourceChanged unless every file is still what `manifest` says.

        One that has the same size and time but was touched (its mode, a copy over it) is hashed once more.
        """
        touched = self._touched()
        if touched:
            refuse_changed(self._cargo.root, manifest)
            refuse_other_content(self._cargo.root, (entry for entry in manifest if entry.path in touched))

    def _touched(self) -> set[str]:
        again = survey(self._cargo.root, rules=self._cargo.rules, limits=self._names)
        now = {seen.path: seen for seen in again if not isinstance(seen, Filtered)}
        return {seen.path for seen in self._seen if now.get(seen.path) != seen}


def look_at(cargo: Cargo, names: NameLimits) -> Look | None:
    """None when there are too many files, or they are not fit to be sent (then making the manifest says why).

    Reads no content. Raises Unreachable, AccessDenied, SourceChanged.
    """
    look = survey(cargo.root, rules=cargo.rules, limits=names)
    files: list[Seen] = []
    for seen in look:
        if not isinstance(seen, Filtered):
            files.append(seen)
        if len(files) > LISTED_AT_MOST:
            return None
    return None if look.refuses else Look(cargo, names, files)


def unread_load(cargo: Cargo, names: NameLimits) -> Load:
    """What an unsealed cargo would carry, however many files that is."""
    files = size = 0
    for entry in unread(cargo, names):
        files += 1
        size += entry.size
    return Load(_Unread(cargo, names), files, size)


class _Unread:
    """Looks anew each time it is gone through."""

    def __init__(self, cargo: Cargo, names: NameLimits) -> None:
        self._cargo, self._names = cargo, names

    def __iter__(self) -> Iterator[Entry]:
        return unread(self._cargo, self._names)


class ListedBeside:
    """Makes the manifest of an unsealed cargo while the block runs; what is not made at its end is given up.

    Whoever asks for it is told what making it raised, and SourceChanged when it does not list what the `look` before saw.
    """

    def __init__(self, cargo: Cargo, names: NameLimits, look: Look) -> None:
        self._cargo, self._names, self._look = cargo, names, look
        self._lead = _Lead()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lading-list")
        self._made: Future[Manifest] = self._pool.submit(self._make)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._lead.stop()
        self._pool.shutdown()

    def heard(self, progress: Progress) -> Progress:
        """`progress`, from which the maker also learns how far the sending is."""
        return _Heard(progress, self._lead, self._made)

    def is_made(self, seconds: float) -> bool:
        """Whether the manifest is there now, or in so many seconds."""
        if not wait((self._made,), seconds).done:
            return False
        self._made.result()
        return True

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """The block's failure; but what making the list met first, where that failed too: it has read the files itself."""
        try:
            yield
        except LadingError as exc:
            told = self._made.exception() if self._made.done() else None
            if isinstance(told, LadingError) and told is not exc:
                raise told from exc
            raise

    def hurry(self) -> None:
        """The maker need not keep near the sender any more."""
        self._lead.sent(self._lead.NO_LIMIT)

    def manifest(self) -> Manifest:
        """When all has been sent: the manifest, which is waited for."""
        self.hurry()
        return self._made.result()

    def _make(self) -> Manifest:
        cargo = self._cargo
        cargo.papers.mkdir(parents=True, exist_ok=True)
        manifest = make(
            cargo.root,
            cargo.papers,
            rules=cargo.rules,
            limits=self._names,
            algorithms=cargo.algorithms,
            progress=self._lead,
        )
        self._look.refuse_listed_otherwise(manifest)
        return manifest


class _GivenUpError(Exception):
    """Nobody needs the manifest any more."""


class _Lead:
    """The progress of the maker, who waits here when it is too far ahead of the sending."""

    NO_LIMIT = 1 << 62

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._room = AHEAD
        self._stopped = False

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002, ARG002 - the role's names
        with self._changed:
            self._room -= bytes
            self._changed.wait_for(lambda: self._room >= 0 or self._stopped)
            if self._stopped:
                raise _GivenUpError

    def sent(self, size: int) -> None:
        with self._changed:
            self._room += size
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Heard:
    def __init__(self, progress: Progress, lead: _Lead, made: "Future[Manifest]") -> None:
        self._progress, self._lead, self._made = progress, lead, made

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the role's names
        if self._made.done():
            self._made.result()  # nothing more needs to be sent when this raises
        self._lead.sent(bytes)
        self._progress.advance(files=files, bytes=bytes)


def refuse_changed(root: Path, entries: Iterable[Entry]) -> None:
    """Raises SourceChanged when a file is gone, or has another size or time."""
    different = unchanged(root, entries)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise SourceChanged(f"{shown(root / different[0])}{more} changed or vanished after the manifest was made")


def refuse_other_content(root: Path, entries: Iterable[Entry]) -> None:
    """A damaged file may be damaged at the source: same size and time, other content."""
    for entry, verdict in rehash(root.resolve(), entries):
        if verdict is not Verdict.MATCHES:
            raise SourceChanged(f"{shown(root / entry.path)} no longer has the content of the manifest ({verdict})")
