"""Live mode into a folder: of this machine, or of a share that is mounted here."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from lading.deposit import MAX_STATUS_BYTES, Read, Settled, Told, mark_of
from lading.disk import read_small
from lading.errors import AccessDenied, Unreachable
from lading.inbox import Inbox
from lading.manifest import Entry, NameLimits, Verdict, rehash
from transport.deposit_source import OnlyThisFile, SettledFiles, refuse_name
from transport.foreign import TARGET, shown, translated, translating
from transport.landing import TEMPORARY, Arriving, Landing, fill
from transport.pacing import Pace

_BLOCK = 1 << 20
_AT_ONCE = 64 << 20  # bytes that share one flush: what waits for it is not listed yet


class LocalDeposit:
    """See the role. `inbox` opens the inbox that the folder lies in, and so proves that it is mounted."""

    def __init__(self, root: Path, folder: str, inbox: Callable[[], Inbox], limits: NameLimits, pace: Pace) -> None:
        self._root, self._folder, self._inbox, self._limits, self._pace = root, folder, inbox, limits, pace
        self._landing: Landing | None = None
        self._marked = False

    def __enter__(self) -> Self:
        self._inbox()
        with translating(f"cannot open {self._root}", TARGET):
            self._landing = Landing(self._root)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._landing is not None:
            with suppress(OSError):
                self._landing.__exit__(kind, exc, tb)
            self._landing = None

    @property
    def name(self) -> str:
        """The folder."""
        return str(self._place)

    @property
    def proof(self) -> str:
        """Every byte again."""
        return "read back, SHA-256"

    def read(self, name: str) -> bytes | None:
        """See the role."""
        with translating(f"cannot read {self._place / name}", TARGET):
            try:
                return read_small(self._place / name, MAX_STATUS_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except ValueError as exc:
                raise AccessDenied(f"{self._place / name} is not a file of ours: {exc}") from exc

    def bring(self, root: Path, files: Sequence[Settled], told: Told) -> None:
        """See the role. Files share a flush of the disk: one each costs many small ones ten times their copying."""
        self._inbox()
        handful = _Handful("")
        with SettledFiles(root) as source:
            try:
                # A landing keeps one folder open: a handful is of one folder.
                for file in sorted(files, key=_folder_of):
                    if handful.bytes >= _AT_ONCE or handful.folder != _folder_of(file):
                        self._finish(handful, told)
                        handful = _Handful(_folder_of(file))
                    try:
                        self._bring_one(source, file, handful)
                    except OnlyThisFile as exc:
                        told(file, exc.error)
                self._finish(handful, told)
            except BaseException:
                handful.abandon()
                raise

    def write(self, name: str, content: Path) -> None:
        """See the role."""
        self._inbox()
        with self._writing(name), content.open("rb") as source:
            if not self._marked:
                self._put(mark_of(self._folder), iter(()))
                self._marked = True
            self._put(f"{self._folder}/{name}", iter(lambda: source.read(_BLOCK), b""))

    def verify(self, root: Path, entries: Iterable[Entry]) -> Iterator[Read]:  # noqa: ARG002 - the target alone is asked
        """See the role."""
        self._inbox()
        for entry, verdict in rehash(self._place, entries):
            yield Read(entry, "" if verdict is Verdict.MATCHES else str(verdict))

    def tidy(self) -> None:
        """See the role."""
        with translating(f"cannot look through {self._place}", TARGET):
            for parent, _, names in os.walk(self._place):
                for name in names:
                    if name.startswith(TEMPORARY):
                        Path(parent, name).unlink(missing_ok=True)

    def _finish(self, handful: "_Handful", told: Told) -> None:
        """The contents reach the disk, then the names: a power cut must not leave a file that only looks whole."""
        if handful.arriving:
            with translating(f"cannot finish {self._place}", TARGET):
                self._land.make_durable()
                for file, _, arriving in handful.arriving:
                    arriving.finish(file.mtime_ns)
                self._land.make_durable()
        for file, entry, _ in handful.arriving:
            told(file, entry)
        for file, entry in handful.there:
            told(file, entry)

    def _bring_one(self, source: SettledFiles, file: Settled, handful: "_Handful") -> None:
        refuse_name(file, self._limits, self.name)
        with source.opened(file) as fd:
            if file.perhaps and (entry := self._is_there(source, file, fd)):
                handful.there.append((file, entry))
                return
            with self._writing(file.path):
                arriving = self._land.begin(f"{self._folder}/{file.path}")

            def take(block: memoryview) -> None:
                self._pace.spend(len(block))
                with self._writing(file.path):
                    arriving.write(block)

            try:
                entry = source.read(file, fd, take)
            except BaseException:
                arriving.abandon()
                raise
            handful.arriving.append((file, entry, arriving))
            handful.bytes += file.size

    def _is_there(self, source: SettledFiles, file: Settled, fd: int) -> Entry | None:
        with self._writing(file.path):
            there = self._land.read(f"{self._folder}/{file.path}")
        if there is None:
            return None
        different = False
        mine = memoryview(bytearray(_BLOCK))

        def take(block: memoryview) -> None:
            nonlocal different
            got = 0
            while not different and got < len(block):
                count = fill(there, mine[: len(block) - got])
                different = not count or mine[:count] != block[got : got + count]
                got += count

        try:
            if os.fstat(there).st_size != file.size:
                return None
            entry = source.read(file, fd, take)
            return None if different else entry
        finally:
            os.close(there)

    def _put(self, path: str, blocks: Iterator[bytes]) -> None:
        arriving = self._land.begin(path)
        try:
            for block in blocks:
                arriving.write(block)
            arriving.sync()
        except BaseException:
            arriving.abandon()
            raise
        arriving.finish()

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise translated(exc, f"cannot write {shown(self._place / path)}", TARGET) from exc

    @property
    def _place(self) -> Path:
        return self._root / PurePosixPath(self._folder)

    @property
    def _land(self) -> Landing:
        if self._landing is None:
            raise Unreachable(f"{self._place} is not open")
        return self._landing


class _Handful:
    """Files of one folder that were copied and have no name yet; and files that proved to be there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.arriving: list[tuple[Settled, Entry, Arriving]] = []
        self.there: list[tuple[Settled, Entry]] = []
        self.bytes = 0

    def abandon(self) -> None:
        """Leave nothing of them behind, but those that have their name."""
        for _, _, arriving in self.arriving:
            arriving.abandon()


def _folder_of(file: Settled) -> str:
    return file.path.rpartition("/")[0]
