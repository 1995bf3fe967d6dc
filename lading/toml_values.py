"""Hooks that take a TOML value for what it is: nothing is converted by guessing."""

from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Any, TypeVar, get_args, get_origin

import cattrs

T = TypeVar("T")


def strict(value: object, cls: type[T]) -> T:
    """`value`, if it is a `cls`; a whole number is a float too. Raises ValueError."""
    if isinstance(value, bool) and cls is not bool:
        raise ValueError(f"expected {cls.__name__}, found {value!r}")
    if cls is float and isinstance(value, int):
        return cls(value)  # type: ignore[call-arg]  # float(int) is what the branch says
    if not isinstance(value, cls):
        raise ValueError(f"expected {cls.__name__}, found {value!r}")  # noqa: TRY004 - cattrs collects ValueErrors alike
    return value


def table(value: object) -> Mapping[str, object]:
    """`value`, if it is a table. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a table, found {value!r}")  # noqa: TRY004 - cattrs collects ValueErrors alike
    return value


def is_tuple(kind: object) -> bool:
    """Whether the type `kind` is written as an array."""
    return get_origin(kind) is tuple


def list_hook(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """A tuple comes from a TOML array and from nothing else: cattrs alone would take a string apart into letters."""
    inner = get_args(kind)[0]

    def structure_list(value: object, _: object) -> object:
        if not isinstance(value, list):
            raise ValueError(f"expected an array, found {value!r}")  # noqa: TRY004 - cattrs collects ValueErrors alike
        return tuple(converter.structure(value, GenericAlias(list, (inner,))))  # type: ignore[arg-type]  # made at run time

    return structure_list
