"""Carries out a query: nested loops over the records, with conditions applied as early as their aliases are bound.

A condition on an id or on a reference is looked up instead of searched for, so that what importers and gateways ask
("the entries of fileset 7") costs what it finds, not what the server holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

import omero.rtypes

from lading.sandbox.omero import graph, hql, model, permissions
from lading.sandbox.omero.errors import Unsupported
from lading.sandbox.omero.hql import Expression, Function, Join, Operation, Parameter, PathTo, Query, Source, Subquery
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.records import Pairs, Record
from lading.sandbox.omero.store import Store
from lading.sandbox.omero.values import Evaluator, Pair, Row, Thing, comparable, compared, plain_on_wire

parse = lru_cache(maxsize=512)(hql.parse)


class Search:
    """One query with its parameters, on behalf of one context."""

    def __init__(
        self, store: Store, context: Context, query: Query, parameters: Mapping[str, object], outer: Row | None = None
    ) -> None:
        for source in query.sources:
            if source.entity not in model.names():
                raise Unsupported(f"HQL: {source.entity} is not mapped")
        self._store, self._context, self.query = store, context, query
        self._parameters, self._outer = parameters, outer or {}
        self._evaluator = Evaluator(store, parameters, query.sources[0].alias, self._below)

    # -- results ----------------------------------------------------------------------------------------------------

    def records(self, offset: int = 0, limit: int | None = None) -> list[Record]:
        """What findAllByQuery gives: each record once, in order."""
        item = self._single_item()
        found: dict[tuple[str, int], Record] = {}
        for row in self._ordered(self._rows()):
            thing = self._evaluator.value(item, row)
            if isinstance(thing, Record):
                found.setdefault((thing.cls, thing.id), thing)
            elif thing is not None:
                raise Unsupported("HQL: a query for objects selects a plain value; use projection")
        return list(found.values())[offset : None if limit is None else offset + limit]

    def plan(self) -> graph.Plan:
        """What `join fetch` wants to be loaded with the records."""
        item = self._single_item()
        assert isinstance(item, PathTo)
        first = self.query.sources[0].alias
        plans: dict[str, graph.Plan] = {first: {}, item.parts[0]: {}}
        for join in self.query.joins:
            base, path = (join.path[0], join.path[1:]) if join.path[0] in plans else (first, join.path)
            known = join.path[0] in plans or join.path[0] not in self._aliases()
            if not (join.fetch and known):
                continue
            node = plans[base]
            for part in path:
                node = node.setdefault(part, {})
            plans[join.alias] = node
        node = plans[item.parts[0]] if item.parts[0] in plans else plans[first]
        for part in item.parts[1:]:
            node = node.get(part, {})
        return node

    def projection(self, offset: int = 0, limit: int | None = None) -> list[list[object]]:
        """What IQuery.projection gives: rows of RTypes."""
        if not self.query.items:
            raise Unsupported("HQL: a projection needs a select clause")
        if self.query.group or any(_aggregates(item) for item in self.query.items):
            lines = self._grouped()
        else:
            lines = [[self._wire(item, row) for item in self.query.items] for row in self._ordered(self._rows())]
        if self.query.distinct:
            lines = _without_repetitions(lines)
        return lines[offset : None if limit is None else offset + limit]

    def _single_item(self) -> Expression:
        if not self.query.items:
            return PathTo((self.query.sources[0].alias,))
        if len(self.query.items) != 1 or not isinstance(self.query.items[0], PathTo):
            raise Unsupported("HQL: a query for objects selects exactly one of them")
        return self.query.items[0]

    def _wire(self, expression: Expression, row: Row) -> object:
        made = self._evaluator.wire(expression, row)
        if isinstance(made, Record):
            return omero.rtypes.robject(graph.build(self._store, made, self._context))
        return made

    # -- groups -----------------------------------------------------------------------------------------------------

    def _grouped(self) -> list[list[object]]:
        groups: dict[tuple[object, ...], list[Row]] = {} if self.query.group else {(): []}
        for row in self._rows():
            key = tuple(comparable(self._evaluator.value(each, row)) for each in self.query.group)
            groups.setdefault(key, []).append(row)
        members = list(groups.values())
        if self.query.having is not None:
            members = [rows for rows in members if self._over(self.query.having, rows) is True]
        for expression, falling in reversed(self.query.order):
            members.sort(key=self._group_key(self._named(expression)), reverse=falling)
        return [[self._group_value(item, rows) for item in self.query.items] for rows in members]

    def _named(self, expression: Expression) -> Expression:
        if isinstance(expression, PathTo) and len(expression.parts) == 1 and expression.parts[0] in self.query.names:
            return self.query.items[self.query.names.index(expression.parts[0])]
        return expression

    def _group_value(self, item: Expression, rows: list[Row]) -> object:
        if _aggregates(item):
            return plain_on_wire(self._over(item, rows))
        return self._wire(item, rows[0]) if rows else None

    def _over(self, expression: Expression, rows: list[Row]) -> Thing:
        """The value of an expression for a group of rows."""
        if isinstance(expression, Function) and expression.name in hql.AGGREGATES:
            return self._aggregate(expression, rows)
        if isinstance(expression, Operation) and _aggregates(expression):
            operands = tuple(hql.Literal(_literal(self._over(each, rows))) for each in expression.operands)
            return self._evaluator.value(Operation(expression.kind, operands), rows[0] if rows else {})
        return self._evaluator.value(expression, rows[0]) if rows else None

    def _aggregate(self, function: Function, rows: list[Row]) -> Thing:
        if not function.arguments:
            return len(rows)
        values = [comparable(self._evaluator.value(function.arguments[0], row)) for row in rows]
        values = [value for value in values if value is not None]
        if function.distinct:
            values = list(dict.fromkeys(values))
        if function.name == "count":
            return len(values)
        if not values:
            return None
        total = (
            sum(value for value in values if isinstance(value, int | float)) if function.name in ("sum", "avg") else 0
        )
        match function.name:
            case "sum":
                return total
            case "avg":
                return total / len(values)
            case "max":
                return max(values, key=_Rank)
        return min(values, key=_Rank)

    # -- rows -------------------------------------------------------------------------------------------------------

    def _below(self, query: Query, row: Row) -> Iterator[Thing]:
        search = Search(self._store, self._context, query, self._parameters, {**self._outer, **row})
        item: Expression = query.items[0] if query.items else PathTo((query.sources[0].alias,))
        if _aggregates(item):
            yield search._over(item, list(search._rows()))
            return
        for found in search._rows():
            yield search._evaluator.value(item, found)

    def _rows(self) -> Iterator[Row]:
        waiting = [(condition, self._needs(condition)) for condition in _conjuncts(self.query.where)]
        rows: Iterable[Row] = [dict(self._outer)]
        bound = set(self._outer)
        steps: list[Source | Join] = [*self.query.sources, *self.query.joins]
        for number, step in enumerate(steps):
            bound.add(step.alias)
            last = number == len(steps) - 1
            ready = [condition for condition, needs in waiting if needs <= bound or last]
            rows = self._scanned(rows, step, ready) if isinstance(step, Source) else self._joined(rows, step)
            rows = self._filtered(rows, ready)
            waiting = [(condition, needs) for condition, needs in waiting if condition not in ready]
        return iter(rows)

    def _filtered(self, rows: Iterable[Row], conditions: list[Expression]) -> Iterable[Row]:
        if not conditions:
            return rows
        return (row for row in rows if all(self._evaluator.true(condition, row) for condition in conditions))

    def _scanned(self, rows: Iterable[Row], source: Source, conditions: list[Expression]) -> Iterator[Row]:
        for row in rows:
            for record in self._candidates(source, conditions, row):
                if model.is_a(record.cls, source.entity) and permissions.can_read(self._store, self._context, record):
                    yield {**row, source.alias: record}

    def _candidates(self, source: Source, conditions: list[Expression], row: Row) -> Iterable[Record]:
        for condition in conditions:
            found = self._looked_up(source, condition, row)
            if found is not None:
                return found
        return self._store.all(source.entity)

    def _looked_up(self, source: Source, condition: Expression, row: Row) -> Iterable[Record] | None:
        """The few records that can fulfil `x.id = …`, `x.id in …`, `x.ref.id = …`; None for other conditions."""
        if not isinstance(condition, Operation) or condition.kind not in ("=", "in"):
            return None
        path, *choices = condition.operands
        if not isinstance(path, PathTo) or any(self._needs(choice) - set(row) for choice in choices):
            return None
        parts = path.parts[1:] if path.parts[0] == source.alias else path.parts
        if path.parts[0] != source.alias and source.alias != self.query.sources[0].alias:
            return None
        numbers = self._numbers(choices, row)
        if numbers is None:
            return None
        if parts in ((), ("id",)):
            return [record for number in numbers if (record := self._store.get(source.entity, number)) is not None]
        reference = parts[0] if parts[1:] in ((), ("id",)) else ""
        if reference not in model.model_class(source.entity).references:
            return None
        found = (record for number in numbers for record in self._store.referring(source.entity, reference, number))
        return sorted(found, key=lambda record: record.id)

    def _numbers(self, choices: list[Expression], row: Row) -> list[int] | None:
        numbers: dict[int, None] = {}
        for choice in choices:
            if isinstance(choice, Subquery):
                return None
            value = self._evaluator.value(choice, row)
            for one in value if isinstance(value, list) else [value]:
                number = comparable(one)
                if not isinstance(number, int):
                    return None
                numbers[number] = None
        return list(numbers)

    def _joined(self, rows: Iterable[Row], join: Join) -> Iterator[Row]:
        for row in rows:
            found = False
            for thing in self._reached(row, join.path):
                extended = {**row, join.alias: thing}
                if join.condition is None or self._evaluator.true(join.condition, extended):
                    found = True
                    yield extended
            if join.outer and not found:
                yield {**row, join.alias: None}

    def _reached(self, row: Row, path: tuple[str, ...]) -> Iterator[Thing]:
        start = row.get(path[0]) if path[0] in row else row[self.query.sources[0].alias]
        things = [start]
        for name in path[1:] if path[0] in row else path:
            things = [each for thing in things for each in _several(self._evaluator.step(thing, name))]
        for thing in things:
            if not isinstance(thing, Record) or permissions.can_read(self._store, self._context, thing):
                yield thing

    def _ordered(self, rows: Iterator[Row]) -> Iterable[Row]:
        if not self.query.order:
            return rows
        listed = list(rows)
        for expression, falling in reversed(self.query.order):
            listed.sort(key=self._row_key(self._named(expression)), reverse=falling)
        return listed

    def _row_key(self, expression: Expression) -> "Callable[[Row], _Rank]":
        return lambda row: _Rank(self._evaluator.value(expression, row))

    def _group_key(self, expression: Expression) -> "Callable[[list[Row]], _Rank]":
        return lambda rows: _Rank(self._over(expression, rows))

    # -- which aliases ----------------------------------------------------------------------------------------------

    def _aliases(self) -> set[str]:
        return {source.alias for source in self.query.sources} | {join.alias for join in self.query.joins}

    def _needs(self, expression: Expression) -> set[str]:
        """The aliases that must be bound before the expression can be evaluated."""
        match expression:
            case PathTo(parts):
                known = self._aliases() | set(self._outer)
                return {parts[0] if parts[0] in known else self.query.sources[0].alias}
            case Operation(_, operands):
                return set().union(*(self._needs(each) for each in operands))
            case Function(_, arguments):
                return set().union(*(self._needs(each) for each in arguments))
            case Parameter() | hql.Literal():
                return set()
        return self._aliases()


def _conjuncts(condition: Expression | None) -> list[Expression]:
    if condition is None:
        return []
    if isinstance(condition, Operation) and condition.kind == "and":
        return [part for each in condition.operands for part in _conjuncts(each)]
    return [condition]


def _aggregates(expression: Expression) -> bool:
    if isinstance(expression, Operation):
        return any(_aggregates(each) for each in expression.operands)
    return isinstance(expression, Function) and expression.name in hql.AGGREGATES


def _several(thing: Thing) -> list[Thing]:
    if thing is None:
        return []
    if isinstance(thing, Pairs):
        return [Pair(name, value) for name, value in thing.items]
    return thing if isinstance(thing, list) else [thing]


def _literal(thing: Thing) -> bool | int | float | str | None:
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise Unsupported("HQL: an aggregate of something that is no plain value")


class _Rank:
    """For sorting: nulls are larger than everything, as in PostgreSQL; what cannot be compared counts as its text."""

    def __init__(self, thing: Thing) -> None:
        self._value = comparable(thing)

    def __lt__(self, other: "_Rank") -> bool:
        if self._value is None or other._value is None:
            return self._value is not None and other._value is None
        try:
            return compared(self._value, other._value) < 0
        except TypeError:
            return str(self._value) < str(other._value)


def _without_repetitions(lines: list[list[object]]) -> list[list[object]]:
    seen: dict[str, list[object]] = {}
    for line in lines:
        seen.setdefault(repr([omero.rtypes.unwrap(value) for value in line]), line)
    return list(seen.values())
