"""Finds parts by their entry points, built-in and third-party alike; listing them imports none of them."""

from importlib.metadata import EntryPoint, entry_points

from lading.config import nearest
from lading.errors import ConfigError

GROUPS = ("lading.transports", "lading.sources", "lading.checks", "lading.importers", "lading.reporters")

_GUIDES = {"omero": "docs/how-to/omero-install.md (in a checkout: make omero)"}
"""Extras that pip alone cannot install everywhere."""


def names(group: str) -> tuple[str, ...]:
    """The names registered under an entry-point group, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def part(group: str, name: str, *, where: str) -> type:
    """The class registered as `name`. `where` is the settings key that asked, for the message.

    Raises ConfigError for an unknown name (with the nearest one) or when the part's own libraries are not installed.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise ConfigError(f"{where}: no {_word(group)} called {name!r} is installed{nearest(name, found)}")
    return _load(found[name], where)


def _load(point: EntryPoint, where: str) -> type:
    try:
        loaded = point.load()
    except ImportError as exc:
        guide = f"; how: {_GUIDES[point.name]}" if point.name in _GUIDES else ""
        raise ConfigError(
            f"{where}: {point.name!r} needs the Python package {exc.name!r}, which is not installed{guide}",
            next_command=f"pip install 'lading[{point.name}]'",
        ) from exc
    if not isinstance(loaded, type):
        raise ConfigError(f"{where}: the entry point {point.name!r} ({point.value}) is not a class")
    return loaded


def _word(group: str) -> str:
    return group.removeprefix("lading.").removesuffix("s")
