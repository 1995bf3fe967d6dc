"""Which removable disk is this? Its identity, its file system, and whether it is still where it was.

A disk that is prepared carries `.lading/volume.json` with an id of its own; the UUID of its file system, where the system tells
it, is in there too, so that a copy of the disk is not taken for the disk.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lading.disk import read_small, write_durably
from lading.errors import ConfigError, Unreachable
from lading.shell import typed
from lading.staging.slots import SYSTEM
from transport.foreign import SOURCE, TARGET, shown, translating

VOLUME = f"{SYSTEM}/volume.json"
ANY = "any"
"""In the settings instead of an id: whatever disk is plugged in."""

FORMAT = 1
_MAX_BYTES = 64 << 10
_MOUNTS = Path("/proc/self/mountinfo")
_BY_UUID = Path("/dev/disk/by-uuid")
_NAMES_OF_WINDOWS = frozenset({"exfat", "vfat", "msdos", "ntfs", "ntfs3", "fuseblk"})


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is mounted: its device ("" when it has none), its kind ("ext4"; a FUSE one is "fuseblk")."""

    point: Path
    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class Volume:
    """What a prepared disk says about itself. `uuid`: that of its file system, "" where the system did not tell."""

    id: str
    uuid: str = ""
    file_system: str = ""


def mount_of(path: Path) -> Mount | None:
    """The mount that `path` lies on, or None where the system has no such list."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    whole = path.resolve()
    found: Mount | None = None
    for line in lines:  # the last one of a point counts: it lies on top
        fields, _, rest = line.partition(" - ")
        point = Path(_plain(fields.split(" ")[4]))
        kind, device = rest.split(" ")[:2]
        if whole.is_relative_to(point) and (found is None or len(point.parts) >= len(found.point.parts)):
            found = Mount(point, _plain(device) if device.startswith("/dev/") else "", kind)
    return found


def needs_windows_names(mount: Mount | None) -> bool:
    """Whether the file system refuses what Windows refuses, or is meant to be read there."""
    return mount is not None and mount.kind in _NAMES_OF_WINDOWS


def prepare(root: Path) -> Volume:
    """Give the disk that `root` lies on an identity; one that is there stays. Raises ConfigError, AccessDenied, OutOfSpace."""
    with translating(f"cannot prepare {shown(root)}", TARGET):
        there = read(root)
        if there is not None:
            return there
        mount = mount_of(root)
        made = Volume(secrets.token_hex(8), _uuid(mount), mount.kind if mount else "")
        (root / VOLUME).parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **asdict(made), "created": datetime.now(UTC).isoformat(timespec="seconds")}
        write_durably(root / VOLUME, (json.dumps(content, indent=1) + "\n").encode("ascii"), mode=0o644)
        return made


def read(root: Path) -> Volume | None:
    """What the disk at `root` says about itself, or None when it was never prepared. Raises ConfigError, OSError."""
    try:
        content = read_small(root / VOLUME, _MAX_BYTES)
        raw = json.loads(content)
        version, found = raw["format"], Volume(str(raw["id"]), str(raw["uuid"]), str(raw["file_system"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{shown(root / VOLUME)} is not ours: {exc}", next_command="lading doctor") from exc
    if version != FORMAT:
        raise ConfigError(f"{shown(root / VOLUME)} has format {version!r}; this version of lading knows {FORMAT}")
    return found


def expect(root: Path, wanted: str) -> Volume:
    """The disk at `root`, which must be the one with the id `wanted` (or ANY, if something is mounted there).

    Raises Unreachable: no disk, not prepared, another one, a copy of it.
    """
    with translating(f"cannot look at the disk at {shown(root)}", SOURCE):
        found = read(root) if root.is_dir() else None
    if wanted == ANY:
        if found is None and not root.is_mount():
            raise _away(f"disk removed: nothing is mounted at {shown(root)}")
        return found or Volume("")
    if found is None:
        raise _away(
            f"disk removed: no disk with the id {wanted} at {shown(root)}",
            typed("lading", "disk", "prepare", shown(root)),
        )
    if found.id != wanted:
        raise _away(f"another disk is at {shown(root)}: its id is {shown(found.id)}, wanted is {wanted}")
    uuid = _uuid(mount_of(root))
    if found.uuid and uuid and found.uuid != uuid:
        raise _away(
            f"the disk at {shown(root)} is a copy of {wanted}: its file system is {uuid}, wanted is {found.uuid}"
        )
    return found


class Presence:
    """Knows whether the disk that was at `root` is still there. Raises OSError when there is nothing at all."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity = self._look()
        self.writable = _is_writable(root)

    def is_there(self) -> bool:
        """Whether the same folder of the same file system still is at the same path. One system call."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def became_read_only(self) -> bool:
        """Whether it could be written at first: a system that loses a disk often says that before anything else."""
        return self.writable and not _is_writable(self._root)

    def _look(self) -> tuple[int, int]:
        info = os.stat(self._root)  # noqa: PTH116 - once a megabyte; Path costs more than the call
        return info.st_dev, info.st_ino


def _is_writable(root: Path) -> bool:
    if not hasattr(os, "statvfs"):
        return True
    try:
        return not os.statvfs(root).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _uuid(mount: Mount | None) -> str:
    """The UUID of the file system, as far as anybody may ask."""
    if mount is None or not mount.device:
        return ""
    try:
        number = Path(mount.device).stat().st_rdev
        for link in _BY_UUID.iterdir():
            if link.stat().st_rdev == number:
                return link.name
    except OSError:
        pass
    return ""


def _plain(text: str) -> str:
    """The list of mounts writes blanks as `\\040`."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _away(message: str, command: str = "") -> Unreachable:
    return Unreachable(
        message, safe="nothing is lost; it goes on when the disk is plugged in and mounted again", next_command=command
    )
