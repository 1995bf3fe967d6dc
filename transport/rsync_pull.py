"""Pull with rsync: one listing for a session, one rsync for its files; it compares each file with its source itself.

In a waypoint the few small files beside the data (papers, receipts) are read and placed by an rsync each.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Self

from lading.config import structure
from lading.errors import ConfigError, SourceChanged, Unreachable
from lading.manifest import NameLimits
from lading.ports import Progress, Settings
from transport.foreign import TARGET, shown, translating
from transport.pacing import Pace
from transport.remote import BLOCK, Body, RemoteFile, RemoteTraits
from transport.rsync_places import RsyncConfig, place_of
from transport.rsync_run import Ended, Rsync, bytes_done, unescaped

# A year of five digits makes the date longer, and takes the end off the time.
_LISTED = re.compile(rb"([-bcdlps])[-rwxsStT]{9}\S?\s+([0-9.,]+) (-?[0-9/]{9,} [0-9:]{0,8}) (.*)", re.DOTALL)
_LIKE_LISTED = re.compile(rb"[-bcdlps][-rwxsStT]{9}\S?\s+[0-9]")  # what is not is a daemon's greeting
_MISSING = re.compile(r"No such file or directory \(2\)|rrsync error: .*No such file or directory")
_MISSING_CODES = (3, 11, 12, 23)
_PARTIAL = ".rsync-partial"


class RsyncSource:
    """A folder that rsync reaches; fills the roles RemotePlace and CopiesTrees. Only in a waypoint anything is written."""

    def __init__(self, config: RsyncConfig) -> None:
        self._config, self._place = config, place_of(config)
        self._rsync = Rsync(config.program, environment=self._place.environment)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from a fetch table. Raises ConfigError."""
        return cls(structure(settings, RsyncConfig, where="fetch"))

    @property
    def name(self) -> str:
        """The target."""
        return self._config.target

    @property
    def traits(self) -> RemoteTraits:
        """rsync has time-outs of its own."""
        return RemoteTraits(resumes=True, renames=False, names=NameLimits.POSIX, stall_s=None)

    @property
    def streams(self) -> int:
        """One rsync at a time."""
        return 1

    def connect(self) -> "RsyncListing":
        """See the role. Every question is a connection of its own, so nothing is opened here."""
        return RsyncListing(self)

    def copy_tree(
        self, folder: str, paths: Iterable[str], into: Path, pace: Pace, progress: Progress, *, by_content: bool = False
    ) -> None:
        """See transport.remote.CopiesTrees."""
        # --checksum would have the other side read everything in silence first, until we take it for gone.
        how = ["--ignore-times"] if by_content else []
        names = list(paths) if pace.rate() is not None else paths  # a change of pace starts rsync anew
        while True:
            before = 0

            def on_line(line: bytes) -> None:
                nonlocal before
                now = bytes_done(line)
                if now is not None and now > before:
                    progress.advance(bytes=now - before)
                    before = now

            pace.spend(0)
            ended = self._rsync.run(
                [
                    *("--times", "--omit-dir-times", "--perms", "--chmod=D2770,F0660", f"--partial-dir={_PARTIAL}"),
                    *("--files-from=-", "--from0", "--info=progress2", *how, *self._common()),
                    self._place.address(f"{folder}/"),
                    "./",
                ],
                cwd=into,
                names=names,
                on_line=on_line,
                pace=pace,
            )
            if not ended.stopped:
                break
        if ended.code in (23, 24) and _MISSING.search(ended.stderr):
            raise SourceChanged(f"files of {folder} of {self.name} vanished while they were fetched")
        if ended.code:
            raise ended.error(f"cannot fetch {folder} from {self.name}")

    def fetched(self, path: str, into: Path) -> Path:
        """A copy of the one file `path` in the folder `into`. Raises SourceChanged when it is not there."""
        ended = self._rsync.run([*self._common(), self._place.address(path), "./"], cwd=into)
        copy = into / path.rpartition("/")[2]
        if ended.code in _MISSING_CODES and _MISSING.search(ended.stderr):
            raise SourceChanged(f"{shown(path)} of {self.name} is gone")
        if ended.code:
            raise ended.error(f"cannot read {shown(path)} of {self.name}")
        if not copy.is_file() or copy.is_symlink():
            raise SourceChanged(f"{shown(path)} of {self.name} is no file")
        return copy

    def sent(self, folder: Path, paths: Iterable[str]) -> None:
        """What lies in the folder `folder` under `paths` lies there too now, each whole or not at all."""
        how = ("--dirs", "--times", "--omit-dir-times", "--perms", f"--chmod={self._config.chmod}", "--checksum")
        self._written([*how, "--files-from=-", "--from0"], folder, paths)

    def removed(self, path: str) -> None:
        """The file, or the folder with all that is in it, is gone: named, but missing in an otherwise equal, empty tree."""
        with tempfile.TemporaryDirectory(prefix="lading-nothing-") as empty:
            Path(empty, path).parent.mkdir(parents=True, exist_ok=True)
            how = ("--recursive", "--delete-missing-args", "--force", "--files-from=-", "--from0")
            self._written(how, Path(empty), [path])

    def _written(self, how: Iterable[str], folder: Path, paths: Iterable[str]) -> None:
        names = list(paths)
        # The target is the root, and "./" of the child's folder is the source: names from the far side are no options.
        ended = self._rsync.run([*how, *self._common(), "./", self._place.address("")], cwd=folder, names=names)
        if ended.code:
            raise ended.error(f"cannot write {shown(names[0])} to {self.name}")

    def listing(self, path: str, *how: str) -> Iterator[tuple[str, RemoteFile]]:
        """What rsync lists for `path`: names as it prints them, relative to it. Spooled to the disk: memory stays flat."""
        doing = f"cannot keep what rsync lists in {tempfile.gettempdir()}"
        with translating(doing, TARGET), tempfile.TemporaryFile(prefix="lading-listing-") as spool:
            listed = False

            def on_line(line: bytes) -> None:
                nonlocal listed
                listed = listed or bool(_LISTED.fullmatch(line))
                spool.write(line + b"\n")

            ended = self._list(path, how, on_line)
            if ended.code:
                # What is listed without something that is missing is no list.
                if ended.code in _MISSING_CODES and _MISSING.search(ended.stderr) and not listed:
                    return
                raise ended.error(f"cannot list {path or 'the folder'} of {self.name}")
            spool.seek(0)
            for line in spool:
                match = _LISTED.fullmatch(line.rstrip(b"\n"))
                if match:
                    yield unescaped(match[4]), _described(match)
                elif _LIKE_LISTED.match(line):
                    raise Unreachable(
                        f"rsync lists {self.name} in a way that is not understood: {shown(os.fsdecode(line.rstrip()))}"
                    )

    def _list(self, path: str, how: Iterable[str], on_line: Callable[[bytes], None]) -> Ended:
        return self._rsync.run(
            ["--list-only", "--no-h", *how, *self._common(), self._place.address(path)],
            cwd=Path(tempfile.gettempdir()),
            on_line=on_line,
        )

    def _common(self) -> list[str]:
        return ["--outbuf=L", f"--timeout={self._config.timeout}", *self._place.options()]


