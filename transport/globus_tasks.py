"""Hands tasks to Globus, never twice, and waits until they are over: what was asked is noted before it is waited for."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import cast

import globus_sdk

from lading.errors import Corrupted, Unreachable
from lading.ports import Journal, Progress
from transport.globus_errors import KEPT, is_absent, is_unknown_submission, translating, trouble

TASK = "globus-task"
"""Journal key: which list, which step of it, the submission id, and the task id once Globus has named it."""
_FIRST_LOOK_S = 0.05
_LONGEST_LOOK_S = 15.0
_ENDING_S = 300.0
_OURS_TO_WAIT = frozenset({"PAUSED_BY_ADMIN", "PAUSED", "GC_PAUSED", "GC_NOT_CONNECTED"})
"""Troubles that others cure: the task stays at Globus, and the next attempt finds it."""
_FINE = frozenset({"", "OK", "Queued", "QUEUED"})
_NAMED = 5

Data = globus_sdk.TransferData | globus_sdk.DeleteData
Look = Callable[[int, int], None]
"""Told files and bytes that the task has done so far."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the journal says: step `step` of the list `list` is with Globus."""

    list: str
    step: str
    submission: str
    task: str = ""


def noted(journal: Journal) -> Note | None:
    """The last note, or None."""
    text = journal.recall(TASK)
    return Note(**json.loads(text)) if text else None


def forget(journal: Journal) -> None:
    """No task is under way any more."""
    journal.note(TASK, "")


class Told:
    """Tells the progress what a task has done since the last look, and never more than there is."""

    def __init__(self, progress: Progress, files: int, size: int) -> None:
        self._progress, self._most = progress, (files, size)
        self._before = self._files = self._bytes = 0
        self._before_bytes = 0

    def look(self, files: int, size: int) -> None:
        """The task that is under way has done so much."""
        self._until(self._before + files, self._before_bytes + size)

    def batch(self, files: int, size: int) -> None:
        """So many more are there, sent now or before."""
        self._before += files
        self._before_bytes += size
        self._until(self._before, self._before_bytes)

    def all(self) -> None:
        """Everything is there."""
        self._until(*self._most)

    def _until(self, files: int, size: int) -> None:
        files, size = min(files, self._most[0]), min(size, self._most[1])
        more = max(files - self._files, 0), max(size - self._bytes, 0)
        self._files, self._bytes = self._files + more[0], self._bytes + more[1]
        if any(more):
            self._progress.advance(files=more[0], bytes=more[1])


class TaskForgotten(Unreachable):
    """Globus answers that there is no such task (404)."""


