"""Looks at a folder behind a protocol: what is in it, whether it still changes, and which files are not what they seem."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from lading.filters import FileRules
from lading.findings import Finding, Severity, error, warning
from lading.glance import is_unfinished
from lading.listing.names import NameLimits, name_findings, printable
from lading.manifest import Filtered
from transport.remote import ListsTrees, RemoteFile, RemoteFiles
from transport.stalling import Watched

_MAX_NAMED = 50
_MAX_DEPTH = 64

# What synchronising programs call the loser of a conflict.
CONFLICT_COPIES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Nextcloud", re.compile(r".* \(conflicted copy[^)]*\)(\.[^.]*)?", re.DOTALL | re.IGNORECASE)),
    ("Dropbox", re.compile(r".* \([^)]*conflicted copy[^)]*\)(\.[^.]*)?", re.DOTALL | re.IGNORECASE)),
    ("ownCloud", re.compile(r".*_conflict-\d{8}-\d{6}(\.[^.]*)?", re.DOTALL | re.IGNORECASE)),
    ("Seafile", re.compile(r".* \(SFConflict [^)]*\)(\.[^.]*)?", re.DOTALL | re.IGNORECASE)),
    ("Syncthing", re.compile(r".*\.sync-conflict-\d{8}-\d{6}.*", re.DOTALL | re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files of a remote session are brought. `empty_files`: patterns of names that may have no content."""

    rules: FileRules
    empty_files: tuple[str, ...] = ()
    take_conflicts: bool = False

    def reason_to_leave(self, file: RemoteFile) -> tuple[str, Finding | None]:
        """Why a file (path relative to its session) stays at the source, "" when it does not; and what to tell people."""
        name = file.path.rpartition("/")[2]
        if reason := self.rules.reason_to_filter(file.path):
            return reason, None
        if file.size < 0:
            found = warning("link-left", "it is a link or a device, no file", path=file.path, hint="put the file there")
            return found.message, found
        for program, pattern in () if self.take_conflicts else CONFLICT_COPIES:
            if pattern.fullmatch(name):
                found = warning(
                    "conflict-copy",
                    f"a conflict copy of {program}: two people changed the file, and one version lies beside the other",
                    path=file.path,
                    hint="decide at the source which of the two is right, and remove the other",
                )
                return found.message, found
        if file.size == 0 and not any(fnmatchcase(name, pattern) for pattern in self.empty_files):
            found = warning(
                "empty-file",
                "a file without content: an upload that failed looks like this",
                path=file.path,
                hint="upload it again, or name it in fetch.empty_files",
            )
            return found.message, found
        return "", None


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a session says. `fingerprint` covers names, sizes, times and versions, in any order of listing.

    `newest`: the latest modification, seconds since the epoch, 0 when the server keeps no times. `unfinished`: a file that goes
    by the name of an unfinished copy, or "". `files` and `bytes` count what would be brought.
    """

    fingerprint: str
    files: int
    bytes: int
    newest: float
    unfinished: str
    has_marker: bool
    findings: tuple[Finding, ...]


class Fingerprint:
    """Stands for names, sizes, times and versions of files, in whatever order they are added."""

    def __init__(self) -> None:
        self._count = self._total = 0

    def __str__(self) -> str:
        return f"{self._count}-{self._total % (1 << 128):032x}"

    def add(self, file: RemoteFile) -> None:
        """One more; folders count for nothing."""
        if not file.folder:
            line = f"{file.path}\0{file.size}\0{file.mtime}\0{file.version}"
            digest = hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            self._total += int.from_bytes(digest, "big")
            self._count += 1

    def over(self, found: Iterable[RemoteFile]) -> Iterator[RemoteFile]:
        """The same files, each added on its way."""
        for file in found:
            self.add(file)
            yield file


def look_at(found: Iterable[RemoteFile], choice: Choice, marker: str = "") -> Look:
    """Go once through the files of a session (paths relative to it), whatever their order; memory stays flat."""
    size = files = 0
    fingerprint = Fingerprint()
    newest, unfinished, has_marker = 0.0, "", False
    findings: list[Finding] = []
    for file in fingerprint.over(found):
        if file.folder:
            continue
        has_marker = has_marker or file.path == marker
        newest = max(newest, file.mtime or 0.0)
        reason = choice.rules.reason_to_filter(file.path)
        if not unfinished and is_unfinished(file.path.rpartition("/")[2], reason):
            unfinished = file.path
        left, finding = choice.reason_to_leave(file)
        if finding and len(findings) < _MAX_NAMED:
            findings.append(finding)
        if not left:
            files += 1
            size += file.size
            if len(findings) < _MAX_NAMED:
                folder, _, name = file.path.rpartition("/")
                findings += [f for f in name_findings(folder, name, NameLimits.POSIX) if f.severity is Severity.ERROR]
    return Look(str(fingerprint), files, size, newest, unfinished, has_marker, tuple(findings))


def chosen(found: Iterable[RemoteFile], choice: Choice) -> Iterator[RemoteFile]:
    """The files that are brought."""
    return (file for file in found if not file.folder and not choice.reason_to_leave(file)[0])


def left_out(found: Iterable[RemoteFile], choice: Choice) -> Iterator[Filtered]:
    """The files that stay at the source, with the reason."""
    for file in found:
        reason = "" if file.folder else choice.reason_to_leave(file)[0]
        if reason:
            yield Filtered(file.path, max(file.size, 0), reason)


def walked(files: RemoteFiles, folder: str) -> Iterator[RemoteFile]:
    """Everything below `folder`, paths relative to it. Names that a server cannot honestly have are refused.

    Raises HostileName; what the connection raises.
    """
    inner_files = files.inner if isinstance(files, Watched) else files
    if isinstance(inner_files, ListsTrees):
        yield from _whole_tree(inner_files, folder)
        return
    waiting = [folder]
    prefix = f"{folder}/" if folder else ""
    while waiting:
        inner = waiting.pop()
        for found in files.listed(inner):
            _refuse_hostile(inner, found.path)
            relative = found.path.removeprefix(prefix)
            if found.folder:
                if relative.count("/") >= _MAX_DEPTH:
                    raise HostileName(f"{printable(found.path[:200])} lies deeper than {_MAX_DEPTH} folders")
                waiting.append(found.path)
            yield replace(found, path=relative)


def _whole_tree(files: ListsTrees, folder: str) -> Iterator[RemoteFile]:
    prefix = f"{folder}/" if folder else ""
    for found in files.tree(folder):
        _refuse_hostile_path(prefix, found.path)
        yield replace(found, path=found.path.removeprefix(prefix))


def folders_at(files: RemoteFiles, depth: int, fits: Callable[[str], bool]) -> list[str]:
    """The folders `depth` levels down, on a way of which every step `fits`; hidden ones are not looked into. Sorted."""
    inner_files = files.inner if isinstance(files, Watched) else files
    if isinstance(inner_files, ListsTrees):
        found = (file.path for file in _limited(inner_files, depth) if file.folder)
        return sorted(path for path in found if path.count("/") == depth - 1 and _may_lead(path, fits))
    level = [""]
    for _ in range(depth):
        level = [inner for folder in level for inner in folders_in(files, folder) if fits(inner)]
    return sorted(level)


def _may_lead(path: str, fits: Callable[[str], bool]) -> bool:
    parts = path.split("/")
    steps = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return not any(part.startswith(".") for part in parts) and all(fits(step) for step in steps)


def _limited(files: ListsTrees, depth: int) -> Iterator[RemoteFile]:
    for found in files.tree("", depth):
        _refuse_hostile_path("", found.path)
        yield found


def folders_in(files: RemoteFiles, folder: str) -> Iterator[str]:
    """The paths of the folders directly in `folder`; hidden ones are not looked into."""
    for found in files.listed(folder):
        _refuse_hostile(folder, found.path)
        if found.folder and not found.path.rpartition("/")[2].startswith("."):
            yield found.path


class HostileName(ValueError):
    """A server says that something lies where it cannot lie."""


def refused(exc: HostileName) -> Finding:
    """The finding for it."""
    return error("remote-name-hostile", str(exc), hint="look at the server: no file system has such names")


def _refuse_hostile_path(prefix: str, path: str) -> None:
    parts = path.removeprefix(prefix).split("/")
    if not path.startswith(prefix) or {"", ".", ".."} & set(parts) or "\0" in path:
        raise HostileName(f"the server lists {printable(path[:200])!r} below {printable(prefix[:200])!r}")
    if len(parts) > _MAX_DEPTH:
        raise HostileName(f"{printable(path[:200])} lies deeper than {_MAX_DEPTH} folders")


def _refuse_hostile(folder: str, path: str) -> None:
    prefix = f"{folder}/" if folder else ""
    name = path.removeprefix(prefix)
    if not path.startswith(prefix) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise HostileName(f"the server lists {printable(path[:200])!r} in {printable(folder[:200])!r}")
