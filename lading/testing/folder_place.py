"""A place that is a folder of this machine, and says which process did what with it: for tests of carrying with two processes."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self, cast

from lading.config import BASE
from lading.errors import AccessDenied, Corrupted, LadingError, OutOfSpace, SourceChanged, Unreachable
from lading.ports import Settings
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteTraits, part_path

ERRORS: Mapping[str, LadingError | ValueError] = {
    "denied": AccessDenied("no way in", safe="all of it", next_command="lading doctor"),
    "changed": SourceChanged("it is another", safe="nothing is there"),
    "corrupted": Corrupted("damaged", paths=["a b", "ü"], safe="the rest"),
    "full": OutOfSpace("no room", safe="what is there", next_command="lading inbox list"),
    "unreachable": Unreachable("the line is cut", safe="what is there"),
    "foreign": ValueError("a bug"),
}


class FolderPlace:
    """Settings: `folder`; `notes`, a folder for the log; `owner`, the process that carries; `pause_s` for each file.

    `fails`: what placing is answered with (of ERRORS), `in` "owner" or "helper". `helper_may_not`: log in.
    `helper_prints`: so much, as a library may. `close_s`: how long a helper's connection takes
    to close. `password`: see transport.logins.
    """

    name = "a folder"

    def __init__(self, settings: Settings) -> None:
        self._settings = {**settings, "folder": (BASE.get() or Path()) / str(settings["folder"])}
        self.streams = cast("int", settings.get("streams", 4))
        self.traits = RemoteTraits(two_handed=True, stall_s=30.0)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """See the role."""
        return cls(settings)

    def connect(self) -> "FolderFiles":
        """See the role."""
        if self._settings.get("helper_may_not") and self._settings["owner"] != os.getpid():
            raise AccessDenied("not from there")
        if self._settings.get("password"):
            password(str(self._settings["password"]), self.name)
        return FolderFiles(self._settings)


class FolderTransport(PlacingTransport):
    """To a FolderPlace."""

    place_type = FolderPlace


class FolderFiles:
    """See the role RemoteFiles."""

    def __init__(self, settings: Settings) -> None:
        self._root, self._notes = Path(str(settings["folder"])), Path(str(settings["notes"]))
        self._is_owner = settings["owner"] == os.getpid()
        self._pause_s = cast("float", settings.get("pause_s", 0.0))
        fails_here = settings.get("in") == ("owner" if self._is_owner else "helper")
        self._error = ERRORS[str(settings["fails"])] if fails_here else None
        self._close_s = 0.0 if self._is_owner else cast("float", settings.get("close_s", 0.0))
        self._prints = "" if self._is_owner else str(settings.get("helper_prints", ""))
        self._note("connected", "")
        self._count("+")

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        at = self._root / path
        return self._seen(at) if at.exists() else None

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        at = self._root / folder
        return (self._seen(one) for one in (at.iterdir() if at.is_dir() else ()))

    def make_folders(self, path: str) -> None:
        """See the role."""
        self._note("made", path)
        (self._root / path).mkdir(parents=True, exist_ok=True)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        if ".lading/incoming/" in path and "/data/" in path:
            time.sleep(self._pause_s)
            print(self._prints, end="", flush=True)  # noqa: T201 - as a library may
            if self._error:
                raise self._error
        part = self._root / part_path(path, body)
        with part.open("wb") as out:
            for block in body.blocks():
                out.write(block)
        os.utime(part, (body.mtime, body.mtime))
        part.replace(self._root / path)
        self._note("placed", path)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        with (self._root / path).open("rb") as file:
            file.seek(offset)
            while block := file.read(BLOCK):
                yield block

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        (self._root / old).rename(self._root / new)

    def remove(self, path: str) -> None:
        """See the role."""
        at = self._root / path
        if at.is_dir():
            shutil.rmtree(at)
        else:
            at.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """See the role."""
        return None

    def close(self) -> None:
        """See the role."""
        time.sleep(self._close_s)
        self._count("-")

    def _seen(self, at: Path) -> RemoteFile:
        found = at.stat()
        return RemoteFile(at.relative_to(self._root).as_posix(), found.st_size, found.st_mtime, at.is_dir())

    def _count(self, sign: str) -> None:
        with (self._notes / "connections").open("a") as out:
            out.write(sign)

    def _note(self, what: str, path: str) -> None:
        with (self._notes / f"{'owner' if self._is_owner else 'helper'}-{os.getpid()}").open("a") as out:
            out.write(f"{what} {path}\n")
