"""Moves a session from the prearchive into the archive, or says why not.

After ``PrearcSessionArchiver`` and ``MergeSessionsA``: a session of the same label and StudyInstanceUID is merged
into; anything else that is in the way is a conflict, and leaves the session in the prearchive with a log.
"""

import contextlib
import os
import shutil
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from pathlib import Path

from lading.sandbox.xnat import catalog, gradual, labels, modality, prearchive
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.catalog import Describes
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import (
    UNASSIGNED,
    Experiment,
    PrearchiveLog,
    PrearchiveObject,
    PrearchiveScan,
    PrearchiveSession,
    Resource,
    Scan,
    Subject,
)

CLIENT_PATIENCE = 600.0  # sessionArchiveTimeoutInterval
_DICOM = Describes("DICOM", "RAW")


@dataclass(frozen=True)
class Order:
    """How to archive one session. The labels replace those that the prearchive holds; "" leaves them."""

    user: str
    subject: str = ""
    label: str = ""
    merge: bool = False  # may join an existing session of the same label
    override: bool = False  # conflicts that can be overridden are


@dataclass(frozen=True)
class Conflict:
    """Why a session cannot be archived. The codes are the stand-in's own."""

    code: int
    message: str
    overridable: bool = True


@dataclass(frozen=True)
class _Plan:
    session: PrearchiveSession
    subject_label: str
    label: str
    subject: Subject | None
    experiment: Experiment | None
    xsi_type: str


def archive(site: Site, key: str, order: Order) -> str:
    """Answers ``/archive/projects/P/subjects/S/experiments/E``.

    Raises Refusal: 403 when it is being archived already, 404 when it is gone, 409 for conflicts, 500 for the rest.
    On a failure nothing is left in the archive, the session is CONFLICT or ERROR, and its log says why.
    """
    return _archive_begun(site, _begin(site, key), order)


def _archive_begun(site: Site, session: PrearchiveSession, order: Order, delay: float = 0.0) -> str:
    site.wait(delay)
    plan = _plan(site, session, order)
    with site.lock(f"archive:{session.project}/{plan.label}"):
        try:
            _fail_on_request(site)
            _demand_no_conflict(site, _plan(site, session, order), order)
            uri = _transfer(site, _plan(site, session, order), order)
        except Refusal as refusal:
            give_back(site, session.key, "CONFLICT" if refusal.status == 409 else "ERROR", refusal.message)
            raise
        except OSError as error:
            put_back(site, site.state.prearchive.get(session.key) or session)
            give_back(site, session.key, "ERROR", f"java.io.IOException: {error}")
            raise Refusal(500, f"java.io.IOException: {error}") from error
    return uri


def archive_for_client(site: Site, session: PrearchiveSession, order: Order) -> str:
    """Archives while a client waits: every failure becomes a 500, and so does losing patience; the work goes on then.

    Raises Refusal 400, 403 and 500.
    """
    if session.project == UNASSIGNED:
        raise Refusal(400, "Cannot archive sessions from the Unassigned folder.")
    begun = _begin(site, session.key)
    if site.faults.pop("prearc_stuck", among=("_ARCHIVING",)):
        prearchive.set_status(site, session, "_ARCHIVING")
        raise _out_of_patience(session)
    patience = site.faults.archive_timeout
    hurried = patience > 0 and site.faults.take("archive_timeout_next")
    delay = site.faults.archive_delay_s + (patience + 0.2 if hurried else 0.0)
    work: Future[str] = site.archive_workers.submit(_archive_begun, site, begun, order, delay)
    try:
        return work.result(patience if hurried else CLIENT_PATIENCE)
    except FutureTimeout:
        raise _out_of_patience(session) from None
    except Refusal as refusal:
        reason = f"FAILED: Unable to archive {session.uri}: Operation Failed: {refusal.message}"
        raise Refusal(500, reason) from refusal


def _out_of_patience(session: PrearchiveSession) -> Refusal:
    return Refusal(500, f"The archive of {session.uri} did not complete within the configured timeout interval.")


def conflicts(site: Site, session: PrearchiveSession, order: Order) -> list[Conflict]:
    """Everything that stands in the way now (``checkForConflicts``, ``MergeSessionsA``)."""
    return _conflicts(site, _plan(site, session, order), order)


def _in_progress(session: PrearchiveSession) -> bool:
    return session.status in ("ARCHIVING", "QUEUED_ARCHIVING") or session.status.startswith("_")


def _begin(site: Site, key: str) -> PrearchiveSession:
    with site.state.changing():
        session = site.state.prearchive.get(key)
        if session is None:
            raise Refusal(404, f"Unable to find prearchive session {key}")
        if _in_progress(session):
            raise Refusal(403, "Operation already in progress on this prearchive entry.")
        return prearchive.set_status(site, session, "ARCHIVING")


