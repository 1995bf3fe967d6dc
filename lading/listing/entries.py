"""One line of a manifest: the value, how it is written, and how it is read back from strangers."""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

DIGEST_CHARS: Final[Mapping[str, int]] = {
    "sha256": 64,
    "md5": 32,
    "sha1": 40,
    "Murmur3-128": 32,
    "Murmur3-32": 8,
    "CRC-32": 8,
    "Adler-32": 8,
    "File-Size-64": 16,
    "xxh128": 32,
}
"""The digests a manifest may carry, and how many hexadecimal characters each has. SHA-256 is always there.

Those with capitals are OMERO's, in its own strings (see `lading.listing.digests`); xxh128 is what rsync compares by.
"""

_MORE_DIGESTS = tuple(name for name in DIGEST_CHARS if name != "sha256")
_MAX_INT = 1 << 63
_MAX_TIME = _MAX_INT * 1_000_000_000
"""File systems count seconds in 64 bits; in nanoseconds, 64 bits end in the year 2262, and broken clocks go beyond."""
_HEX = re.compile(r"[0-9a-f]+")
# The C function under json.dumps, which the standard library's stubs do not name.
_quoted: Callable[[str], str] = json.encoder.encode_basestring_ascii

# A line just as we write it. What does not look like this is read the slow way, which explains what is wrong.
_OUR_LINE = re.compile(
    r'\{"path": "([^"\\\x00-\x1f\x7f-\uffff]{1,4096})", "size": (0|[1-9][0-9]{0,17}), '
    r'"mtime_ns": (0|-?[1-9][0-9]{0,17}), "sha256": "([0-9a-f]{64})"'
    + "".join(f'(?:, "{name}": "([0-9a-f]{{{DIGEST_CHARS[name]}}})")?' for name in _MORE_DIGESTS)
    + r"\}\n?"
)
_USUAL = 4 + _MORE_DIGESTS.index("Murmur3-128")
"""The last group of a line with none but the digests of hashlib."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a delivery.

    `path` is relative POSIX (undecodable bytes as lone surrogates, see `os.fsdecode`), `size` in bytes, `mtime_ns` in
    nanoseconds since the epoch, `digests` maps an algorithm to lower-case hex and always has "sha256".
    """

    path: str
    size: int
    mtime_ns: int
    digests: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """The SHA-256, lower-case hex."""
        return self.digests["sha256"]


@dataclass(frozen=True, slots=True)
class Filtered:
    """A file that was left out, and why."""

    path: str
    size: int
    reason: str


def order_key(path: str) -> bytes:
    """Sorts paths the way manifests are sorted: depth first, the names of each folder by their bytes."""
    return path.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


def entry_line(path: str, size: int, mtime_ns: int, digests: Mapping[str, str]) -> str:
    """The line of `manifest.jsonl`, with its newline. ASCII. `digests` come in the order of DIGEST_CHARS."""
    rest = "}\n"
    if len(digests) > 1:
        rest = "".join([f', "{name}": "{value}"' for name, value in digests.items() if name != "sha256"]) + rest
    return f'{{"path": {_quoted(path)}, "size": {size}, "mtime_ns": {mtime_ns}, "sha256": "{digests["sha256"]}"{rest}'


def sums_line(path: str, sha256: str) -> str:
    """The line of `manifest-sha256.txt`, with its newline, in the form that coreutils' `sha256sum -c` reads.

    A name with backslash, newline or carriage return is escaped and the line starts with a backslash
    (coreutils manual, "md5sum invocation"); a file called "-" would be read from standard input, so it gets a "./".
    """
    if path == "-":
        path = "./-"
    if "\\" in path or "\n" in path or "\r" in path:
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{sha256}  {escaped}\n"
    return f"{sha256}  {path}\n"


def sums_bytes(text: str) -> bytes:
    """Lines of `manifest-sha256.txt` as they are on disk: names with their own bytes."""
    return text.encode("utf-8", "surrogateescape")


def filtered_line(left_out: Filtered) -> str:
    """The line of `filtered.jsonl`, with its newline. ASCII."""
    return json.dumps({"path": left_out.path, "size": left_out.size, "reason": left_out.reason}) + "\n"


