"""One import from a shell, that dies where a test wants it: `python -m lading.testing.importing SPEC.json`.

SPEC.json is an `Errand`. It dies by SIGKILL at its `die_at`-th HTTP request, before the request leaves or after the server
answered and before the answer is read; with `die_at` 0 it lives.
"""

import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from lading.delivery import DeliveryId
from lading.inbox import Inbox
from lading.ports import Importer
from lading.testing.carrying import FileJournal


@dataclass(frozen=True)
class Errand:
    """An import: `factory` is "module:name", made with its two tables, the inbox and a folder for its state."""

    factory: str
    repository: Mapping[str, object]
    route: Mapping[str, object]
    inbox: str
    state: str
    delivery: str
    die_at: int = 0
    die_after_the_answer: bool = False

    @property
    def journal(self) -> Path:
        """Where its notes are kept from one life to the next."""
        return Path(self.state) / "journal.json"

    def run(self, timeout: float = 120) -> int:
        """In a process of its own; returns the exit code, -9 when it died."""
        spec = Path(self.state) / "errand.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(json.dumps(asdict(self)))
        done = subprocess.run(
            [sys.executable, "-m", "lading.testing.importing", str(spec)],
            timeout=timeout,
            check=False,
            start_new_session=True,
        )
        return done.returncode


def main(spec: Path) -> None:
    """Plan and run."""
    errand = Errand(**json.loads(spec.read_text()))
    module, _, name = errand.factory.partition(":")
    factory = getattr(importlib.import_module(module), name)
    state = Path(errand.state)
    importer = cast(
        "Importer",
        factory.from_settings(errand.repository, errand.route, inbox_root=Path(errand.inbox), state=state),
    )
    parcel = Inbox.open(Path(errand.inbox)).parcel(DeliveryId(errand.delivery))
    if errand.die_at:
        _die(errand.die_at, after_the_answer=errand.die_after_the_answer)
    importer.run(parcel, importer.plan(parcel), FileJournal(errand.journal))


def _die(at: int, *, after_the_answer: bool) -> None:
    # Python's own HTTP client, which every HTTP library here ends in; the importer itself is not touched.
    left = at
    name = "getresponse" if after_the_answer else "putrequest"
    original = getattr(http.client.HTTPConnection, name)

    def counted(self: http.client.HTTPConnection, *args: object, **kwargs: object) -> object:
        nonlocal left
        left -= 1
        if left > 0:
            return original(self, *args, **kwargs)
        if after_the_answer:
            original(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(http.client.HTTPConnection, name, counted)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
