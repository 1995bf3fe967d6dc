"""Keeps the records: in memory to be read fast, in SQLite so that kill -9 leaves everything that was committed.

One lock guards it all. Readers hold it for one step of an iteration at most; writers for a whole transaction:

    with store.transaction():
        dataset = store.create("Dataset", {"name": "x"}, owner=2, group=3)
"""

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lading.sandbox.omero import model
from lading.sandbox.omero.records import Record, Ref, Value, dump, load

# A server that starts again knows no sessions.
_EPHEMERAL = frozenset({"Session"})
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (root TEXT, id INTEGER, cls TEXT, content TEXT, PRIMARY KEY (root, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sequences (root TEXT PRIMARY KEY, last INTEGER) WITHOUT ROWID;
"""
_REPLACE = "REPLACE INTO records VALUES (?, ?, ?, ?)"
_Key = tuple[str, int]


class Store:
    """Records by class and id. Classes are short names ("Dataset"); asking for a base class finds its descendants."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: the SQLite file, made when it is not there. None keeps nothing."""
        self.lock = threading.RLock()
        self._tables: dict[str, dict[int, Record]] = defaultdict(dict)
        self._last: dict[str, int] = defaultdict(int)
        self._written: dict[str, int] = {}
        # (referring class, field) → id referred to → ids that refer, in order.
        self._referrers: dict[tuple[str, str], dict[int, dict[int, None]]] = defaultdict(lambda: defaultdict(dict))
        self._depth = 0
        self._before: dict[_Key, Record | None] = {}
        self._database = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        # What was committed must survive the death of this process, not a power cut: no fsync.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_SCHEMA)
        self._load()

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, cls: str, number: int) -> Record | None:
        """The record, or None when there is none of this class (or a descendant of it)."""
        if cls == model.TOP:
            raise KeyError("IObject has no ids of its own")
        record = self._tables[model.root(cls)].get(number)
        return record if record is not None and model.is_a(record.cls, cls) else None

    def follow(self, ref: Value) -> Record | None:
        """What a reference refers to."""
        return self._tables[model.root(ref.cls)].get(ref.id) if isinstance(ref, Ref) else None

    def all(self, cls: str) -> Iterator[Record]:
        """Every record of the class and its descendants, by rising id."""
        with self.lock:
            table = list(self._tables[model.root(cls)].values())
        return (record for record in table if model.is_a(record.cls, cls))

    def find(self, cls: str, **fields: Value) -> Iterator[Record]:
        """The records whose fields have exactly these values; a `Ref` matches by id. Quick when one of them is a Ref."""
        for field, value in fields.items():
            if isinstance(value, Ref):
                candidates = iter(self.referring(cls, field, value.id))
                break
        else:
            candidates = self.all(cls)
        return (record for record in candidates if all(_same(record.get(f), v) for f, v in fields.items()))

    def referring(self, cls: str, field: str, number: int) -> list[Record]:
        """The records of `cls` whose `field` refers to `number`: a one-to-many collection."""
        with self.lock:
            found = self._referrers[model.root(cls), field].get(number, {})
            table = self._tables[model.root(cls)]
            records = [table[each] for each in found]
        return [record for record in records if model.is_a(record.cls, cls)]

    def members(self, record: Record, collection: str) -> list[Record]:
        """The members of a one-to-many collection of the record. Raises KeyError when its class has none of this name."""
        described = model.model_class(record.cls).collections[collection]
        found = self.referring(described.member, described.inverse, record.id)
        hierarchy = model.root(record.cls)
        return [
            each for each in found if (ref := each.reference(described.inverse)) and model.root(ref.cls) == hierarchy
        ]

    def referrers(self, record: Record) -> list[tuple[Record, str]]:
        """Everything that refers to the record, with the field that does."""
        hierarchy = model.root(record.cls)
        with self.lock:
            found = [
                (self._tables[referring][number], field)
                for (referring, field), targets in self._referrers.items()
                for number in targets.get(record.id, ())
            ]
        return [
            (each, field)
            for each, field in found
            if (ref := each.reference(field)) and model.root(ref.cls) == hierarchy
        ]

    def count(self, cls: str) -> int:
        """How many there are."""
        return sum(1 for _ in self.all(cls))

    # -- changing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, for everybody; may be nested. On return from the outermost it survives kill -9."""
        with self.lock:
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._commit()
            except BaseException:
                if self._depth == 1:
                    self._undo()
                raise
            finally:
                self._depth -= 1

    def create(
        self, cls: str, fields: Mapping[str, Value], *, owner: int = 0, group: int = 0, number: int | None = None
    ) -> Record:
        """A new record, with the next id of its hierarchy unless `number` gives one."""
        hierarchy = model.root(cls)
        with self.transaction():
            if number is None:
                number = self._last[hierarchy] + 1
            self._last[hierarchy] = max(self._last[hierarchy], number)
            now = milliseconds()
            return self._put(Record(cls, number, owner, group, now, now, dict(fields)))

    def put(self, record: Record) -> Record:
        """Replace the record of this id, or add it."""
        with self.transaction():
            return self._put(record)

    def change(self, record: Record, **fields: Value) -> Record:
        """Set fields of the record as it is now in the store."""
        with self.transaction():
            current = self.get(record.cls, record.id) or record
            return self._put(current.changed(milliseconds(), **fields))

    def delete(self, record: Record) -> None:
        """Remove this one record; what refers to it is the caller's business (see `delete.py`)."""
        with self.transaction():
            self._swap((model.root(record.cls), record.id), None)

    def close(self) -> None:
        """Nothing can be committed any more."""
        with self.lock:
            self._database.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _put(self, record: Record) -> Record:
        self._swap((model.root(record.cls), record.id), record)
        return record

    def _swap(self, key: _Key, new: Record | None, *, undoing: bool = False) -> None:
        hierarchy, number = key
        old = self._tables[hierarchy].get(number)
        if not undoing:
            self._before.setdefault(key, old)
        was, now = _references(old), _references(new)
        # What did not change keeps its place: the order of a collection is the order in which its members came.
        if was != now:
            for field, target in was.items() - now.items():
                self._referrers[hierarchy, field][target].pop(number, None)
            for field, target in now.items() - was.items():
                self._referrers[hierarchy, field][target][number] = None
        if new is None:
            self._tables[hierarchy].pop(number, None)
        else:
            self._tables[hierarchy][number] = new

    def _undo(self) -> None:
        changed, self._before = self._before, {}
        for key, old in changed.items():
            self._swap(key, old, undoing=True)

    def _commit(self) -> None:
        changed = [key for key in self._before if key[0] not in _EPHEMERAL]
        if changed:
            rows, gone = [], []
            for hierarchy, number in changed:
                record = self._tables[hierarchy].get(number)
                if record is None:
                    gone.append((hierarchy, number))
                else:
                    rows.append((hierarchy, number, record.cls, dump(record)))
            touched = {hierarchy: self._last[hierarchy] for hierarchy, _ in changed}
            self._write(rows, gone, [each for each in touched.items() if each not in self._written.items()])
            self._written |= touched
        self._before = {}

    def _write(self, rows: list[tuple[str, int, str, str]], gone: list[_Key], sequences: list[_Key]) -> None:
        if len(rows) == 1 and not gone and not sequences:  # the usual case; a statement is a transaction by itself
            self._database.execute(_REPLACE, rows[0])
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(_REPLACE, rows)
            if gone:
                self._database.executemany("DELETE FROM records WHERE root = ? AND id = ?", gone)
            if sequences:
                self._database.executemany("REPLACE INTO sequences VALUES (?, ?)", sequences)
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    def _load(self) -> None:
        for hierarchy, last in self._database.execute("SELECT root, last FROM sequences"):
            self._last[hierarchy] = last
        rows = self._database.execute("SELECT root, id, cls, content FROM records ORDER BY root, id")
        for hierarchy, number, cls, content in rows:
            self._swap((hierarchy, number), load(cls, number, content), undoing=True)


def milliseconds() -> int:
    """Now, as OMERO counts."""
    return int(time.time() * 1000)


def _references(record: Record | None) -> dict[str, int]:
    return {name: value.id for name, value in record.fields.items() if isinstance(value, Ref)} if record else {}


def _same(stored: Value, wanted: Value) -> bool:
    if isinstance(wanted, Ref):
        return isinstance(stored, Ref) and stored.id == wanted.id
    return stored == wanted
