"""What the store keeps: immutable records of plain values, and their form as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ref:
    """Refers to a record. `cls` is its exact class as far as the writer knew; ids are unique within a hierarchy."""

    cls: str
    id: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """An ordered list of names and values (the content of a map annotation)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit: `cls` is omero.model's class ("LengthI"), `unit` the name in its enumeration."""

    cls: str
    unit: str
    value: float


Value: TypeAlias = "bool | int | float | str | Ref | Pairs | Quantity | None"


@dataclass(frozen=True, slots=True)
class Record:
    """One row. Times are milliseconds since the epoch; `version` counts the changes."""

    cls: str
    id: int
    owner: int
    group: int
    created: int
    updated: int
    fields: Mapping[str, Value]
    version: int = 0

    @property
    def ref(self) -> Ref:
        """What other records use to refer to it."""
        return Ref(self.cls, self.id)

    def get(self, field: str) -> Value:
        """A field's value, None where it was never set."""
        return self.fields.get(field)

    def text(self, field: str) -> str:
        """A field that holds text; "" where it is null."""
        value = self.fields.get(field)
        return value if isinstance(value, str) else ""

    def reference(self, field: str) -> Ref | None:
        """A field that refers to another record."""
        value = self.fields.get(field)
        return value if isinstance(value, Ref) else None

    def changed(self, now: int, **fields: Value) -> "Record":
        """The same record with other values, one version on."""
        values = {**self.fields, **fields}
        return Record(self.cls, self.id, self.owner, self.group, self.created, now, values, self.version + 1)


def dump(record: Record) -> str:
    """Everything but class and id, as JSON for one cell of the journal."""
    head = [record.owner, record.group, record.created, record.updated, record.version]
    return _JSON.encode([head, record.fields])


def load(cls: str, number: int, text: str) -> Record:
    """The inverse of `dump`."""
    (owner, group, created, updated, version), fields = json.loads(text)
    values = {name: _value(plain) for name, plain in fields.items()}
    return Record(cls, number, owner, group, created, updated, values, version)


def _plain(value: object) -> object:
    """What JSON does not know by itself."""
    match value:
        case Ref(cls, number):
            return {"ref": [cls, number]}
        case Pairs(items):
            return {"pairs": items}
        case Quantity(cls, unit, number):
            return {"quantity": [cls, unit, number]}
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


_JSON = json.JSONEncoder(ensure_ascii=False, default=_plain)


def _value(plain: object) -> Value:
    if not isinstance(plain, dict):
        assert plain is None or isinstance(plain, bool | int | float | str)
        return plain
    ((kind, content),) = plain.items()
    if kind == "pairs":
        return Pairs(tuple((name, value) for name, value in content))
    return Ref(*content) if kind == "ref" else Quantity(*content)
