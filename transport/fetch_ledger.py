"""What a route has seen and fetched from a remote place: one SQLite file per route, so that a restart goes on where it was.

`seen` is one line per remote session folder or sealed delivery of one source (a route whose place changes has several); `files`
is the list of the one that is being brought, in the order of a manifest: it is sorted on the disk, however many files there are,
and remembers which of them are here; `parts` says of files that are half here what a power cut has not damaged; `notes` is what a
place must know again after a crash.
"""

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from lading.errors import EngineError
from lading.findings import Finding
from lading.manifest import order_key
from transport.remote import RemoteFile

_TABLES = """
CREATE TABLE IF NOT EXISTS seen (
    source TEXT NOT NULL, path TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (source, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    delivery TEXT NOT NULL, key BLOB NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, mtime REAL, version TEXT NOT NULL,
    offered TEXT NOT NULL, digests TEXT NOT NULL DEFAULT '', round INTEGER NOT NULL, PRIMARY KEY (delivery, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    delivery TEXT NOT NULL, key BLOB NOT NULL, which TEXT NOT NULL, boot TEXT NOT NULL, durable INTEGER NOT NULL,
    PRIMARY KEY (delivery, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    delivery TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (delivery, key)
) WITHOUT ROWID;
"""
_AT_ONCE = 500


class Progressing(StrEnum):
    """How far a remote folder has come."""

    WAITING = "waiting"  # still growing, or looked at only once
    FETCHING = "fetching"  # being brought
    FETCHED = "fetched"  # sealed in the inbox
    HELD = "held"  # the operator must act; see the findings
    CHANGED = "changed"  # fetched, and something was added or changed at the source since


