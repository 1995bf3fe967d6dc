"""What is in a parcel, as a table on disk: a million images need no more memory than ten."""

# ruff: noqa: S608 - the queries are put together from words of this file only

import errno
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self, cast

from lading.checks.dicom_headers import DicomUnreadable, Header, read_header
from lading.delivery import Outcome, Parcel
from lading.disk import translated
from lading.errors import Corrupted
from lading.listing.below import open_below
from lading.manifest import Entry

_TABLES = """
CREATE TABLE image (sop TEXT PRIMARY KEY, path BLOB, size INTEGER, sha256 TEXT, class TEXT, syntax TEXT, study TEXT, series TEXT,
                    there INTEGER NOT NULL DEFAULT 0, proven INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE twin (path BLOB, size INTEGER, sha256 TEXT, sop TEXT);
CREATE TABLE other (path BLOB, size INTEGER, sha256 TEXT, outcome TEXT, code TEXT, how TEXT);
"""
_COLUMNS = "sop, path, size, sha256, class, syntax, study, series"
_INSERT = f"INSERT OR IGNORE INTO image ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"
_INDEXES = (
    "CREATE INDEX by_series ON image (study, series, syntax)",
    "CREATE INDEX by_context ON image (class, syntax, path)",
)

NOT_DICOM = "not-dicom"
NOT_SENDABLE = "dicom-not-sendable"
_LONGEST_UID = 64


@dataclass(frozen=True, slots=True)
class File:
    """A file of the parcel."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Image:
    """One file of the parcel that is a DICOM object, and what a node must know of it."""

    sop: str
    path: str
    size: int
    sha256: str
    sop_class: str
    syntax: str
    study: str
    series: str


@dataclass(frozen=True, slots=True)
class Other:
    """A file that does not go to the node: `outcome` is its verdict, `code` the finding's ("" when a check left it out)."""

    file: File
    outcome: Outcome
    code: str
    how: str


class Contents:
    """The files of a parcel, sorted. A context manager; safe to share between threads."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._table.executescript(_TABLES)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, parcel: Parcel, skips: Mapping[str, str], *, leave_others: bool) -> Self:
        """Reads every header once, pixels never. `skips`: path → why a check left it out.

        Raises Corrupted, AccessDenied, Unreachable for a disk that refuses.
        """
        made = cls()
        made._table.execute("BEGIN")
        for entry in parcel.manifest:
            made._sort(parcel.root, entry, skips, leave_others=leave_others)
        for index in _INDEXES:
            made._table.execute(index)
        made._table.execute("COMMIT")
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def _sort(self, root: Path, entry: Entry, skips: Mapping[str, str], *, leave_others: bool) -> None:
        if entry.path in skips:
            self._other(entry, Outcome.FILTERED, "", skips[entry.path])
            return
        code, why = NOT_DICOM, "it is no DICOM object, and a DICOM node holds nothing else"
        try:
            header = read_header(local_path(root, entry.path)) if entry.size else None
        except DicomUnreadable as exc:
            header, code, why = None, NOT_SENDABLE, f"its DICOM cannot be read: {exc}"
        lacks = _lacks(header) if header else ""
        if lacks:
            header, code, why = None, NOT_SENDABLE, f"it has no usable {lacks}, without which no node takes it"
        if header is None:
            left = leave_others and code == NOT_DICOM
            self._other(entry, Outcome.FILTERED if left else Outcome.MISSING, code, why)
            return
        row = (header.sop_instance_uid, _raw(entry.path), entry.size, entry.sha256, header.sop_class_uid,
               header.transfer_syntax, header.study_instance_uid, header.series_instance_uid)  # fmt: skip
        done = self._table.execute(_INSERT, row)
        if not done.rowcount:
            self._table.execute(
                "INSERT INTO twin VALUES (?,?,?,?)",
                (_raw(entry.path), entry.size, entry.sha256, header.sop_instance_uid),
            )

    def _other(self, entry: Entry, outcome: Outcome, code: str, how: str) -> None:
        self._table.execute(
            "INSERT INTO other VALUES (?,?,?,?,?,?)",
            (_raw(entry.path), entry.size, entry.sha256, str(outcome), code, how),
        )

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Images, and their bytes."""
        images, size = self._one("SELECT count(*), coalesce(sum(size), 0) FROM image")
        return int(images), int(size)

    @property
    def missing(self) -> int:
        """Images that are not known to be there."""
        return int(self._one("SELECT count(*) FROM image WHERE NOT there")[0])

    @property
    def unproven_count(self) -> int:
        """Images without a verdict."""
        return int(self._one("SELECT count(*) FROM image WHERE NOT proven")[0])

    def contexts(self, *, missing_only: bool = False) -> list[tuple[str, str, int, str]]:
        """Each SOP class and transfer syntax in use, with the number of images and the path of one."""
        what = "WHERE NOT there" if missing_only else ""
        rows = self._rows(
            f"SELECT class, syntax, count(*), min(path) FROM image {what} GROUP BY class, syntax ORDER BY 3 DESC, 1, 2"
        )
        return [(sop_class, syntax, count, _text(path)) for sop_class, syntax, count, path in rows]

    def series(self, *, syntax: str = "") -> list[tuple[str, str]]:
        """Study and series of all images, or of those in one transfer syntax."""
        what, values = ("WHERE syntax = ?", (syntax,)) if syntax else ("", ())
        rows = self._rows(f"SELECT DISTINCT study, series FROM image {what} ORDER BY 1, 2", values)
        return [(study, series) for study, series in rows]

    def images(self, sop_class: str, syntax: str) -> Iterator[Image]:
        """The images of one context that are not known to be there, by path. Fetched in portions, so that rows may change."""
        after = b""
        while rows := self._rows(
            f"SELECT {_COLUMNS} FROM image WHERE NOT there AND class = ? AND syntax = ? AND path > ? ORDER BY path LIMIT 500",
            (sop_class, syntax, after),
        ):
            yield from map(_image, rows)
            after = rows[-1][1]

    def unproven(self, study: str, series: str, syntax: str = "") -> list[Image]:
        """The images of one series (in one transfer syntax) that are not proven yet: no more than a scanner makes in a run."""
        what, values = (" AND syntax = ?", (study, series, syntax)) if syntax else ("", (study, series))
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM image WHERE NOT proven AND study = ? AND series = ?{what} ORDER BY sop", values
        )
        return [_image(row) for row in rows]

    def all_unproven(self) -> Iterator[Image]:
        """Every image that is not proven yet."""
        for study, series in self.series():
            yield from self.unproven(study, series)

    def image(self, sop: str) -> Image | None:
        """The image of that SOPInstanceUID, or None."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM image WHERE sop = ?", (sop,))
        return _image(rows[0]) if rows else None

    def is_there(self, sop: str) -> bool:
        """Whether it is known to be there."""
        return bool(self._rows("SELECT 1 FROM image WHERE sop = ? AND there", (sop,)))

    def twins(self, image: Image) -> list[tuple[File, bool]]:
        """Other files with the image's SOPInstanceUID, and whether each is the very same file."""
        rows = self._rows("SELECT path, size, sha256 FROM twin WHERE sop = ?", (image.sop,))
        return [(File(_text(path), size, sha256), sha256 == image.sha256) for path, size, sha256 in rows]

    def others(self, most: int = -1) -> Iterator[Other]:
        """The files that do not go to the node."""
        after = 0
        while rows := self._rows(
            "SELECT rowid, path, size, sha256, outcome, code, how FROM other WHERE rowid > ? ORDER BY rowid LIMIT 500",
            (after,),
        ):
            for rowid, path, size, sha256, outcome, code, how in rows:
                if rowid > most >= 0:
                    return
                yield Other(File(_text(path), size, sha256), Outcome(outcome), code, how)
            after = rows[-1][0]

    # -- noting --------------------------------------------------------------------------------------------------------

    def forget_there(self) -> None:
        """Nothing is known to be there."""
        self._run("UPDATE image SET there = 0", [()])

    def note_there(self, sops: Iterable[str], *, there: bool = True) -> None:
        """The node has these, or is said to lack them."""
        self._run(f"UPDATE image SET there = {int(there)} WHERE sop = ?", [(sop,) for sop in sops])

    def note_proven(self, sop: str) -> None:
        """There is a verdict on this one."""
        self._run("UPDATE image SET proven = 1 WHERE sop = ?", [(sop,)])

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> "list[tuple[Any, ...]]":
        with self._lock:
            return self._table.execute(query, values).fetchall()

    def _one(self, query: str) -> tuple[int, ...]:
        with self._lock:
            found: tuple[int, ...] = self._table.execute(query).fetchone()
            return found

    def _run(self, statement: str, values: list[tuple[object, ...]]) -> None:
        with self._lock:
            self._table.executemany(statement, values)


