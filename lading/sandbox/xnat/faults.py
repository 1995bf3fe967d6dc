"""The knobs: every way in which a real XNAT, or the proxy before it, has been seen to fail.

Three kinds of knob. A *switch* is on or off. A *count* says how many of the next matching requests are hit: it runs
down to 0, and -1 means all of them. A *list* is consumed one entry per request, or holds patterns (``fnmatch``).
All may be changed while the server runs, from Python (``sandbox.faults.archive_500 = 2``) or over HTTP
(``PUT /_sandbox/faults {"archive_500": 2}``).
"""

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

KnobValue: TypeAlias = bool | int | float | str | list[str]

ALWAYS = -1


@dataclass(slots=True)  # with slots a misspelt knob is an AttributeError
class Faults:
    """What the stand-in does wrong, and how slowly it works. Times are in seconds."""

    # Traps that every real server has: on unless a test wants a kinder server.
    duplicate_200: bool = True  # an upload over an existing file answers 200 and writes nothing
    no_edit_200: bool = True  # an upload by a read-only user answers 200 and writes nothing
    catalog_race: bool = True  # two overlapping uploads to one resource: the second answers 500
    catalog_race_window: float = 0.0  # keeps each catalog write open for so long

    # Files and catalogs
    checksums: bool = True  # site preference; off: blank digests, and stale ones after an overwrite
    blank_digests: bool = False  # listings show no digest, refreshed or not: files that the server cannot read back
    corrupt_after_write: int = 0  # count of files whose bytes on disk are damaged once catalogued

    # Inbox
    inbox_delay_s: float = 0.05  # how long a request stays Queued
    inbox_drop_files: list[str] = field(default_factory=list)  # patterns of file names that fail and are only logged
    inbox_drop_times: int = 1  # how often each such file fails before it is taken
    inbox_stuck: list[str] = field(default_factory=list)  # consumed: the state in which the next request stays for ever

    # Prearchive
    rebuilder_delay: float = 300.0  # how long a session is quiet before it leaves RECEIVING by itself
    prearc_stuck: list[str] = field(default_factory=list)  # consumed: RECEIVING or _ARCHIVING, for ever
    site_anon: bool = False  # site anonymisation at receive: bytes change
    project_anon: bool = False  # project anonymisation at archive, for all projects: bytes change
    anon_changes_uids: bool = False  # anonymisation also replaces SOP and series instance UIDs
    series_filter: list[str] = field(default_factory=list)  # patterns of SeriesDescription dropped silently
    anon_reject: int = 0  # count of objects dropped silently by the anonymisation script
    lenient_zip: bool = False  # DICOM-zip ignores what it cannot read even when told not to
    unassigned: int = 0  # count of objects whose PROJECT_ID counts as not accessible

    # Archive
    archive_500: int = 0  # count of archive requests that fail
    archive_timeout: float = 0.0  # > 0: the client gets a 500 after so long, and the work goes on and succeeds
    archive_timeout_next: int = ALWAYS  # count of archive requests that archive_timeout hits
    archive_delay_s: float = 0.0  # how much longer an archive request works
    disk_full: int = 0  # count of archive requests that fail for lack of space

    # Access
    session_timeout: float = 900.0  # sliding life of a login session
    session_expiry: int = 0  # count of requests whose login session has just expired
    login_page_200: bool = False  # an expired session gets the login page with 200
    guest_404: bool = False  # an expired session becomes guest: reads answer 404

    # Proxy and network; those with a count only hit paths that match proxy_match
    proxy_match: str = "/data/*"
    proxy_413: int = 0  # > 0: bodies of more bytes are refused
    proxy_504: int = 0  # count of writing requests that are done, but answered 504
    conn_reset_after_commit: int = 0  # count of writing requests that are done, then the connection breaks
    down: str = ""  # "502": everything answers 502; "reset": every connection breaks

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def take(self, knob: str) -> bool:
        """Uses up one of a count; true when the fault is to happen."""
        with self._lock:
            left = int(getattr(self, knob))
            if left > 0:
                setattr(self, knob, left - 1)
            return left != 0

    def pop(self, knob: str, among: tuple[str, ...] = ()) -> str:
        """Uses up the first entry of a list if it is one of ``among`` (any when empty); "" when there is none."""
        with self._lock:
            waiting: list[str] = getattr(self, knob)
            if not waiting or (among and waiting[0] not in among):
                return ""
            setattr(self, knob, waiting[1:])
            return waiting[0]

    def as_dict(self) -> dict[str, KnobValue]:
        """All knobs by name."""
        return {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self) if knob.name != "_lock"}

    def update(self, knobs: Mapping[str, object]) -> None:
        """Sets several knobs at once, all or none. Raises KeyError or TypeError naming the knob."""
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
    if name == "down" and isinstance(value, bool):
        return "502" if value else ""
    if kind is list and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [str(entry) for entry in value]
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return ALWAYS if value else 0
    if isinstance(value, bool | int | str) and type(value) is kind:
        return value
    raise TypeError(f"knob {name!r} takes a {kind.__name__}, not {value!r}")
