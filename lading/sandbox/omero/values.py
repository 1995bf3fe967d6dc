"""Evaluates HQL's expressions on one row: aliases bound to records."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import omero.rtypes

from lading.sandbox.omero import graph, hql, model
from lading.sandbox.omero.errors import Unsupported
from lading.sandbox.omero.records import Pairs, Quantity, Record, Ref
from lading.sandbox.omero.store import Store


@dataclass(frozen=True, slots=True)
class DetailsOf:
    """`x.details`"""

    record: Record


@dataclass(frozen=True, slots=True)
class EventAt:
    """`x.details.creationEvent`"""

    time: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One entry of a map annotation, when it was joined."""

    name: str
    value: str


Thing: TypeAlias = (
    "bool | int | float | str | Record | DetailsOf | EventAt | Pair | Pairs | Quantity | list[Thing] | None"
)
Row = dict[str, Thing]
_PLAIN = (bool, int, float, str)
_ARITHMETIC: Mapping[str, Callable[[object, object], object]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_ORDERINGS: Mapping[str, Callable[[int], bool]] = {
    "<": lambda sign: sign < 0,
    ">": lambda sign: sign > 0,
    "<=": lambda sign: sign <= 0,
    ">=": lambda sign: sign >= 0,
}


class Evaluator:
    """For one query. `default` is the alias meant by a path that begins with none."""

    def __init__(
        self,
        store: Store,
        parameters: Mapping[str, object],
        default: str,
        subquery: Callable[[hql.Query, Row], Iterator[Thing]],
    ) -> None:
        self._store, self._parameters, self._default, self._subquery = store, parameters, default, subquery
        self._things: dict[str, Thing] = {}
        self._numbers: dict[str, frozenset[int] | None] = {}

    def true(self, expression: hql.Expression, row: Row) -> bool:
        """The condition holds; SQL's unknown counts as no."""
        return self.value(expression, row) is True

    def value(self, expression: hql.Expression, row: Row) -> Thing:
        """Raises Unsupported for what cannot be evaluated."""
        if isinstance(expression, hql.PathTo):  # by far the most frequent
            return self._path(expression.parts, row)
        match expression:
            case hql.Literal(value):
                return value
            case hql.Parameter(name):
                return self._parameter(name)
            case hql.Operation(kind, operands):
                return self._operation(kind, operands, row)
            case hql.Function(name, arguments):
                return self._function(name, arguments, row)
            case hql.Case(branches, otherwise):
                chosen = next((result for condition, result in branches if self.true(condition, row)), otherwise)
                return self.value(chosen, row)
            case hql.Subquery(query, exists):
                found = self._subquery(query, row)
                return any(True for _ in found) if exists else list(found)
        raise Unsupported(f"HQL: cannot evaluate {expression}")

    def wire(self, expression: hql.Expression, row: Row) -> object:
        """The expression's value as a projection sends it, with the type that the field has; Records as they are."""
        if isinstance(expression, hql.PathTo) and len(expression.parts) > 1:
            owner, field = self._path(expression.parts[:-1], row), expression.parts[-1]
            value = self.step(owner, field)
            if isinstance(value, _PLAIN):
                if isinstance(owner, EventAt):
                    return omero.rtypes.rtime(value)
                if isinstance(owner, Record) and field != "id":
                    return graph.as_wire(owner.cls, field, value)
        else:
            value = self.value(expression, row)
            if isinstance(expression, hql.Subquery) and isinstance(value, list):
                value = value[0] if value else None
        return value if isinstance(value, Record) else plain_on_wire(value)

    def step(self, thing: Thing, name: str) -> Thing:
        """One property of a thing. Raises Unsupported when no class of its hierarchy has it."""
        match thing:
            case None:
                return None
            case Record():
                return self._property(thing, name)
            case DetailsOf(record):
                return self._of_details(record, name)
            case EventAt(time):
                return time if name == "time" else None
            case Pair(key, text):
                return key if name == "name" else text
            case Quantity(_, unit, number):
                return number if name == "value" else unit
            case list():
                raise Unsupported(f"HQL: illegal attempt to dereference a collection with {name!r}")
        raise Unsupported(f"HQL: no property {name!r} of {thing!r}")

    # -- paths ------------------------------------------------------------------------------------------------------

    def _path(self, parts: Sequence[str], row: Row) -> Thing:
        if parts[0] in row:
            thing, rest = row[parts[0]], parts[1:]
        elif len(parts) == 1 and parts[0] in model.names():
            return parts[0]  # obj.class = TagAnnotation
        else:
            thing, rest = row[self._default], parts
        for name in rest:
            thing = self.step(thing, name)
        return thing

    def _property(self, record: Record, name: str) -> Thing:
        if name in ("id", "version"):
            return record.id if name == "id" else record.version
        if name == "class":
            return record.cls
        if name == "details":
            return DetailsOf(record)
        value = record.get(name)
        if value is not None:
            return self._store.follow(value) if isinstance(value, Ref) else value
        described = model.model_class(record.cls)
        if name in described.fields:
            return None
        if name in described.collections:
            return list(self._store.members(record, name))
        if any(
            name in (other := model.model_class(cls)).fields or name in other.collections
            for cls in model.relatives(record.cls)
        ):
            return None
        raise Unsupported(f"HQL: could not resolve property: {name} of: {record.cls}")

    def _of_details(self, record: Record, name: str) -> Thing:
        match name:
            case "owner":
                return self._store.get("Experimenter", record.owner)
            case "group":
                return self._store.get("ExperimenterGroup", record.group)
            case "creationEvent":
                return EventAt(record.created)
            case "updateEvent":
                return EventAt(record.updated)
            case "externalInfo":
                return None
        raise Unsupported(f"HQL: could not resolve property: {name} of details")

    def _parameter(self, name: str) -> Thing:
        if name not in self._things:
            if name not in self._parameters:
                raise Unsupported(f"HQL: parameter :{name} is not set")
            self._things[name] = _thing(self._parameters[name])
        return self._things[name]

    def _ids(self, name: str) -> frozenset[int] | None:
        """A parameter that is a list of nothing but whole numbers, to look them up in; None for all others."""
        if name not in self._numbers:
            thing = self._parameter(name)
            ids = [one for one in thing if isinstance(one, int)] if isinstance(thing, list) else []
            self._numbers[name] = frozenset(ids) if isinstance(thing, list) and len(ids) == len(thing) else None
        return self._numbers[name]

    # -- operations -------------------------------------------------------------------------------------------------

    def _operation(self, kind: str, operands: tuple[hql.Expression, ...], row: Row) -> Thing:
        match kind:
            case "and":
                return all(self.true(each, row) for each in operands)
            case "or":
                return any(self.true(each, row) for each in operands)
            case "in":
                return self._among(operands, row)
        values = [comparable(self.value(each, row)) for each in operands]
        if kind == "is null":
            return values[0] is None
        # SQL's third truth value: what is asked of null is unknown.
        return None if any(value is None for value in values) else _operated(kind, values)

    def _among(self, operands: tuple[hql.Expression, ...], row: Row) -> bool | None:
        wanted = comparable(self.value(operands[0], row))
        if wanted is None:
            return None
        for each in operands[1:]:
            ids = self._ids(each.name) if isinstance(each, hql.Parameter) and isinstance(wanted, int) else None
            if ids is not None:
                if wanted in ids:
                    return True
                continue
            choice = self.value(each, row)
            for one in choice if isinstance(choice, list) else [choice]:
                if _equal(wanted, comparable(one)):
                    return True
        return False

    def _function(self, name: str, arguments: tuple[hql.Expression, ...], row: Row) -> Thing:
        if name not in _FUNCTIONS or not arguments:
            raise Unsupported(f"HQL: function {name} is not known here")
        values = [self.value(each, row) for each in arguments]
        if name == "coalesce":
            return next((value for value in values if value is not None), None)
        return None if values[0] is None else _FUNCTIONS[name](values)


def _members(thing: Thing) -> list[Thing]:
    if not isinstance(thing, list):
        raise Unsupported("HQL: a collection is needed here")
    return thing


_FUNCTIONS: Mapping[str, Callable[[list[Thing]], Thing]] = {
    "lower": lambda values: str(values[0]).lower(),
    "upper": lambda values: str(values[0]).upper(),
    "trim": lambda values: str(values[0]).strip(),
    "str": lambda values: str(values[0]),
    "length": lambda values: len(str(values[0])),
    "concat": lambda values: "".join(str(value) for value in values),
    "size": lambda values: len(_members(values[0])),
    "empty": lambda values: not _members(values[0]),
    "elements": lambda values: _members(values[0]),
    "coalesce": lambda values: values[0],
}


def _operated(kind: str, values: list[Thing]) -> Thing:
    """An operation on values of which none is null."""
    match kind:
        case "not":
            return not values[0]
        case "=" | "<>":
            return _equal(values[0], values[1]) == (kind == "=")
        case "like":
            return _pattern(str(values[1])).fullmatch(str(values[0])) is not None
        case "||":
            return "".join(str(value) for value in values)
    try:
        if kind == "between":
            return compared(values[1], values[0]) <= 0 <= compared(values[2], values[0])
        if kind in _ORDERINGS:
            return _ORDERINGS[kind](compared(*values))
        return _thing(_ARITHMETIC[kind](*values))
    except TypeError as error:
        raise Unsupported(f"HQL: {error}") from error


def comparable(thing: Thing) -> Thing:
    """What a thing is compared by: records by id."""
    return thing.id if isinstance(thing, Record) else thing


def compared(one: Thing, other: Thing) -> int:
    """Negative, zero or positive. Raises TypeError when the two cannot be ordered."""
    if isinstance(one, str) and isinstance(other, str):
        return (one > other) - (one < other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return (one > other) - (one < other)
    raise TypeError(f"{one!r} and {other!r} cannot be compared")


def plain_on_wire(value: Thing) -> object:
    """A value whose field is unknown (a count, a text put together) as a projection sends it."""
    match value:
        case None:
            return None
        case bool() | str():
            return omero.rtypes.wrap(value)
        case int():
            return omero.rtypes.rlong(value)
        case float():
            return omero.rtypes.rdouble(value)
        case Quantity(_, _, number):
            return omero.rtypes.rdouble(number)
        case Pairs():
            return omero.rtypes.rlist([omero.rtypes.rmap({k: omero.rtypes.rstring(v)}) for k, v in value.items])
    raise Unsupported(f"HQL: a {type(value).__name__} cannot be projected")


def parameters(wire: "omero.sys.Parameters | None") -> dict[str, object]:
    """The named parameters of a query, unwrapped."""
    if wire is None or not wire.map:
        return {}
    return {name: omero.rtypes.unwrap(value) for name, value in wire.map.items()}


def _thing(value: object) -> Thing:
    if isinstance(value, list | tuple | set):
        return [_thing(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    found = graph.as_plain(value)
    return found.id if isinstance(found, Ref) else str(found)


def _equal(one: Thing, other: Thing) -> bool:
    if isinstance(other, list):
        return len(other) == 1 and _equal(one, other[0])
    if isinstance(one, str) and isinstance(other, str) and other.startswith("ome.model."):
        return one == other.rpartition(".")[2]
    return one == other


@lru_cache(maxsize=256)
def _pattern(like: str) -> re.Pattern[str]:
    translated = "".join({"%": ".*", "_": "."}.get(letter) or re.escape(letter) for letter in like)
    return re.compile(translated, re.S)
