"""One carry from a shell, so that a test can kill it: `python -m lading.testing.carrying SPEC.json`.

SPEC.json names the transport's factory and settings, and the cargo (see `Errand`).
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from lading.delivery import Cargo, Delivery, DeliveryId, Labels, Slot
from lading.manifest import make
from lading.ports import NoProgress, Settings, Transport
from lading.seal import seal

LABELS = Labels("PROJ", "sub-001", "ses-01")


class FileJournal:
    """A journal in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, key: str, value: str) -> None:
        """Remember, durably."""
        notes = self._notes() | {key: value}
        part = self._file.with_suffix(".part")
        with part.open("w") as out:
            json.dump(notes, out)
            out.flush()
            os.fsync(out.fileno())
        part.replace(self._file)

    def recall(self, key: str) -> str | None:
        """The last value, or None."""
        return self._notes().get(key)

    def _notes(self) -> dict[str, str]:
        return cast("dict[str, str]", json.loads(self._file.read_text())) if self._file.exists() else {}


@dataclass(frozen=True)
class Errand:
    """A delivery to carry: `factory` is "module:name.name", called with the settings and `state`."""

    factory: str
    settings: Mapping[str, object]
    root: str
    papers: str
    state: str
    delivery: str

    def transport(self) -> Transport:
        """The configured transport."""
        return transport_of(self.factory, self.settings, Path(self.state))

    def cargo(self) -> Cargo:
        """The cargo; sealed or not, as the papers are."""
        delivery = Delivery(DeliveryId(self.delivery), "test", LABELS, sender="tester@here")
        return Cargo(delivery, Path(self.root), Path(self.papers))

    @property
    def slot(self) -> Slot:
        """Where it goes."""
        return Slot(DeliveryId(self.delivery))

    @property
    def journal(self) -> FileJournal:
        """Its notes."""
        return FileJournal(Path(self.state, f"{self.delivery}.journal"))

    def sealed(self) -> "Errand":
        """The same errand, its manifest made and sealed now."""
        cargo = self.cargo()
        cargo.papers.mkdir(parents=True, exist_ok=True)
        seal(cargo.papers, cargo.delivery, make(cargo.root, cargo.papers, rules=cargo.rules))
        return self

    def carry(self) -> None:
        """Do it, in this process."""
        self.transport().carry(self.cargo(), self.slot, self.journal, NoProgress())

    def start(self) -> "subprocess.Popen[bytes]":
        """Do it in another process, which leads its own process group."""
        spec = Path(self.state, f"{self.delivery}.errand.json")
        spec.write_text(json.dumps(asdict(self)))
        return subprocess.Popen(
            [sys.executable, "-m", "lading.testing.carrying", str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def transport_of(factory: str, settings: Settings, state: Path) -> Transport:
    """The transport that the factory "module:name.name" makes of `settings`."""
    module, _, path = factory.partition(":")
    made: object = importlib.import_module(module)
    for name in path.split("."):
        made = getattr(made, name)
    return cast("Callable[..., Transport]", made)(settings, state=state)


def main(spec: str) -> None:
    """Carry what the file `spec` says."""
    Errand(**json.loads(Path(spec).read_text())).carry()


if __name__ == "__main__":
    main(sys.argv[1])
