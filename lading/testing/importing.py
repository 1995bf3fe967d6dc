"""One import from a shell, that dies where a test wants it: `python -m lading.testing.importing SPEC.json`.

SPEC.json is an `Errand`. It dies by SIGKILL at its `die_at`-th request over HTTP, Ice or DICOM, before the request leaves or after
the server answered and before the answer is read; with `die_at` 0 it lives.
"""

import http.client
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from lading.delivery import DeliveryId
from lading.inbox import Inbox
from lading.ports import Importer
from lading.testing.carrying import FileJournal
from lading.testing.lean import without_pandas


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
        process = self.start()
        try:
            return process.wait(timeout)
        finally:
            process.kill()
            process.wait()

    def start(self) -> "subprocess.Popen[bytes]":
        """The process of its own."""
        spec = Path(self.state) / "errand.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(json.dumps(asdict(self)))
        return subprocess.Popen(
            [sys.executable, "-m", "lading.testing.importing", str(spec)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=without_pandas(),
        )


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
    """Patch what every client library here ends in: Python's own HTTP, and Ice. The importer itself is not touched."""
    counted = _Counted(at, after_the_answer=after_the_answer)
    name = "getresponse" if after_the_answer else "putrequest"
    setattr(http.client.HTTPConnection, name, counted.around(getattr(http.client.HTTPConnection, name)))
    if wire := sys.modules.get("transport.dicom_wire"):
        name = "receive" if after_the_answer else "_write"
        setattr(wire.Association, name, counted.around(getattr(wire.Association, name)))
    for module in [found for title, found in sys.modules.items() if title.split(".")[0] in ("omero", "Glacier2")]:
        for made in [value for value in vars(module).values() if isinstance(value, type)]:
            if made.__name__.endswith("Callback"):
                continue  # these are called by the server
            for operation in [key for key in vars(made) if key.startswith("_op_")]:
                if not isinstance(vars(made)[operation], _Operation):
                    setattr(made, operation, _Operation(vars(made)[operation], counted))


class _Counted:
    """Counts requests, and is the death of whoever makes the last one."""

    def __init__(self, left: int, *, after_the_answer: bool) -> None:
        self._left, self._after = left, after_the_answer
        self._lock = threading.Lock()

    def around(self, request: Callable[..., object]) -> Callable[..., object]:
        """`request`, counted."""

        def counted(*args: object, **kwargs: object) -> object:
            with self._lock:
                self._left -= 1
                last = not self._left
            if last and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = request(*args, **kwargs)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return counted


class _Operation:
    """One operation of Ice's generated classes, whose calls are counted. `begin` and `end` are the halves of one."""

    def __init__(self, inner: Any, counted: _Counted) -> None:
        self._inner = inner
        self.invoke = counted.around(inner.invoke)
        self.begin = counted.around(inner.begin)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
