"""Which database the server of an inbox keeps its records in: `.lading/serving.json`.

Servers with one database keep each other off a delivery; two with databases of their own know nothing of each other. So the
server says here, again and again, that it serves the inbox, and one with other records stays away for as long as that goes on.
It is a notice, not a lock: nothing in the inbox is ever lost for want of it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lading.disk import TEMPORARY, move, open_strange, write_whole
from lading.staging.slots import SYSTEM

SERVING = f"{SYSTEM}/serving.json"
_MAX_BYTES = 4 << 10
_DATABASE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MODE = 0o644  # servers under other accounts must be able to read it


@dataclass(frozen=True, slots=True)
class Serving:
    """Who serves: the id of the database, the machine and the process. `at` (ISO 8601) is for people; no clock is compared."""

    database: str
    host: str
    pid: int
    at: str

    @property
    def who(self) -> str:
        """In words."""
        return f"{self.host} (process {self.pid})"


@dataclass(frozen=True, slots=True)
class Seen:
    """The notice as it was found; `mark` differs whenever it was given again."""

    serving: Serving
    mark: tuple[object, ...]


def read(root: Path) -> Seen | None:
    """The notice of the inbox at `root`, or None. Raises ValueError when it is nonsense, OSError when it cannot be read."""
    try:
        file = open_strange(root / SERVING)
    except FileNotFoundError:
        return None
    with file:
        content = file.read(_MAX_BYTES + 1)
        found = os.fstat(file.fileno())
    return Seen(parse(content), (content, found.st_mtime_ns, found.st_ino))


def parse(content: bytes) -> Serving:
    """What a notice says. Keys that a later version may add are passed over. Raises ValueError."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"it is not JSON: {exc}") from exc
    raw = found if isinstance(found, dict) else {}
    pid = raw.get("pid")
    if type(pid) is not int or not 0 < pid < 1 << 32:
        raise ValueError("pid is not the number of a process")
    made = Serving(_text(raw, "database", 36), _text(raw, "host", 255), pid, _text(raw, "at", 64))
    if not _DATABASE.fullmatch(made.database):
        raise ValueError("database is not an id that we give")
    return made


def write_new(root: Path, serving: Serving) -> None:
    """Give notice where there is none. Raises FileExistsError when another was faster, OSError."""
    fresh = root / SYSTEM / f"{TEMPORARY}serving-{serving.pid}-{serving.database}"
    write_whole(fresh, _content(serving), mode=_MODE)
    try:
        _appear(fresh, root / SERVING)
    finally:
        fresh.unlink(missing_ok=True)


def write(root: Path, serving: Serving) -> None:
    """Give notice over whatever is there. Raises OSError."""
    write_whole(root / SERVING, _content(serving), mode=_MODE)


def renew(root: Path, serving: Serving) -> None:
    """Say again what is there already; where a full disk takes no new file, by its time alone. Raises OSError."""
    try:
        write(root, serving)
    except OSError:
        os.utime(root / SERVING, follow_symlinks=False)


def remove(root: Path, serving: Serving) -> None:
    """Take the notice away, if it is this process that gave it last. Raises ValueError, OSError."""
    seen = read(root)
    if seen is not None and (seen.serving.database, seen.serving.host, seen.serving.pid) == (
        serving.database,
        serving.host,
        serving.pid,
    ):
        (root / SERVING).unlink(missing_ok=True)


def _appear(fresh: Path, path: Path) -> None:
    try:
        os.link(fresh, path)  # network drives that have links let exactly one of two win
    except FileExistsError:
        raise
    except OSError:
        move(fresh, path)


def _content(serving: Serving) -> bytes:
    return (json.dumps(asdict(serving)) + "\n").encode("ascii")


def _text(raw: Mapping[str, object], key: str, longest: int) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ValueError(f"{key} is not a printable text of up to {longest} characters")
    return value
