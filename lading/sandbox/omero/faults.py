"""The knobs: every way in which a real OMERO, or the network before it, has been seen to fail.

A *count* says how many of the next matching calls are hit: it runs down to 0, and -1 means all of them. A *list* loses
one entry per hit. A *time* is in seconds and lasts until it is set back. Operations are named as on the wire
("importFileset", "write", "verifyUpload", "getDatabaseTime").
"""

import dataclasses
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

KnobValue: TypeAlias = bool | int | float | str | list[str]

ALWAYS = -1
IMPORT_ERRORS = (
    "error-on-init",
    "import-unknown-format",
    "import-file-exception",
    "import-missing-library",
    "import-request-failure",
    "update-log-file-size",
)
"""The names of the ERR with which an import can end. A file of an unknown format ends with the first."""
EXCEPTIONS = (
    "ApiUsageException",
    "CannotCreateSessionException",
    "DatabaseBusyException",
    "InternalException",
    "LockTimeout",
    "OptimisticLockException",
    "OverUsageException",
    "PermissionDeniedException",
    "RemovedSessionException",
    "ResourceError",
    "SecurityViolation",
    "SessionTimeoutException",
    "TryAgain",
    "ValidationException",
    "WrappedCreateSessionException",
)
"""What `errors` can raise. A broken connection is `cut_calls`, not an exception that a server could send."""


@dataclass(slots=True)  # with slots a misspelt knob is an AttributeError
class Faults:
    """What the stand-in does wrong, and how slowly it works."""

    # Any operation
    errors: list[str] = field(default_factory=list)  # "operation=Exception": refused, e.g. "importFileset=TryAgain"
    lost_replies: list[str] = field(default_factory=list)  # operations carried out, then the connection breaks
    cut_calls: list[str] = field(default_factory=list)  # operations at which the connection breaks, nothing was done
    session_killed: list[str] = field(default_factory=list)  # operations before which the caller's session is closed
    crash_at: list[str] = field(default_factory=list)  # operations before which the server dies, as by kill -9
    slow: list[str] = field(default_factory=list)  # "operation=seconds", never used up: each such call takes longer
    database_busy: int = 0  # count of calls that find no free database connection

    # Uploads
    cut_upload_at: int = -1  # the connection breaks when an upload gets to this byte, which is not written
    cut_uploads: int = 1  # count of uploads that cut_upload_at hits
    disk_full: int = 0  # count of writes that fail for lack of space
    disk_full_at: int = -1  # every write beyond this byte of a file fails for lack of space
    damaged_uploads: int = 0  # count of files of which one byte is damaged on the disk before the server reads them
    wrong_hashes: int = 0  # count of files that the server hashes wrongly; their bytes are good
    write_delay_s: float = 0.0  # a slow disk: each block
    hash_delay_s: float = 0.0  # a slow disk: reading a whole file to hash it

    # Imports
    crash_after_fileset: int = 0  # count of importFileset after whose Fileset is stored the server dies
    crash_in_step: list[str] = field(default_factory=list)  # consumed: the server dies before this step ("0" … "5")
    import_errors: list[str] = field(default_factory=list)  # consumed: the ERR names with which the next imports end
    step_delay_s: float = 0.0  # each of the six steps
    hold_at: list[str] = field(default_factory=list)  # imports wait before these steps until it is empty, never used up
    lost_steps: int = 0  # count of imports whose step callbacks never come
    lost_finished: int = 0  # count of handles whose `finished` callback never comes; polling works
    blank_checksums: int = 0  # count of files whose checksum the database forgets once they were checked
    vanishing_files: int = 0  # count of imported files that are gone from the disk when the import has ended
    no_images: int = 0  # count of imports that end well, and made nothing

    # The server
    no_repository: int = 0  # count of `repositories` calls at which the managed repository is not up (a null proxy)
    checksums: list[str] = field(default_factory=list)  # those it knows, its favourite first, never used up; empty: all
    free_kib: int = -1  # what the server says about its free disk space; -1 is the truth

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def take(self, knob: str) -> bool:
        """Uses up one of a count; true when the fault is to happen."""
        with self._lock:
            left = int(getattr(self, knob))
            if left > 0:
                setattr(self, knob, left - 1)
            return left != 0

    def pop(self, knob: str, wanted: str = "") -> str:
        """Uses up the first entry of a list that is `wanted` or "wanted=…" (any when empty); "" when there is none."""
        if not getattr(self, knob):  # the usual case, asked at every call: without the lock
            return ""
        with self._lock:
            waiting: list[str] = getattr(self, knob)
            for place, entry in enumerate(waiting):
                if wanted in ("", entry.partition("=")[0]):
                    setattr(self, knob, [*waiting[:place], *waiting[place + 1 :]])
                    return entry
            return ""

    def delay(self, operation: str) -> None:
        """Sleeps as long as `slow` says for this operation."""
        for entry in self.slow:
            name, _, seconds = entry.partition("=")
            if name == operation:
                time.sleep(float(seconds))

    @staticmethod
    def wait(seconds: float) -> None:
        """The slowness of a knob. Even sleeping for no time at all would give the processor away."""
        if seconds > 0:
            time.sleep(seconds)

    def as_dict(self) -> dict[str, KnobValue]:
        """All knobs by name."""
        return {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self) if knob.name != "_lock"}

    def update(self, knobs: Mapping[str, object]) -> None:
        """Sets several knobs at once, all or none. Raises KeyError, TypeError or ValueError naming the knob."""
        current = self.as_dict()
        checked = {name: _fitting(name, current, value) for name, value in knobs.items()}
        with self._lock:
            for name, value in checked.items():
                setattr(self, name, value)

    def reset(self) -> None:
        """Sets every knob back to what a new server has."""
        self.update(Faults().as_dict())


def _fitting(name: str, current: Mapping[str, KnobValue], value: object) -> KnobValue:
    if name not in current:
        raise KeyError(f"there is no knob {name!r}; there are: {', '.join(sorted(current))}")
    kind = type(current[name])
    if kind is list and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return _entries(name, [str(entry) for entry in value])
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return ALWAYS if value else 0
    if kind is int and isinstance(value, int):
        return value
    raise TypeError(f"knob {name!r} takes a {kind.__name__}, not {value!r}")


def _entries(name: str, entries: list[str]) -> list[str]:
    """A misspelt entry would be a fault that never happens, and a test that proves nothing."""
    unknown = [entry for entry in entries if name == "import_errors" and entry not in IMPORT_ERRORS]
    if unknown:
        raise ValueError(f"knob {name!r}: there is no {unknown[0]!r}; there are: {', '.join(IMPORT_ERRORS)}")
    if name in ("errors", "slow"):
        for entry in entries:
            operation, equals, rest = entry.partition("=")
            if not (operation and equals and rest):
                raise ValueError(f"knob {name!r}: {entry!r} is not OPERATION=…")
            if name == "errors" and rest not in EXCEPTIONS:
                raise ValueError(f"knob {name!r}: there is no {rest!r}; there are: {', '.join(EXCEPTIONS)}")
            if name == "slow":
                float(rest)
    return entries