class Tasks:
    """Tasks of one account. `patience`: seconds that a task may be in trouble before we say so; `ending`: that one may take to
    end once it is cancelled.
    """

    def __init__(self, client: globus_sdk.TransferClient, patience: float, *, ending: float = _ENDING_S) -> None:
        self._client, self._patience, self._ending = client, patience, ending

    def run(self, data: Data, what: str, look: Look | None = None) -> None:
        """A task that may be done again at will: hand it in, wait. Raises what `wait` raises."""
        with translating(f"cannot {what}"):
            task = self._submitted(data)
        self.wait(task, what, look)

    def once(self, journal: Journal, note: Note, make: Callable[[], Data], what: str, look: Look) -> str:
        """The task of one step, handed in once whatever happens, and waited for; its id.

        `note.submission` is "" for a new one. A task that Globus no longer knows is handed in again, once: files that arrived
        are found by their checksums.
        """
        if not note.task:
            note = self._handed_in(journal, note, make(), what)
        try:
            try:
                self.wait(note.task, what, look)
            except TaskForgotten:
                note = self._handed_in(journal, replace(note, task="", submission=""), make(), what)
                self.wait(note.task, what, look)
        except Exception:
            if not self.is_active(note.task):
                forget(journal)
            raise
        return note.task

    def _handed_in(self, journal: Journal, note: Note, data: Data, what: str) -> Note:
        with translating(f"cannot {what}"):
            task = self._found_again(note, data) if note.submission else ""
            if not task:
                note = replace(note, submission=str(self._client.get_submission_id()["value"]))
                journal.note(TASK, json.dumps(asdict(note)))
                data["submission_id"] = note.submission
                task = self._submitted(data)
        note = replace(note, task=task)
        journal.note(TASK, json.dumps(asdict(note)))
        return note

    def _found_again(self, note: Note, data: Data) -> str:
        """The task of a submission id that we noted, made now or then; "" when Globus no longer knows the id."""
        data["submission_id"] = note.submission
        try:
            return self._submitted(data)
        except globus_sdk.TransferAPIError as exc:
            if is_unknown_submission(exc):
                return ""
            raise

    def wait(self, task_id: str, what: str, look: Look | None = None) -> None:
        """Until the task SUCCEEDED, with nothing left out. Raises Unreachable, AccessDenied, OutOfSpace, Corrupted."""
        pause, since = _FIRST_LOOK_S, 0.0
        figures, faults = (0, 0), 0
        while True:
            task = self._looked_at(task_id, what)
            now_figures = (
                _figure(task, "files_transferred") + _figure(task, "files_skipped"),
                _figure(task, "bytes_transferred"),
            )
            if look:
                look(*now_figures)
            if task["status"] == "SUCCEEDED":
                self._demand_all(task, task_id, what)
                return
            if task["status"] == "FAILED":
                raise self._failed(task, task_id, what)
            code = "INACTIVE" if task["status"] == "INACTIVE" else str(task.get("nice_status") or "")
            code = "PAUSED_BY_ADMIN" if task.get("is_paused") else code
            if now_figures != figures:
                figures, faults = now_figures, _figure(task, "faults")
            # A task can say OK for ever while its events say why it gets nowhere.
            in_trouble = code not in _FINE or _figure(task, "faults") > faults
            now = time.monotonic()
            since = (since or now) if in_trouble else 0.0
            if since and now - since >= self._patience:
                self._give_up(task_id, "" if code in _FINE else code, what)
            time.sleep(min(pause, self._patience) if since else pause)
            pause = min(pause * 1.3, _LONGEST_LOOK_S)

    def _looked_at(self, task_id: str, what: str) -> globus_sdk.GlobusHTTPResponse:
        with translating(f"cannot {what}"):
            try:
                return self._client.get_task(task_id)
            except globus_sdk.TransferAPIError as exc:
                if not is_absent(exc):
                    raise
        raise TaskForgotten(
            f"cannot {what}: Globus no longer knows the task {task_id} (task-forgotten: 404)",
            safe=KEPT,
            next_command="lading retry",
        )

    def _failed(self, task: globus_sdk.GlobusHTTPResponse, task_id: str, what: str) -> Exception:
        fatal = task.get("fatal_error") or {}
        code = str(fatal.get("code") or "FAILED")
        told = self._told(task_id, str(fatal.get("description") or ""))
        return trouble(code, f"cannot {what}: Globus task {task_id} FAILED", told)

    def cancel(self, task_id: str) -> None:
        """The task ends, and has ended on return. Raises Unreachable when it goes on for too long all the same."""
        with translating(f"cannot cancel the Globus task {task_id}"):
            try:
                self._client.cancel_task(task_id)
            except globus_sdk.TransferAPIError as exc:
                if is_absent(exc):
                    return
                raise
        until, pause = time.monotonic() + self._ending, _FIRST_LOOK_S
        while self.is_active(task_id):
            if time.monotonic() > until:
                raise Unreachable(
                    f"the Globus task {task_id} was cancelled, and has not ended {self._ending:g} s later (task-not-ended)",
                    safe=KEPT,
                    next_command=f"globus task show {task_id}",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK_S)

    def is_active(self, task_id: str) -> bool:
        """Whether Globus still works on it."""
        with translating(f"cannot look at the Globus task {task_id}"):
            try:
                return self._client.get_task(task_id)["status"] in ("ACTIVE", "INACTIVE")
            except globus_sdk.TransferAPIError as exc:
                if is_absent(exc):
                    return False
                raise

    def checksums(self, task_id: str) -> Iterator[tuple[str, str, str]]:
        """Source path, algorithm and checksum of what the task moved, as far as Globus tells; a page at a time."""
        with translating(f"cannot read what the Globus task {task_id} has moved"):
            for one in self._client.paginated.task_successful_transfers(task_id).items():
                algorithm, checksum = one.get("checksum_algorithm"), one.get("checksum")
                if algorithm and checksum:
                    yield str(one.get("source_path")), str(algorithm).upper().replace("-", ""), str(checksum)

    def _submitted(self, data: Data) -> str:
        submit = self._client.submit_delete if isinstance(data, globus_sdk.DeleteData) else self._client.submit_transfer
        return str(cast("Callable[[Data], globus_sdk.GlobusHTTPResponse]", submit)(data)["task_id"])

    def _give_up(self, task_id: str, code: str, what: str) -> None:
        code = code or self._last_trouble(task_id)
        error = trouble(code, f"cannot {what}: Globus task {task_id} does not get on", self._told(task_id, ""))
        if code not in _OURS_TO_WAIT:
            with suppress(Unreachable):  # still noted, it is what the next attempt waits for
                self.cancel(task_id)
        raise error

    def _last_trouble(self, task_id: str) -> str:
        """The code of the newest event that is an error."""
        with translating(f"cannot read the events of the Globus task {task_id}"):
            events = self._client.task_event_list(task_id, limit=50)
            return next((str(one["code"]) for one in events if one["is_error"]), "")

    def _told(self, task_id: str, first: str) -> str:
        """What the events say that are errors; each once."""
        with translating(f"cannot read the events of the Globus task {task_id}"):
            events = self._client.task_event_list(task_id, limit=50)
            said = dict.fromkeys(str(one["details"]) for one in events if one["is_error"] and one["details"])
        return "; ".join(dict.fromkeys([first, *list(said)[:_NAMED]] if first else list(said)[:_NAMED]))

    def _demand_all(self, task: globus_sdk.GlobusHTTPResponse, task_id: str, what: str) -> None:
        if task["type"] == "TRANSFER" and not _figure(task, "files_transferred") + _figure(task, "files_skipped"):
            raise Corrupted(f"cannot {what}: Globus task {task_id} SUCCEEDED, and moved no file (no-files)", safe=KEPT)
        with translating(f"cannot read what the Globus task {task_id} left out"):
            skipped = [
                str(one.get("source_path")) for one in self._client.paginated.task_skipped_errors(task_id).items()
            ]
        if skipped:
            raise Corrupted(
                f"cannot {what}: Globus left out {', '.join(skipped[:_NAMED])} (files-left-out)",
                paths=skipped,
                safe=KEPT,
            )


def _figure(task: globus_sdk.GlobusHTTPResponse, key: str) -> int:
    return int(task.get(key) or 0)
