"""What a folder looks like from outside: names, sizes and times of its files, without reading any content."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.filters import FileRules

# Names that copy programs give to a file which is not whole yet: browsers, WinSCP, editors; rsync's `.name.Xy12ab`, our own
# transports' `.in.name`, davfs2. Two steps, because nearly every file is told by its ending.
_UNFINISHED_ENDINGS = (".part", ".partial", ".filepart", ".crdownload", "~")
_UNFINISHED_HIDDEN = re.compile(r"\.in\..*|\..+\.[A-Za-z0-9]{6}|.*\.davfs\.tmp.*", re.IGNORECASE | re.DOTALL)
# Signs of somebody at work that are junk as files, and tell something all the same.
_AT_WORK = re.compile(r"\.rsync-partial|~\$.*|\.~lock\..*#", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen: how many files and bytes belong to the delivery, a fingerprint over their names, sizes and times.

    `unfinished` names a few files that a program is still writing, going by their names; `unreadable` says which
    folder could not be listed, or "".
    """

    files: int
    bytes: int
    fingerprint: str
    unfinished: tuple[str, ...] = ()
    unreadable: str = ""


def glance(root: Path, rules: FileRules) -> Glance:
    """Look at every file below `root` that `rules` let through. Follows no link; raises nothing for a folder in motion."""
    digest = hashlib.sha256()
    files = total = 0
    unfinished: list[str] = []
    try:
        for folder, entries in _folders(os.fspath(root)):
            judge = rules.for_folder(folder)
            at_work = any(map(_AT_WORK.fullmatch, folder.split("/")))
            digest.update(os.fsencode(folder) + b"/")
            for entry in entries:
                reason = judge(entry.name)
                if at_work or is_unfinished(entry.name, reason):
                    unfinished.append(f"{folder}/{entry.name}" if folder else entry.name)
                if reason is None:
                    info = _look(entry)
                    files += 1
                    total += info.st_size
                    kind = stat.S_IFMT(info.st_mode)
                    digest.update(os.fsencode(entry.name) + f"\0{kind} {info.st_size} {info.st_mtime_ns}\0".encode())
    except OSError as exc:
        return Glance(files, total, "", tuple(unfinished[:5]), f"{exc.filename}: {exc.strerror}")
    return Glance(files, total, digest.hexdigest(), tuple(unfinished[:5]))


def _folders(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    stack = [(root, "")]
    while stack:
        where, folder = stack.pop()
        with os.scandir(where) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        inner = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        stack += [(entry.path, f"{folder}/{entry.name}" if folder else entry.name) for entry in inner]
        yield folder, [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]


def _look(entry: os.DirEntry[str]) -> os.stat_result:
    # Windows keeps a size in the folder's list that lags behind while the file is open; only a fresh stat sees it grow.
    return entry.stat(follow_symlinks=False) if os.name == "posix" else os.lstat(entry.path)


def is_unfinished(name: str, reason: str | None) -> bool:
    """Whether a file goes by a name that programs use while they write; `reason`: why rules leave it out, if they do."""
    if reason is not None and reason.startswith("junk"):
        return _AT_WORK.fullmatch(name) is not None
    # A name that the include patterns do not know may become one that they do, once the file is whole. An exclude is meant.
    if reason is not None and reason.startswith("excluded"):
        return False
    return name.lower().endswith(_UNFINISHED_ENDINGS) or (name[0] == "." and bool(_UNFINISHED_HIDDEN.fullmatch(name)))
