"""Reads what an FTP server lists: MLSD, which is meant for programs, and the lines of `ls -l`, where a server knows no better."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from transport.remote import RemoteFile

_MAX_LINE = 64 << 10
_UNIX = re.compile(
    r"(?P<kind>[-a-zA-Z])[-rwxsStTlL]{9}[.+@]?\s+\d+\s+\S+\s+\S+\s+(?:(?P<size>\d+)|\d+,\s*\d+)\s"
    r"[A-Za-z]{3}\s+\d{1,2}\s+(?:\d{1,2}:\d\d|\d{4})\s(?P<name>.+)"
)


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """The lines of a listing, without their ends. What is not UTF-8 stands as lone surrogates."""
    while line := stream.readline(_MAX_LINE):
        text = line.rstrip(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if text:
            yield text


def machine_entry(line: str, prefix: str) -> RemoteFile | None:
    """A line of MLSD or MLST, as `prefix` + its name; None for the folder itself, its parent, and names that no folder holds."""
    facts, space, name = line.partition(" ")
    if not space or not _is_name(name):
        return None
    return _of_facts(facts, prefix + name)


def machine_answer(line: str, path: str) -> RemoteFile:
    """The line in the reply to MLST, which is about `path`, whatever the server calls it."""
    return _of_facts(line.strip().partition(" ")[0], path)


def unix_entry(line: str, prefix: str) -> RemoteFile | None:
    """A line of `ls -l`. Its time depends on the server's clock and season: none is better than a wrong one."""
    match = _UNIX.fullmatch(line)
    if not match:
        return None
    name = match["name"]
    kind = match["kind"]
    if kind == "l":
        name = name.partition(" -> ")[0]
    if not _is_name(name):
        return None
    size = int(match["size"] or 0) if kind == "-" else 0 if kind == "d" else -1
    return RemoteFile(prefix + name, size, None, kind == "d")


def seconds_of(stamp: str) -> float | None:
    """YYYYMMDDHHMMSS[.fraction], in UTC, as seconds since the epoch; None when it is not that."""
    whole, _, fraction = stamp.partition(".")
    try:
        seconds = datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
        return seconds + (float(f"0.{fraction}") if fraction else 0.0)
    except (ValueError, OverflowError):
        return None


YEAR_10000 = 253_402_300_800
"""In seconds since the epoch: a stamp has four digits for the year."""


def stamp_of(seconds: float) -> str:
    """The other way around, to the second; before YEAR_10000."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y%m%d%H%M%S")


def _of_facts(text: str, path: str) -> RemoteFile:
    pairs = (fact.partition("=") for fact in text.split(";"))
    facts = {name.lower(): value for name, _, value in pairs}
    kind = facts.get("type", "").lower()
    mtime = seconds_of(facts.get("modify", ""))
    if kind in {"dir", "cdir", "pdir"}:
        return RemoteFile(path, 0, mtime, folder=True)
    size = facts.get("size", "")
    return RemoteFile(path, int(size) if kind == "file" and size.isdigit() else -1, mtime)


def _is_name(name: str) -> bool:
    return name not in {".", "..", ""} and "/" not in name and "\0" not in name
