"""Reads HQL, Hibernate's query language, into a tree. What it does not know it refuses, and never guesses.

select d from Dataset d left outer join fetch d.imageLinks l where d.id in (:ids) and l.child.name like 'a%' order by d.name
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lading.sandbox.omero.errors import Unsupported


class Expression:
    """A node of the tree."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """A number, text, true, false, null."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    """`:name`"""

    name: str


@dataclass(frozen=True, slots=True)
class PathTo(Expression):
    """`image.details.owner.id`"""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operation(Expression):
    """`kind`: and, or, not, =, <>, <, >, <=, >=, like, in, is null, between, +, -, *, /, ||"""

    kind: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Function(Expression):
    """A call; aggregates too. `count(*)` has no arguments."""

    name: str
    arguments: tuple[Expression, ...]
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """`case when … then … else … end`"""

    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression


@dataclass(frozen=True, slots=True)
class Subquery(Expression):
    """A query in brackets; with `exists`, only whether it has rows."""

    query: "Query"
    exists: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """`from Image i`"""

    entity: str
    alias: str


@dataclass(frozen=True, slots=True)
class Join:
    """`left outer join fetch d.imageLinks l with …`"""

    path: tuple[str, ...]
    alias: str
    outer: bool
    fetch: bool
    condition: Expression | None


@dataclass(frozen=True, slots=True)
class Query:
    """A whole select. `items` is empty when there is no select clause: then the first source is meant."""

    items: tuple[Expression, ...]
    distinct: bool
    sources: tuple[Source, ...]
    joins: tuple[Join, ...]
    where: Expression | None
    group: tuple[Expression, ...]
    having: Expression | None
    order: tuple[tuple[Expression, bool], ...]
    names: tuple[str, ...] = ()


_T = TypeVar("_T")
AGGREGATES = frozenset({"count", "max", "min", "sum", "avg"})
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)[lL]?|(?P<text>'(?:[^']|'')*')|(?P<parameter>:\w+)"
    r"|(?P<name>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)|(?P<mark><>|!=|<=|>=|\|\||[=<>(),+\-*/]))"
)
_WORDS = frozenset(
    [
        "select",
        "from",
        "where",
        "and",
        "or",
        "not",
        "in",
        "is",
        "null",
        "join",
        "fetch",
        "left",
        "right",
        "outer",
        "inner",
        "as",
        "order",
        "group",
        "by",
        "distinct",
        "like",
        "asc",
        "desc",
        "exists",
        "between",
        "having",
        "with",
        "true",
        "false",
        "case",
        "when",
        "then",
        "else",
        "end",
        "all",
    ]
)
_COMPARISONS = ("=", "!=", "<>", "<", ">", "<=", ">=")
_MAX_TOKENS = 20_000
_MAX_DEPTH = 60


def parse(text: str) -> Query:
    """Raises Unsupported, which says where, for what is not HQL or not known here."""
    parser = _Parser(text, _tokens(text))
    query = parser.query()
    if parser.more():
        raise parser.refused("nothing more")
    return query


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None or len(tokens) >= _MAX_TOKENS:
            raise Unsupported(f"HQL: cannot read {text[position : position + 30]!r}")
        kind, value = str(found.lastgroup), found.group(str(found.lastgroup))
        if kind == "name":
            value = re.sub(r"\s", "", value)
            if value.lower() in _WORDS:
                kind, value = "word", value.lower()
        tokens.append((kind, value))
        position = found.end()
    return tokens


class _Parser:
    def __init__(self, text: str, tokens: list[tuple[str, str]]) -> None:
        self._text, self._tokens, self._at = text, tokens, 0
        self._unnamed = 0
        self._depth = 0

    # -- tokens -----------------------------------------------------------------------------------------------------

    def more(self) -> bool:
        return self._at < len(self._tokens)

    def refused(self, wanted: str) -> Unsupported:
        rest = " ".join(value for _, value in self._tokens[self._at : self._at + 6])
        return Unsupported(f"HQL: expected {wanted} at {rest!r} in {self._text.strip()!r}")

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("", "")

    def _take(self, *values: str) -> str:
        """The next token when it is one of these words or marks, else ""."""
        kind, value = self._peek()
        if kind in ("word", "mark") and value in values:
            self._at += 1
            return value
        return ""

    def _need(self, value: str) -> None:
        if not self._take(value):
            raise self.refused(repr(value))

    def _name(self) -> str:
        kind, value = self._peek()
        if kind != "name":
            raise self.refused("a name")
        self._at += 1
        return value

    # -- clauses ----------------------------------------------------------------------------------------------------

    def query(self) -> Query:
        items: list[Expression] = []
        names: list[str] = []
        distinct = False
        if self._take("select"):
            distinct = bool(self._take("distinct"))
            items, names = self._items()
        self._need("from")
        sources, joins = self._sources()
        where = self._either() if self._take("where") else None
        group = self._after("group", self._expression)
        having = self._either() if self._take("having") else None
        order = self._after("order", self._ordering)
        return Query(
            tuple(items),
            distinct,
            tuple(sources),
            tuple(joins),
            where,
            tuple(group),
            having,
            tuple(order),
            tuple(names),
        )

    def _items(self) -> tuple[list[Expression], list[str]]:
        items, names = [], []
        while True:
            items.append(self._expression())
            named = self._take("as") or self._peek()[0] == "name"
            names.append(self._name() if named else "")
            if not self._take(","):
                return items, names

    def _sources(self) -> tuple[list[Source], list[Join]]:
        sources, joins = [self._source()], list[Join]()
        while True:
            if self._take(","):
                sources.append(self._source())
            elif (join := self._join(sources[0].alias)) is not None:
                joins.append(join)
            else:
                return sources, joins

    def _source(self) -> Source:
        entity = self._name().rpartition(".")[2]
        return Source(entity, self._alias())

    def _alias(self) -> str:
        self._take("as")
        kind, value = self._peek()
        if kind == "name" and "." not in value:
            self._at += 1
            return value
        self._unnamed += 1
        return f"<{self._unnamed}>"

    def _join(self, first: str) -> Join | None:
        start = self._at
        outer = bool(self._take("left", "right"))
        self._take("outer")
        self._take("inner")
        if not self._take("join"):
            self._at = start
            return None
        fetch = bool(self._take("fetch"))
        path = tuple(self._name().split("."))
        alias = self._alias()
        condition = self._either() if self._take("with") else None
        return Join(path if len(path) > 1 else (first, *path), alias, outer, fetch, condition)

    def _after(self, word: str, read: Callable[[], _T]) -> list[_T]:
        if not self._take(word):
            return []
        self._need("by")
        found = [read()]
        while self._take(","):
            found.append(read())
        return found

    def _ordering(self) -> tuple[Expression, bool]:
        expression = self._expression()
        return expression, self._take("asc", "desc") == "desc"

    # -- expressions, from the loosest to the tightest binding --------------------------------------------------------

    def _either(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Unsupported("HQL: nested too deeply")
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Operation("or", tuple(parts))

    def _both(self) -> Expression:
        parts = [self._negated()]
        while self._take("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else Operation("and", tuple(parts))

    def _negated(self) -> Expression:
        if not self._take("not"):
            return self._comparison()
        return Operation("not", (self._negated(),))

    def _comparison(self) -> Expression:
        left = self._expression()
        if self._take("is"):
            negated = bool(self._take("not"))
            if self._peek() == ("name", "empty"):
                self._at += 1
                return _perhaps_not(negated, Function("empty", (left,)))
            self._need("null")
            return _perhaps_not(negated, Operation("is null", (left,)))
        if mark := self._take(*_COMPARISONS):
            return Operation("<>" if mark == "!=" else mark, (left, self._expression()))
        negated = bool(self._take("not"))
        if self._take("in"):
            return _perhaps_not(negated, Operation("in", (left, *self._choices())))
        if self._take("like"):
            return _perhaps_not(negated, Operation("like", (left, self._expression())))
        if self._take("between"):
            low = self._expression()
            self._need("and")
            return _perhaps_not(negated, Operation("between", (left, low, self._expression())))
        if negated:
            raise self.refused("in, like or between")
        return left

    def _choices(self) -> list[Expression]:
        if not self._take("("):
            return [self._expression()]
        if self._peek() in (("word", "select"), ("word", "from")):
            choices: list[Expression] = [Subquery(self.query())]
        else:
            choices = [self._expression()]
            while self._take(","):
                choices.append(self._expression())
        self._need(")")
        return choices

    def _expression(self) -> Expression:
        left = self._product()
        while mark := self._take("||", "+", "-"):
            left = Operation(mark, (left, self._product()))
        return left

    def _product(self) -> Expression:
        left = self._atom()
        while mark := self._take("*", "/"):
            left = Operation(mark, (left, self._atom()))
        return left

    def _atom(self) -> Expression:
        kind, value = self._peek()
        if kind == "word":
            return self._word()
        if self._take("("):
            subquery = self._peek() in (("word", "select"), ("word", "from"))
            inner: Expression = Subquery(self.query()) if subquery else self._either()
            self._need(")")
            return inner
        if self._take("-"):
            return Operation("-", (Literal(0), self._atom()))
        self._at += 1
        match kind:
            case "number":
                return Literal(float(value) if "." in value else int(value))
            case "text":
                return Literal(value[1:-1].replace("''", "'"))
            case "parameter":
                return Parameter(value[1:])
            case "name":
                return self._function(value.lower()) if self._take("(") else PathTo(tuple(value.split(".")))
        self._at -= 1
        raise self.refused("a value")

    def _word(self) -> Expression:
        if word := self._take("true", "false"):
            return Literal(word == "true")
        if self._take("null"):
            return Literal(None)
        if self._take("case"):
            return self._case()
        if self._take("exists"):
            self._need("(")
            query = self.query()
            self._need(")")
            return Subquery(query, exists=True)
        raise self.refused("a value")

    def _case(self) -> Case:
        branches = []
        while self._take("when"):
            condition = self._either()
            self._need("then")
            branches.append((condition, self._expression()))
        otherwise = self._expression() if self._take("else") else Literal(None)
        self._need("end")
        if not branches:
            raise self.refused("when")
        return Case(tuple(branches), otherwise)

    def _function(self, name: str) -> Function:
        distinct = bool(self._take("distinct"))
        arguments: list[Expression] = []
        if name == "count" and self._take("*"):
            pass
        elif self._peek() != ("mark", ")"):
            arguments.append(self._expression())
            while self._take(","):
                arguments.append(self._expression())
        self._need(")")
        return Function(name, tuple(arguments), distinct)


def _perhaps_not(negated: bool, expression: Expression) -> Expression:
    return Operation("not", (expression,)) if negated else expression
