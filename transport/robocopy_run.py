"""Runs robocopy.exe and understands it: by the bits of its exit code and the numbers in its log, never by its words.

Robocopy speaks the language of its Windows. Its exit code is a sum of bits (1 copied, 2 extra, 4 mismatched, 8 failed, 16 fatal;
below 8 is a success), and every failure in its log has one form in all languages: a time, a word, the number of a Windows error in
decimal and in hexadecimal, words, and the path.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Protocol

from lading.errors import (
    AccessDenied,
    LadingError,
    OutOfSpace,
    SourceChanged,
    TransportError,
    UnexpectedFault,
    Unreachable,
)
from transport.foreign import shown

FAILED, FATAL = 8, 16
_KNOWN_BITS = 31
_CHARACTERS = 16_000
"""Of file names in one call. Windows takes 32,767 for the whole command line, and each of our paths may need a lot of them."""

_FAILURE = re.compile(r"\S.* (\d{1,10}) \(0x([0-9A-Fa-f]{8})\) (.*)")
_PATH = re.compile(r"(?:^|\s)((?:[A-Za-z]:\\|\\\\|/).*)$")
_MAX_LOG = 16 << 20
_MAX_NAMED = 20

_MISSING, _LOCKED = (2, 3), (32, 33)
_KINDS: dict[int, type[TransportError]] = (
    # the disk or the quota is full
    dict.fromkeys((39, 112, 1295), OutOfSpace)
    # the network, the server, or a device
    | dict.fromkeys(
        (21, 23, 51, 52, 53, 54, 55, 59, 64, 67, 71, 121, 1117, 1130, 1167, 1231, 1232, 1236, 1450), Unreachable
    )
    # rights, passwords, write protection
    | dict.fromkeys(
        (5, 19, 65, 86, 1219, 1307, 1314, 1326, 1327, 1328, 1330, 1331, 1385, 1396, 1907, 1909), AccessDenied
    )
)
_ORDER: tuple[type[TransportError], ...] = (OutOfSpace, Unreachable, AccessDenied, SourceChanged)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of robocopy: these files of one folder into another one. `log`: where it writes what went wrong."""

    source: Path
    target: Path
    names: tuple[str, ...]
    log: Path


