"""Which repositories are left alone for a while, and why: one small file each below the programs' home.

An importer writes it (`valves/NAME.json`); whoever wants to know reads it. A repository without a file is open.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from lading.locks import FileLock

FOLDER = "valves"
OPEN, CLOSED, AJAR = "open", "closed", "ajar"
_MOST_COUNTED = 64
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class ValveState:
    """What is known about a server.

    `until`: closed before that (seconds since the epoch), 0 when it is open; `calm`: how many imports must still go well before
    it is fully open. `pause`: how long it was closed last. `usual`: the database's usual latency in seconds, 0 when unknown.
    `slow`: how many slow answers came in a row. `reason`, `since`: why and when it closed last; `cause`: why in one word (database,
    disk, busy, write, slot). What was measured last, -1 for never: `database`, the seconds that its database took to answer;
    `verify`, those that `verifyUpload` took; `free`, the bytes left on its disk.
    """

    repository: str = ""
    until: float = 0.0
    pause: float = 0.0
    calm: int = 0
    usual: float = 0.0
    slow: int = 0
    reason: str = ""
    since: float = 0.0
    cause: str = ""
    database: float = -1.0
    verify: float = -1.0
    free: float = -1.0

    def position(self, now: float) -> str:
        """open, closed or ajar."""
        if now < self.until:
            return CLOSED
        return AJAR if self.calm > 0 else OPEN


_KEYS = frozenset(field.name for field in fields(ValveState))


def read_state(file: Path) -> ValveState | None:
    """What one file says; None when there is none, or it cannot be read."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        # While one program is newer than another, it may have noted more.
        return ValveState(**{key: value for key, value in raw.items() if key in _KEYS})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


@contextmanager
def counted(file: Path, most: int = _MOST_COUNTED, *, patience: float = 0.0) -> Iterator[bool]:
    """The block is an import that is under way at the server whose valve is `file`: it counts until it ends, however that is.

    Of `most` at once; a further one waits its turn for `patience` seconds, and does not count (False) if none has come by then.
    """
    marks = [FileLock(file.with_name(f".{file.stem}.import-{number}")) for number in range(min(most, _MOST_COUNTED))]
    until = time.monotonic() + patience
    while (mark := next((mark for mark in marks if mark.acquire()), None)) is None and time.monotonic() < until:
        time.sleep(_LOOK_S)
    try:
        yield mark is not None
    finally:
        if mark is not None:
            mark.release()


def under_way(file: Path) -> int:
    """How many imports are under way at that server, from this machine."""
    marks = file.parent.glob(f".{file.stem}.import-*")
    return sum(FileLock(mark).holder() is not None for mark in marks)


def told(home: Path, now: float) -> list[dict[str, str | float]]:
    """The valves of this machine: repository, position, reason, since, until (seconds since the epoch), and the figures.

    `paused_s`: how long it was closed last; `imports_to_go`: how many must still go well before it is fully open; `database_s`:
    how long the server's database usually takes to answer, 0 when nobody measured. `database_last_s`, `verify_s`, `free_bytes`:
    what was measured last, -1 for never. `imports_under_way`: between `verifyUpload` and the end, from this machine.
    """
    found: list[dict[str, str | float]] = []
    for file in sorted((home / FOLDER).glob("*.json")):
        state = read_state(file)
        if state is not None:
            position = state.position(now)
            found.append(
                {
                    "repository": state.repository,
                    "position": position,
                    "reason": "" if position == OPEN else state.reason,
                    "since": state.since,
                    "until": state.until,
                    "paused_s": state.pause,
                    "imports_to_go": state.calm,
                    "database_s": state.usual,
                    "cause": "" if position == OPEN else state.cause,
                    "database_last_s": state.database,
                    "verify_s": state.verify,
                    "free_bytes": state.free,
                    "imports_under_way": under_way(file),
                }
            )
    return found