@dataclass(frozen=True, slots=True)
class Remembered:
    """One remote folder. `path` is relative to the place (POSIX); times are seconds since the epoch.

    `fingerprint` stands for names, sizes, times and versions; it has been the same since `since`. `newest`: the latest
    modification in it, 0 when the server keeps no times. `receipt`: the digest of the receipt that was written back. `digest`:
    that of the manifest of a sealed delivery.
    """

    path: str
    delivery: str = ""
    state: Progressing = Progressing.WAITING
    fingerprint: str = ""
    since: float = 0.0
    first_seen: float = 0.0
    newest: float = 0.0
    files: int = 0
    bytes: int = 0
    note: str = ""
    findings: tuple[Finding, ...] = ()
    receipt: str = ""
    cleared: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One file of the delivery that is being brought. `digests` is empty until it is here."""

    path: str
    size: int
    mtime: float | None
    version: str
    offered: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartNote:
    """A part of the content `which`: the boot of this machine that wrote it, and the length that survives another one."""

    which: str
    boot: str
    durable: int


class Ledger:
    """The memory of one route in the file `path`. For several threads. Raises EngineError when it cannot be used.

    `source` is where the route fetches from now: what was seen elsewhere under the same names is kept, and is none of ours.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, _text(source)
        self._lock = threading.Lock()
        with self._translating():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A power cut may take the last notes, never the order: what they said is seen again in the slot and at the source.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
            self._take_over()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def all(self) -> list[Remembered]:
        """Every folder, by path."""
        with self._translating():
            return [
                _remembered(row[0])
                for row in self._db.execute("SELECT record FROM seen WHERE source = ? ORDER BY path", (self._source,))
            ]

    def get(self, path: str) -> Remembered | None:
        """The folder at `path`, if it was seen."""
        with self._translating():
            row = self._db.execute(
                "SELECT record FROM seen WHERE source = ? AND path = ?", (self._source, _text(path))
            ).fetchone()
        return _remembered(row[0]) if row else None

    def put(self, folder: Remembered) -> Remembered:
        """Remember, durably."""
        record = asdict(folder) | {"findings": [f.as_dict() for f in folder.findings]}
        with self._translating():
            self._db.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)",
                (self._source, _text(folder.path), json.dumps(record, sort_keys=True)),
            )
        return folder

    def forget(self, path: str) -> None:
        """Nothing is known of `path` any more."""
        with self._translating():
            self._db.execute("DELETE FROM seen WHERE source = ? AND path = ?", (self._source, _text(path)))

    def list_files(self, delivery: str, files: Iterable[RemoteFile]) -> None:
        """Make `files` (paths relative to their session) the list of `delivery`; what is here of them stays noted."""
        round_ = secrets.randbits(62)
        for batch in _batches(files):
            with self._translating(), self._transaction():
                self._db.executemany(
                    "INSERT INTO files (delivery, key, path, size, mtime, version, offered, round) VALUES (?,?,?,?,?,?,?,?)"
                    " ON CONFLICT (delivery, key) DO UPDATE SET size=excluded.size, mtime=excluded.mtime,"
                    " version=excluded.version, offered=excluded.offered, round=excluded.round,"
                    " digests=CASE WHEN size=excluded.size AND mtime IS excluded.mtime AND version=excluded.version"
                    " THEN digests ELSE '' END",
                    [
                        (
                            delivery,
                            order_key(f.path),
                            _text(f.path),
                            f.size,
                            f.mtime,
                            f.version,
                            json.dumps(dict(f.digests)),
                            round_,
                        )
                        for f in batch
                    ],
                )
        with self._translating():
            self._db.execute("DELETE FROM files WHERE delivery = ? AND round <> ?", (delivery, round_))

    def files(self, delivery: str, *, missing: bool = False, here: bool = False) -> Iterator[Row]:
        """The list, in the order of a manifest; only what is not here yet when `missing`, only what is when `here`. Streams."""
        last = b""
        while True:
            with self._translating():
                rows = self._db.execute(
                    "SELECT key, path, size, mtime, version, offered, digests FROM files"
                    " WHERE delivery = ? AND key > ? AND (digests = '' OR NOT ?) AND (digests <> '' OR NOT ?)"
                    " ORDER BY key LIMIT ?",
                    (delivery, last, missing, here, _AT_ONCE),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, path, size, mtime, version, offered, digests in rows:
                yield Row(
                    _path(path), size, mtime, version, json.loads(offered), json.loads(digests) if digests else {}
                )

    def arrived(self, delivery: str, done: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """These files are here; their digests were computed from what was read."""
        with self._translating(), self._transaction():
            self._db.executemany(
                "UPDATE files SET digests = ? WHERE delivery = ? AND key = ?",
                [(json.dumps(dict(digests)), delivery, order_key(path)) for path, digests in done],
            )
            self._db.executemany(
                "DELETE FROM parts WHERE delivery = ? AND key = ?", [(delivery, order_key(path)) for path, _ in done]
            )

    def lost(self, delivery: str, paths: Iterable[str]) -> None:
        """These files are not here any more."""
        with self._translating(), self._transaction():
            self._db.executemany(
                "UPDATE files SET digests = '' WHERE delivery = ? AND key = ?",
                [(delivery, order_key(path)) for path in paths],
            )

    def part(self, delivery: str, path: str) -> PartNote | None:
        """What was noted last of the part of the file `path`."""
        with self._translating():
            row = self._db.execute(
                "SELECT which, boot, durable FROM parts WHERE delivery = ? AND key = ?", (delivery, order_key(path))
            ).fetchone()
        return PartNote(*row) if row else None

    def note_part(self, delivery: str, path: str, note: PartNote, *, durably: bool) -> None:
        """Remember it. A power cut may take it back to what was noted before, unless `durably`."""
        with self._translating(), self._durably() if durably else nullcontext():
            self._db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)",
                (delivery, order_key(path), note.which, note.boot, note.durable),
            )

    def drop_files(self, delivery: str) -> None:
        """The list is no longer needed, nor are the notes about the way."""
        with self._translating():
            for table in ("files", "parts", "notes"):
                self._db.execute(f"DELETE FROM {table} WHERE delivery = ?", (delivery,))  # noqa: S608 - names of ours

    def note(self, delivery: str, key: str, value: str) -> None:
        """Remember `value` about `delivery`. On return it survives a power cut."""
        with self._translating(), self._durably():
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (delivery, key, value))

    def recall(self, delivery: str, key: str) -> str | None:
        """The last value noted about `delivery` under `key`, or None."""
        with self._translating():
            row = self._db.execute("SELECT value FROM notes WHERE delivery = ? AND key = ?", (delivery, key)).fetchone()
        return str(row[0]) if row else None

    def _take_over(self) -> None:
        """What was remembered before sources were told apart belongs to the one of now."""
        there = "SELECT 1 FROM sqlite_master WHERE name = 'folders'"
        if not self._db.execute(there).fetchone():
            return
        with self._transaction():
            if self._db.execute(there).fetchone():  # another process may have done it meanwhile
                self._db.execute("INSERT OR IGNORE INTO seen SELECT ?, path, record FROM folders", (self._source,))
                self._db.execute("DROP TABLE folders")

    @contextmanager
    def _durably(self) -> Iterator[None]:
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous=NORMAL")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has taken it back already
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translating(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as exc:
                raise EngineError(
                    f"the memory {self._path} cannot be used: {exc}", next_command="lading doctor"
                ) from exc


class LedgerJournal:
    """See `lading.ports.Journal`: the notes about one delivery, in the ledger."""

    def __init__(self, ledger: Ledger, delivery: str) -> None:
        self._ledger, self._delivery = ledger, delivery

    def note(self, key: str, value: str) -> None:
        """See the role."""
        self._ledger.note(self._delivery, key, value)

    def recall(self, key: str) -> str | None:
        """See the role."""
        return self._ledger.recall(self._delivery, key)


def changed(folder: Remembered, **values: object) -> Remembered:
    """The same folder with other values."""
    return replace(folder, **values)  # type: ignore[arg-type]  # the names are checked by `replace`


def _remembered(record: str) -> Remembered:
    raw = json.loads(record)
    raw["findings"] = tuple(Finding.from_dict(f) for f in raw["findings"])
    raw["state"] = Progressing(raw["state"])
    return Remembered(**raw)


def _text(path: str) -> str:
    """SQLite takes no lone surrogates; JSON's escapes keep them."""
    return json.dumps(path)


def _path(text: str) -> str:
    return str(json.loads(text))


def _batches(files: Iterable[RemoteFile]) -> Iterator[list[RemoteFile]]:
    batch: list[RemoteFile] = []
    for file in files:
        batch.append(file)
        if len(batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
