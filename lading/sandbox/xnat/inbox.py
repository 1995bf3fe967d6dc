"""The inbox handler: imports a folder that lies on the server, in the background.

What a client sees is a request with a state. ``Processed`` is the last state for a project that does not archive by
itself, and it says nothing of files that failed: those are only in the server's log, and with ``cleanupAfterImport``
(the default) they are deleted like the others.
"""

import os
import shutil
import time
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from lading.sandbox.xnat import catalog, gradual, prearchive
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.auth import EDIT
from lading.sandbox.xnat.calls import Call
from lading.sandbox.xnat.headers import unreadable
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import InboxRequest, PrearchiveSession

_BAD_PATH = (
    "You must specify a valid path to a file or directory. It must be under the main inbox directory within a "
    "subdirectory whose name matches the ID of a project you have edit access to."
)
_ARCHIVES = (".zip", ".tgz", ".tar", ".tar.gz.")  # the last one is XNAT's own misprint
FINAL = ("Failed", "Completed")


def submit(site: Site, call: Call) -> InboxRequest:
    """Checks in the order of ``DicomInboxImporter`` and queues. Raises Refusal 400 and 409."""
    parameters = {key: value for key, value in call.as_dict().items() if key != "import-handler"}
    cleanup = parameters.get("cleanupAfterImport", "true").lower() == "true"
    path = _checked_path(site, call.user, parameters.get("path", ""))
    project = parameters.get("PROJECT_ID", "")
    if not site.accounts.can(call.user, EDIT, project):
        raise Refusal(400, "You do not have permission to edit the specified destination project.")
    if path.is_dir() and not any(path.iterdir()):
        raise Refusal(400, "Specified directory does not contain any files.")
    if path.is_file():
        path = _expanded(path, keep=not cleanup)
    _demand_free_label(site, project, parameters)
    with site.state.changing():
        number = site.state.count("sequence:inbox")
        subject, label = parameters.get("SUBJECT_ID", ""), parameters.get("EXPT_LABEL", "")
        site.state.count(f"inbox:{project}/{subject}/{label}")
        moment = int(time.time() * 1000)
        request = site.state.inbox.put(InboxRequest(number, call.user, str(path), parameters, cleanup, moment, moment))
    site.inbox_workers.submit(run, site, request)
    return request


def _checked_path(site: Site, user: str, asked: str) -> Path:
    path = Path(os.path.normpath(asked)) if asked else None
    # A plain comparison of text, as in XNAT: "inboxfoo" passes it. The next check stops what that lets through.
    if path is None or not str(path).startswith(str(site.folders.inbox)) or not path.exists():
        raise Refusal(400, _BAD_PATH)
    below = path.relative_to(site.folders.inbox).parts if path.is_relative_to(site.folders.inbox) else ()
    if not below or not site.accounts.can(user, EDIT, below[0]):
        raise Refusal(400, _BAD_PATH)
    return path


def _expanded(path: Path, *, keep: bool) -> Path:
    if not path.name.endswith(_ARCHIVES):
        raise Refusal(400, "Unable to process supplied archive file")
    folder, serial = path.with_name(path.name.split(".")[0]), 0
    while folder.exists():
        serial += 1
        folder = path.with_name(f"{path.name.split('.')[0]}_{serial}")
    folder.mkdir()
    with path.open("rb") as content:
        catalog.unpack_into(folder, path.name, content)
    if not keep:
        path.unlink()
    return folder


def _demand_free_label(site: Site, project: str, parameters: dict[str, str]) -> None:
    """Only the label counts, and only now: two requests at the same time both pass."""
    if label := parameters.get("EXPT_LABEL"):
        parameters.pop("session", None)
        if site.state.experiment(project, label):
            raise Refusal(409, "Experiment with that label already exists in that project.")
    elif label := parameters.get("session"):
        if site.state.experiment(project, label):
            raise Refusal(409, "Session already exists in that project.")
        parameters["EXPT_LABEL"] = label


def run(site: Site, request: InboxRequest) -> None:
    """Imports one request in a worker, from Queued to its last state."""
    stuck = site.faults.pop("inbox_stuck")
    site.wait(site.faults.inbox_delay_s)
    if site.closing.is_set():
        return
    try:
        for state in ("Queued", "Accepted", "Importing"):
            request = _set(site, request, state)
            if stuck == state:
                return
        sessions, taken = _import_files(site, request)
    except Exception as error:  # noqa: BLE001 - as the real listener: whatever it was fails the request
        site.note(f"inbox request {request.id} failed: {error!r}")
        _set(site, request, "Failed", str(error))
        return
    if taken == 0:
        _set(site, request, "Failed", f"No valid DICOM files found for the specified session :{request.path}")
        return
    request = _set(site, request, "Processed")
    if request.cleanup:
        shutil.rmtree(request.path, ignore_errors=True)
    if stuck != "Processed":
        _rebuild(site, request, sessions)


def _set(site: Site, request: InboxRequest, status: str, resolution: str | None = None) -> InboxRequest:
    changed = replace(request, status=status, resolution=resolution, timestamp=int(time.time() * 1000))
    return site.state.inbox.put(changed)


def _import_files(site: Site, request: InboxRequest) -> tuple[list[PrearchiveSession], int]:
    """The sessions that were met, and how many files counted: silently dropped ones count as well."""
    sessions: dict[str, PrearchiveSession] = {}
    taken = 0
    for path in _files(Path(request.path)):
        if site.closing.is_set():
            break
        try:
            _drop_on_request(site, path)
            session = gradual.receive(site, gradual.Sent(request.username, path, path.name, request.parameters))
        except (Refusal, OSError) as error:
            site.note(f"WARN inbox request {request.id}: {path}: {error}")
            continue
        taken += 1
        if session is not None:
            sessions[session.key] = session
    return list(sessions.values()), taken


def _files(folder: Path) -> list[Path]:
    # Follows links, as XNAT does.
    return sorted(Path(base) / name for base, _, names in os.walk(folder, followlinks=True) for name in names)


def _drop_on_request(site: Site, path: Path) -> None:
    matches = any(fnmatch(path.name, pattern) for pattern in site.faults.inbox_drop_files)
    if matches and site.dropped[path.name] < site.faults.inbox_drop_times:
        site.dropped[path.name] += 1
        raise unreadable(path.name)


def _rebuild(site: Site, request: InboxRequest, sessions: list[PrearchiveSession]) -> None:
    """Builds each session, archives it where the project says so. Each overwrites the state: the last one wins."""
    for session in sessions:
        if session.auto_archive == "AutoArchive":
            request = _set(site, request, "Importing")
        try:
            uri = prearchive.built_and_archived(site, request.username, session)
        except Refusal as refusal:
            reason = f"Unable to archive {session.uri}: Operation Failed: {refusal.message}"
            request = _set(site, request, "Failed", reason)
            continue
        if uri:
            request = _set(site, request, "Completed", uri)
        elif session.auto_archive == "AutoArchive":
            request = _set(site, request, "Processed")
