"""Live mode with rsync: a call per handful of files; rsync itself writes a temporary name and renames.

rsync cannot say which files it finished until it ends, and computes no SHA-256: a file is told when the whole call succeeded
and the source, read once more (from memory, as a rule), is still what came to rest.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.deposit import MAX_STATUS_BYTES, Read, Settled, Told
from lading.disk import read_small
from lading.errors import LadingError
from lading.manifest import Entry, NameLimits, Verdict, rehash
from lading.staging.slots import DEPOSIT_MARK
from transport.deposit_source import OnlyThisFile, SettledFiles, refuse_name
from transport.foreign import TARGET, shown, translating
from transport.landing import Landing
from transport.pacing import Pace
from transport.rsync_places import RsyncPlace
from transport.rsync_run import Ended, Rsync, unescaped

_SOME_FILES = (3, 23, 24)  # exit codes that may be the fault of single files of the source
_COMPARED_AT_ONCE = 500
_PARTS = re.compile(r"\.rsync-partial|\..+\.[A-Za-z0-9]{6}", re.DOTALL)  # rsync's own names for what is not whole


@dataclass(frozen=True)
class RsyncWay:
    """How the transport calls rsync: the program, the address, its options, and what its failures mean."""

    program: Rsync
    place: RsyncPlace
    sending: tuple[str, ...]
    common: tuple[str, ...]
    patience: float
    limits: NameLimits
    state: Path
    failed: Callable[[Ended, str], LadingError]
    fetched: Callable[[str, str], AbstractContextManager[Path | None]]
    remove: Callable[[Iterable[str], str], None]
    probe: Callable[[], None]


class RsyncDeposit:
    """See the role."""

    def __init__(self, way: RsyncWay, folder: str, pace: Pace) -> None:
        self._way, self._folder, self._pace = way, folder, pace
        self._made = False

    def __enter__(self) -> Self:
        self._way.state.mkdir(parents=True, exist_ok=True)
        self._way.probe()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Every call has its own connection."""

    @property
    def name(self) -> str:
        """The address."""
        return self._way.place.address(self._folder)

    @property
    def proof(self) -> str:
        """On this machine every byte again; elsewhere rsync's comparison of both sides."""
        if self._way.place.local is not None:
            return "read back, SHA-256"
        return "compared with the source by rsync --checksum"

    def read(self, name: str) -> bytes | None:
        """See the role."""
        with self._way.fetched(f"{self._folder}/{name}", f"cannot read {self.name}/{name}") as found:
            return None if found is None else read_small(found, MAX_STATUS_BYTES)

    def bring(self, root: Path, files: Sequence[Settled], told: Told) -> None:
        """See the role. A file that changes in the moment of the call may be seen there until it is carried again.

        rsync takes a file of the same size and second for the same: what was damaged there would stay, and so would what was
        replaced within that second.
        """
        with SettledFiles(root) as source:
            fit = list(self._fit(files, told))
            for perhaps, how in ((False, "--ignore-times"), (True, "--checksum")):
                self._bring(source, root, [file for file in fit if file.perhaps is perhaps], told, how)

    def _bring(self, source: SettledFiles, root: Path, files: Sequence[Settled], told: Told, how: str) -> None:
        waiting = list(_unchanged(source, files, told))
        while waiting:
            ended = self._send(root, waiting, how)
            if ended.stopped:
                self._pace.spend(0)
                continue
            if ended.code in _SOME_FILES and len(still := list(_unchanged(source, waiting, told))) < len(waiting):
                waiting = still
                continue
            if ended.code:
                raise self._way.failed(ended, f"cannot carry files of {shown(root)} to {self.name}")
            self._make_durable()
            for file in waiting:
                _tell(source, file, told)
            return

    def write(self, name: str, content: Path) -> None:
        """See the role. The first one makes the folders: rsync alone makes one missing folder, not three."""
        below, _, inner = self._folder.partition("/")
        inside = "" if self._made else inner
        with tempfile.TemporaryDirectory(dir=self._way.state, prefix="live-") as staging:
            staged = Path(staging, inside, name)
            staged.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, staged)
            names = [f"{inside}/{name}" if inside else name]
            if not self._made:
                Path(staging, DEPOSIT_MARK).touch()
                names.insert(0, DEPOSIT_MARK)
            ended = self._way.program.run(
                # Two lists of one length within the time stamp's grain are two lists all the same.
                [*self._way.sending, "--ignore-times", *self._to(self._folder if self._made else below)],
                cwd=Path(staging),
                names=names,
                patience=self._way.patience,
            )
        if ended.code:
            raise self._way.failed(ended, f"cannot write {name} into {self.name}")
        self._made = True

    def verify(self, root: Path, entries: Iterable[Entry]) -> Iterator[Read]:
        """See the role. A file that is no longer as listed at the source is fetched back for it."""
        local = self._way.place.local
        if local is not None:
            self._way.probe()
            for entry, verdict in rehash(local / self._folder, entries):
                yield Read(entry, "" if verdict is Verdict.MATCHES else str(verdict))
            return
        stream = iter(entries)
        while chunk := list(islice(stream, _COMPARED_AT_ONCE)):
            comparable = {entry.path for entry in chunk if _is_as_listed(root, entry)}
            different = self._different(root, comparable) if comparable else set()
            for entry in chunk:
                if entry.path in comparable:
                    yield Read(entry, "missing or other content" if entry.path in different else "")
                else:
                    yield Read(entry, self._fetched_back(entry))

    def tidy(self) -> None:
        """See the role."""
        parts: list[str] = []

        def on_line(line: bytes) -> None:
            path = unescaped(line)
            if _PARTS.fullmatch(path.rstrip("/").rpartition("/")[2]):
                parts.append(path)

        ended = self._way.program.run(
            ["--recursive", "--dry-run", "--out-format=%n", *self._way.common, self._way.place.address(f"{self._folder}/"), "./"],
            cwd=self._nowhere(),
            on_line=on_line,
        )  # fmt: skip
        if ended.code:
            raise self._way.failed(ended, f"cannot list {self.name}")
        if parts:
            self._way.remove([path.rstrip("/") for path in parts], self._folder)

    def _fit(self, files: Sequence[Settled], told: Told) -> Iterator[Settled]:
        for file in files:
            try:
                refuse_name(file, self._way.limits, self.name)
            except OnlyThisFile as exc:
                told(file, exc.error)
            else:
                yield file

    def _send(self, root: Path, files: Sequence[Settled], how: str) -> Ended:
        return self._way.program.run(
            [*self._way.sending, how, "--out-format=%i", "--info=progress2", *self._to(self._folder)],
            cwd=root,
            names=[file.path for file in files],
            pace=self._pace,
            # To compare content, the other side reads whole files in silence.
            patience=None if how == "--checksum" else self._way.patience,
        )

    def _different(self, root: Path, paths: Iterable[str]) -> set[str]:
        different: set[str] = set()

        def on_line(line: bytes) -> None:
            change, _, name = line.partition(b" ")
            if change[:2] in (b"<f", b">f"):
                different.add(unescaped(name))

        ended = self._way.program.run(
            [*self._way.sending, "--dry-run", "--checksum", "--out-format=%i %n", *self._to(self._folder)],
            cwd=root,
            names=sorted(paths),
            on_line=on_line,
        )
        if ended.code:
            raise self._way.failed(ended, f"cannot compare {shown(root)} with {self.name}")
        return different

    def _fetched_back(self, entry: Entry) -> str:
        with tempfile.TemporaryDirectory(dir=self._way.state, prefix="live-") as folder:
            ended = self._way.program.run(
                [*self._way.common, self._way.place.address(f"{self._folder}/{entry.path}"), "./"], cwd=Path(folder)
            )
            copy = Path(folder, entry.path.rpartition("/")[2])
            if ended.code in _SOME_FILES and not copy.exists():
                return "missing"
            if ended.code:
                raise self._way.failed(ended, f"cannot read {shown(entry.path)} back from {self.name}")
            if copy.is_symlink() or not copy.is_file():
                return "missing"
            with copy.open("rb") as file:
                return "" if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256 else "other content"

    def _make_durable(self) -> None:
        local = self._way.place.local
        if local is None:
            return  # `fsync = true` of the transport does it
        with translating(f"cannot finish {self.name}", TARGET), Landing(local / self._folder) as place:
            place.make_durable()

    def _to(self, folder: str) -> list[str]:
        return ["./", self._way.place.address(folder + "/")]

    def _nowhere(self) -> Path:
        empty = self._way.state / "nothing"
        empty.mkdir(exist_ok=True)
        return empty


def _unchanged(source: SettledFiles, files: Iterable[Settled], told: Told) -> Iterator[Settled]:
    for file in files:
        try:
            with source.opened(file):
                pass
        except OnlyThisFile as exc:
            told(file, exc.error)
        else:
            yield file


def _tell(source: SettledFiles, file: Settled, told: Told) -> None:
    try:
        with source.opened(file) as fd:
            entry = source.read(file, fd, lambda block: None)  # noqa: ARG005 - only its digest is wanted
    except OnlyThisFile as exc:
        told(file, exc.error)
    else:
        told(file, entry)


def _is_as_listed(root: Path, entry: Entry) -> bool:
    try:
        info = os.lstat(root / entry.path)
    except OSError:
        return False
    return (info.st_size, info.st_mtime_ns) == (entry.size, entry.mtime_ns)
