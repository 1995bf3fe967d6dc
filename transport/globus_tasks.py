"""Hands tasks to Globus, never twice, and waits until they are over: what was asked is noted before it is waited for."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import cast

import globus_sdk

from lading.errors import Corrupted
from lading.ports import Journal
from transport.globus_errors import is_absent, translating, trouble

TASK = "globus-task"
"""Journal key: which list, which step of it, the submission id, and the task id once Globus has named it."""
_FIRST_LOOK_S = 0.05
_LONGEST_LOOK_S = 15.0
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


class Tasks:
    """Tasks of one account. `patience`: seconds that a task may be in trouble before we say so."""

    def __init__(self, client: globus_sdk.TransferClient, patience: float) -> None:
        self._client, self._patience = client, patience

    def run(self, data: Data, what: str, look: Look | None = None) -> None:
        """A task that may be done again at will: hand it in, wait. Raises what `wait` raises."""
        with translating(f"cannot {what}"):
            task = self._submitted(data)
        self.wait(task, what, look)

    def once(self, journal: Journal, note: Note, make: Callable[[], Data], what: str, look: Look) -> None:
        """The task of one step, handed in once whatever happens, and waited for.

        `note.submission` is "" for a new one. A task that Globus no longer knows is handed in again: files that arrived are
        found by their checksums.
        """
        if note.task and not self._is_known(note.task):
            note = replace(note, task="", submission="")
        if not note.task:
            data = make()
            with translating(f"cannot {what}"):
                if not note.submission:
                    note = replace(note, submission=str(self._client.get_submission_id()["value"]))
                    journal.note(TASK, json.dumps(asdict(note)))
                data["submission_id"] = note.submission
                note = replace(note, task=self._submitted(data))
            journal.note(TASK, json.dumps(asdict(note)))
        try:
            self.wait(note.task, what, look)
        except Exception:
            if not self.is_active(note.task):
                forget(journal)
            raise

    def wait(self, task_id: str, what: str, look: Look | None = None) -> None:
        """Until the task SUCCEEDED, with nothing left out. Raises Unreachable, AccessDenied, OutOfSpace, Corrupted."""
        pause, since = _FIRST_LOOK_S, 0.0
        while True:
            with translating(f"cannot {what}"):
                task = self._client.get_task(task_id)
            if look:
                look(
                    _figure(task, "files_transferred") + _figure(task, "files_skipped"),
                    _figure(task, "bytes_transferred"),
                )
            if task["status"] == "SUCCEEDED":
                self._demand_all(task_id, what)
                return
            if task["status"] == "FAILED":
                fatal = task.get("fatal_error") or {}
                code = str(fatal.get("code") or "FAILED")
                raise trouble(
                    code,
                    f"cannot {what}: Globus task {task_id} FAILED",
                    self._told(task_id, str(fatal.get("description") or "")),
                )
            code = "INACTIVE" if task["status"] == "INACTIVE" else str(task.get("nice_status") or "")
            code = "PAUSED_BY_ADMIN" if task.get("is_paused") else code
            now = time.monotonic()
            since = 0.0 if code in _FINE else since or now
            if since and now - since >= self._patience:
                self._give_up(task_id, code, what)
            time.sleep(min(pause, self._patience) if since else pause)
            pause = min(pause * 1.3, _LONGEST_LOOK_S)

    def cancel(self, task_id: str) -> None:
        """The task ends, and has ended on return."""
        with translating(f"cannot cancel the Globus task {task_id}"):
            try:
                self._client.cancel_task(task_id)
                while self.is_active(task_id):
                    time.sleep(0.2)
            except globus_sdk.TransferAPIError as exc:
                if not is_absent(exc):
                    raise

    def is_active(self, task_id: str) -> bool:
        """Whether Globus still works on it."""
        with translating(f"cannot look at the Globus task {task_id}"):
            try:
                return self._client.get_task(task_id)["status"] in ("ACTIVE", "INACTIVE")
            except globus_sdk.TransferAPIError as exc:
                if is_absent(exc):
                    return False
                raise

    def _is_known(self, task_id: str) -> bool:
        with translating(f"cannot look at the Globus task {task_id}"):
            try:
                self._client.get_task(task_id)
            except globus_sdk.TransferAPIError as exc:
                if is_absent(exc):
                    return False
                raise
        return True

    def _submitted(self, data: Data) -> str:
        submit = self._client.submit_delete if isinstance(data, globus_sdk.DeleteData) else self._client.submit_transfer
        return str(cast("Callable[[Data], globus_sdk.GlobusHTTPResponse]", submit)(data)["task_id"])

    def _give_up(self, task_id: str, code: str, what: str) -> None:
        error = trouble(code, f"cannot {what}: Globus task {task_id} does not get on", self._told(task_id, ""))
        if code not in _OURS_TO_WAIT:
            self.cancel(task_id)
        raise error

    def _told(self, task_id: str, first: str) -> str:
        """What the events say that are errors; each once."""
        with translating(f"cannot read the events of the Globus task {task_id}"):
            events = self._client.task_event_list(task_id, limit=50)
            said = dict.fromkeys(str(one["details"]) for one in events if one["is_error"] and one["details"])
        return "; ".join(dict.fromkeys([first, *list(said)[:_NAMED]] if first else list(said)[:_NAMED]))

    def _demand_all(self, task_id: str, what: str) -> None:
        with translating(f"cannot read what the Globus task {task_id} left out"):
            skipped = [str(one.get("source_path")) for one in self._client.task_skipped_errors(task_id)]
        if skipped:
            raise Corrupted(f"cannot {what}: Globus left out {', '.join(skipped[:_NAMED])}", paths=skipped)


def _figure(task: globus_sdk.GlobusHTTPResponse, key: str) -> int:
    return int(task.get(key) or 0)
