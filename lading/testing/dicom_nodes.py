"""DICOM nodes for tests: our receiver as a process, dcmtk's storescu, and eyes on what was stored."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from lading.testing.servers import free_port, server

_META_START = 132
_GROUP_LENGTH_ELEMENT = 12

STORESCU = "/usr/bin/storescu"
STORESCP = "/usr/bin/storescp"
"""dcmtk's, by its full path: pynetdicom installs one of its own beside Python."""


def missing_for_dicom() -> str:
    """What is missing on this machine to talk to real nodes, or ""."""
    missing = [program for program in (STORESCU, STORESCP) if not shutil.which(program)]
    return f"{missing[0]} is not installed (Debian: dcmtk)" if missing else ""


@dataclass
class Node:
    """Our receiver with an agent beside it: everything in `base`, the watched folder is `folder`."""

    base: Path
    port: int = field(default_factory=free_port)

    @property
    def folder(self) -> Path:
        return self.base / "received"

    @property
    def log(self) -> Path:
        return self.base / "receiver.log"

    def configure(self, dicom: str = 'projects = { LADING = "DEMO" }\nquiet = 1', *, inbox: Path | None = None) -> None:
        """Write the settings; `dicom` are lines of the table [dicom]."""
        self.base.mkdir(parents=True, exist_ok=True)
        (self.base / "lading.toml").write_text(
            f'home = "home"\n[routes.mri]\ntransport = {{ kind = "local", path = "{inbox or self.base / "inbox"}" }}\n'
            f'[[agent.watch]]\npath = "received"\nroute = "mri"\nquiet = 0.2\nsource = "dicom-receive"\n'
            f'[dicom]\nfolder = "received"\nport = {self.port}\nkeep_free_gb = 0\n{dicom}\n'
        )

    @contextlib.contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The receiver, listening."""
        with server(self.command("dicom", "receive"), self.port, self.log) as process:
            yield process

    def command(self, *words: str) -> list[str]:
        """A call of the program with these settings."""
        return [sys.executable, "-m", "lading", "--config", str(self.base / "lading.toml"), *words]

    def published(self) -> dict[str, list[Path]]:
        """The images that appeared, by PROJECT/participant/SESSION."""
        found: dict[str, list[Path]] = {}
        for image in sorted(self.folder.glob("[!.]*/*/*/*.dcm")):
            found.setdefault(image.parent.relative_to(self.folder).as_posix(), []).append(image)
        return found

    def everything(self) -> dict[str, bytes]:
        """SOPInstanceUID → dataset of every image that is kept, whether it appeared already or not."""
        arriving = self.folder / ".dicom" / "arriving"
        kept = [path for path in self.folder.rglob("*.dcm") if path.parent != arriving and path.is_file()]
        return dict(map(dataset, kept))


def dataset(image: Path) -> tuple[str, bytes]:
    """The SOPInstanceUID of a file, and its bytes behind the file meta group: what a node must not change."""
    with image.open("rb") as file:
        meta = read_file_meta_info(image)
        file.seek(_META_START + _GROUP_LENGTH_ELEMENT + int(meta.FileMetaInformationGroupLength))
        return str(meta.MediaStorageSOPInstanceUID), file.read()


def storescu(port: int, *what: str | Path, called: str = "LADING", calling: str = "SCANNER") -> "subprocess.Popen[str]":
    """Start dcmtk's storescu; folders are sent as a whole. It stops at the first image that is not taken."""
    argv = [STORESCU, "-v", "-aet", calling, "-aec", called, "+sd", "127.0.0.1", str(port), *map(str, what)]
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TCP_NODELAY": "1"},
    )


def store(port: int, *what: str | Path, called: str = "LADING", calling: str = "SCANNER") -> tuple[int, str]:
    """Exit code and output of storescu."""
    process = storescu(port, *what, called=called, calling=calling)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """dcmtk's storescp, which stores into `folder` and can do nothing else; its port. One association at a time."""
    folder.mkdir(parents=True)
    port = free_port()
    argv = [
        "env",
        "TCP_NODELAY=1",
        STORESCP,
        "-od",
        str(folder),
        "-aet",
        "STORE",
        "+B",
        "-pdu",
        "131072",
        *options,
        str(port),
    ]
    with server(argv, port, folder.parent / f"{folder.name}.log"):
        yield port


def stored(folder: Path) -> dict[str, bytes]:
    """SOPInstanceUID → data set of what storescp wrote."""
    return dict(dataset(path) for path in folder.iterdir())
