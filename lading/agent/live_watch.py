"""Live mode, the instrument's side: which files of an acquisition came to rest, and when the acquisition is over.

Quiet is what this process observed with its own monotonic clock. Only files that are not noted yet, or look different, are
remembered here; whatever came to rest is in the outbox, folder by folder, so that memory does not grow with an acquisition.
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import structlog

from lading.agent.edge import foreseen
from lading.agent.live_book import LEFT, LiveBook, LiveState
from lading.agent.outbox import Outgoing, WatchReport
from lading.agent.taking import DAY_S, look_again, named_sender, taken_root
from lading.config import LiveConfig, WatchConfig
from lading.delivery import DeliveryId, Stage
from lading.deposit import STATUS_NAME, Settled
from lading.errors import EngineError, LadingError
from lading.filters import FileRules
from lading.findings import Finding, warning
from lading.glance import glance, is_unfinished
from lading.manifest import SUMS_NAME
from lading.ports import Acquisition, Clock, Source
from lading.seal import label_findings

log = structlog.get_logger()

_RESERVED = (STATUS_NAME.lower(), SUMS_NAME)  # what Lading writes itself beside the files
_MOST_MOVING = 20_000
"""So many files that did not come to rest yet are followed at a time: a folder of a million that was there before fits, too."""
_TELL_S = 30.0
_CLOSED_LOOK_S = 300.0
"""A closed acquisition may lie on the instrument for weeks; late files in it are noticed so often."""

_HANDED_OVER = "handed-over"
"""The note on an acquisition that went on by the next route: which closing of it was the last that did."""

_State = tuple[int, int, int]  # size, time, and time of the last change of whatever kind


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source for live mode: `ready` gives every session folder that has begun, complete or not."""

    def being_written(self, root: Path) -> frozenset[str]:
        """The files below `root` (relative POSIX) that are known to be open for writing."""


@dataclass
class _Seen:
    """What is only known while the process runs. Monotonic seconds; `moving`: what a file looks like, and since when."""

    moving: dict[str, tuple[_State, float]] = field(default_factory=dict)
    changed: float = 0.0
    looked: float = -_CLOSED_LOOK_S


