"""Keeps tables of frozen values in memory, and every change of them in one SQLite file.

A killed stand-in that is started again on the same folder knows what it had answered. The file is not synced to the
disk: it survives the death of the process, not a power cut, which is enough for a stand-in and costs little.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

Row = TypeVar("Row")


class Database:
    """One SQLite file of JSON rows, and the one lock for writing."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS entity (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._lock = threading.RLock()
        self._depth = 0
        self._changed: dict[tuple[str, str], str | None] = {}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One writer at a time; what it changes is in the file when the outermost block ends.

        An exception does not undo the changes: memory has them, so the file must have them too.
        """
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._changed:
                    self._write()

    def _write(self) -> None:
        # One statement for all rows: each call into SQLite may cost a thread its turn, and everybody waits for the lock.
        rows = [[kind, key, value] for (kind, key), value in self._changed.items()]
        self._changed = {}
        self._connection.execute(
            "REPLACE INTO entity SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), "
            "json_extract(value, '$[2]') FROM json_each(?)",
            (json.dumps(rows),),
        )

    def load(self, kind: str) -> list[dict[str, object]]:
        """All rows of one kind."""
        found = self._connection.execute("SELECT value FROM entity WHERE kind = ? AND value IS NOT NULL", (kind,))
        return [json.loads(value) for (value,) in found]

    def save(self, kind: str, key: str, value: dict[str, object]) -> None:
        """Adds or replaces one row."""
        with self.changing():
            self._changed[kind, key] = json.dumps(value)

    def forget(self, kind: str, key: str) -> None:
        """Removes one row, if it is there."""
        with self.changing():
            self._changed[kind, key] = None

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()


class Table(Generic[Row]):
    """Values of one kind by key, and by group (``group=`` names what rows are usually asked for by).

    ``label=`` is what people call a row inside its group: ``called`` finds it without looking at all of them.
    """

    def __init__(
        self,
        database: Database,
        kind: type[Row],
        key: Callable[[Row], str],
        group: Callable[[Row], str] = lambda _: "",
        label: Callable[[Row], str] | None = None,
    ) -> None:
        self._database, self._name, self._key, self._group, self._label = database, kind.__name__, key, group, label
        self._rows: dict[str, Row] = {}
        self._groups: dict[str, dict[str, Row]] = {}
        self._called: dict[tuple[str, str], dict[str, Row]] = {}
        for fields in database.load(self._name):
            self._remember(kind(**fields))

    def get(self, key: str) -> Row | None:
        """None when there is no such row."""
        return self._rows.get(key)

    def all(self) -> list[Row]:
        """Every row, in the order of their making."""
        return list(self._rows.values())

    def of(self, group: str) -> list[Row]:
        """The rows of one group."""
        return list(self._groups.get(group, {}).values())

    def called(self, group: str, label: str) -> list[Row]:
        """The rows of one group with that label, whatever its case."""
        return list(self._called.get((group, label.lower()), {}).values())

    def put(self, row: Row) -> Row:
        """Adds or replaces; answers the row, so that a change reads as one expression."""
        with self._database.changing():
            self._remember(row)
            self._database.save(self._name, self._key(row), dict(vars(row)))
        return row

    def drop(self, row: Row) -> None:
        """Removes a row, if it is there."""
        with self._database.changing():
            key = self._key(row)
            former = self._rows.pop(key, None)
            self._forget_names(key, row if former is None else former)
            self._database.forget(self._name, key)

    def _remember(self, row: Row) -> None:
        key = self._key(row)
        former = self._rows.get(key)
        if former is not None:
            self._forget_names(key, former)
        self._rows[key] = row
        self._groups.setdefault(self._group(row), {})[key] = row
        if self._label:
            self._called.setdefault((self._group(row), self._label(row).lower()), {})[key] = row

    def _forget_names(self, key: str, row: Row) -> None:
        self._groups.get(self._group(row), {}).pop(key, None)
        if self._label:
            self._called.get((self._group(row), self._label(row).lower()), {}).pop(key, None)
