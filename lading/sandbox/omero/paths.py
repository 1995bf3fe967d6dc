"""Where the managed repository files what it is sent: the template, and what is kept of the client's own folders.

Paths are tuples of components; on the wire and in the database they are joined with "/", without one at the start.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.sandbox.omero import errors

TEMPLATE = "%user%_%userId%//%year%-%month%/%day%/%time%"
"""omero.fs.repo.path, as it is by default. What is left of "//" belongs to root, the rest to the user."""
KEPT_PARENTS = 3
"""How many of the client's folders stay when Bio-Formats does not say how many its reader needs."""

_TERM = re.compile(r"%([a-zA-Z]+)%")
_SAFE = "_"
_SUBSTITUTES = str.maketrans(
    {
        **{chr(code): _SAFE for code in (*range(0x20), *range(0x7F, 0xA0))},
        **dict(zip('"*/:<>?\\|', "'x!;[]%!!", strict=True)),
    }
)
_DEVICES = (
    "AUX",
    "CLOCK$",
    "CON",
    "NUL",
    "PRN",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
)
_DEVICE_STARTS = tuple(f"{device}." for device in _DEVICES)

Components = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Location:
    """Where one fileset goes: its own folder, the folder that its files share below that, each file below that."""

    own: Components
    shared: Components
    used: tuple[Components, ...]

    @property
    def template_prefix(self) -> str:
        """Fileset.templatePrefix."""
        return joined(self.own) + "/"

    @property
    def log(self) -> Components:
        """The import log, beside the fileset's folder."""
        return (*self.own[:-1], self.own[-1] + ".log")


def components(path: str) -> Components:
    """Of a client's path. ".." is resolved and never leads out; empty components vanish."""
    found: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del found[-1:]
        elif part not in ("", "."):
            found.append(part)
    return tuple(found)


def joined(path: Components) -> str:
    """As the database has it."""
    return "/".join(path)


def safe(name: str) -> str:
    """One component as it may be called on any of the file systems that OMERO runs on."""
    upper = name.upper()
    if upper in _DEVICES:
        name += _SAFE
    if upper.startswith("$"):
        name = _SAFE + name
    if upper.startswith(_DEVICE_STARTS):
        name = _SAFE + name
    return name.translate(_SUBSTITUTES)


def locate(own: Components, client_paths: Sequence[str], required: Callable[[Sequence[str]], int | None]) -> Location:
    """Where files with these client paths go. `required` says how many of their common folders their reader needs.

    Raises ValidationException when two files would end at the same place, ApiUsageException for an empty path.
    """
    paths = [components(path) for path in client_paths]
    if not all(paths):
        raise errors.api_usage("a path has no file name")
    base = _common_folders(paths)
    needed = required(["/" + joined(path) for path in paths])
    shortest = min(len(path) for path in paths)
    trimmed = shortest - KEPT_PARENTS - 1 if needed is None else len(base) - needed
    trimmed = min(max(trimmed, 0), len(base))
    used = tuple(tuple(safe(part) for part in path[len(base) :]) for path in paths)
    if len(set(used)) < len(used):
        raise errors.validation("two files of the fileset would have the same path")
    return Location(own, own + tuple(safe(part) for part in base[trimmed:]), used)


def _common_folders(paths: Sequence[Components]) -> Components:
    """The folders that all share; never a file's own name."""
    shared = paths[0][:-1]
    for path in paths[1:]:
        count = 0
        for mine, other in zip(shared, path[:-1], strict=False):
            if mine != other:
                break
            count += 1
        shared = shared[:count]
    return shared


def create_own_folder(root: Path, template: str, terms: dict[str, str]) -> Components:
    """Make a folder by the template that nobody else has. `terms`: what %name% stands for, times excluded.

    Raises InternalException for a term that there is not, OSError.
    """
    now, millisecond = time.localtime(), int(time.time() * 1000) % 1000
    known = {
        **{name.lower(): safe(value) for name, value in terms.items()},
        "year": f"{now.tm_year}",
        "month": f"{now.tm_mon:02}",
        "monthname": time.strftime("%B", now),
        "day": f"{now.tm_mday:02}",
    }
    while True:
        known["time"] = f"{now.tm_hour:02}-{now.tm_min:02}-{now.tm_sec:02}.{millisecond:03}"
        own = tuple(_expanded(part, known) for part in components(template))
        folder = root.joinpath(*own)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            if "%time%" not in template:
                raise
            # As OMERO does it: a busy millisecond is followed by one that may have four digits.
            millisecond += 1
        else:
            return own


def _expanded(part: str, known: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        try:
            return known[found.group(1).lower()]
        except KeyError:
            raise errors.internal(
                "omero.ServerError", f'cannot expand template repository path component "{part}"'
            ) from None

    return _TERM.sub(value, part)