def _image(row: "tuple[Any, ...]") -> Image:
    sop, path, *rest = row
    return Image(sop, _text(path), *rest)


def _raw(path: str) -> bytes:
    """A path as the table keeps it: names that are no Unicode cannot be text there."""
    return path.encode("utf-8", "surrogatepass")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogatepass")


def local_path(root: Path, path: str) -> Path:
    """Where a file of the parcel lies."""
    return root.joinpath(*path.split("/"))


def opened(root: Path, path: str, *, inbox: Path | None) -> FileIO:
    """A file of the parcel, for reading without a buffer. Folders are real ones from `inbox` down, where `root` is in it.

    Senders share the inbox with us: no link is followed, for it may lead to a file of somebody else's. Raises Corrupted for one,
    and as `lading.disk.translated` does.
    """
    where = local_path(root, path)
    with translated("reading an image", where):
        try:
            return cast("FileIO", open_below(root, path, within=inbox).detach())
        except (OSError, ValueError) as exc:
            if isinstance(exc, OSError) and not isinstance(exc, NotADirectoryError) and exc.errno != errno.ELOOP:
                raise
            raise Corrupted(
                f"reading {path}: it is no regular file any more, or lies behind a link",
                paths=[path],
                safe="It was not sent.",
                next_command="lading doctor",
            ) from exc


def _lacks(header: Header) -> str:
    """What the object would need to be sent, or ""."""
    for name, value in (
        ("SOPInstanceUID", header.sop_instance_uid),
        ("SOPClassUID", header.sop_class_uid),
        ("StudyInstanceUID", header.study_instance_uid),
        ("SeriesInstanceUID", header.series_instance_uid),
        ("TransferSyntaxUID", header.transfer_syntax),
    ):
        # Wildcards of C-FIND and separators of lists are characters that no UID has.
        if not value or len(value) > _LONGEST_UID or not value.isascii() or value.translate(_UID_CHARACTERS):
            return name
    return ""


_UID_CHARACTERS = {ord(character): None for character in "0123456789."}
