"""The files of a mounted disk, in the role that the protocols fill: written whole, read without following a link.

Links, devices and files in the way of a folder are removed, never followed; whoever pulls the disk gets Unreachable.
"""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lading.errors import AccessDenied, Corrupted, OutOfSpace, Unreachable
from lading.seal import SEAL_NAME
from transport.disk_proof import forget
from transport.foreign import TARGET, shown, translated
from transport.landing import Arriving, Landing
from transport.remote import BLOCK, PART_PREFIX, Body, RemoteFile, part_path
from transport.volumes import Presence, mount_of

_FAT_LARGEST = (1 << 32) - 1


class DiskFiles:
    """A connection to the disk at `root`. See transport.remote.RemoteFiles."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with _opening(root):
            self._presence = Presence(root)
            self._landing: Landing | None = Landing(root)
        mount = mount_of(root)
        self._largest = _FAT_LARGEST if mount and mount.kind in ("vfat", "msdos") else None

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        with self._doing("look at", path):
            info = self._lstat(path)
        return None if info is None else _remote_file(path, info)

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        prefix = f"{folder}/" if folder else ""
        with self._doing("list", folder):
            if not _is_folder(self._lstat(folder)):
                return
            entries = os.scandir(self._root / folder)
        with entries:
            while True:
                with self._doing("list", folder):
                    entry = next(entries, None)
                    if entry is None:
                        return
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                yield _remote_file(prefix + entry.name, info)

    def make_folders(self, path: str) -> None:
        """See the role."""
        at = self._root
        with self._doing("make the folder", path):
            for part in path.split("/"):
                at = at / part
                info = _lstat(at)
                if info is not None and not _is_folder(info):
                    at.unlink()
                    info = None
                if info is None:
                    at.mkdir(mode=0o770, exist_ok=True)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        if self._largest is not None and body.size > self._largest:
            raise OutOfSpace(
                f"{self._shown(path)} has {body.size:,} bytes; FAT32 holds files up to {self._largest:,}",
                safe="nothing was removed",
                next_command="format the disk as exFAT, then: lading disk prepare",
            )
        if path.endswith(f"/{SEAL_NAME}"):  # what the seal vouches for is on the disk before the seal is
            self.flush()
        with self._doing("write", path):
            which = part_path(path, body).rpartition("/")[2].removeprefix(PART_PREFIX)
            arriving, reader = self._open().resume(path, which)
        try:
            self._fill(arriving, reader, path, body)
        except BaseException:
            arriving.leave()
            raise
        with self._doing("write", path):
            arriving.finish(int(body.mtime * 1e9))

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        with self._doing("read", path):
            fd = self._open().read(path)
            if fd is None and self._lstat(path) is not None:
                raise AccessDenied(f"{self._shown(path)} is not a regular file; links are not followed")
            if fd is None:
                raise FileNotFoundError(2, "it is not there")
        try:
            size = os.fstat(fd).st_size
            forget(fd)  # the disk is asked, not the system's memory of it
            os.lseek(fd, offset, os.SEEK_SET)
            while offset < size:
                with self._doing("read", path):
                    block = os.read(fd, BLOCK)
                if not block:
                    raise Corrupted(f"{self._shown(path)} ended early", paths=[path])
                offset += len(block)
                yield block
        finally:
            os.close(fd)

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None: nobody but us computes anything here."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        with self._doing("rename", old):
            (self._root / old).rename(self._root / new)

    def remove(self, path: str) -> None:
        """See the role."""
        with self._doing("remove", path):
            info = self._lstat(path)
            if info is None:
                return
            if not _is_folder(info):
                (self._root / path).unlink(missing_ok=True)
                return
            shutil.rmtree(self._root / path)
            self._reopen()  # it remembers the folder that was used last

    def free_bytes(self) -> int | None:
        """See the role."""
        with self._doing("ask for the free space of", ""):
            return shutil.disk_usage(self._root).free

    def flush(self) -> None:
        """What was written survives a power cut, or the plug being pulled."""
        with self._doing("flush", ""):
            self._open().make_durable()

    def close(self) -> None:
        """See the role."""
        landing, self._landing = self._landing, None
        if landing is not None:
            landing.__exit__(None, None, None)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _fill(self, arriving: Arriving, reader: int, path: str, body: Body) -> None:
        """Write `body`, going on behind what is there of it.

        All of that is compared: when a plug is pulled, later blocks may have reached the disk without earlier ones.
        """
        with os.fdopen(reader, "rb", buffering=0) as there:
            with self._doing("read", path):
                left = os.fstat(there.fileno()).st_size
            if left > body.size or not self._continue(arriving, there.fileno(), left, path, body):
                with self._doing("write", path):
                    arriving.restart()
                self._continue(arriving, there.fileno(), 0, path, body)

    def _continue(self, arriving: Arriving, there: int, left: int, path: str, body: Body) -> bool:
        """False when the `left` bytes that are there are not the beginning of `body`."""
        for block in body.blocks():
            with self._doing("write", path):
                if not self._presence.is_there():
                    raise OSError(19, "the disk is gone")
                fresh = memoryview(block)
                if left:
                    same = min(left, len(block))
                    if _read_fully(there, same) != block[:same]:
                        return False
                    left -= same
                    fresh = fresh[same:]
                if fresh:
                    arriving.write(fresh)
        return True

    # -- looking -----------------------------------------------------------------------------------------------------

    def _lstat(self, path: str) -> os.stat_result | None:
        """What is at `path`, if every folder on the way is one."""
        at = self._root
        info = _lstat(at)
        for part in path.split("/") if path else ():
            if not _is_folder(info):
                return None
            at = at / part
            info = _lstat(at)
        return info

    def _open(self) -> Landing:
        if self._landing is None:
            raise OSError(107, "the connection was closed")
        return self._landing

    def _reopen(self) -> None:
        self.close()
        self._landing = Landing(self._root)

    @contextmanager
    def _doing(self, what: str, path: str) -> Iterator[None]:
        """Translates an OSError of the block; one that a pulled plug explains is Unreachable."""
        try:
            yield
        except OSError as exc:
            doing = f"cannot {what} {self._shown(path)}"
            if not self._presence.is_there() or self._presence.became_read_only():
                raise Unreachable(
                    f"disk removed: {doing}: {exc.strerror or exc}",
                    safe="what arrived is kept; it goes on when the disk is plugged in and mounted again",
                ) from exc
            raise translated(exc, doing, TARGET) from exc

    def _shown(self, path: str) -> str:
        return f"{shown(path) or 'the folder'} of the disk at {shown(self._root)}"


@contextmanager
def _opening(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise translated(exc, f"cannot open the disk at {shown(root)}", TARGET) from exc


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_folder(info: os.stat_result | None) -> bool:
    return info is not None and stat.S_ISDIR(info.st_mode)


def _remote_file(path: str, info: os.stat_result) -> RemoteFile:
    folder = stat.S_ISDIR(info.st_mode)
    known = folder or stat.S_ISREG(info.st_mode)
    return RemoteFile(path, info.st_size if known and not folder else (0 if folder else -1), info.st_mtime, folder)


def _read_fully(fd: int, count: int) -> bytes:
    data = os.read(fd, count)
    while len(data) < count and (more := os.read(fd, count - len(data))):
        data += more
    return data
