"""Brings files into OMERO without sending them: by link or by copy on a disk that this machine and the server both have.

For each file of a Fileset, as OMERO's Java importer does it: let the server write a token where the file shall be, find that token
on our side (so it is the same disk), put the file in its place, and let the server open, measure and hash what it sees there.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from lading.disk import open_strange
from lading.errors import LadingError, Refused, TargetUnavailable
from lading.manifest import Entry
from omero_importer import uploads
from omero_importer.hashes import ALGORITHMS
from omero_importer.ice import Ice, grid, model, omero, rstring
from omero_importer.in_place_rules import TEMPORARY, InPlaceSettings, why_not
from omero_importer.session import Connection

NS_TRANSFER = "openmicroscopy.org/omero/import/fileTransfer"
CLASSES = {
    "ln_s": "ome.formats.importer.transfers.SymlinkFileTransfer",
    "ln": "ome.formats.importer.transfers.HardlinkFileTransfer",
    "cp": "ome.formats.importer.transfers.CopyFileTransfer",
}
_READ_ONLY = {"omero.fs.mode": "r"}
_ALL_GROUPS = {"omero.group": "-1"}
_SAFE = "The files are in the inbox."


class InPlace:
    """Brings the files of one Fileset. `source` is the folder in which they lie."""

    def __init__(self, settings: InPlaceSettings, connection: Connection, source: Path) -> None:
        self._settings, self._connection, self._source = settings, connection, source

    def demand(self, *, temporary: Sequence[Path] = TEMPORARY) -> None:
        """Nothing speaks against it. Raises Refused with the reason."""
        reason = why_not(self._settings, self._source, temporary=temporary)
        if reason:
            raise self._refused(str(self._source), reason)

    def annotate(self, fileset: "model.FilesetI") -> None:
        """Say on a Fileset that is not saved yet how its files came: OMERO's own tools look for it."""
        comment = model.CommentAnnotationI()
        comment.ns, comment.textValue = rstring(NS_TRANSFER), rstring(CLASSES[self._settings.transfer])
        fileset.linkAnnotation(comment)

    def bring(self, process: "grid.ImportProcessPrx", index: int, entry: Entry, algorithm: str) -> str:
        """Put the file `entry` of the parcel where file `index` of the import belongs; its checksum by OMERO's `algorithm`.

        Raises Refused (not the same disk, or the server cannot read what we put there), Corrupted (the parcel's file is not what
        the manifest says), TargetUnavailable (our side of the disk), and as Ice does.
        """
        source = self._source.joinpath(*entry.path.split("/"))
        _demand_unchanged(source, entry)
        target = self._proven(process, index, entry)
        with _disk_errors(f"putting {entry.path} in place ({self._settings.transfer})"):
            self._put(source, target)
        self._seen_by_server(process, index, entry, target)
        return uploads.checksum_known(entry, algorithm) or _hashed(source, entry, algorithm)

    def _proven(self, process: "grid.ImportProcessPrx", index: int, entry: Entry) -> Path:
        """Where the file belongs on our side: the server's token was there, and is removed."""
        # Not as long as the file: the server hashes again only what has another size than it had.
        token = uuid4().hex.encode() + (b"-" if entry.size == 32 else b"")
        store = process.getUploader(index)
        try:
            target = self._target(int(store.getFileId().val), entry)
            if os.path.lexists(target):
                raise self._refused(entry.path, f"{target} is there already")
            store.write(token, 0, len(token))
        finally:
            store.close()
        try:
            found = _read_token(target)
        except (OSError, ValueError) as exc:
            raise self._refused(
                entry.path,
                f"what the server writes does not appear at {target} ({exc}): another disk, or another path?",
            ) from exc
        if found != token:
            raise self._refused(
                entry.path, f"{target} does not hold what the server just wrote there: it is another disk"
            )
        with _disk_errors(f"removing the server's token at {target}"):
            target.unlink()
        return target

    def _target(self, file: int, entry: Entry) -> Path:
        stored = self._connection.queries.get("OriginalFile", file, _ALL_GROUPS)
        parts = [part for part in f"{stored.path.val}/{stored.name.val}".split("/") if part]
        repository = Path(os.path.realpath(self._settings.repository or ""))
        target = repository.joinpath(*parts)
        # A server says where to write on our disk: nowhere but in its own folder.
        inside = Path(os.path.realpath(target.parent)) / target.name
        if ".." in parts or "\0" in str(target) or not inside.is_relative_to(repository):
            raise self._refused(
                entry.path, f"the server names a place outside its repository ({'/'.join(parts)!r:.200})"
            )
        return inside

    def _put(self, source: Path, target: Path) -> None:
        if self._settings.transfer == "ln_s":
            target.symlink_to(source.resolve())
        elif self._settings.transfer == "ln":
            # Not what a link at the end of the path points to: the file itself was checked.
            os.link(source, target, follow_symlinks=False)
        else:
            _copy(source, target)

    def _seen_by_server(self, process: "grid.ImportProcessPrx", index: int, entry: Entry, target: Path) -> None:
        try:
            store = process.getUploader(index, _READ_ONLY)
            try:
                size = int(store.size())
                # It hashes the file now, because its size is not the token's.
                store.save()
            finally:
                store.close()
        except (omero.ServerError, Ice.UnknownException) as exc:
            _undo(target)
            raise self._refused(
                entry.path,
                f"the server cannot read {target}: {getattr(exc, 'message', '') or type(exc).__name__:.300}",
            ) from exc
        if size != entry.size:
            _undo(target)
            raise self._refused(entry.path, f"the server sees {size} bytes at {target} instead of {entry.size}")

    def _refused(self, what: str, reason: str) -> Refused:
        return Refused(
            f"importing {what} in place ({self._settings.transfer}): {reason}",
            safe=_SAFE,
            next_command='mend it, or set import.in_place.transfer = "upload"',
        )


def _hashed(source: Path, entry: Entry, algorithm: str) -> str:
    """OMERO's checksum of a file that the manifest knows by others only."""
    hasher, witness = ALGORITHMS[algorithm](), hashlib.sha256()
    with _disk_errors(f"reading {entry.path}"), open_strange(source) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
            witness.update(block)
    if witness.hexdigest() != entry.sha256:
        raise uploads.changed(entry, "importing")
    return hasher.hexdigest()


def _demand_unchanged(source: Path, entry: Entry) -> None:
    try:
        info = os.lstat(source)
    except OSError as exc:
        raise uploads.changed(entry, "importing") from exc
    if not stat.S_ISREG(info.st_mode) or info.st_size != entry.size:
        raise uploads.changed(entry, "importing")


def _read_token(target: Path) -> bytes:
    with open_strange(target) as file:
        return file.read(64)


def _copy(source: Path, target: Path) -> None:
    with open_strange(source) as reading, open(target, "xb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())
    # The server runs as another user, perhaps, and the token that was here had the modes of its files.
    target.chmod(0o644)


def _undo(target: Path) -> None:
    with suppress(OSError):
        target.unlink()


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except LadingError:
        raise
    except (OSError, ValueError) as exc:
        raise TargetUnavailable(f"{doing}: {exc}", safe=_SAFE, next_command="lading doctor") from exc
