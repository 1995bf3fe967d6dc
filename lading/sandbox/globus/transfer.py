"""Globus Transfer, version 0.10: submissions, tasks and what became of them, and the operations on a collection."""

import fnmatch
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lading.sandbox.globus.mover import run
from lading.sandbox.globus.tokens import TRANSFER_ALL
from lading.sandbox.globus.world import ApiError, Collection, Document, Task, World, now_text

_COUNTS = [
    "files",
    "directories",
    "files_skipped",
    "files_transferred",
    "bytes_transferred",
    "bytes_checksummed",
    "effective_bytes_per_second",
    "faults",
    "subtasks_total",
    "subtasks_pending",
    "subtasks_succeeded",
    "subtasks_failed",
    "subtasks_retrying",
    "subtasks_canceled",
    "subtasks_expired",
    "subtasks_skipped_errors",
]
_FLAGS = [
    "verify_checksum",
    "preserve_timestamp",
    "encrypt_data",
    "skip_source_errors",
    "fail_on_quota_errors",
    "delete_destination_extra",
]
_PAGE = 100


def answer(world: World, method: str, path: str, query: dict[str, str], asked: Document) -> tuple[int, Document]:
    """The answer to a request below /v0.10. Raises ApiError."""
    parts = [part for part in path.split("/") if part]
    if path == "/submission_id":
        with world.lock:
            world.submissions[made := str(uuid.uuid4())] = ""
        return 200, {"DATA_TYPE": "submission_id", "value": made}
    if path in ("/transfer", "/delete") and method == "POST":
        return _submitted(world, path[1:], asked)
    if path == "/task_list":
        return 200, _listed("task_list", [task.facts for task in world.tasks.values()], 0, 1000)
    if path == "/endpoint_search":
        return 200, _found(world, query)
    if parts[:1] == ["task"] and len(parts) in (2, 3):
        return _about_task(world.task(parts[1]), parts[2] if len(parts) == 3 else "", query)
    if parts[:1] == ["endpoint"] and len(parts) == 2:
        return 200, world.collection(parts[1]).document()
    if parts[:2] == ["operation", "endpoint"] and len(parts) == 4:
        place = world.collection(parts[2])
        _demand_consent(world, place)
        return _operation(place, parts[3], query, asked)
    raise ApiError(404, "NotFound", path)


def _submitted(world: World, kind: str, asked: Document) -> tuple[int, Document]:
    items = asked.get("DATA")
    if not items:
        raise ApiError(400, "ClientError.BadRequest.NoTransferItems", f"A {kind} requires at least one item")
    keys = ("source_endpoint", "destination_endpoint") if kind == "transfer" else ("endpoint",)
    _demand_consent(world, *(world.collection(asked[key]) for key in keys))
    submission = str(asked.get("submission_id"))
    with world.lock:
        if submission not in world.submissions:
            raise ApiError(400, "ClientError.BadRequest.InvalidSubmissionId", "unknown submission id")
        known = world.submissions[submission]
        if not known:
            task = Task(_facts(world, kind, asked), asked)
            world.submissions[submission] = task.id
            world.tasks[task.id] = task
            threading.Thread(target=run, args=(world, task), daemon=True).start()
        task_id = world.submissions[submission]
    link = {"DATA_TYPE": "link", "href": f"/v0.10/task/{task_id}?format=json", "rel": "related", "resource": "task"}
    result = {"DATA_TYPE": f"{kind}_result", "code": "Duplicate" if known else "Accepted", "message": "ok"}
    ids = {"submission_id": submission, "task_id": task_id, "request_id": "r", "resource": f"/v0.10/{kind}"}
    return 202, {**result, **ids, "task_link": {**link, "title": "related task"}}


def _facts(world: World, kind: str, asked: Document) -> Document:
    ends = {
        "source": asked.get("source_endpoint") or asked.get("endpoint"),
        "destination": asked.get("destination_endpoint"),
    }
    facts: Document = {"DATA_TYPE": "task", "task_id": str(uuid.uuid4()), "type": kind.upper(), "status": "ACTIVE"}
    for end, id_ in ends.items():
        facts[f"{end}_endpoint_id"] = id_
        facts[f"{end}_endpoint_display_name"] = world.collection(id_).name if id_ else None
    facts |= dict.fromkeys(_COUNTS, 0) | {key: bool(asked.get(key)) for key in _FLAGS}
    facts |= {"label": asked.get("label"), "deadline": asked.get("deadline"), "sync_level": asked.get("sync_level")}
    facts |= {"request_time": now_text(), "completion_time": None, "fatal_error": None, "is_paused": False}
    facts |= {"is_ok": True, "nice_status": "OK", "nice_status_details": None, "nice_status_short_description": "OK"}
    return facts | {"history_deleted": False, "owner_id": world.identity, "username": "u_x", "command": "API 0.10"}


def _about_task(task: Task, what: str, query: dict[str, str]) -> tuple[int, Document]:
    if what == "":
        return 200, dict(task.facts)
    if what == "cancel":
        result = {"DATA_TYPE": "result", "request_id": "r", "resource": f"/task/{task.id}/cancel"}
        if not task.active:
            return 200, {**result, "code": "TaskComplete", "message": "The task completed before the cancel request"}
        task.cancelled.set()
        return 200, {**result, "code": "Canceled", "message": "The task has been cancelled successfully."}
    if what == "event_list":
        return 200, _listed("event_list", task.events, int(query.get("offset", 0)), int(query.get("limit", 10)))
    if what in ("successful_transfers", "skipped_errors"):
        every = task.done if what == "successful_transfers" else []
        start = int(query.get("marker") or 0)
        following = str(start + _PAGE) if start + _PAGE < len(every) else None
        return 200, {
            "DATA_TYPE": what,
            "DATA": every[start : start + _PAGE],
            "marker": str(start),
            "next_marker": following,
        }
    raise ApiError(404, "NotFound", what)


