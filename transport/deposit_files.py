"""Live mode into any RemotePlace: SFTP, SMB, FTPS, S3 and WebDAV place files whole anyway; here they do it one by one."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.deposit import MAX_STATUS_BYTES, Read, Settled, Told, mark_of
from lading.errors import Corrupted, LadingError, SourceChanged, Unreachable
from lading.manifest import Entry
from transport.bodies import FileBody, Folder, SmallBody
from transport.deposit_source import OnlyThisFile, SettledFiles, refuse_name
from transport.pacing import Pace
from transport.placing import read_sentinel, small_file
from transport.remote import PART_PREFIX, RemoteFile, RemotePlace, part_path
from transport.stalling import Watch, Watched
from transport.there import files_below

_SMALL = 1 << 20  # a file up to this size may share the line with others
_TOGETHER_BYTES = 8 << 20
_TRIES = 3  # of one file that arrives damaged


class FilesDeposit:
    """See the role."""

    def __init__(self, place: RemotePlace, folder: str, pace: Pace) -> None:
        self._remote, self._folder, self._pace = place, folder, pace
        self._watch = Watch(place.traits.stall_s)
        self._files: Watched | None = None
        self._made: set[str] = set()
        self._marked = False

    def __enter__(self) -> Self:
        self._watch = Watch(self._remote.traits.stall_s)
        files = self._watch.over(self._remote.connect())
        try:
            read_sentinel(files, self._remote.name)
        except BaseException:
            self._watch.__exit__(None, None, None)
            raise
        self._files = files
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._files = None
        self._watch.__exit__(kind, exc, tb)

    @property
    def name(self) -> str:
        """Host and folder."""
        return f"{self._remote.name}/{self._folder}"

    @property
    def proof(self) -> str:
        """Every byte again, here or by the server."""
        return "read back, SHA-256"

    def read(self, name: str) -> bytes | None:
        """See the role."""
        return small_file(self._there, f"{self._folder}/{name}", MAX_STATUS_BYTES)

    def bring(self, root: Path, files: Sequence[Settled], told: Told) -> None:
        """See the role."""
        with SettledFiles(root) as source:
            for together in _handfuls(files, many=self._there.places_many):
                if len(together) > 1:
                    self._bring_together(source, root, together, told)
                else:
                    self._bring_alone(source, root, together[0], told)

    def write(self, name: str, content: Path) -> None:
        """See the role."""
        info = content.stat()
        self._make_folder(name)
        if not self._marked:
            self._there.place(mark_of(self._folder), SmallBody(b"live\n"))
            self._marked = True
        source = Folder(content.parent)
        entry = Entry(content.name, info.st_size, info.st_mtime_ns, {})
        try:
            with FileBody(content.parent, entry, source.open, pace=self._pace) as body:
                self._place(f"{self._folder}/{name}", body)
        finally:
            source.close()

    def verify(self, root: Path, entries: Iterable[Entry]) -> Iterator[Read]:  # noqa: ARG002 - the target alone is asked
        """See the role."""
        for entry in entries:
            yield Read(entry, self._problem(entry))

    def tidy(self) -> None:
        """See the role."""
        for found in list(files_below(self._there, self._folder)):
            if not found.folder and found.path.rpartition("/")[2].startswith(PART_PREFIX):
                self._there.remove(f"{self._folder}/{found.path}")

    def _bring_together(self, source: SettledFiles, root: Path, files: Sequence[Settled], told: Told) -> None:
        """Small files are quicker together. When one of them fails, each goes alone: then it says which."""
        ready: list[tuple[Settled, _Hashed]] = []
        with ExitStack() as open_files:
            for file in files:
                try:
                    refuse_name(file, self._remote.traits.names, self.name)
                    fd = open_files.enter_context(source.opened(file))
                except OnlyThisFile as exc:
                    told(file, exc.error)
                    continue
                self._make_folder(file.path)
                ready.append((file, open_files.enter_context(_Hashed(root, file, fd, self._pace))))
            try:
                self._there.place_many((f"{self._folder}/{file.path}", body) for file, body in ready)
                for _, body in ready:
                    body.prove()
            except (Corrupted, SourceChanged):
                alone = [replace(file, perhaps=True) for file, _ in ready]
            else:
                for file, body in ready:
                    told(file, body.entry(file))
                return
        for file in alone:
            self._bring_alone(source, root, file, told)

    def _bring_alone(self, source: SettledFiles, root: Path, file: Settled, told: Told) -> None:
        try:
            entry = self._bring_one(source, root, file)
        except OnlyThisFile as exc:
            told(file, exc.error)
        else:
            told(file, entry)

    def _bring_one(self, source: SettledFiles, root: Path, file: Settled) -> Entry:
        refuse_name(file, self._remote.traits.names, self.name)
        target = f"{self._folder}/{file.path}"
        with source.opened(file) as fd:
            if file.perhaps and self._looks_like(self._there.look(target), file):
                entry = source.read(file, fd, lambda block: None)  # noqa: ARG005 - only its digest is wanted
                if not self._problem(entry):
                    return entry
            self._make_folder(file.path)
            body = _Hashed(root, file, fd, self._pace)
            try:
                self._place(target, body)
                body.prove()
            except SourceChanged as exc:
                # What was sent of it is of no content that ever was: it must neither be continued nor stay.
                with suppress(LadingError):
                    self._there.remove(part_path(target, body))
                raise OnlyThisFile(exc) from exc
            finally:
                body.close()
            return body.entry(file)

    def _place(self, target: str, body: FileBody) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._there.place(target, body)
            except Corrupted:
                if attempt == _TRIES:
                    raise
            else:
                return

    def _looks_like(self, found: RemoteFile | None, file: Settled) -> bool:
        return found is not None and not found.folder and found.size == file.size

    def _problem(self, entry: Entry) -> str:
        path = f"{self._folder}/{entry.path}"
        found = self._there.look(path)
        if found is None or found.folder:
            return "missing"
        if found.size != entry.size:
            return f"{found.size:,} bytes instead of {entry.size:,}"
        computed = self._there.digests(path, ("sha256",)).get("sha256", "").lower()
        return "" if (computed or self._read_back(path)) == entry.sha256 else "other content"

    def _read_back(self, path: str) -> str:
        digest = hashlib.sha256()
        try:
            for block in self._there.read(path):
                digest.update(block)
        except Corrupted:  # it ended early
            return ""
        return digest.hexdigest()

    def _make_folder(self, path: str) -> None:
        folder = f"{self._folder}/{path}".rpartition("/")[0]
        if folder not in self._made:
            self._there.make_folders(folder)
            self._made.add(folder)

    @property
    def _there(self) -> Watched:
        if self._files is None:
            raise Unreachable(f"{self.name} is not open")
        return self._files


class _Hashed(FileBody):
    """A settled file, open at `fd`, as a body whose digest is known once it was read."""

    def __init__(self, root: Path, file: Settled, fd: int, pace: Pace) -> None:
        entry = Entry(file.path, file.size, file.mtime_ns, {})
        super().__init__(root, entry, lambda _: os.dup(fd), pace=pace)
        self.sha256 = ""

    def entry(self, file: Settled) -> Entry:
        """What it proved to be."""
        return Entry(file.path, file.size, file.mtime_ns, {"sha256": self.sha256})

    def _refuse_other(self, digest: str) -> None:
        super()._refuse_other(digest)
        self.sha256 = digest


def _handfuls(files: Sequence[Settled], *, many: bool) -> Iterator[list[Settled]]:
    """In their order: small new files that follow one another together, every other one alone."""
    together: list[Settled] = []
    size = 0
    for file in files:
        alone = not many or file.perhaps or file.size > _SMALL
        if together and (alone or size + file.size > _TOGETHER_BYTES):
            yield together
            together, size = [], 0
        if alone:
            yield [file]
        else:
            together.append(file)
            size += file.size
    if together:
        yield together
