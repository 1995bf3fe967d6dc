"""A real Orthanc on loopback: stores, finds, gives back, vouches; and loses or refuses what a test wants."""

import contextlib
import hashlib
import json
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lading.testing.dicom_nodes import dataset
from lading.testing.servers import free_port, server

ORTHANC = "/usr/sbin/Orthanc"
_FILTER = """
function ReceivedInstanceFilter(dicom, origin)
  local file = io.open("{count}", "r")
  local left = file and tonumber(file:read("*all")) or 0
  if file then file:close() end
  if left <= 0 then return true end
  file = io.open("{count}", "w")
  file:write(tostring(left - 1))
  file:close()
  return false
end
"""


def missing_for_orthanc() -> str:
    """What is missing on this machine to run an Orthanc, or ""."""
    return "" if shutil.which(ORTHANC) else f"{ORTHANC} is not installed (Debian: orthanc)"


@dataclass
class Orthanc:
    """One Orthanc with everything in `folder`. `port` speaks DICOM, `web` its REST interface.

    It knows LADING, who may do everything and whose reports go to `reports`, READER, who may not store, and nobody else.
    `more` are settings of its own.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    web: int = field(default_factory=free_port)
    reports: int = field(default_factory=free_port)
    more: Mapping[str, object] = field(default_factory=dict)

    title = "ORTHANC"

    @property
    def storage(self) -> Path:
        """Where it keeps its files."""
        return self.folder / "storage"

    @property
    def _count(self) -> Path:
        return self.folder / "lose"

    @contextlib.contextmanager
    def running(self) -> Iterator["Orthanc"]:
        """Listening, for as long as the block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Listen, with what it had."""
        self.storage.mkdir(parents=True, exist_ok=True)
        script, settings = self.folder / "filter.lua", self.folder / "orthanc.json"
        script.write_text(_FILTER.replace("{count}", str(self._count)))
        settings.write_text(json.dumps(self._settings(script)))
        self._stack = contextlib.ExitStack()
        # Its DICOM port opens after the other one.
        argv = ["env", "TCP_NODELAY=1", ORTHANC, str(settings)]
        self._stack.enter_context(server(argv, self.port, self.folder / "orthanc.log"))

    def stop(self) -> None:
        """It is away: nothing listens."""
        self._stack.close()

    def allow(self, **rights: bool) -> None:
        """Change what LADING may do: Store, Find, Get, StorageCommitment."""
        modality = {"AET": "LADING", "Host": "127.0.0.1", "Port": self.reports}
        modality |= {f"Allow{right}": allowed for right, allowed in rights.items()}
        self.ask("PUT", "/modalities/lading", json.dumps(modality))

    def lose(self, count: int) -> None:
        """The next `count` images are answered with success, and thrown away."""
        self._count.write_text(str(count))

    def held(self) -> dict[str, str]:
        """SOPInstanceUID → SHA-256 of the data set, as it lies on its disk."""
        return {sop: hashlib.sha256(content).hexdigest() for sop, content in map(dataset, self.files())}

    def files(self) -> list[Path]:
        """The DICOM files on its disk."""
        return [path for path in self.storage.rglob("*") if path.is_file() and _is_dicom(path)]

    def file_of(self, sop: str) -> Path:
        """The file of an image."""
        return next(path for path in self.files() if dataset(path)[0] == sop)

    def forget(self, sop: str) -> None:
        """Delete one image, as its own user would."""
        (found,) = json.loads(self.ask("POST", "/tools/lookup", sop))
        self.ask("DELETE", str(found["Path"]))

    def ask(self, method: str, path: str, body: str = "") -> bytes:
        """A request to its REST interface."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web}{path}", data=body.encode() or None, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content

    def _settings(self, script: Path) -> dict[str, object]:
        reader = {"AET": "READER", "Host": "127.0.0.1", "Port": self.reports, "AllowStore": False}
        return {
            "Name": "test",
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "HttpServerEnabled": True,
            "HttpPort": self.web,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": self.title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowFind": False,
            "DicomAlwaysAllowGet": False,
            "DicomAlwaysAllowMove": False,
            "DicomModalities": {
                "lading": {"AET": "LADING", "Host": "127.0.0.1", "Port": self.reports},
                "reader": reader,
            },
            "Plugins": [],
            "LuaScripts": [str(script)],
            "OverwriteInstances": True,
            "MaximumStorageCacheSize": 0,  # what it gives back comes from its disk
            "StableAge": 2,
            **self.more,
        }


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"
