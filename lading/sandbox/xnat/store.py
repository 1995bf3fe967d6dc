"""Keeps tables of frozen values in memory, and every change of them in one journal.

A line of the journal is one transaction: the rows that changed together, as JSON. It is written before anybody is told
of it, so a killed stand-in that is started again on the same folder knows what it had answered. The file is not synced to
the disk: it survives the death of the process, not a power cut, which is enough for a stand-in and costs little.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

Row = TypeVar("Row")
_Fields = dict[str, object]


class Database:
    """One journal, and the one lock for writing. Raises OSError for a disk that refuses."""

    def __init__(self, path: Path) -> None:
        self._rows = _tidied(path)
        self._file = path.open("ab", buffering=0)
        self._lock = threading.RLock()
        self._depth = 0
        self._changed: dict[tuple[str, str], _Fields | None] = {}
        self._torn = False

    def changing(self) -> AbstractContextManager[None]:
        """One writer at a time; what it changes is in the file when the outermost block ends.

        An exception does not undo the changes: memory has them, so the file must have them too.
        """
        return _Change(self)

    def begin(self) -> None:
        """Enter a block of changes."""
        self._lock.acquire()
        self._depth += 1

    def end(self) -> None:
        """Leave it, and write if it was the outermost."""
        self._depth -= 1
        try:
            if self._depth == 0 and self._changed:
                self._write()
        finally:
            self._lock.release()

    def _write(self) -> None:
        # A line that was cut short (a full disk) stays where it is, unreadable; all that it said is in this one.
        line = b"\n" * self._torn + _line(self._changed)
        self._torn = True
        while line:
            line = line[self._file.write(line) or 0 :]
        self._torn = False
        self._changed = {}

    def load(self, kind: str) -> list[_Fields]:
        """All rows of one kind, as the file had them. Answers once."""
        return list(self._rows.pop(kind, {}).values())

    def save(self, kind: str, key: str, value: _Fields) -> None:
        """Adds or replaces one row; only inside `changing`. The value must not change any more."""
        self._changed[kind, key] = value

    def forget(self, kind: str, key: str) -> None:
        """Removes one row, if it is there; only inside `changing`."""
        self._changed[kind, key] = None

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()


class _Change(AbstractContextManager[None]):
    # Not a generator: there are hundreds of these in one import.
    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.end()


def _line(changed: dict[tuple[str, str], _Fields | None]) -> bytes:
    return json.dumps([(kind, key, value) for (kind, key), value in changed.items()]).encode() + b"\n"


def _tidied(path: Path) -> dict[str, dict[str, _Fields]]:
    """The rows that a journal ends with, by kind and key; the file then holds these and no former ones."""
    rows: dict[str, dict[str, _Fields]] = {}
    for kind, key, value in _changes(path):
        if value is None:
            rows.get(kind, {}).pop(key, None)
        else:
            rows.setdefault(kind, {})[key] = value
    if path.exists():
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as out:
            for kind, of_kind in rows.items():
                for key, value in of_kind.items():
                    out.write(_line({(kind, key): value}))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    return rows


def _changes(path: Path) -> Iterator[tuple[str, str, _Fields | None]]:
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield from json.loads(line)
            except ValueError:
                continue  # cut short: nobody was told of it, or the next line repeats it


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
            self._database.save(self._name, self._key(row), vars(row))
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