@dataclass(frozen=True, slots=True)
class Switches:
    """`retries`, `wait`: how often, and after how many seconds, a file that is locked or a lost line is tried again.

    `restartable`: `/Z`, a cut copy goes on inside the file. `unbuffered`: `/J`, right for large files.
    """

    retries: int = 5
    wait: int = 10
    restartable: bool = True
    unbuffered: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure out of the log: the number of the Windows error, the path, and what Windows says in its own language."""

    number: int
    path: str
    words: str = ""


@dataclass(slots=True)
class Failures:
    """What went wrong in one call: the last failure of each path, as earlier ones were retried."""

    by_path: dict[str, Failure] = field(default_factory=dict)

    def add(self, found: Failure) -> None:
        """A later failure of a path replaces an earlier one."""
        self.by_path[found.path] = found


class Robocopy(Protocol):
    """Runs one command to its end. The seam: tests hand in exit codes and logs."""

    def __call__(self, argv: Sequence[str]) -> int:
        """The exit code, as an unsigned number. Raises OSError when there is no such program."""


def run(argv: Sequence[str]) -> int:
    """Run the program; it ends with us where an exception ends us."""
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    ) as process:
        try:
            return process.wait()
        except BaseException:
            process.kill()
            raise


def command(program: str, call: Call, switches: Switches) -> list[str]:
    """The command line. Only failures are logged: the log of a million copied files would be read for nothing."""
    modes = ["/Z"] * switches.restartable + ["/J"] * switches.unbuffered
    return [
        program,
        plain(str(call.source)),
        plain(str(call.target)),
        *call.names,
        *modes,
        f"/R:{switches.retries}",
        f"/W:{switches.wait}",
        "/COPY:DT",
        "/XJ",  # a junction may lead anywhere
        *("/NP", "/NFL", "/NDL", "/NJH", "/NJS"),
        f"/UNILOG:{plain(str(call.log))}",
    ]


def in_calls(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """File names of one folder, as many together as a command line holds."""
    batch: list[str] = []
    length = 0
    for name in names:
        cost = len(subprocess.list2cmdline([name])) + 1
        if batch and length + cost > _CHARACTERS:
            yield tuple(batch)
            batch, length = [], 0
        batch.append(name)
        length += cost
    if batch:
        yield tuple(batch)


def extended(path: str) -> str:
    r"""`path` (absolute, of Windows) in the form that may be longer than 259 characters: `\\?\C:\…`, `\\?\UNC\server\share\…`."""
    if path.startswith("\\\\?\\"):
        return path
    normal = str(PureWindowsPath(path))
    return f"\\\\?\\UNC\\{normal[2:]}" if normal.startswith("\\\\") else f"\\\\?\\{normal}"


def plain(path: str) -> str:
    """The opposite: robocopy knows long paths by itself, and older ones stumble over the prefix."""
    if path.startswith("\\\\?\\UNC\\"):
        return f"\\\\{path[8:]}"
    return path.removeprefix("\\\\?\\")


def failures(log: bytes) -> Failures:
    """What went wrong, from a log in UTF-16 (`/UNILOG`) or, as some versions write it, in UTF-8."""
    found = Failures()
    before: Failure | None = None
    for line in _text(log).splitlines():
        match = _FAILURE.match(line.strip())
        if match and int(match[1]) == int(match[2], 16):
            path = _PATH.search(match[3])
            before = Failure(int(match[1]), path[1] if path else match[3])
            found.add(before)
        elif before is not None:  # the line below says it in words
            found.add(Failure(before.number, before.path, line.strip()[:300]))
            before = None
    return found


def judge(code: int, call: Call) -> None:
    """Nothing, when all that robocopy tried went well.

    Raises OutOfSpace, Unreachable, AccessDenied, SourceChanged, UnexpectedFault.
    """
    if 0 <= code < FAILED:
        return
    doing = f"robocopy cannot copy {shown(plain(str(call.source)))} to {shown(plain(str(call.target)))}"
    if not 0 <= code <= _KNOWN_BITS:
        raise Unreachable(f"{doing}: it was ended (0x{code & 0xFFFFFFFF:08x})", safe="the source is untouched")
    found = list(failures(_content(call.log)).by_path.values())
    if not found:
        what = "it could not begin" if code & FATAL else "some files were not copied"
        raise UnexpectedFault(
            f"{doing}: {what} (exit code {code}), and its log names none", next_command="lading doctor"
        )
    raise min((_error(one, found, doing, call) for one in found), key=_rank)


def _error(one: Failure, found: Sequence[Failure], doing: str, call: Call) -> LadingError:
    of_source = plain(one.path).casefold().startswith(plain(str(call.source)).casefold())
    said = f"{doing}: {shown(one.path)}: {one.words or 'Windows error'} ({one.number})"
    if one.number in _LOCKED:
        locked = [shown(other.path) for other in found if other.number in _LOCKED]
        more = f" and {len(locked) - _MAX_NAMED} more" if len(locked) > _MAX_NAMED else ""
        return SourceChanged(
            f"{doing}: another program still holds {', '.join(locked[:_MAX_NAMED])}{more}",
            safe="the source is untouched, and what was copied is kept",
            next_command="close that program, or wait",
        )
    if one.number in _MISSING:
        return SourceChanged(said) if of_source else Unreachable(said, safe="the source is untouched")
    kind = _KINDS.get(one.number)
    if kind is None:
        return UnexpectedFault(said, next_command="lading doctor")
    return kind(said, safe="the source is untouched", next_command="" if kind.retried else "lading doctor")


def _rank(error: LadingError) -> int:
    """What explains the others comes first: a full disk, a lost line."""
    return next((place for place, kind in enumerate(_ORDER) if isinstance(error, kind)), len(_ORDER))


def _content(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            return file.read(_MAX_LOG)
    except OSError:
        return b""


def _text(log: bytes) -> str:
    if log[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return log.decode("utf-16", "replace")
    if log[1:2] == b"\0":
        return log.decode("utf-16-le", "replace")
    return log.decode("utf-8-sig", "replace")
