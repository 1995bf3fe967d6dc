"""The sentinel of an inbox: who does not find it stands in the wrong place, such as under an unmounted share."""

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.disk import read_small, translated, write_durably
from lading.errors import ConfigError, Unreachable
from lading.staging.slots import SYSTEM

SENTINEL = f"{SYSTEM}/inbox.json"
FORMAT = 1
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """What one delivery may be, and what stays free on the disk.

    `max_list_bytes`: about 300 bytes per file with MD5. `keep_free_bytes`: the database and the repository's own work
    usually share the disk, and neither survives a full one.
    """

    max_files: int = 5_000_000
    max_list_bytes: int = 4 << 30
    max_bytes: int = 20_000 * 10**9
    keep_free_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Sentinel:
    """Which inbox this is, and its limits."""

    id: str
    limits: InboxLimits


def read(root: Path) -> Sentinel:
    """The sentinel of the inbox at `root`. Raises Unreachable when there is none, ConfigError when it is a foreign one."""
    with translated("opening the inbox", root):
        try:
            content = read_small(root / SENTINEL, _MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise Unreachable(
                f"sentinel missing: {root} holds no {SENTINEL}; is the share mounted?",
                safe="nothing was written",
                next_command="lading inbox create   (on the host of the inbox, and only if this is the right place)",
            ) from exc
        except ValueError as exc:
            raise _foreign(root, str(exc)) from exc
    return parse(content, root)


def parse(content: bytes, root: Path | str) -> Sentinel:
    """A sentinel fetched over a wire; `root` is for messages. Raises ConfigError when it is a foreign one."""
    try:
        raw = json.loads(content)
        version = raw["format"]
        if version == FORMAT:
            known = {key: int(raw["limits"][key]) for key in asdict(InboxLimits()) if key in raw["limits"]}
            return Sentinel(str(raw["id"]), InboxLimits(**known))
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise _foreign(root, f"{type(exc).__name__}: {exc}") from exc
    raise _foreign(root, f"format {version!r}; this version of lading knows {FORMAT}")


def write(root: Path, limits: InboxLimits | None) -> Sentinel:
    """Make the sentinel, or give the one that is there other limits; its id never changes."""
    path = root / SENTINEL
    with translated("making an inbox", root):
        there = read(root) if path.exists() else None
        if there and limits in (None, there.limits):
            return there
        made = Sentinel(there.id if there else secrets.token_hex(8), limits or InboxLimits())
        content = {
            "format": FORMAT,
            "id": made.id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "limits": asdict(made.limits),
        }
        write_durably(path, (json.dumps(content, indent=1) + "\n").encode("ascii"), mode=0o644)
        return made


def _foreign(root: Path | str, why: str) -> ConfigError:
    return ConfigError(f"{root}/{SENTINEL} is not a sentinel that we know: {why}", next_command="lading doctor")