def _found(world: World, query: dict[str, str]) -> Document:
    words = query.get("filter_fulltext", "").lower()
    every = [one.document() for one in world.collections.values() if words in one.name.lower()]
    start, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
    return _listed("endpoint_list", every, start, limit) | {"has_next_page": start + limit < len(every)}


def _listed(kind: str, every: list[Document], start: int, limit: int) -> Document:
    page = every[start : start + limit]
    return {"DATA_TYPE": kind, "DATA": page, "length": len(page), "limit": limit, "offset": start, "total": len(every)}


def _demand_consent(world: World, *places: Collection) -> None:
    missing = [one.id for one in places if one.needs_consent and one.id not in world.consents]
    if missing:
        scopes = [f"{TRANSFER_ALL}[*https://auth.globus.org/scopes/{id_}/data_access]" for id_ in missing]
        raise ApiError(403, "ConsentRequired", "Missing required data_access consent", required_scopes=scopes)


def _operation(place: Collection, what: str, query: dict[str, str], asked: Document) -> tuple[int, Document]:
    doing: dict[str, tuple[str, Callable[[], tuple[int, Document]]]] = {
        "ls": ("DirListingFailed", lambda: (200, _listing(place, query))),
        "mkdir": ("MkdirFailed", lambda: _made(place, str(asked.get("path")))),
        "rename": ("RenameFailed", lambda: _renamed(place, str(asked.get("old_path")), str(asked.get("new_path")))),
    }
    if what not in doing:
        raise ApiError(404, "NotFound", what)
    failed, act = doing[what]
    if not place.online:
        raise ApiError(502, f"ExternalError.{failed}.GCDisconnected", f"{place.name} is not connected")
    if place.paused:
        raise ApiError(409, "ConflictError.Paused", f"{place.name} is paused by its manager")
    if not (place.readable if what == "ls" else place.writable):
        raise ApiError(403, f"ExternalError.{failed}.PermissionDenied", "Permission denied")
    try:
        return act()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ApiError(404, "ClientError.NotFound", f"No such directory: {exc.filename}") from exc
    except PermissionError as exc:
        raise ApiError(403, f"ExternalError.{failed}.PermissionDenied", "Permission denied") from exc
    except FileExistsError as exc:
        raise ApiError(502, f"ExternalError.{failed}.Exists", "Path already exists") from exc
    except OSError as exc:
        raise ApiError(502, f"ExternalError.{failed}", str(exc.strerror)) from exc


def _made(place: Collection, path: str) -> tuple[int, Document]:
    place.at(path).mkdir()
    return 202, {"DATA_TYPE": "mkdir_result", "code": "DirectoryCreated", "message": "ok", "request_id": "r"}


def _renamed(place: Collection, old: str, new: str) -> tuple[int, Document]:
    if os.path.lexists(place.at(new)):
        raise FileExistsError(new)
    shutil.move(place.at(old), place.at(new))
    return 200, {"DATA_TYPE": "result", "code": "FileRenamed", "message": "ok", "request_id": "r"}


def _listing(place: Collection, query: dict[str, str]) -> Document:
    path = query.get("path") or "/"
    entries = [_entry(Path(one.path)) for one in sorted(os.scandir(place.at(path)), key=lambda one: one.name)]
    if query.get("show_hidden") in ("0", "false", "False"):
        entries = [one for one in entries if not str(one["name"]).startswith(".")]
    for rule in filter(None, query.get("filter", "").split("/")):
        entries = [one for one in entries if _fits(str(one["name"]), rule)]
    start, limit = int(query.get("offset", 0)), int(query.get("limit", 100_000))
    facts = {
        "absolute_path": path,
        "endpoint": place.id,
        "path": path,
        "rename_supported": True,
        "symlink_supported": False,
    }
    return _listed("file_list", entries, start, limit) | facts


def _fits(name: str, rule: str) -> bool:
    """Whether a rule such as `name:=a,b` or `name:~*.dcm` keeps the name."""
    field, _, value = rule.partition(":")
    if field != "name":
        return True
    if value.startswith("~"):
        return fnmatch.fnmatch(name, value[1:])
    return name in value.removeprefix("=").split(",")


def _entry(path: Path) -> Document:
    seen = path.lstat()
    link = str(path.readlink()) if path.is_symlink() else None
    if link is not None and path.exists():
        seen = path.stat()
    kind = "dir" if stat.S_ISDIR(seen.st_mode) else "file" if stat.S_ISREG(seen.st_mode) else "other"
    when = datetime.fromtimestamp(seen.st_mtime, UTC)
    facts: Document = {"DATA_TYPE": "file", "name": path.name, "type": kind, "size": seen.st_size, "link_target": link}
    facts |= {"last_modified": f"{when:%Y-%m-%d %H:%M:%S}+00:00", "permissions": f"{seen.st_mode & 0o7777:04o}"}
    return facts | {"user": "lab", "group": "lab"}
