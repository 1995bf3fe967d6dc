"""Removable disks for tests: image files with a real file system, mounted and pulled out. Needs root and the loop driver."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transport.volumes import VOLUME

MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "exfat": ("mkfs.exfat",),
    "ntfs": ("mkfs.ntfs", "-Q", "-F"),
}
_MOUNTERS = {"ext4": "mount", "exfat": "mount.exfat-fuse", "ntfs": "ntfs-3g"}
_PACKAGES = {"ext4": "e2fsprogs", "exfat": "exfatprogs exfat-fuse", "ntfs": "ntfs-3g"}
_DETACH_S = 60.0


def missing_for(kind: str) -> str:
    """What is missing on this machine for a disk with the file system `kind`, or ""."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can mount a disk"
    for program in ("losetup", MAKERS[kind][0], _MOUNTERS[kind]):
        if not shutil.which(program, path=f"{os.defpath}:/usr/sbin:/sbin"):
            return f"{program} is not installed (Debian: {_PACKAGES[kind]})"
    if not Path("/dev/loop-control").exists() or (kind != "ext4" and not Path("/dev/fuse").exists()):
        return "this machine has no loop devices, or no FUSE"
    return ""


class LoopDisk:
    """A disk in the file `image`, to be plugged in at the folder `point`. Make one with `loop_disk`."""

    def __init__(self, image: Path, point: Path, kind: str) -> None:
        self.image, self.point, self.kind = image, point, kind
        self._device = ""

    def plug_in(self) -> None:
        """Attach and mount it."""
        self._device = _said("losetup", "--find", "--show", str(self.image))
        if self.kind == "ext4":
            _run("mount", "-t", "ext4", self._device, str(self.point))
        elif self.kind == "exfat":
            _run("mount.exfat-fuse", self._device, str(self.point))
        else:
            _run("ntfs-3g", self._device, str(self.point))

    def eject(self) -> None:
        """Unmount it as one should: waits until nobody uses it. Raises TimeoutError."""
        deadline = time.monotonic() + _DETACH_S
        while subprocess.run(["umount", str(self.point)], check=False, capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.point} is still in use")
            time.sleep(0.05)
        self._detach()

    def pull(self) -> None:
        """Unmount it by force, whatever is going on. The image is detached when the last user has let go."""
        subprocess.run(["umount", "-l", str(self.point)], check=True, capture_output=True)

    def settle(self) -> None:
        """After `pull`: wait until the last user has let go."""
        self._detach()

    def _detach(self) -> None:
        """Let go of the device, and wait until its last user has: two mounts of one image destroy it.

        Asked once only: later the same device may be another test's.
        """
        device, self._device = self._device, ""
        if device:
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
        deadline = time.monotonic() + _DETACH_S
        while _said("losetup", "--associated", str(self.image)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.image} is still in use")
            time.sleep(0.05)

    def clean_up(self) -> None:
        """Nothing of it stays mounted or attached."""
        while self.point.is_mount():
            if subprocess.run(["umount", "-l", str(self.point)], check=False, capture_output=True).returncode:
                break
        with suppress(TimeoutError):
            self._detach()


@contextmanager
def loop_disk(folder: Path, kind: str, *, megabytes: int, point: Path | None = None) -> Iterator[LoopDisk]:
    """A formatted disk, plugged in at `point` (or below `folder`), gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    place = point or folder / "disk"
    place.mkdir(exist_ok=True)
    image = folder / f"{kind}.img"
    with image.open("wb") as out:
        out.truncate(megabytes << 20)
    _run(*MAKERS[kind], str(image))
    disk = LoopDisk(image, place, kind)
    try:
        disk.plug_in()
        yield disk
    finally:
        disk.clean_up()


def name_it(root: Path, volume: str) -> None:
    """Give the folder `root`, if it is an inbox, the identity `volume`, as if it had been prepared with that."""
    if (root / VOLUME).parent.is_dir() and not (root / VOLUME).exists():
        (root / VOLUME).write_text(f'{{"format": 1, "id": "{volume}", "uuid": "", "file_system": ""}}\n')


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()
