"""Calls a session folder complete when none of its files changed for a while, and its marker file, if any, is there."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.config import WatchConfig
from lading.delivery import Labels
from lading.errors import Unreachable
from lading.filters import FileRules
from lading.findings import Finding, warning
from lading.glance import Glance, glance
from lading.ports import Acquisition, Clock, Waiting
from lading.template import Template
from transport.sources.writers import open_for_writing

_JUNK = FileRules()
_LOOSE_FILES_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Watched:
    """A session folder as last seen, and since when (monotonic seconds) it has looked like that."""

    fingerprint: str
    since: float


class QuietFolderSource:
    """Watches one folder by looking at it.

    Quiet is what this process observed with its own monotonic clock: the times that files carry come from other clocks, and
    copies keep old ones. After a restart every folder has to rest once more. A marker alone never suffices: it may come
    before the last write.
    """

    def __init__(self, watch: WatchConfig, rules: FileRules | None = None, *, clock: Clock = time.monotonic) -> None:
        """Watches `watch.path`; `rules` say whose changes matter. Raises ConfigError for a template that names no label."""
        self._watch = watch
        self._rules = rules or FileRules()
        self._clock = clock
        self._template = Template.parse(watch.template)
        self._watched: dict[Path, _Watched] = {}
        self._waiting: list[Waiting] = []

    def ready(self) -> list[Acquisition]:
        """Look once at every session folder; those that fit no template come back with findings and without labels."""
        self._waiting = []
        misfits: list[Acquisition] = []
        watched: dict[Path, _Watched] = {}
        quiet: list[tuple[Path, Labels]] = []
        for folder, labels in self._sessions(misfits):
            seen = glance(folder, self._rules)
            watched[folder] = self._update(folder, seen)
            reason, again_in = self._unready(folder, seen, watched[folder])
            if reason:
                self._waiting.append(Waiting(folder, reason, again_in))
            else:
                quiet.append((folder, labels))
        self._watched = watched
        return [*misfits, *self._closed(quiet)]

    def waiting(self) -> list[Waiting]:
        """The incomplete acquisitions of the last `ready`."""
        return list(self._waiting)

    def _update(self, folder: Path, seen: Glance) -> _Watched:
        before = self._watched.get(folder)
        if before and seen.fingerprint and before.fingerprint == seen.fingerprint:
            return before
        return _Watched(seen.fingerprint, self._clock())

    def _unready(self, folder: Path, seen: Glance, watched: _Watched) -> tuple[str, float | None]:
        if seen.unreadable:
            return f"cannot be read: {seen.unreadable}", None
        if not seen.files:
            return "holds no files yet", None
        if seen.unfinished:
            return f"{seen.unfinished[0]} is still being written, going by its name", None
        rest = self._watch.quiet - (self._clock() - watched.since)
        if rest > 0:
            return f"changed; quiet for {self._watch.quiet:g} s needed", rest
        if self._watch.marker and not (folder / self._watch.marker).is_file():
            return f"the marker {self._watch.marker} is not there", None
        return "", None

    def _closed(self, quiet: list[tuple[Path, Labels]]) -> Iterator[Acquisition]:
        writers = open_for_writing([folder for folder, _ in quiet])
        for folder, labels in quiet:
            if folder in writers:
                self._waiting.append(Waiting(folder, writers[folder]))
            else:
                sender = self._template.sender(folder.relative_to(self._watch.path).as_posix())
                yield Acquisition(folder, labels, fingerprint=self._watched[folder].fingerprint, sender=sender)

    def _sessions(self, misfits: list[Acquisition]) -> Iterator[tuple[Path, Labels]]:
        depth = len(self._template.levels)
        level = [""]
        for _ in range(depth):
            level = [inner for folder in level for inner in self._inner(folder, misfits)]
        for path in level:
            labels = self._template.labels(path)
            if labels is not None:
                yield self._watch.path / path, labels

    def _inner(self, folder: str, misfits: list[Acquisition]) -> Iterator[str]:
        """The folders of `folder` that may hold sessions; all else that is not junk becomes a misfit."""
        where = self._watch.path / folder
        loose: list[str] = []
        for entry in self._listing(folder, misfits):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or _JUNK.reason_to_filter(entry.name):
                continue
            if not entry.is_dir(follow_symlinks=False):
                loose.append(entry.name)
            elif self._template.fits(path):
                yield path
            else:
                misfits.append(_misfit(where / entry.name, self._does_not_fit(path)))
        if loose:
            misfits.append(_misfit(where, self._lies_outside(folder, loose)))

    def _listing(self, folder: str, misfits: list[Acquisition]) -> "list[os.DirEntry[str]]":
        where = self._watch.path / folder
        try:
            with os.scandir(where) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as exc:
            if not folder:
                raise Unreachable(
                    f"cannot look into the watched folder {where}: {exc.strerror}; is the disk or share mounted?",
                    safe="what was found earlier goes on",
                    next_command="lading doctor",
                ) from exc
            if not isinstance(exc, FileNotFoundError):
                misfits.append(
                    _misfit(where, warning("unreadable", f"cannot look into {where}: {exc.strerror}", path=folder))
                )
            return []

    def _does_not_fit(self, path: str) -> Finding:
        return warning(
            "path-does-not-fit",
            f"{path} does not fit {self._template.text}; nothing in it is sent",
            path=path,
            hint="rename it, or change `template` of this watch",
        )

    def _lies_outside(self, folder: str, names: list[str]) -> Finding:
        named = ", ".join(names[:_LOOSE_FILES_NAMED]) + (" …" if len(names) > _LOOSE_FILES_NAMED else "")
        where = f"{len(names)} files lie" if len(names) > 1 else "a file lies"
        return warning(
            "file-outside-session",
            f"{where} outside any session folder, therefore not sent: {named}",
            path=folder,
            hint=f"sessions are {self._template.text} below {self._watch.path}",
        )


def _misfit(root: Path, finding: Finding) -> Acquisition:
    return Acquisition(root, None, (finding,))
