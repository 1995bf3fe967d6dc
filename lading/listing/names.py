"""Which names a target refuses or confuses, and a legal name to propose instead.

Windows rules: learn.microsoft.com "Naming Files, Paths, and Namespaces".
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lading.findings import Finding, error, note
from lading.listing.entries import starts_like_a_drive

_WINDOWS_ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f]')
_WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_UNDECODABLE = re.compile("[\ud800-\udfff]")
_CLASSIC_WINDOWS_PATH = 259


@dataclass(frozen=True)
class NameLimits:
    """What a target's file system or protocol refuses.

    `name_bytes` (of UTF-8, or UTF-16 units under Windows rules), `path_bytes` and `depth` bound one name, the whole
    relative path and its number of parts. `windows`: reserved names, illegal characters and undecodable bytes are
    errors. `utf8_only`: undecodable bytes are errors. `refused`: characters that are errors. `ignores_case`,
    `ignores_unicode_form`: two names that differ only so would become one file there. All
    presets but EXACT say yes: even a Linux repository is read from Windows and macOS, where one of the two would
    silently be lost.
    """

    name_bytes: int = 255
    path_bytes: int = 4000
    depth: int = 64
    windows: bool = False
    utf8_only: bool = False
    refused: str = ""
    ignores_case: bool = True
    ignores_unicode_form: bool = True

    POSIX: ClassVar["NameLimits"]
    WINDOWS: ClassVar["NameLimits"]
    SMB: ClassVar["NameLimits"]
    EXACT: ClassVar["NameLimits"]


NameLimits.POSIX = NameLimits()
NameLimits.WINDOWS = NameLimits(path_bytes=32_000, windows=True)
NameLimits.SMB = NameLimits(path_bytes=32_000, windows=True)
NameLimits.EXACT = NameLimits(ignores_case=False, ignores_unicode_form=False)


def name_findings(folder: str, name: str, limits: NameLimits) -> Iterator[Finding]:
    """What is wrong with one name in `folder` (relative POSIX, "" for the root) for a target with `limits`."""
    path = f"{folder}/{name}" if folder else name
    shown = printable(path)
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2 if limits.windows else len(_bytes(name))
    if length > limits.name_bytes:
        yield error(
            "name-too-long",
            f"the name {printable(name)} has {length} units, the target takes {limits.name_bytes}",
            path=path,
            hint="shorten it",
        )
    if len(_bytes(path)) > limits.path_bytes:
        yield error(
            "name-too-long",
            f"the path {shown:.200} has {len(_bytes(path))} bytes, the target takes {limits.path_bytes}",
            path=path,
            hint="use shorter folder names",
        )
    elif limits.windows and len(path) > _CLASSIC_WINDOWS_PATH:
        yield note(
            "path-long-for-windows",
            f"the path {shown:.200} has {len(path)} characters; programs without long-path support stop at 259",
            path=path,
        )
    if path.count("/") >= limits.depth:
        yield error(
            "path-too-deep",
            f"{shown:.200} lies deeper than {limits.depth} folders",
            path=path,
            hint="pack the folder into an archive",
        )
    reason = _windows_reason(name) if limits.windows else _posix_reason(path, limits)
    reason = reason or _refused_reason(path, limits)
    if reason:
        proposal = "".join("_" if c in limits.refused else c for c in windows_name(name))
        yield error("name-illegal", f"{shown}: the target refuses {reason}", path=path, hint=f"rename to {proposal!r}")


def collisions(folder: str, names: Sequence[str], limits: NameLimits) -> Iterator[Finding]:
    """Names of one folder that a target with `limits` cannot tell apart."""
    if not (limits.ignores_case or limits.ignores_unicode_form) or not _may_collide(names, limits):
        return
    first: dict[str, str] = {}
    for name in names:
        key = _folded(name, limits)
        other = first.setdefault(key, name)
        if other == name:
            continue
        by_form = _nfc(other) == _nfc(name)
        path = f"{folder}/{name}" if folder else name
        how = "by Unicode form (composed or decomposed)" if by_form else "by upper and lower case"
        yield error(
            "name-collides-by-unicode-form" if by_form else "name-collides-by-case",
            f"{printable(other)} and {printable(name)} in {printable(folder) or 'the top folder'} differ only {how}; "
            "on Windows, macOS or a share one would overwrite the other",
            path=path,
            hint="rename one of them",
        )


def windows_name(name: str) -> str:
    """`name`, made legal on Windows: `aux.txt` → `aux_.txt`, `a:b.` → `a_b`."""
    legal = _UNDECODABLE.sub("_", _WINDOWS_ILLEGAL.sub("_", name)).rstrip(". ") or "_"
    stem, dot, rest = legal.partition(".")
    if _WINDOWS_RESERVED.fullmatch(stem.rstrip(" ")):
        return f"{stem}_{dot}{rest}"
    return legal


def printable(text: str) -> str:
    """`text` for a message: control characters and undecodable bytes escaped, everything else as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _windows_reason(name: str) -> str:
    illegal = _WINDOWS_ILLEGAL.search(name)
    if illegal:
        return f"the character {illegal.group()!r}"
    if _UNDECODABLE.search(name):
        return "bytes that are not UTF-8"
    if name[-1] in ". ":
        return "a name that ends with a dot or a space"
    if _WINDOWS_RESERVED.fullmatch(name.partition(".")[0].rstrip(" ")):
        return "a reserved device name"
    return ""


def _refused_reason(path: str, limits: NameLimits) -> str:
    refused = next((c for c in path if c in limits.refused), "") if limits.refused else ""
    return f"the character {refused!r}" if refused else ""


def _posix_reason(path: str, limits: NameLimits) -> str:
    if limits.utf8_only and _UNDECODABLE.search(path):
        return "bytes that are not UTF-8"
    if starts_like_a_drive(path):
        return "a path that starts like a Windows drive or share"
    # Only Windows makes such names (half a UTF-16 pair); no other system can hold them.
    halves = any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in path)
    return "half a UTF-16 pair" if halves else ""


def _may_collide(names: Sequence[str], limits: NameLimits) -> bool:
    # All names folded in one go (NUL is in no name and does not compose): a folder of 200,000 costs milliseconds.
    return len(set(_folded("\0".join(names), limits).split("\0"))) < len(names)


def _folded(text: str, limits: NameLimits) -> str:
    if limits.ignores_unicode_form:
        text = _nfc(text)
    if limits.ignores_case:
        text = text.lower() if text.isascii() else text.casefold()
    return _nfc(text) if limits.ignores_unicode_form else text


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
