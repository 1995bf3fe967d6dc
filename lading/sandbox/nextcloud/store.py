"""What the stand-in keeps: a folder of files, a folder of unfinished uploads, and the checksums that clients told it.

The rules are those of Nextcloud's own ChunkingV2Plugin, ChecksumUpdatePlugin and Connector\\Sabre\\File.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIN_CHUNK = 5 << 20
MOST_CHUNKS = 10_000
PART = ".ocTransferId"
_NAME_CHARACTERS = 250
_BLOCK = 1 << 20
HASHES = ("md5", "sha1", "sha256")


class RefusedError(Exception):
    """An answer that is not the one the client hoped for."""

    def __init__(self, status: int, said: str = "") -> None:
        super().__init__(said)
        self.status, self.said = status, said


@dataclass(frozen=True)
class Node:
    """A file or folder as it is listed; `checksums` as a client told it, or the server computed it."""

    name: str
    folder: bool
    size: int
    mtime: float
    etag: str
    checksums: str = ""


class Store:
    """One tree. `files` says that names must be fit for people's files; uploads have rules of their own (see `Uploads`)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checksums: dict[Path, str] = {}

    def at(self, path: str) -> Path:
        """Where `path` (decoded, relative) lies. Refuses what Nextcloud refuses, and whatever leads out through a link."""
        parts = [part for part in path.split("/") if part]
        for name in parts:
            if name in {".", ".."} or len(name) > _NAME_CHARACTERS or "\\" in name or min(name) < " " or "\x7f" in name:
                raise RefusedError(400, "File name contains at least one invalid character, or is too long")
        place = self.root
        for name in parts:
            if place.is_symlink():
                raise RefusedError(403, "links are not followed")
            place /= name
        return place

    def node(self, place: Path) -> Node:
        """What is at `place`. Refuses with 404."""
        try:
            info = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise RefusedError(404, "not found") from None
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
            raise RefusedError(403, "neither a file nor a folder")
        etag = hashlib.blake2b(f"{info.st_ino} {info.st_mtime_ns} {info.st_size}".encode(), digest_size=16).hexdigest()
        folder = stat.S_ISDIR(info.st_mode)
        size = 0 if folder else info.st_size
        return Node(place.name, folder, size, info.st_mtime, f'"{etag}"', self._checksums.get(place, ""))

    def inside(self, place: Path) -> Iterator[Node]:
        """What is in the folder. Unfinished files are nobody's business."""
        for name in sorted(os.listdir(place)):
            if not name.startswith(PART):
                with suppress(RefusedError):
                    yield self.node(place / name)

    def make_folder(self, place: Path) -> None:
        """Refuses with 405 when it is there, with 409 when its parent is not."""
        if os.path.lexists(place):
            raise RefusedError(405, "The resource you tried to create already exists")
        if not place.parent.is_dir():
            raise RefusedError(409, "Parent node does not exist")
        place.mkdir()

    def write(self, place: Path, blocks: Iterable[bytes], size: int, hashing: str, told: str) -> tuple[bool, str]:
        """The file is what `blocks` bring, all at once. Returns whether it is new, and its digest by `hashing`."""
        if not place.parent.is_dir():
            raise RefusedError(409, "Parent node does not exist")
        if place.is_symlink() or place.is_dir():
            raise RefusedError(409, "something else is there")
        digest = hashlib.new(hashing or "md5", usedforsecurity=False)
        part = place.with_name(f"{PART}{secrets.token_hex(8)}.part")
        got = 0
        try:
            with part.open("xb") as out:
                for block in blocks:
                    out.write(block)
                    digest.update(block)
                    got += len(block)
            if got != size:
                raise RefusedError(400, f"Expected filesize of {size} bytes but read {got} bytes")
            new = not place.exists()
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
        self._checksums.pop(place, None)
        if told:
            self._checksums[place] = told
        return new, digest.hexdigest()

    def recalculate(self, place: Path, hashing: str) -> str:
        """The checksum of what is on the disk now; kept."""
        if self.node(place).folder:
            raise RefusedError(400, "not a file")
        with place.open("rb") as file:
            digest = hashlib.new(hashing, usedforsecurity=False)
            while block := file.read(_BLOCK):
                digest.update(block)
        self._checksums[place] = f"{hashing.upper()}:{digest.hexdigest()}"
        return self._checksums[place]

    def remove(self, place: Path) -> None:
        """A file, or a folder with all that is in it."""
        if place == self.root:
            raise RefusedError(403, "not the root")
        if self.node(place).folder:
            shutil.rmtree(place)
        else:
            place.unlink()

    def move(self, old: Path, new: Path, *, overwrite: bool) -> bool:
        """Returns whether nothing was there before."""
        self.node(old)
        if not new.parent.is_dir():
            raise RefusedError(409, "Parent node does not exist")
        there = os.path.lexists(new)
        if there and not overwrite:
            raise RefusedError(412, "The destination node already exists, and the overwrite header is set to false")
        if there and new.is_dir():
            shutil.rmtree(new)
        old.replace(new)
        if told := self._checksums.pop(old, ""):
            self._checksums[new] = told
        return not there


class Uploads(Store):
    """Unfinished uploads of version 2: a folder each, holding chunks called 1 to 10000."""

    def chunk(self, place: Path) -> None:
        """Refuses a name that no chunk may have, and a folder that nobody made."""
        if not (place.name.isdecimal() and 1 <= int(place.name) <= MOST_CHUNKS):
            raise RefusedError(400, "Invalid chunk name, must be numeric between 1 and 10000")
        if place.parent.parent != self.root or not place.parent.is_dir():
            raise RefusedError(404, "no such upload")

    def whole(self, upload: Path, total: str) -> tuple[Iterator[bytes], int]:
        """The chunks in numeric order, one after the other; and how many bytes they are."""
        chunks = sorted((path for path in upload.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
        sizes = [path.stat().st_size for path in chunks]
        if any(size < MIN_CHUNK for size in sizes[:-1]):
            raise RefusedError(400, "Chunks must be at least 5 MB, except for the last one")
        if total and int(total) != sum(sizes):
            raise RefusedError(400, f"Chunks on server do not sum up to {total} but to {sum(sizes)} bytes")
        return _blocks(chunks), sum(sizes)


def _blocks(chunks: Iterable[Path]) -> Iterator[bytes]:
    for path in chunks:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


def given_time(header: str) -> float | None:
    """The time that a client asks a file to have: seconds, in `X-OC-MTime`."""
    with suppress(ValueError):
        return float(header)
    return None
