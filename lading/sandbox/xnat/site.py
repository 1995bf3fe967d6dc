"""One running stand-in: its folders, its tables, its knobs, its workers. Handed to every part that answers."""

import shutil
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lading.sandbox.xnat.auth import Accounts
from lading.sandbox.xnat.faults import Faults
from lading.sandbox.xnat.state import State
from lading.sandbox.xnat.store import Database
from lading.sandbox.xnat.tracking import Tracking

_WORKERS = 8  # XNAT's message listeners run several at once
_REQUESTS = 40  # requests that may wait for the disk, or for an archive, at the same time


@dataclass(frozen=True)
class Folders:
    """Where the bytes lie."""

    root: Path

    @cached_property
    def inbox(self) -> Path:
        """What the inbox handler may read."""
        return self.root / "inbox"

    @cached_property
    def archive(self) -> Path:
        """Archived sessions and resources."""
        return self.root / "archive"

    @cached_property
    def prearchive(self) -> Path:
        """Received sessions."""
        return self.root / "prearchive"

    @cached_property
    def cache(self) -> Path:
        """Files that users put in before importing them."""
        return self.root / "cache"

    @cached_property
    def temporary(self) -> Path:
        """Half-written files; emptied at every start."""
        return self.root / "tmp"

    def create(self) -> None:
        """Makes what is not there."""
        for folder in (self.inbox, self.archive, self.prearchive, self.cache, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)


class Site:
    """Opened when the server starts, closed when it stops; what it knows outlives it in ``root``."""

    def __init__(self, root: Path, faults: Faults, users: dict[str, str]) -> None:
        self.folders = Folders(root)
        shutil.rmtree(self.folders.temporary, ignore_errors=True)
        self.folders.create()
        self.faults = faults
        self.state = State(Database(root / "state.jsonl"))
        self.accounts = Accounts(users, self.state, faults)
        self.tracking = Tracking()
        self.log: deque[str] = deque(maxlen=20_000)
        self.requests: Counter[str] = Counter()
        self.catalog_versions: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()  # by the fault inbox_drop_files, per file name
        self.started = time.monotonic()
        self.closing = threading.Event()
        self.request_workers = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="request")
        self.inbox_workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="inbox")
        self.archive_workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="archive")
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def note(self, line: str) -> None:
        """The server's own log, which no client of a real XNAT can see."""
        self.log.append(f"{time.strftime('%H:%M:%S')} {line}")

    def wait(self, seconds: float) -> None:
        """Sleeps, but not through the end of the server."""
        if seconds > 0:
            self.closing.wait(seconds)

    def lock(self, name: str) -> threading.Lock:
        """One lock per name, for work that must not overlap."""
        with self._locks_lock:
            return self._locks.setdefault(name, threading.Lock())

    def close(self) -> None:
        """Ends the workers, then the database."""
        self.closing.set()
        self.inbox_workers.shutdown(wait=True, cancel_futures=True)
        self.archive_workers.shutdown(wait=True, cancel_futures=True)
        # Last: a request may wait for one of the others.
        self.request_workers.shutdown(wait=True, cancel_futures=True)
        self.state.close()

    def counts(self) -> dict[str, int | dict[str, int]]:
        """What was really imported, for tests that count "imported twice".

        ``objects_received``: DICOM objects stored by an importer; ``duplicate_objects``: those of them whose
        SOPInstanceUID their project had received before; ``archived_duplicates``: catalog entries beyond the first
        for one SOPInstanceUID of a project; ``imports_per_label``: how often a session went into the archive, new or
        merged; the other ``…_per_label``: how often it was asked for, or begun in the prearchive.
        """
        state = self.state
        owners = {f"scan:{scan.experiment}/{scan.id}": scan.experiment for scan in state.scans.all()}
        archived: Counter[tuple[str, str]] = Counter()
        for resource in state.resources.all():
            experiment = state.experiments.get(owners.get(resource.owner, ""))
            if experiment is not None:
                archived.update((experiment.project, row.uid) for row in state.entries.of(resource.id) if row.uid)
        return {
            "archive_sessions": len(state.experiments.all()),
            "prearchive_sessions": len(state.prearchive.all()),
            "objects_received": state.counted("objects:").get("received", 0),
            "duplicate_objects": state.counted("objects:").get("duplicate", 0),
            "archived_objects": len(archived),
            "archived_duplicates": sum(archived.values()) - len(archived),
            "imports_per_label": state.counted("import:"),
            "inbox_requests_per_label": state.counted("inbox:"),
            "prearchive_per_label": state.counted("prearchive:"),
            "requests": dict(self.requests),
        }
