"""The bytes: where the file of an OriginalFile record is, and what happens to it there. No Ice here.

Two places, as in OMERO: the managed repository keeps what was imported, under names; `Files` keeps attachments, by id.
"""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from lading.sandbox.omero import errors
from lading.sandbox.omero.checksums import ALGORITHMS, checksum, read_through
from lading.sandbox.omero.faults import Faults
from lading.sandbox.omero.paths import Components, components, joined
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.store import Store, milliseconds

REPOSITORY_FIELD = "@repo"
"""Which repository an OriginalFile belongs to. The real column is not part of the model either."""
REPOSITORY = "ManagedRepository"
DEFAULT_ALGORITHM = "SHA1-160"


class StoredFiles:
    """Below `data_dir`, which is created when it is not there. The repository keeps its UUID over restarts."""

    def __init__(self, store: Store, data_dir: Path, faults: Faults) -> None:
        self.store, self.data_dir, self.faults = store, data_dir, faults
        self.root = data_dir / REPOSITORY
        self._root_name = str(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        (data_dir / "Files").mkdir(exist_ok=True)
        self.record = next(store.find("OriginalFile", name=REPOSITORY, mimetype="Repository"), None) or store.create(
            "OriginalFile",
            {"name": REPOSITORY, "path": f"{data_dir}/", "mimetype": "Repository", "hash": str(uuid.uuid4())},
        )
        self.uuid = self.record.text("hash")

    def add(self, path: Components, mimetype: str, hasher: Ref | None, *, owner: int, group: int) -> Record:
        """The record of a file in the repository that is not there yet. `hasher`: one that `algorithm` gave."""
        return self.store.create(
            "OriginalFile",
            {
                "name": path[-1],
                "path": joined(path[:-1]) + "/",
                "mimetype": mimetype,
                "hasher": hasher,
                REPOSITORY_FIELD: self.uuid,
            },
            owner=owner,
            group=group,
        )

    def algorithm(self, name: str) -> Ref:
        """Raises ApiUsageException when OMERO has no such checksum."""
        found = next(self.store.find("ChecksumAlgorithm", value=name), None)
        if found is None or name not in ALGORITHMS:
            raise errors.api_usage(f"unknown checksum algorithm {name!r}")
        return found.ref

    def managed(self, record: Record) -> bool:
        """It is in the managed repository."""
        return record.get(REPOSITORY_FIELD) == self.uuid

    def path(self, record: Record) -> Path:
        """Where its bytes are, or will be."""
        if self.managed(record):
            return _below(self._root_name, record.text("path"), record.text("name"))
        return self.data_dir / "Files" / str(record.id)

    def hash(self, record: Record) -> str:
        """Read the whole file, with the record's own algorithm. Raises OSError."""
        return checksum(self.path(record), self._algorithm_of(record))

    def _algorithm_of(self, record: Record) -> str:
        hasher = self.store.follow(record.get("hasher"))
        return hasher.text("value") if hasher else DEFAULT_ALGORITHM

    def settle(self, record: Record, path: Path, descriptor: int | None = None) -> Record:
        """Write size and checksum of the bytes as they are on the disk, at `path`, into the record. Raises OSError.

        `descriptor`: of the file that is there, if the caller has it open.
        """
        if self.faults.damaged_uploads and self.faults.take("damaged_uploads"):
            _damage(path)
        self.faults.wait(self.faults.hash_delay_s)
        algorithm = self._algorithm_of(record)
        if descriptor is None:
            found, size = checksum(path, algorithm), path.stat().st_size
        else:
            found, size = read_through(descriptor, algorithm)
        if self.faults.wrong_hashes and self.faults.take("wrong_hashes"):
            found = found[::-1] if found != found[::-1] else found[:-1] + "x"
        changes: dict[str, str | int | Ref] = {"size": size, "hash": found, "mtime": milliseconds()}
        if record.get("hasher") is None:
            changes["hasher"] = self.algorithm(DEFAULT_ALGORITHM)
        settled = self.store.change(record, **changes)
        # What is imported is compared first, and spoilt at the end of its import.
        return settled if self.managed(record) else self.spoil(settled)

    def spoil(self, record: Record) -> Record:
        """The faults: its checksum is forgotten, or its bytes are gone. Behind the server's back: nobody is told."""
        if self.managed(record) and self.faults.vanishing_files and self.faults.take("vanishing_files"):
            self.path(record).unlink(missing_ok=True)
        if self.faults.blank_checksums and self.faults.take("blank_checksums"):
            return self.store.change(record, hash=None)
        return record

    def forget(self, records: Sequence[Record]) -> None:
        """The records were deleted: delete their files, and the folders that this leaves empty."""
        for record in records:
            if record.cls != "OriginalFile" or record.id == self.record.id:
                continue
            path = self.path(record)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                path.unlink()
            if self.managed(record):
                self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone with an earlier file
                if folder.exists():
                    return
            folder = folder.parent


class OpenFile:
    """One file being written or read. Opened at the first touch; a writer never replaces what is there."""

    def __init__(self, path: Path, *, writable: bool, faults: Faults) -> None:
        self._path, self._writable, self._faults = path, writable, faults
        self._descriptor = -1

    def write(self, data: bytes, position: int) -> None:
        """Raises ResourceError on a full disk, OSError."""
        end = position + len(data)
        full_at = self._faults.disk_full_at
        if (self._faults.disk_full and self._faults.take("disk_full")) or -1 < full_at < end:
            raise errors.resource(f"{self._path}: No space left on device")
        self._faults.wait(self._faults.write_delay_s)
        view = memoryview(data)
        try:
            descriptor = self._open()
            while view:
                written = os.pwrite(descriptor, view, position)
                view, position = view[written:], position + written
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise errors.resource(f"{self._path}: {error.strerror}") from error
            raise

    def read(self, position: int, length: int) -> bytes:
        """Fewer bytes at the end of the file. Raises OSError."""
        return os.pread(self._open(), length, position)

    def truncate(self, length: int) -> None:
        """Raises OSError."""
        os.ftruncate(self._open(), length)

    def descriptor_of(self, found: os.stat_result) -> int | None:
        """Its descriptor, if it is open and is what was `found` at its path: nobody put another file or a link there."""
        if self._descriptor >= 0 and os.path.samestat(os.fstat(self._descriptor), found):
            return self._descriptor
        return None

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        if self._descriptor < 0:
            flags = (os.O_RDWR | os.O_CREAT if self._writable else os.O_RDONLY) | os.O_CLOEXEC
            try:
                self._descriptor = os.open(self._path, flags, 0o644)
            except FileNotFoundError:
                if not self._writable:
                    raise
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, flags, 0o644)
        return self._descriptor


@lru_cache(maxsize=4096)  # asked for again at every step of a file's upload and import
def _below(root: str, folder: str, name: str) -> Path:
    """Clients may change the names in a record; none of them leads out of `root`."""
    return Path(root, joined(components(f"{folder}/{name}")))


def set_read_only(path: Path) -> bool:
    """As OMERO does with what it imports, regular files only: the target of a symbolic link keeps its mode."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    if not stat.S_ISREG(mode):
        return False
    path.chmod(stat.S_IMODE(mode) & ~0o222)
    return True


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 0xFF]) if first else b"?")
