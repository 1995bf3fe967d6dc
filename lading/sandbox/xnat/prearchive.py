"""The prearchive: what was received and not yet archived. States, logs, and what can be done to a session."""

import shutil
import threading
from dataclasses import replace
from datetime import datetime

from lading.sandbox.xnat import archive, gradual
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.auth import EDIT
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import PrearchiveSession, now

_TICK = 0.2  # seconds between two looks of the rebuilder; XNAT's own are 60


def visible(site: Site, user: str, project: str = "") -> list[PrearchiveSession]:
    """Sessions of projects that the user can edit; Unassigned ones for the admin only."""
    found = site.state.prearchive.of(project) if project else site.state.prearchive.all()
    return [session for session in found if site.accounts.can(user, EDIT, session.project)]


def find(site: Site, user: str, key: str) -> PrearchiveSession:
    """Raises Refusal 404 when there is none, or the user may not see it."""
    session = site.state.prearchive.get(key)
    if session is None or not site.accounts.can(user, EDIT, session.project):
        raise Refusal(404, f"Unable to find prearchive session {key}")
    return session


def find_by_uri(site: Site, user: str, uri: str) -> PrearchiveSession:
    """By ``/data/prearchive/projects/P/TIMESTAMP/NAME``, with or without ``/data``. Raises Refusal 400 or 404."""
    parts = uri.removeprefix("/data").strip("/").split("/")
    if parts[:2] != ["prearchive", "projects"] or len(parts) != 5:
        raise Refusal(400, f"Invalid prearchive URI: {uri}")
    return find(site, user, "/".join(parts[2:]))


def set_status(site: Site, session: PrearchiveSession, status: str) -> PrearchiveSession:
    return site.state.prearchive.put(replace(session, status=status, lastmod=now()))


def demand_unlocked(session: PrearchiveSession) -> None:
    """Raises Refusal 409 for a session that some process holds."""
    if session.status.startswith("_"):
        raise Refusal(409, "session document locked")


def build(site: Site, session: PrearchiveSession) -> PrearchiveSession:
    """RECEIVING becomes READY. A session that the ``prearc_stuck`` fault holds stays as it is."""
    with site.state.changing():
        current = site.state.prearchive.get(session.key) or session
        demand_unlocked(current)
        return current if current.stuck else set_status(site, current, "READY")


def reset(site: Site, session: PrearchiveSession) -> PrearchiveSession:
    """The admin's way out: takes away locks and faults alike."""
    return site.state.prearchive.put(replace(session, status="READY", stuck=False, lastmod=now()))


def move(site: Site, user: str, session: PrearchiveSession, project: str) -> PrearchiveSession:
    """Raises Refusal 403 when the user cannot edit the new project."""
    site.accounts.demand(user, EDIT, project, "Invalid permissions for new project.")
    demand_unlocked(session)
    with site.state.changing():
        moved = replace(session, project=project, status="READY", lastmod=now())
        target = gradual.session_folder(site, moved)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(gradual.session_folder(site, session), target)
        site.state.prearchive.put(moved)
        for scan in site.state.prearchive_scans.of(session.key):
            site.state.prearchive_scans.put(replace(scan, session=moved.key))
        for item in site.state.prearchive_objects.of(session.key):
            site.state.prearchive_objects.put(replace(item, session=moved.key))
        delete(site, session)
        return moved


def delete(site: Site, session: PrearchiveSession) -> None:
    with site.state.changing():
        forget(site, session)
    shutil.rmtree(gradual.session_folder(site, session), ignore_errors=True)


def forget(site: Site, session: PrearchiveSession) -> None:
    """Drops the rows of a session; its files are the caller's."""
    state = site.state
    for item in state.prearchive_objects.of(session.key):
        state.prearchive_objects.drop(item)
    for scan in state.prearchive_scans.of(session.key):
        state.prearchive_scans.drop(scan)
    for line in state.prearchive_logs.of(session.key):
        state.prearchive_logs.drop(line)
    state.prearchive.drop(session)


def built_and_archived(site: Site, user: str, session: PrearchiveSession) -> str:
    """What the rebuild of one session ends in: the archive URI, or "" when it stays in the prearchive.

    Raises Refusal when archiving fails.
    """
    session = build(site, session)
    if session.auto_archive != "AutoArchive" or session.stuck:
        return ""
    project = site.state.projects.get(session.project)
    replaces = project is not None and project.prearchive_code == 5
    return archive.archive(site, session.key, archive.Order(user, merge=replaces, override=replaces))


def release_interrupted(site: Site) -> None:
    """At the start of a server: what it was archiving when it died is an ERROR now. Nothing of it is in the archive."""
    for session in site.state.prearchive.all():
        archive.put_back(site, session)
        if session.status == "ARCHIVING":
            archive.give_back(site, session.key, "ERROR", "The server was stopped while it archived this session.")


def run_rebuilder(site: Site) -> None:
    """Until the site closes: sessions that were quiet for long enough leave RECEIVING (``SessionXMLRebuilder``)."""
    while not site.closing.wait(_TICK):
        for session in site.state.prearchive.all():
            if _is_due(session) and _quiet(session) >= site.faults.rebuilder_delay:
                _rebuild(site, session)


def _is_due(session: PrearchiveSession) -> bool:
    held = session.stuck or session.prevent_auto_commit or session.source == "uploader"
    return session.status == "RECEIVING" and not held


def _rebuild(site: Site, session: PrearchiveSession) -> None:
    try:
        built_and_archived(site, site.accounts.admin, session)
    except Refusal as refusal:
        site.note(f"auto-archive of {session.key} failed: {refusal.message}")


def _quiet(session: PrearchiveSession) -> float:
    modified = datetime.strptime(session.lastmod, "%Y-%m-%d %H:%M:%S.%f").astimezone()
    return (datetime.now().astimezone() - modified).total_seconds()


def start_rebuilder(site: Site) -> threading.Thread:
    thread = threading.Thread(target=run_rebuilder, args=(site,), name="rebuilder", daemon=True)
    thread.start()
    return thread
