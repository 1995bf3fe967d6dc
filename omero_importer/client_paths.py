"""A file's name as OMERO files it: sanitised exactly as OMERO's own Java importer does, so that look-ups by name match.

The rules are "Windows required" and "UNIX required", the server's default (`omero.fs.repo.path_rules`), in the order in
which the Java client applies them: names, prefixes, then characters.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from lading.findings import Finding, error
from lading.listing.names import printable
from lading.manifest import NameLimits

_SAFE = "_"
_SUBSTITUTES = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), _SAFE),
    ord('"'): "'",
    ord("*"): "x",
    ord("/"): "!",
    ord(":"): ";",
    ord("<"): "[",
    ord(">"): "]",
    ord("?"): "%",
    ord("\\"): "!",
    ord("|"): "!",
}
_RESERVED = frozenset(
    {"AUX", "CLOCK$", "CON", "NUL", "PRN", *(f"COM{n}" for n in range(1, 10)), *(f"LPT{n}" for n in range(1, 10))}
)
_MARKED_STARTS = (*(f"{name}." for name in sorted(_RESERVED)), "$")

LIMITS = replace(NameLimits.POSIX, path_bytes=3500)
"""What the managed repository takes: 255 bytes a name, and a path that leaves room for the server's own prefix."""


@lru_cache(maxsize=4096)  # the folders of a delivery, asked for with each file
def safe_name(name: str) -> str:
    """One path component as OMERO stores it: `a:b*.tif` → `a;bx.tif`, `aux.log` → `_aux.log`, `con` → `con_`."""
    upper = name.upper()
    safe = name
    if upper in _RESERVED:
        safe += _SAFE
    # One "_" per matching rule, as Java does; no two of the prefixes match the same name.
    if upper.startswith(_MARKED_STARTS):
        safe = _SAFE + safe
    return safe.translate(_SUBSTITUTES)


def client_path(path: Path | str) -> str:
    """`path` as the `clientPath` of a FilesetEntry: "/"-separated, no leading slash, every component safe.

    A Windows path keeps its drive as the first component (`C;`), as in Java. Empty components vanish.
    """
    text = path.as_posix() if isinstance(path, Path) else path
    return "/".join(safe_name(part) for part in text.split("/") if part)


def path_findings(paths: Iterable[str]) -> Iterator[Finding]:
    """What OMERO cannot store under the names of a delivery: `paths` are relative POSIX, in the manifest's order.

    Errors: client-path-collides (two files would get one name there, or one that differs by case or Unicode form only),
    name-too-long, name-not-unicode. Memory: the names of the folders on the way to one file, not those of all files.
    """
    trail: list[tuple[str, dict[str, str]]] = [("", {})]
    for path in paths:
        parts = path.split("/")
        depth = 0
        while depth < len(parts) - 1 and depth + 1 < len(trail) and trail[depth + 1][0] == parts[depth]:
            depth += 1
        del trail[depth + 1 :]
        for level in range(depth, len(parts)):
            yield from _name_findings(parts, level, trail[level][1])
            if level < len(parts) - 1:
                trail.append((parts[level], {}))


def _name_findings(parts: list[str], level: int, siblings: dict[str, str]) -> Iterator[Finding]:
    name, path = parts[level], "/".join(parts[: level + 1])
    safe = safe_name(name)
    key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", safe).casefold())
    other = siblings.setdefault(key, name)
    if other != name:
        yield error(
            "client-path-collides",
            f"{printable(other)} and {printable(name)} in {printable('/'.join(parts[:level])) or 'the top folder'} would "
            f"get the same name in OMERO, or names that differ only by case or Unicode form ({printable(safe)})",
            path=path,
            hint="rename one of them",
        )
        return
    try:
        length, whole = len(safe.encode()), len(client_path(path).encode())
    except UnicodeEncodeError:
        yield error(
            "name-not-unicode",
            f"the name {printable(name)} is not UTF-8; OMERO stores names as Unicode",
            path=path,
            hint="rename it",
        )
        return
    if length > LIMITS.name_bytes or whole > LIMITS.path_bytes:
        yield error(
            "name-too-long",
            f"{printable(path):.200} has {length} bytes in its name and {whole} in its path; OMERO takes "
            f"{LIMITS.name_bytes} and {LIMITS.path_bytes}",
            path=path,
            hint="use shorter names",
        )
