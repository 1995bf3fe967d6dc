"""Looks once at every name and size below a folder, before anything is read or sent.

Streams: memory is bounded by the largest single folder, not by the number of files.
"""

import errno
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lading.errors import AccessDenied, LadingError, SourceChanged, Unreachable
from lading.filters import FileRules
from lading.findings import Finding, Severity, error, note, warning
from lading.listing.below import Below
from lading.listing.entries import Filtered
from lading.listing.names import NameLimits, collisions, name_findings, printable

FINDINGS_PER_CODE = 200
"""So many findings of one code are kept; the rest is one line with their number."""

RUN_FILES = 1024
"""At most so many files are held together on their way through memory."""

_PLAIN_PATH_BYTES = 100  # a folder whose ASCII paths are all shorter needs no closer look at each
_EVERYBODY_READS = 0o444

Row = tuple[str, int, int, int, int, int]
"""What Seen says, but with the bare name: a plain tuple, because there may be a million of them."""


class Seen(NamedTuple):
    """A regular file as the survey saw it: relative POSIX path, size in bytes, and what tells whether it changed since.

    Times are nanoseconds since the epoch.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


class Run(NamedTuple):
    """Some neighbours, at most RUN_FILES: consecutive files of one folder (relative POSIX, "" for the root)."""

    folder: str
    rows: list[Row]

    def seen(self) -> Iterator[Seen]:
        """The files with their whole paths."""
        prefix = f"{self.folder}/" if self.folder else ""
        return (Seen(prefix + row[0], *row[1:]) for row in self.rows)


class Survey:
    """One walk over a folder: iterate it (or its `runs`) once, then ask for `findings` and the counts.

    Yields the files that belong to the delivery (Seen) and those that do not (Filtered), each kind depth first, the names
    of each folder in byte order. Raises Unreachable when the folder is not there, SourceChanged when something vanishes
    meanwhile.
    """

    def __init__(self, root: Path, *, rules: FileRules, limits: NameLimits, follow_root: bool = True) -> None:
        self.files = 0
        self.bytes = 0
        self.filtered = 0
        self._root = root
        self._rules = rules
        self._limits = limits
        self._follow_root = follow_root
        self._log = FindingLog()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was noticed so far; complete after the last file."""
        return self._log.findings

    @property
    def refuses(self) -> bool:
        """Whether an error was noticed so far."""
        return self._log.refuses

    def __iter__(self) -> Iterator[Seen | Filtered]:
        for run in self.runs():
            if isinstance(run, Filtered):
                yield run
            else:
                yield from run.seen()

    def runs(self) -> Iterator[Run | Filtered]:
        """The same as iterating, but neighbouring files together: much less work for a million of them."""
        try:
            below = Below(self._root, follow_root=self._follow_root)
        except FileNotFoundError as exc:
            raise Unreachable(f"{self._root} is not there; is the disk or share mounted?") from exc
        except OSError as exc:
            raise translated(exc, f"looking through {self._root}") from exc
        with below:
            try:
                yield from self._walk(below)
            except OSError as exc:
                raise translated(exc, f"looking through {self._root}") from exc
        if not self.files:
            left_out = f"; {self.filtered} were filtered" if self.filtered else ""
            self._log.add(
                error("nothing-to-send", f"no file to send in {self._root}{left_out}", hint="check path and filters")
            )

    def _walk(self, below: Below) -> Iterator[Run | Filtered]:
        # An explicit stack: recursion by `yield from` would cost one call per level for every run.
        stack = [("", iter(self._names(below, "")))]
        while stack:
            folder, names = stack[-1]
            below.enter(folder)
            inner = yield from self._walk_folder(below, folder, names)
            if inner is None:
                stack.pop()
            elif inner.count("/") < self._limits.depth and self._can_enter(below, inner):
                stack.append((inner, iter(self._names(below, inner))))

    def _walk_folder(
        self, below: Below, folder: str, names: Iterator[str]
    ) -> Generator[Run | Filtered, None, str | None]:
        """The files of a folder up to the next folder in it, whose path is returned; None at the end."""
        prefix = f"{folder}/" if folder else ""
        judge = self._rules.for_folder(folder)
        lstat, is_regular = below.looker(), stat.S_ISREG
        rows: list[Row] = []
        inner = None
        for name in names:
            info = lstat(name)
            mode, size = info.st_mode, info.st_size
            if stat.S_ISDIR(mode):
                inner = prefix + name
                break
            reason = judge(name)
            if reason is not None:
                self.filtered += 1
                yield Filtered(prefix + name, size, reason)
            elif is_regular(mode):
                if not size or mode & _EVERYBODY_READS != _EVERYBODY_READS:
                    self._look_closer(below, prefix, name, size)
                rows.append((name, size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev))
                self.bytes += size
                if len(rows) == RUN_FILES:
                    self.files += RUN_FILES
                    yield Run(folder, rows)
                    rows = []
            else:
                self._log.add(_not_a_file(prefix + name, mode))
        if rows:
            self.files += len(rows)
            yield Run(folder, rows)
        return inner

    def _can_enter(self, below: Below, folder: str) -> bool:
        try:
            below.enter(folder)
            below.names()
        except PermissionError:
            self._log.add(_unreadable(folder, "folder"))
            return False
        return True

    def _names(self, below: Below, folder: str) -> list[str]:
        """The names in a folder, in order; what is wrong with them is noted."""
        names = in_byte_order(below.names())
        if not names:
            if folder:
                self._log.add(note("empty-folder", f"{printable(folder)} is empty and stays behind", path=folder))
            return names
        limits = self._limits
        longest = len(folder) + 1 + max(map(len, names))
        text = "".join(names)
        short = longest < min(_PLAIN_PATH_BYTES, limits.name_bytes, limits.path_bytes)
        plain = short and text.isascii() and "\\" not in text
        if limits.windows or not plain or folder.count("/") >= limits.depth - 1:
            self._note_all(name_finding for name in names for name_finding in name_findings(folder, name, limits))
        self._note_all(collisions(folder, names, limits))
        return names

    def _note_all(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if self._rules.reason_to_filter(finding.path) is None:
                self._log.add(finding)

    def _look_closer(self, below: Below, prefix: str, name: str, size: int) -> None:
        path = prefix + name
        if not size:
            self._log.add(warning("zero-byte", f"{printable(path)} holds no bytes", path=path, hint="was it cut off?"))
        if not below.is_readable(name):
            self._log.add(_unreadable(path, "file"))


def survey(root: Path, *, rules: FileRules, limits: NameLimits, follow_root: bool = True) -> Survey:
    """A walk over the files below `root`, see Survey. Without `follow_root`, a link in place of `root` is refused."""
    return Survey(root, rules=rules, limits=limits, follow_root=follow_root)


class FindingLog:
    """Findings in order, at most FINDINGS_PER_CODE of each code and then one that says how many more there are."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._counts: dict[tuple[str, Severity], int] = {}
        self.refuses = False

    def add(self, finding: Finding) -> None:
        """Keep the finding, or only count it."""
        key = finding.code, finding.severity
        count = self._counts[key] = self._counts.get(key, 0) + 1
        self.refuses = self.refuses or finding.severity is Severity.ERROR
        if count <= FINDINGS_PER_CODE:
            self._kept.append(finding)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that were kept, and one line for each code that was cut short."""
        more = [
            Finding(code, severity, f"…and {count - FINDINGS_PER_CODE} more like this")
            for (code, severity), count in self._counts.items()
            if count > FINDINGS_PER_CODE
        ]
        return (*self._kept, *more)


def in_byte_order(names: list[str]) -> list[str]:
    """`names` sorted by their bytes. UTF-8 sorts like its code points; only undecodable names need the long way."""
    try:
        "\0".join(names).encode()
    except UnicodeEncodeError:
        return sorted(
            names, key=lambda name: name.encode("utf-8", "surrogatepass" if os.name == "nt" else "surrogateescape")
        )
    return sorted(names)


def translated(exc: OSError, doing: str) -> LadingError:
    """A system's error met while reading a source, as ours."""
    what = f"{doing}: {exc.strerror or exc}"
    if exc.filename is not None:
        what += f" ({printable(os.fsdecode(exc.filename)) if isinstance(exc.filename, str | bytes) else exc.filename})"
    if isinstance(exc, PermissionError):
        return AccessDenied(f"{what}; this account may not read it", safe="nothing was changed")
    if exc.errno in _GONE_AFTER_SEEN:
        return SourceChanged(f"{what}; it was there a moment ago", safe="nothing was sent under its final name")
    return Unreachable(f"{what}; is the disk or share still mounted?", safe="nothing was changed")


# EAGAIN and ENXIO: a FIFO or a device took the file's place.
_GONE_AFTER_SEEN = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EAGAIN, errno.ENXIO}


def _unreadable(path: str, kind: str) -> Finding:
    return error(
        "unreadable",
        f"the {kind} {printable(path)} may not be read by this account",
        path=path,
        hint="give it read rights",
    )


def _not_a_file(path: str, mode: int) -> Finding:
    if stat.S_ISLNK(mode):
        return error(
            "symlink",
            f"{printable(path)} is a symbolic link; what it points to may lie outside the delivery",
            path=path,
            hint="replace it by the file itself, or exclude it",
        )
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    kind = kinds.get(stat.S_IFMT(mode), "not a regular file")
    return error("special-file", f"{printable(path)} is {kind}, not a file", path=path, hint="exclude it")
