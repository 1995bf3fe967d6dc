"""What the stand-in knows: collections that are folders, tasks, and the faults that a test asks for."""

import os
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

Document = dict[str, object]


class ApiError(Exception):
    """An answer that is not a success: HTTP status, Globus' own error code, words, further members of the document."""

    def __init__(self, status: int, code: str, message: str, **more: object) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.more = status, code, message, more


@dataclass
class Collection:
    """A folder that Globus reaches. `personal`: Globus Connect Personal, on somebody's computer.

    Faults: `online` or not, `needs_consent` (data_access), `readable`, `writable` (an ACL), `paused` by its manager.
    """

    id: str
    name: str
    root: Path
    personal: bool = False
    online: bool = True
    needs_consent: bool = False
    readable: bool = True
    writable: bool = True
    paused: bool = False

    def at(self, path: str) -> Path:
        """Where `path` of the collection lies here; never above its root."""
        return Path(str(self.root) + os.path.normpath("/" + path.lstrip("/")).rstrip("/"))

    def document(self) -> Document:
        """What Transfer says about it."""
        kind = "GCP_mapped_collection" if self.personal else "GCSv5_mapped_collection"
        return {
            "DATA_TYPE": "endpoint",
            "id": self.id,
            "display_name": self.name,
            "entity_type": kind,
            "activated": True,
            "acl_available": True,
            "is_globus_connect": self.personal,
            "gcp_connected": self.online if self.personal else None,
            "gcp_paused": self.paused if self.personal else None,
            "gcs_version": None if self.personal else "5.4.80",
            "high_assurance": False,
            "force_verify": None,
            "disable_verify": False,
            "owner_id": None,
            "owner_string": "lab@example.org",
            "description": None,
            "contact_email": None,
            "https_server": None,
        }


@dataclass
class Task:
    """One task: its document as people read it, what it was asked, and what happened."""

    facts: Document
    asked: Document
    events: list[Document] = field(default_factory=list)
    done: list[Document] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        """The task id."""
        return str(self.facts["task_id"])

    @property
    def active(self) -> bool:
        """Whether it is not over yet."""
        return self.facts["status"] in ("ACTIVE", "INACTIVE")

    def count(self, key: str, more: int = 1) -> None:
        """Add to one of the figures."""
        self.facts[key] = cast("int", self.facts[key]) + more

    def tell(self, code: str, details: str, *, is_error: bool = False) -> None:
        """A new event; the newest comes first."""
        event = {"DATA_TYPE": "event", "code": code, "description": code.lower().replace("_", " "), "details": details}
        self.events.insert(0, {**event, "is_error": is_error, "parent_task_id": None, "time": now_text()})

    def trouble(self, code: str, details: str) -> None:
        """Something does not work, and is tried again; the same trouble is told once."""
        self.count("faults")
        if self.facts["nice_status"] != code:
            self.tell(code, details, is_error=True)
        self.facts.update(
            nice_status=code, nice_status_details=details, nice_status_short_description=code, is_ok=False
        )

    def fine(self) -> None:
        """It goes on."""
        self.facts.update(
            nice_status="OK", nice_status_details=None, nice_status_short_description="OK", is_ok=True, is_paused=False
        )

    def end(self, status: str, code: str = "", description: str = "") -> None:
        """It is over."""
        self.tell(code or status, description, is_error=bool(code))
        self.facts["completion_time"] = now_text()
        self.facts["fatal_error"] = {"code": code, "description": description} if code else None
        self.facts["status"] = status  # last: who sees it may read the rest


@dataclass
class Faults:
    """What goes wrong next. `http`: path prefix → [status, how often]. `hold`: tasks wait. `rate`: bytes per second.

    `stuck`: code and words of an event; tasks say it once, and stay ACTIVE for ever with the status OK. `away_for_tasks`: ids of
    collections that tasks do not reach, though they can be listed. `rot_next`: files that change after they were proven.
    `tells_checksums`: whether the record of what was moved has them. `moves_nothing`: tasks succeed, and do nothing.
    """

    http: dict[str, list[int]] = field(default_factory=dict)
    corrupt_next: int = 0
    fail_tasks: list[tuple[str, str]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    rate: float = 0.0
    stuck: tuple[str, str] | None = None
    away_for_tasks: set[str] = field(default_factory=set)
    rot_next: int = 0
    tells_checksums: bool = True
    moves_nothing: bool = False


class World:
    """Everything behind one stand-in."""

    def __init__(self, collections: list[Collection]) -> None:
        self.collections = {one.id: one for one in collections}
        self.tasks: dict[str, Task] = {}
        self.submissions: dict[str, str] = {}
        self.faults = Faults()
        self.lock = threading.RLock()
        self.identity = str(uuid.uuid4())
        self.consents: set[str] = set()
        self.requests: list[str] = []

    def collection(self, id_: object) -> Collection:
        """The collection, or a 404."""
        found = self.collections.get(str(id_))
        if found is None:
            raise ApiError(404, "EndpointNotFound", f"No such endpoint '{id_}'")
        return found

    def task(self, id_: str) -> Task:
        """The task, or a 404."""
        found = self.tasks.get(id_)
        if found is None:
            raise ApiError(404, "TaskNotFound", f"No task found with id '{id_}'")
        return found

    def forget(self, task_id: str) -> None:
        """The history of a task is gone, as after some months."""
        self.tasks.pop(task_id)


def now_text() -> str:
    """Now, as Globus writes it."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
