"""Asks Linux which files below a folder are still open for writing on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def open_for_writing(folders: "list[Path]") -> dict[Path, str]:
    """For each of `folders` in which a process holds a file open for writing: which process and file.

    Sees the processes of other users only as root, and nothing on other machines or systems: no answer proves nothing.
    """
    if not folders or not _PROC.is_dir():
        return {}
    wanted = {os.path.realpath(folder) + os.sep: folder for folder in folders}
    common = os.path.commonpath(wanted)
    found: dict[Path, str] = {}
    for pid in filter(str.isdecimal, os.listdir(_PROC)):
        for name in _names(_PROC / pid / "fd"):
            target = _target(f"{_PROC}/{pid}/fd/{name}")
            if not target.startswith(common):
                continue
            for prefix, folder in wanted.items():
                if folder not in found and target.startswith(prefix) and _writes(_PROC / pid / "fdinfo" / name):
                    found[folder] = f"process {pid} has {target[len(prefix) :]} open for writing"
    return found


def open_files(root: Path) -> Iterator[str]:
    """The files below `root` that a process holds open for writing, relative to it; as little as `open_for_writing` sees."""
    if not _PROC.is_dir():
        return
    prefix = os.path.realpath(root) + os.sep
    for pid in filter(str.isdecimal, os.listdir(_PROC)):
        for name in _names(_PROC / pid / "fd"):
            target = _target(f"{_PROC}/{pid}/fd/{name}")
            if target.startswith(prefix) and _writes(_PROC / pid / "fdinfo" / name):
                yield target[len(prefix) :]


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # another user's process, or one that just ended
        return []


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115 - thousands of them; Path is ten times slower
    except OSError:
        return ""


def _writes(info: Path) -> bool:
    try:
        lines = info.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return flags & os.O_ACCMODE != os.O_RDONLY
