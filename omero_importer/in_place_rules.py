"""When files may be brought into OMERO by link or local copy instead of being sent, and what speaks against it."""

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from lading.config import nearest
from lading.errors import ConfigError

TEMPORARY = tuple(Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm", "/run"))  # noqa: S108 - to keep away from them
_TRANSFERS = ("upload", "cp", "ln", "ln_s")


@attrs.frozen(kw_only=True)
class InPlaceSettings:
    """How files get to the server's disk (`[routes.NAME.import.in_place]`).

    `transfer`: "upload" sends them. "cp" copies, "ln" makes hard links, "ln_s" symbolic ones, in `repository`: the folder
    ManagedRepository of the server's data directory, as it is mounted here. With "ln_s" OMERO never owns the bytes, so it is done
    for files in one of the `permanent` folders only: where nobody ever removes anything, no inbox that is cleaned up, and which
    the server sees under the same path.
    """

    transfer: str = "upload"
    repository: Path | None = None
    permanent: tuple[Path, ...] = ()


def checked_in_place(settings: InPlaceSettings, where: str) -> InPlaceSettings:
    """`settings`, known to be usable. Raises ConfigError naming the key."""
    if settings.transfer not in _TRANSFERS:
        raise ConfigError(
            f"{where}.transfer = {settings.transfer!r}{nearest(settings.transfer, _TRANSFERS)}",
            next_command="lading doctor",
        )
    if settings.transfer != "upload" and settings.repository is None:
        raise ConfigError(
            f"{where}.transfer = {settings.transfer!r} needs {where}.repository: where the server's ManagedRepository is "
            "mounted here",
            next_command="lading doctor",
        )
    if settings.transfer == "ln_s" and not settings.permanent:
        raise ConfigError(
            f'{where}.transfer = "ln_s" needs {where}.permanent: the folders from which nothing is ever removed',
            next_command="lading doctor",
        )
    return settings


def why_not(settings: InPlaceSettings, source: Path, *, temporary: Sequence[Path] = TEMPORARY) -> str:
    """Why files below `source` cannot, or must not, be brought in place; "" when nothing speaks against it. Asks no server."""
    how, repository = settings.transfer, settings.repository
    if how == "upload":
        return ""
    if repository is None or not repository.is_dir():
        return f"there is no folder {repository}: is the server's data directory mounted here?"
    if not os.access(repository, os.W_OK | os.X_OK):
        return f"this account may not write to {repository}"
    if how == "ln" and source.stat().st_dev != repository.stat().st_dev:
        return f"{source} and {repository} are on different file systems, which no hard link can span"
    if how == "ln_s":
        real = source.resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in settings.permanent):
            return f"{source} is in none of the folders that in_place.permanent names: its files may be removed one day"
        if any(real.is_relative_to(folder) for folder in temporary) or _is_memory(real):
            return f"{source} is temporary storage: OMERO would be left with links to nothing"
    return ""


def _is_memory(path: Path) -> bool:
    """Whether the path lies on a file system that is gone after a restart."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return False  # no Linux: nothing is known
    for line in lines:
        _, point, found, *_ = line.split()
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind in ("tmpfs", "ramfs")