def parse_entry(line: str, *, max_depth: int) -> Entry:
    """The entry on one line from a stranger. Raises ValueError saying what is wrong; the path in it cannot escape."""
    match = _OUR_LINE.fullmatch(line)
    if match:
        path, size, mtime_ns, sha256, md5, sha1 = match.group(1, 2, 3, 4, 5, 6)
        digests = {"sha256": sha256}
        if md5:
            digests["md5"] = md5
        if sha1:
            digests["sha1"] = sha1
        if (match.lastindex or 0) > _USUAL:
            rest = zip(_MORE_DIGESTS, match.groups()[4:], strict=True)
            digests |= {name: value for name, value in rest if value}
        check_path(path, max_depth=max_depth)
        return Entry(path, int(size), int(mtime_ns), digests)
    raw = _parse_object(line)
    unknown = raw.keys() - {"path", "size", "mtime_ns"} - DIGEST_CHARS.keys()
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r:.80}")
    path = _string(raw, "path")
    check_path(path, max_depth=max_depth)
    size_value, time_value = _integer(raw, "size"), _integer(raw, "mtime_ns", _MAX_TIME)
    if size_value < 0:
        raise ValueError("a negative size")
    hexes = {name: _digest(raw, name) for name in DIGEST_CHARS if name in raw}
    if "sha256" not in hexes:
        raise ValueError("no sha256")
    return Entry(path, size_value, time_value, hexes)


def parse_filtered(line: str) -> Filtered:
    """The filtered file on one line from a stranger. Raises ValueError. Its path is only ever shown, never opened."""
    raw = _parse_object(line)
    if raw.keys() != {"path", "size", "reason"}:
        raise ValueError("expected the keys path, size, reason")
    return Filtered(_string(raw, "path"), _integer(raw, "size"), _string(raw, "reason"))


class PathEscapesError(ValueError):
    """A path that could leave the folder it is relative to."""


def check_path(path: str, *, max_depth: int) -> None:
    """Raise PathEscapesError or ValueError unless `path` is a plain relative POSIX path, not over `max_depth` parts."""
    if not path:
        raise ValueError("an empty path")
    if path[0] == "/" or "\0" in path:
        raise PathEscapesError(f"the path {path!r:.120} is absolute or holds a NUL")
    if "." in path or "//" in path or path[-1] == "/":
        for part in path.split("/"):
            if part in {"", ".", ".."}:
                raise PathEscapesError(f"the path {path!r:.120} has the part {part!r}")
    if path.count("/") >= max_depth:
        raise ValueError(f"the path {path!r:.120} is deeper than {max_depth} folders")
    if starts_like_a_drive(path):
        raise PathEscapesError(f"the path {path!r:.120} starts like a Windows drive or share")
    if os.name == "nt" and ("\\" in path or ":" in path):
        raise PathEscapesError(f"the path {path!r:.120} means something else on Windows")


def starts_like_a_drive(path: str) -> bool:
    """Whether `path` starts with `X:\\` or `\\\\`: refused everywhere, for the day the inbox moves to another system."""
    return path.startswith("\\\\") or (path[1:3] == ":\\" and path[0].isalpha())


def _parse_object(line: str) -> dict[str, object]:
    try:
        raw = json.loads(line, object_pairs_hook=_without_duplicates, parse_constant=_no_number, parse_float=_no_number)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(raw, dict):
        raise ValueError(f"expected an object, found {type(raw).__name__}")  # noqa: TRY004 - callers catch ValueError
    return raw


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    raw = dict(pairs)
    if len(raw) != len(pairs):
        raise ValueError("a key appears twice")
    return raw


def _no_number(text: str) -> object:
    raise ValueError(f"the number {text:.40} is not an integer")


def _string(raw: Mapping[str, object], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")  # noqa: TRY004
    # Lone surrogates stand for undecodable bytes (U+DC80 to U+DCFF); any other cannot be written to a disk.
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise ValueError(f"{key} is not text") from exc
    return value


def _integer(raw: Mapping[str, object], key: str, limit: int = _MAX_INT) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is not an integer")  # noqa: TRY004
    if not -limit <= value < limit:
        raise ValueError(f"{key} is beyond what a file can have")
    return value


def _digest(raw: Mapping[str, object], name: str) -> str:
    value = _string(raw, name)
    if len(value) != DIGEST_CHARS[name] or not _HEX.fullmatch(value):
        raise ValueError(f"{name} is not {DIGEST_CHARS[name]} lower-case hexadecimal characters")
    return value
