"""A repository that is a folder, its importer, and the parts of a server around it: the engine's tests run on these.

Several processes may share it. What happened is in its files, so that a test looks with its own eyes:

    log                one line per act: time pid delivery act
    held/<id>          PROJECT/participant/SESSION of what was taken, one line "sha256  path" per file
    down               while it exists, the repository does not answer
    delay              seconds that one import takes
    drop/<session>     so many files are lost, silently, by the next import of that session
    refuse/<session>   the repository says no, with this text
"""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import cast

from lading import log
from lading.config import Config, load
from lading.delivery import FileOutcome, Labels, Outcome, Parcel
from lading.engine import server
from lading.engine.parts import Bare, RouteParts
from lading.errors import Refused, TargetUnavailable
from lading.findings import Finding, error
from lading.inbox import Inbox
from lading.ports import ImportPlan, ImportRecord, Journal
from lading.reporters.office import Notice


class FolderImporter:
    """Imports into a folder. Knows a delivery by its labels, as XNAT does; asks before it sends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("held", "drop", "refuse"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def probe(self) -> None:
        if (self._folder / "down").exists():
            raise TargetUnavailable(f"asking {self._folder}: it is down")

    def probe_project(self, project: str) -> None:  # noqa: ARG002 - every project is ours
        self.probe()

    def plan(self, parcel: Parcel, skips: Mapping[str, str] | None = None) -> ImportPlan:
        self.probe()
        target = {"kind": "folder", "skips": json.dumps(dict(skips or {}))}
        return ImportPlan((f"copy to {self._held(parcel.delivery.labels)}",), target)

    def run(self, parcel: Parcel, plan: ImportPlan, journal: Journal) -> ImportRecord:
        self.probe()
        session = parcel.delivery.labels.session
        refusal = self._folder / "refuse" / session
        if refusal.exists():
            raise Refused(f"importing {session}: {refusal.read_text()}", next_command="ask its owner")
        skipped = json.loads(plan.target["skips"])
        wanted = [f"{entry.sha256}  {entry.path}" for entry in parcel.manifest if entry.path not in skipped]
        held = self._held(parcel.delivery.labels)
        there = set(held.read_text().splitlines()) if held.exists() else set()
        if there == set(wanted):
            return ImportRecord({**plan.target, "uri": str(held)}, already_there=True)
        self._note(parcel, "begin")
        try:
            self._take_time()
            held.write_text("\n".join(wanted[self._lost(session) :]))
            self._note(parcel, "sent")
        finally:
            self._note(parcel, "end")
        journal.note("held", str(held))
        return ImportRecord({**plan.target, "uri": str(held)})

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterable[FileOutcome]:
        self.probe()
        there = set(self._held(parcel.delivery.labels).read_text().splitlines())
        skipped = json.loads(record.target.get("skips", "{}"))
        for entry in parcel.manifest:
            if entry.path in skipped:
                yield FileOutcome(entry.path, entry.size, entry.sha256, Outcome.FILTERED, skipped[entry.path])
                continue
            outcome = Outcome.VERIFIED if f"{entry.sha256}  {entry.path}" in there else Outcome.MISSING
            yield FileOutcome(entry.path, entry.size, entry.sha256, outcome, "sha256", record.target.get("uri", ""))

    def _held(self, labels: Labels) -> Path:
        return self._folder / "held" / "+".join(labels.as_dict().values())

    def _lost(self, session: str) -> int:
        drop = self._folder / "drop" / session
        if not drop.exists():
            return 0
        lost = int(drop.read_text())
        drop.unlink()
        return lost

    def _take_time(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            time.sleep(float((self._folder / "delay").read_text()))

    def _note(self, parcel: Parcel, act: str) -> None:
        line = f"{time.time():.4f} {os.getpid()} {parcel.delivery.id} {act}\n".encode()
        descriptor = os.open(self._folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


class ParticipantCheck:
    """Refuses participants that do not fit a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def check(self, parcel: Parcel) -> Iterable[Finding]:
        participant = parcel.delivery.labels.participant
        if not re.fullmatch(self._pattern, participant):
            yield error("label-invalid", f"participant {participant!r} does not fit {self._pattern!r}")


class FolderParts:
    """The server's parts with every repository a folder: `[repositories.NAME]` has `folder`.

    `checks = { participant = "PATTERN" }` of a route is the only check there is.
    """

    def __init__(self, config: Config) -> None:
        self._config = config

    @cached_property
    def inboxes(self) -> Mapping[str, Inbox]:
        return {name: Inbox.open(inbox.path) for name, inbox in self._config.inboxes.items()}

    @property
    def bare(self) -> Mapping[str, Bare]:
        return {n: Bare(i.bare_route, i.quiet, i.marker) for n, i in self._config.inboxes.items()}

    @property
    def limits(self) -> Mapping[str, int]:
        now = datetime.now()  # noqa: DTZ005 - hours are those of the clock on the wall
        return {name: repository.imports_at(now) for name, repository in self._config.repositories.items()}

    @property
    def receipt_key(self) -> bytes:
        return b"the key of the tests, 32 bytes.."

    def silent(self) -> tuple[str, ...]:
        return ()

    def notices(self) -> tuple[Notice, ...]:
        return ()

    def route(self, name: str) -> RouteParts:
        route = self._config.route(name)
        folder = Path(cast("str", self._config.repositories[route.repository].settings["folder"]))
        pattern = route.checks.get("participant")
        checks = (ParticipantCheck(str(pattern)),) if pattern else ()
        return RouteParts(route.inbox, route.repository, checks, FolderImporter(folder), route.attempts, route.priority)


def folder_parts(config: Config) -> FolderParts:
    """The factory, for `--parts lading.testing.fakes:folder_parts`."""
    return FolderParts(config)


def main(config_path: str) -> None:
    """`python -m lading.testing.fakes lading.toml`: the whole server on such parts, until SIGTERM."""
    log.set_up()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server.serve(load(Path(config_path)), stop=stop, parts="lading.testing.fakes:folder_parts")


if __name__ == "__main__":
    main(sys.argv[1])