class LiveWatch:
    """Looks at one watched folder of a live route."""

    def __init__(
        self,
        book: LiveBook,
        watch: WatchConfig,
        live: LiveConfig,
        source: LiveSource,
        rules: FileRules,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._book, self._watch, self._live, self._source = book, watch, live, source
        self._rules, self._clock = rules, clock
        self._seen: dict[DeliveryId, _Seen] = {}
        self._watched_folder: tuple[int, int] | None = None  # as it was when sessions lay in it
        self._told: object = None
        self._told_at = 0.0

    def look(self) -> float | None:
        """Look once at every acquisition. Seconds until another look may tell more, None when only the usual is to be expected.

        A folder that cannot be looked at is reported in the outbox, and found again when it is back.
        """
        findings: list[Finding] = []
        waiting: list[tuple[str, str]] = []
        pauses: list[float] = []
        try:
            with foreseen(f"looking into {self._watch.path}"):
                sessions = list(self._source.ready())
                if sessions:
                    self._watched_folder = _identity(self._watch.path)
                for found in sessions:
                    findings += found.findings
                    why, pause = self._one(found, findings)
                    if why:
                        waiting.append((str(found.root), why))
                    if pause is not None:
                        pauses.append(pause)
                self._close_what_went()
        except EngineError:
            raise
        except LadingError as exc:
            self._report(error=exc.message, next_command=exc.next_command or "lading doctor")
            return None
        self._report(waiting=tuple(waiting), findings=tuple(findings))
        return min(pauses, default=None)

    def _report(
        self,
        *,
        error: str = "",
        next_command: str = "",
        waiting: tuple[tuple[str, str], ...] = (),
        findings: tuple[Finding, ...] = (),
    ) -> None:
        """Into the outbox when it says something new, and now and then: looks come every second, and a note costs a flush."""
        told = (error, findings, tuple(folder for folder, _ in waiting))
        if told == self._told and self._clock() - self._told_at < _TELL_S:
            return
        self._told, self._told_at = told, self._clock()
        now = self._book.outbox.clock()
        if self._book.outbox.report_watch(WatchReport(self._watch.path, now, error, next_command, waiting, findings)):
            log.warning(
                "watched folder", watch=str(self._watch.path), error=error, findings=[f.message for f in findings]
            )

    def _one(self, found: Acquisition, findings: list[Finding]) -> tuple[str, float | None]:
        """What keeps the acquisition from closing ("" when nothing does), and seconds until another look is worthwhile."""
        if found.labels is None:
            return "", None
        refusals = label_findings(found.labels)
        if refusals:
            findings += refusals
            return "", None
        root = taken_root(found.root)
        known = self._book.outbox.taken(self._watch.route, root)
        if known is None:
            if not _has_files(root):
                return "holds no files yet", None
            item = self._take(root, found)
        elif self._book.is_live(known[0]):
            item = self._book.outbox.get(known[0])
        else:
            return "", None  # it went as a whole, before this route became live
        if item.stage in (Stage.VERIFIED, Stage.CANCELLED, Stage.CLEANABLE, Stage.CLEANED, Stage.REJECTED):
            self._look_for_late_files(item, known[1] if known else "", findings)
            return "", None
        return self._look_into(item)

    def _take(self, root: Path, found: Acquisition) -> Outgoing:
        assert found.labels is not None  # noqa: S101 - the caller looked
        item = self._book.outbox.take(
            root, self._watch.route, found.labels, fingerprint="live", sender=named_sender(found.sender), live=True
        )
        log.info("acquisition begins", delivery=item.id, root=str(root), labels=str(found.labels))
        return item

    def _look_into(self, item: Outgoing) -> tuple[str, float | None]:
        seen = self._seen.setdefault(item.id, _Seen(changed=self._clock()))
        look = _Look(self, item, seen, self._clock())
        for folder, files in _folders(item.root, self._rules, look):
            look.judge(folder, files)
        seen.moving = look.moving
        if look.candidates:
            open_files = self._source.being_written(item.root)
            settled = [file for file in look.candidates if file.path not in open_files]
            look.unsettled += len(look.candidates) - len(settled)
            if settled:
                self._book.settle(item.id, settled)
                for file in settled:
                    seen.moving.pop(file.path, None)
        if look.changed:
            seen.changed = self._clock()
        why = self._close_if_over(item, look, seen)
        return why, look.again_in

    def _close_if_over(self, item: Outgoing, look: "_Look", seen: _Seen) -> str:
        """Start closing when the source is complete. What it still waits for, or ""."""
        live = self._book.get(item.id)
        why = look.why(item.root, self._live, asked=live.asked, quiet_s=self._clock() - seen.changed)
        fingerprint = ""
        if not why and live.state is LiveState.ACQUIRING:
            fingerprint = glance(item.root, self._rules).fingerprint
            why = "files came just now" if self._came_since(item, seen) else ""
        if why != live.why:
            self._book.put(item.id, why=why.encode("utf-8", "backslashreplace").decode())
        if why:
            if live.state is LiveState.CLOSING:  # files came after all
                self._book.not_over(item.id)
        elif live.state is LiveState.ACQUIRING:
            # What is different from now on, and not carried before it is closed, is late.
            self._book.outbox.seen_again(item, fingerprint)
            self._book.put(item.id, state=LiveState.CLOSING)
            how = "on request" if live.asked else "the source is complete"
            self._book.outbox.remark(item.id, f"closing: {how}")
            log.info("acquisition closes", delivery=item.id, how=how)
        return why

    def _came_since(self, item: Outgoing, seen: _Seen) -> bool:
        """Whether another look finds more: the fingerprint must stand for nothing that no look has seen."""
        again = _Look(self, item, seen, self._clock())
        for folder, files in _folders(item.root, self._rules, again):
            again.judge(folder, files)
        return again.changed or bool(again.unreadable)

    def _close_what_went(self) -> None:
        """A session that was removed from the instrument is seen no more; whoever asks to close it means what was carried."""
        for delivery in self._book.deliveries(open_only=True):
            live, item = self._book.get(delivery), self._book.outbox.get(delivery)
            ours = item.delivery.route == self._watch.route and item.root.is_relative_to(taken_root(self._watch.path))
            if ours and live.asked and live.state is LiveState.ACQUIRING and self._has_left(item.root):
                self._book.put(delivery, state=LiveState.CLOSING, why=LEFT)
                self._book.outbox.remark(delivery, f"closing on request: {item.root} is gone")

    def _has_left(self, root: Path) -> bool:
        """Whether somebody removed the session, and not the disk that it lies on: the watched folder is there as ever."""
        try:
            if os.path.lexists(root):
                return False
            now = _identity(self._watch.path)
            with os.scandir(self._watch.path) as entries:
                return now == self._watched_folder if self._watched_folder else next(entries, None) is not None
        except OSError:
            return False

    def _look_for_late_files(self, item: Outgoing, before: str, findings: list[Finding]) -> None:
        """After the end nothing is carried any more: `closed` was a promise. What came late is said, once."""
        seen = self._seen.setdefault(item.id, _Seen())
        if item.stage is Stage.VERIFIED and self._live.then:
            self._hand_over(item, before)
        if item.stage is not Stage.VERIFIED or self._clock() - seen.looked < _CLOSED_LOOK_S:
            return
        seen.looked = self._clock()
        now = glance(item.root, self._rules)
        if not now.fingerprint or now.fingerprint == before:
            return
        self._book.outbox.seen_again(item, now.fingerprint)
        late = warning(
            "late-files",
            f"{item.root} changed after {item.id} was closed; the deposit holds what was there then",
            hint=f"lading live reopen {item.id}",
        )
        findings.append(late)
        self._book.outbox.record(item.id, (late,))
        self._book.outbox.remark(item.id, late.message)
        log.warning("late files", delivery=item.id)

    def _hand_over(self, item: Outgoing, fingerprint: str) -> None:
        """The closed session goes on to the repository, by its own route, like any other. `fingerprint`: when it was closed."""
        gone_on = self._book.outbox.taken(self._live.then, item.root)
        closed_at, journal = self._book.get(item.id).closed_at, self._book.outbox.journal(item.id)
        if gone_on is not None:
            last, before = self._book.outbox.get(gone_on[0]), journal.recall(_HANDED_OVER)
            # Two times are compared only where an older version left no note: the clock may have been set back between them.
            closed_since = str(closed_at) != before if before else closed_at > last.delivery.created_at.timestamp()
            if closed_since:
                if gone_on[1] != fingerprint:
                    look_again(self._book.outbox, self._rules, last, fingerprint)
                journal.note(_HANDED_OVER, str(closed_at))
            return
        sent = self._book.outbox.take(
            item.root, self._live.then, item.delivery.labels, fingerprint=glance(item.root, self._rules).fingerprint,
            sender=item.delivery.sender, priority=item.delivery.priority, quiet=self._watch.quiet,
            clean=self._watch.clean, grace_s=self._watch.grace_days * DAY_S,
        )  # fmt: skip
        journal.note(_HANDED_OVER, str(closed_at))
        self._book.outbox.remark(item.id, f"goes on as {sent.id} by the route {self._live.then}")
        log.info("acquisition handed over", delivery=item.id, to=sent.id, route=self._live.then)

    @property
    def settle_s(self) -> float:
        """How long a file must rest."""
        return self._live.settle

    def in_folder(self, item: Outgoing, folder: str) -> dict[str, _State]:
        """What is noted of one folder."""
        return self._book.in_folder(item.id, folder)


class _Look:
    """One look at one acquisition."""

    def __init__(self, watch: LiveWatch, item: Outgoing, seen: _Seen, now: float) -> None:
        self._watch, self._item, self._before, self._now = watch, item, seen.moving, now
        self.moving: dict[str, tuple[_State, float]] = {}
        self.candidates: list[Settled] = []
        self.unsettled = 0
        self.unfinished = self.unreadable = self.reserved = ""
        self.changed = False
        self.again_in: float | None = None

    def judge(self, folder: str, files: list[tuple[str, _State]]) -> None:
        """Compare what one folder holds with what is noted and with the look before."""
        noted = self._watch.in_folder(self._item, folder)
        for name, state in files:
            if name in noted and _is_same(noted[name], state):
                continue
            path = f"{folder}/{name}" if folder else name
            before = self._before.get(path)
            if before is None or before[0] != state:
                before = (state, self._now)
                self.changed = True
            if len(self.moving) >= _MOST_MOVING:  # the others when these came to rest
                self.unsettled += 1
                continue
            self.moving[path] = before
            rest = self._watch.settle_s - (self._now - before[1])
            if rest <= 0:
                size, mtime_ns, ctime_ns = state
                self.candidates.append(Settled(path, size, mtime_ns, ctime_ns=ctime_ns))
            else:
                self.unsettled += 1
                self.again_in = rest if self.again_in is None else min(rest, self.again_in)

    def why(self, root: Path, live: LiveConfig, *, asked: bool, quiet_s: float) -> str:
        """What keeps the acquisition from closing, or ""."""
        if self.unreadable:
            return f"cannot be read: {self.unreadable}"
        if self.reserved:
            return f"{self.reserved} cannot go: Lading writes a file of that name itself; rename or exclude it"
        if self.unsettled:
            return f"{self.unsettled} files are still being written"
        if self.unfinished:
            return f"{self.unfinished} is still being written, going by its name"
        if asked:
            return ""
        if live.marker and (root / live.marker).is_file():
            return ""
        if live.close_after and quiet_s >= live.close_after:
            return ""
        marker = f"the marker {live.marker}" if live.marker else ""
        quiet = f"{live.close_after:g} s of quiet" if live.close_after else ""
        return f"acquiring; waits for {' or '.join(filter(None, (marker, quiet))) or 'lading live close'}"


def _folders(root: Path, rules: FileRules, look: _Look) -> Iterator[tuple[str, list[tuple[str, _State]]]]:
    """Folder by folder (relative POSIX), the regular files in it that belong to the delivery. Follows no link."""
    stack = [""]
    while stack:
        folder = stack.pop()
        judge = rules.for_folder(folder)
        files: list[tuple[str, _State]] = []
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(f"{folder}/{entry.name}" if folder else entry.name)
                        continue
                    reason = judge(entry.name)
                    if is_unfinished(entry.name, reason):
                        look.unfinished = look.unfinished or entry.name
                    elif reason is None and not folder and entry.name.lower() in _RESERVED:
                        look.reserved = entry.name
                    elif reason is None and (info := _look_at(entry)):
                        files.append((entry.name, _state(info)))
        except FileNotFoundError:
            if not folder:
                look.unreadable = f"{root} is gone"
            continue
        except OSError as exc:
            look.unreadable = f"{exc.filename}: {exc.strerror}"
            continue
        yield folder, files


def _look_at(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """A fresh look: Windows keeps sizes in the folder's list that lag behind. None for what is no file, or went."""
    try:
        info = os.lstat(entry.path)
    except OSError:
        return None
    return info if stat.S_ISREG(info.st_mode) else None


def _state(info: os.stat_result) -> _State:
    """A program can set a file's time back after writing into it (`cp -p`), but not that of its last change, which POSIX has."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns if os.name == "posix" else 0


def _is_same(noted: _State, now: _State) -> bool:
    """Whether the file looks as it did. Of what was noted by an older Lading the last time is not known."""
    return noted == (now if noted[2] else (*now[:2], 0))


def _identity(folder: Path) -> tuple[int, int]:
    """Tells a mounted share from the empty folder that it is mounted on."""
    info = folder.stat()
    return info.st_dev, info.st_ino


def _has_files(root: Path) -> bool:
    return any(files for _, _, files in os.walk(root))