class RsyncListing:
    """Fills the roles RemoteFiles (for small files: see `read`) and ListsTrees."""

    def __init__(self, source: RsyncSource) -> None:
        self._source = source

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        for _, found in self._source.listing(path, "--dirs"):
            return RemoteFile(path, found.size, found.mtime, found.folder)
        return None

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        return self._below(folder, "--dirs")

    def tree(self, folder: str, depth: int | None = None) -> Iterator[RemoteFile]:
        """See transport.remote.ListsTrees."""
        return self._below(folder, "--recursive", *([f"--exclude={'/*' * (depth + 1)}"] if depth else []))

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None that could be had without reading."""
        return {}

    def free_bytes(self) -> int | None:
        """rsync has no way to ask."""
        return None

    def make_folders(self, path: str) -> None:
        """See the role."""
        with tempfile.TemporaryDirectory(prefix="lading-folders-") as folder:
            Path(folder, path).mkdir(parents=True)
            self._source.sent(Path(folder), [path])

    def place(self, path: str, body: Body) -> None:
        """See the role. rsync itself writes under another name first."""
        with tempfile.TemporaryDirectory(prefix="lading-small-") as folder:
            copy = Path(folder, path)
            with translating(f"cannot write {copy}", TARGET):
                copy.parent.mkdir(parents=True, exist_ok=True)
                with copy.open("wb") as out:
                    for block in body.blocks():
                        out.write(block)
                os.utime(copy, (body.mtime, body.mtime))
            self._source.sent(Path(folder), [path])

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role. By way of a copy on this machine: for small files; trees are copied as a whole."""
        with tempfile.TemporaryDirectory(prefix="lading-small-") as folder:
            copy = self._source.fetched(path, Path(folder))
            with translating(f"cannot read {copy}", TARGET), copy.open("rb") as file:
                file.seek(offset)
                while block := file.read(BLOCK):
                    yield block

    def remove(self, path: str) -> None:
        """See the role."""
        self._source.removed(path)

    def rename(self, old: str, new: str) -> None:  # noqa: ARG002
        """rsync cannot."""
        raise ConfigError(f"rsync cannot rename {old!r}")

    def close(self) -> None:
        """Nothing is open."""

    def _below(self, folder: str, *how: str) -> Iterator[RemoteFile]:
        prefix = f"{folder}/" if folder else ""
        for name, found in self._source.listing(prefix, *how):
            if name != ".":
                yield replace(found, path=prefix + name)


def _described(match: "re.Match[bytes]") -> RemoteFile:
    kind, size, moment = match[1], int(re.sub(rb"[.,]", b"", match[2])), match[3].decode()
    mtime, version = None, ""
    try:
        mtime = datetime.strptime(moment, "%Y/%m/%d %H:%M:%S").timestamp()  # noqa: DTZ007 - rsync prints local time
    except (ValueError, OverflowError):
        version = moment  # disks keep times that no calendar has
    if kind == b"d":
        return RemoteFile("", 0, mtime, folder=True)
    return RemoteFile("", size if kind == b"-" else -1, mtime, version=version)