def give_back(site: Site, key: str, status: str, reason: str) -> None:
    """Leaves a session in the prearchive, with the reason in its log."""
    with site.state.changing():
        session = site.state.prearchive.get(key)
        if session is not None:
            prearchive.set_status(site, replace(session, moving_to=""), status)
            number = len(site.state.prearchive_logs.of(key)) + 1
            site.state.prearchive_logs.put(PrearchiveLog(key, number, reason))


def _fail_on_request(site: Site) -> None:
    if site.faults.take("archive_500"):
        raise Refusal(500, "java.lang.NullPointerException: unable to store session")


def _plan(site: Site, session: PrearchiveSession, order: Order) -> _Plan:
    subject_label = labels.at_archive(order.subject or session.subject)
    label = labels.at_archive(order.label or session.name)
    # Case does not count here, though it does in the REST look-up: two subjects can become one.
    subject = next(iter(site.state.subjects.called(session.project, subject_label)), None)
    kinds = [scan.session_type for scan in site.state.prearchive_scans.of(session.key)]
    experiment = site.state.experiment(session.project, label)
    return _Plan(session, subject_label, label, subject, experiment, modality.session_xsi(modality.leading(kinds)))


def _demand_no_conflict(site: Site, plan: _Plan, order: Order) -> None:
    for conflict in _conflicts(site, plan, order):
        if not (conflict.overridable and order.override):
            raise Refusal(409, conflict.message)


def _conflicts(site: Site, plan: _Plan, order: Order) -> list[Conflict]:
    experiment = plan.experiment
    if not labels.is_valid(plan.label) or not labels.is_valid(plan.subject_label):
        return [Conflict(1, "Identifiers cannot use special characters.", overridable=False)]
    if experiment is None:
        return []
    found = []
    if not order.merge:
        found.append(Conflict(2, "Session already exists, retry with overwrite enabled"))
    if plan.subject is None or experiment.subject_id != plan.subject.id:
        text = f"Invalid modification of session subject via archive process: {plan.label} exists for another subject"
        found.append(Conflict(3, text, overridable=False))
    if experiment.xsi_type != plan.xsi_type:
        text = f"Invalid modification of session modality: {experiment.xsi_type} is not {plan.xsi_type}"
        found.append(Conflict(4, text, overridable=False))
    if experiment.uid and experiment.uid != plan.session.tag:
        found.append(Conflict(5, "Invalid modification of session UID via archive process."))
    return found + _scan_conflicts(site, plan, experiment)


def _scan_conflicts(site: Site, plan: _Plan, experiment: Experiment) -> list[Conflict]:
    found = []
    existing = site.state.scans.of(experiment.id)
    for incoming in site.state.prearchive_scans.of(plan.session.key):
        same = next((scan for scan in existing if scan.uid == incoming.uid), None)
        if same is None:
            continue
        if same.id != incoming.id:
            text = f"Session already contains a scan with UID {incoming.uid} under the number {same.id}"
            found.append(Conflict(6, text, overridable=False))
        elif _names(site, same) & {item.name for item in _objects(site, plan.session, incoming)}:
            found.append(Conflict(7, "Session already exists with matching files."))
    return found


def _names(site: Site, scan: Scan) -> set[str]:
    resource = site.state.resource(f"scan:{scan.experiment}/{scan.id}", "DICOM")
    return {entry.path for entry in site.state.entries.of(resource.id)} if resource else set()


def _objects(site: Site, session: PrearchiveSession, scan: PrearchiveScan) -> list[PrearchiveObject]:
    return [item for item in site.state.prearchive_objects.of(session.key) if item.scan == scan.id]


def _transfer(site: Site, plan: _Plan, order: Order) -> str:
    """Anonymises, hashes, moves, and commits all rows at once."""
    _anonymise_project(site, plan)
    digests = catalog.digests(site, [file for _, _, file in _waiting(site, plan.session)])
    if site.faults.take("disk_full"):
        raise Refusal(500, "java.io.IOException: No space left on device")
    session = _announce_move(site, plan)
    with site.state.changing():
        subject = plan.subject or create_subject(site, session.project, plan.subject_label, order.user)
        experiment = plan.experiment or create_experiment(
            site, subject, plan.label, plan.xsi_type, uid=session.tag, date=session.scan_date, fields=session.fields
        )
        waiting = _waiting(site, session)
        # An object that came meanwhile has no digest yet.
        digests |= catalog.digests(site, [file for _, _, file in waiting if file not in digests])
        _move_at_once(site, session)
        for scan, item, file in waiting:
            resource = _resource_for(site, experiment, scan)
            target = catalog.on_disk(site, resource, item.name)
            if not session.moving_to:
                _link(file, target)
            catalog.add_entry(site, resource, item.name, target, digests[file], describes=_DICOM, uid=item.uid)
        prearchive.forget(site, session)
        site.state.count(f"import:{session.project}/{subject.label}/{experiment.label}")
    _sweep(site, session)
    return f"/archive/projects/{session.project}/subjects/{subject.label}/experiments/{experiment.label}"


