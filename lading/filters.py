"""Which files of a folder belong to the delivery, and why the others do not.

Filters decide what is sent, never what is deleted.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

# What operating systems, editors and copy tools leave behind, matched on the file name or on any folder of the path.
JUNK: tuple[tuple[str, str], ...] = (
    ("thumbs.db", "Windows thumbnail cache"),
    ("ehthumbs.db", "Windows thumbnail cache"),
    ("desktop.ini", "Windows folder settings"),
    ("$recycle.bin", "Windows recycle bin"),
    ("system volume information", "Windows volume data"),
    (".ds_store", "macOS folder settings"),
    ("._*", "macOS resource fork"),
    (".spotlight-v100", "macOS search index"),
    (".trashes", "macOS trash"),
    (".fseventsd", "macOS event log"),
    ("__macosx", "macOS archive residue"),
    ("~$*", "Office lock file"),
    (".~lock.*#", "LibreOffice lock file"),
    (".nfs*", "NFS placeholder of an open file"),
    (".rsync-partial", "rsync partial folder"),
)

_JUNK_STARTS = frozenset("".join(pattern[0].lower() + pattern[0].upper() for pattern, _ in JUNK))
_JUNK_NAME = re.compile("|".join(f"({translate(pattern)})" for pattern, _ in JUNK), re.IGNORECASE)


@dataclass(frozen=True)
class FileRules:
    """Include and exclude patterns (shell style, on the relative POSIX path or the bare name), and the junk list.

    `include` empty means everything. An exclude wins over an include; junk is judged first unless `junk` is False.
    `*` also matches `/`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    junk: bool = True

    def reason_to_filter(self, path: str) -> str | None:
        """Why the file at `path` (relative POSIX) stays behind, or None when it belongs to the delivery."""
        folder, _, name = path.rpartition("/")
        return self.for_folder(folder)(name)

    def for_folder(self, folder: str) -> Callable[[str], str | None]:
        """`reason_to_filter` for the bare names of one folder (relative POSIX, "" for the root): quick for many
        files."""
        inherited = next(filter(None, map(self._junk_reason, folder.split("/"))), None) if folder else None
        if inherited is not None:
            return lambda name: inherited  # noqa: ARG005 - whatever the name, its folder is junk
        if not self.include and not self.exclude:
            return self._junk_reason
        prefix = f"{folder}/" if folder else ""
        return lambda name: self._junk_reason(name) or self._pattern_reason(prefix + name, name)

    def _junk_reason(self, name: str) -> str | None:
        if name[:1] not in _JUNK_STARTS or not self.junk:  # the quick way out for nearly every file
            return None
        match = _JUNK_NAME.match(name)
        return f"junk: {JUNK[(match.lastindex or 1) - 1][1]}" if match else None

    def _pattern_reason(self, path: str, name: str) -> str | None:
        for text, pattern in self._exclude:
            if pattern.match(path) or pattern.match(name):
                return f"excluded by {text!r}"
        if self._include and not any(p.match(path) or p.match(name) for p in self._include):
            return "not among the included patterns"
        return None

    @cached_property
    def _exclude(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        return tuple((p, re.compile(translate(p))) for p in self.exclude)

    @cached_property
    def _include(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(translate(p)) for p in self.include)
