"""What the DICOM receiver let appear is complete: the receiver has waited already, and renames whole studies."""

from pathlib import Path

import attrs

from lading.config import WatchConfig
from lading.errors import Unreachable
from lading.filters import FileRules
from lading.findings import warning
from lading.locks import FileLock
from lading.ports import Acquisition, Waiting
from transport.dicom_spool import OWN, read_notes
from transport.sources.quiet_folder import QuietFolderSource

_LOOK_AGAIN_S = 10.0


class DicomReceiveSource:
    """Watches the folder of a DICOM receiver (`lading dicom receive`), which runs as a process of its own."""

    def __init__(self, watch: WatchConfig, rules: FileRules | None = None) -> None:
        """Watches `watch.path`, the receiver's `folder`. Raises ConfigError for a template that names no label."""
        self._path = watch.path
        self._published = QuietFolderSource(attrs.evolve(watch, quiet=0.0), rules)
        self._waiting: list[Waiting] = []

    def ready(self) -> list[Acquisition]:
        """The complete studies; a study without labels comes back with a finding, and so does a receiver that is not running."""
        if not (self._path / OWN).is_dir():
            raise Unreachable(
                f"{self._path} is not the folder of a DICOM receiver, or its disk is not mounted",
                safe="what was received earlier goes on",
                next_command="lading dicom receive",
            )
        found = self._published.ready()
        self._waiting = [
            Waiting(folder, f"{_images(folder)} images so far; the study may not be complete yet", _LOOK_AGAIN_S)
            for folder, _ in read_notes(self._path, "receiving")
        ]
        return [*self._strays(), *found]

    def waiting(self) -> list[Waiting]:
        """The studies that are still coming in, and what else is incomplete."""
        return [*self._waiting, *self._published.waiting()]

    def _strays(self) -> list[Acquisition]:
        strays = [
            Acquisition(
                folder,
                None,
                (
                    warning(
                        "unmatched-study",
                        f"{_images(folder)} images from {note.get('calling', '')!r} to {note.get('called', '')!r} wait in "
                        f"{folder}: {note.get('reason', '')}",
                        path=folder.name,
                        hint="set [dicom] projects, participant or session, and start the receiver again",
                    ),
                ),
            )
            for folder, note in read_notes(self._path, "unmatched")
        ]
        if FileLock(self._path / OWN / "receiver.lock").holder() is None:
            away = warning(
                "receiver-away",
                f"no DICOM receiver serves {self._path}: nothing can be stored to it",
                hint="run `lading dicom receive`",
            )
            strays.append(Acquisition(self._path, None, (away,)))
        return strays


def _images(folder: Path) -> int:
    try:
        return sum(1 for image in folder.iterdir() if image.suffix == ".dcm")
    except FileNotFoundError:  # published meanwhile
        return 0