def _announce_move(site: Site, plan: _Plan) -> PrearchiveSession:
    """A new session moves as a whole folder, and says so first: after a crash the folder can be put back."""
    target = f"archive/{plan.session.project}/arc001/{plan.label}"
    if plan.experiment is not None or (site.folders.root / target).exists():
        return replace(plan.session, moving_to="")
    with site.state.changing():
        session = site.state.prearchive.get(plan.session.key) or plan.session
        return site.state.prearchive.put(replace(session, moving_to=target))


def _move_at_once(site: Site, session: PrearchiveSession) -> None:
    if session.moving_to:
        target = site.folders.root / session.moving_to
        target.parent.mkdir(parents=True, exist_ok=True)
        gradual.session_folder(site, session).rename(target)


def put_back(site: Site, session: PrearchiveSession) -> None:
    """Undoes the move of a folder whose rows were never written."""
    moved, folder = site.folders.root / session.moving_to, gradual.session_folder(site, session)
    if session.moving_to and moved.exists() and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        moved.rename(folder)
    site.state.prearchive.put(replace(session, moving_to=""))


def _sweep(site: Site, session: PrearchiveSession) -> None:
    folder = gradual.session_folder(site, session)
    if not session.moving_to:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _waiting(site: Site, session: PrearchiveSession) -> list[tuple[PrearchiveScan, PrearchiveObject, Path]]:
    scans = {scan.id: scan for scan in site.state.prearchive_scans.of(session.key)}
    folders = {number: gradual.scan_folder(site, session, scan) for number, scan in scans.items()}
    items = [item for item in site.state.prearchive_objects.of(session.key) if item.scan in scans]
    return [(scans[item.scan], item, folders[item.scan] / item.name) for item in items]


def _anonymise_project(site: Site, plan: _Plan) -> None:
    project = site.state.projects.get(plan.session.project)
    if not site.faults.project_anon and not (project and project.anonymise):
        return
    for _, item, file in _waiting(site, plan.session):
        labelled = {"project": plan.session.project, "subject": plan.subject_label, "session": plan.label}
        uid = gradual.anonymise(site, file, **labelled)
        site.state.prearchive_objects.put(replace(item, uid=uid))


def _link(file: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _resource_for(site: Site, experiment: Experiment, incoming: PrearchiveScan) -> Resource:
    scans = {scan.id: scan for scan in site.state.scans.of(experiment.id)}
    scan = next((scan for scan in scans.values() if scan.uid == incoming.uid), None)
    if scan is None:
        number = gradual.free_scan_id(incoming.id, incoming.modality, set(scans))
        scan = site.state.scans.put(
            Scan(
                experiment=experiment.id,
                id=number,
                xsi_type=modality.scan_xsi(incoming.scan_type),
                uid=incoming.uid,
                type=incoming.series_description,
                series_description=incoming.series_description,
                modality=incoming.modality,
            )
        )
    owner = f"scan:{experiment.id}/{scan.id}"
    return site.state.resource(owner, "DICOM") or catalog.create_resource(site, owner, "DICOM", _DICOM)


def create_subject(site: Site, project: str, label: str, user: str) -> Subject:
    """Raises Refusal 500 for a label that is none, as REST does."""
    _demand_label(label)
    with site.state.changing():
        number = f"XNAT_S{site.state.count('sequence:subject'):05d}"
        return site.state.subjects.put(Subject(number, project, label, insert_user=user))


def create_experiment(
    site: Site, subject: Subject, label: str, xsi_type: str, *, uid: str = "", date: str = "", fields: dict[str, str]
) -> Experiment:
    """Raises Refusal 500 for a label that is none, 409 for one that the project has."""
    _demand_label(label)
    with site.state.changing():
        if site.state.experiment(subject.project, label):
            raise Refusal(409, f"Specified experiment already exists: {label}")
        number = f"XNAT_E{site.state.count('sequence:experiment'):05d}"
        row = Experiment(number, subject.project, subject.id, label, xsi_type, uid=uid, date=date, fields=fields)
        return site.state.experiments.put(row)


def _demand_label(label: str) -> None:
    if not labels.is_valid(label):
        raise Refusal(500, "Identifiers cannot use special characters.")
