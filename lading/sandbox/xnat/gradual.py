"""Takes one DICOM object into the prearchive: what inbox, DICOM-zip, gradual-DICOM and SI do for every file.

After ``GradualDicomImporter``: every failure is "unable to read DICOM object", and three kinds of object vanish
without any: those that the series filter drops, those that the anonymisation script rejects, and those that a custom
processor refuses (not modelled).
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

from lading.sandbox.xnat import labels, modality
from lading.sandbox.xnat.auth import EDIT
from lading.sandbox.xnat.headers import Header, read_header, unreadable
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import UNASSIGNED, PrearchiveObject, PrearchiveScan, PrearchiveSession, now

_SAFE_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Sent:
    """One file that somebody sends, under the name it has there, with the parameters of the request."""

    user: str
    path: Path
    name: str
    parameters: Mapping[str, str]

    def asks(self, parameter: str) -> bool:
        """True for a parameter that says ``true``."""
        return self.parameters.get(parameter, "").lower() == "true"


def receive(site: Site, sent: Sent) -> PrearchiveSession | None:
    """Stores one object; answers its session, or None when it was dropped silently. Raises Refusal 400."""
    header = read_header(sent.path, sent.name)
    if any(fnmatch(header["SeriesDescription"], pattern) for pattern in site.faults.series_filter):
        site.note(f"series filter dropped {sent.name}")
        return None
    if site.faults.take("anon_reject"):
        site.note(f"anonymisation script rejected {sent.name}")
        return None
    incoming = site.folders.temporary / uuid.uuid4().hex
    try:
        session = _session_for(site, sent, header)
        uid = _copy(site, sent.path, incoming, header, session)
        with site.state.changing():
            scan = _scan_for(site, session, header)
            name = _free_name(site, scan, header, sent, uid)
            _keep(site, session, PrearchiveObject(session.key, scan.id, name, uid), incoming)
            _tally(site, session.project, header["SOPInstanceUID"])
    except Exception as error:  # a full disk, a lock, a script that fails: clients are told the same of each
        raise unreadable(sent.name) from error
    finally:
        incoming.unlink(missing_ok=True)
    return session


def _session_for(site: Site, sent: Sent, header: Header) -> PrearchiveSession:
    parameters = sent.parameters
    project = _destination(site, sent.user, header, parameters.get("PROJECT_ID", ""))
    label = parameters.get("EXPT_LABEL") or labels.from_header(header.routed("Session") or header["PatientID"])
    label = label or "dicom_upload"
    subject = parameters.get("SUBJECT_ID") or labels.from_header(header.routed("Subject") or header["PatientName"])
    with site.state.changing():
        for session in site.state.prearchive.of(project):
            if session.tag == header["StudyInstanceUID"] and session.name == label:
                # A real server lets a late file interrupt any state, even ARCHIVING.
                return site.state.prearchive.put(replace(session, status="RECEIVING", lastmod=now()))
        site.state.count(f"prearchive:{project}/{subject}/{label}")
        return site.state.prearchive.put(
            replace(_new_session(site, sent, header, project), folder=label, name=label, subject=subject)
        )


def _destination(site: Site, user: str, header: Header, asked: str) -> str:
    """A project that is not accessible is no error: the header decides, and at last Unassigned takes it."""
    allowed = site.accounts.can
    if asked and allowed(user, EDIT, asked) and not site.faults.take("unassigned"):
        return asked
    for project in (header.routed("Project"), header["StudyDescription"], header["AccessionNumber"]):
        if project and project != UNASSIGNED and allowed(user, EDIT, project):
            return project
    return UNASSIGNED


def _new_session(site: Site, sent: Sent, header: Header, project: str) -> PrearchiveSession:
    parameters = sent.parameters
    known = site.state.projects.get(project)
    automatic = known is not None and known.auto_archives
    forced = parameters.get("AA", parameters.get("auto-archive", "")).lower()
    if forced in ("true", "false"):
        automatic = forced == "true"
    return PrearchiveSession(
        project=project,
        timestamp=_free_timestamp(site, project),
        folder="",
        name="",
        tag=header["StudyInstanceUID"],
        subject="",
        status="RECEIVING",
        scan_date=_dashed(header["StudyDate"]),
        auto_archive="AutoArchive" if automatic else "Manual",
        prevent_anon=sent.asks("prevent_anon"),
        prevent_auto_commit=sent.asks("prevent_auto_commit"),
        source=parameters.get("SOURCE", ""),
        visit=parameters.get("VISIT", ""),
        timezone=parameters.get("TIMEZONE", ""),
        stuck=site.faults.pop("prearc_stuck", among=("RECEIVING",)) != "",
        fields={key.split("/", 1)[1]: value for key, value in parameters.items() if key.startswith("xnat:")},
    )


def _free_timestamp(site: Site, project: str) -> str:
    taken = {session.timestamp for session in site.state.prearchive.of(project)}
    moment = datetime.now().astimezone()
    while (stamp := moment.strftime("%Y%m%d_%H%M%S%f")[:-3]) in taken:
        moment += timedelta(milliseconds=1)
    return stamp


def _dashed(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if re.fullmatch(r"\d{8}", date) else ""


def _copy(site: Site, path: Path, target: Path, header: Header, session: PrearchiveSession) -> str:
    """Copies the object, anonymised where the site says so; answers the SOPInstanceUID that it then has."""
    if header.complete:
        shutil.copyfile(path, target)
    else:
        _with_file_meta(path, target)
    if site.faults.site_anon and not session.prevent_anon:
        return anonymise(site, target, project=session.project, subject=session.subject, session=session.name)
    return header["SOPInstanceUID"]


def _with_file_meta(path: Path, target: Path) -> None:
    import pydicom  # noqa: PLC0415 - takes half a second to import; most objects never need it
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: PLC0415

    dataset = pydicom.dcmread(path, force=True)
    implicit = dataset.original_encoding[0]
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.save_as(target, enforce_file_format=True)


def anonymise(site: Site, path: Path, *, project: str, subject: str, session: str) -> str:
    """What XNAT's default script does (labels into the header), which changes the bytes; answers the SOPInstanceUID."""
    import pydicom  # noqa: PLC0415 - as above
    from pydicom.uid import generate_uid  # noqa: PLC0415

    dataset = pydicom.dcmread(path)
    dataset.StudyDescription, dataset.PatientName, dataset.PatientID = project, subject, session
    dataset.PatientIdentityRemoved = "YES"
    if site.faults.anon_changes_uids:
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(dataset.SOPInstanceUID)])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[str(dataset.SeriesInstanceUID)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    anonymised = site.folders.temporary / uuid.uuid4().hex
    dataset.save_as(anonymised)
    anonymised.replace(path)
    return str(dataset.SOPInstanceUID)


def _keep(site: Site, session: PrearchiveSession, item: PrearchiveObject, incoming: Path) -> None:
    target = session_folder(site, session) / f"SCANS/{item.scan}/DICOM/{item.name}"
    try:
        incoming.replace(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming.replace(target)
    site.state.prearchive_objects.put(item)


def _tally(site: Site, project: str, uid: str) -> None:
    site.state.count("objects:received")
    if site.state.count(f"seen:{project}/{uid}") > 1:
        site.state.count("objects:duplicate")


def _scan_for(site: Site, session: PrearchiveSession, header: Header) -> PrearchiveScan:
    scans = {scan.id: scan for scan in site.state.prearchive_scans.of(session.key)}
    series = header["SeriesInstanceUID"]
    for scan in scans.values():
        if scan.uid == series:
            return scan
    number = re.sub(r"[^\w-]", "_", header["SeriesNumber"] or series)
    session_type, scan_type = modality.types_of(header["SOPClassUID"], header["Modality"])
    return site.state.prearchive_scans.put(
        PrearchiveScan(
            session=session.key,
            id=free_scan_id(number, header["Modality"], set(scans)),
            uid=series,
            series_description=header["SeriesDescription"],
            modality=header["Modality"],
            session_type=session_type,
            scan_type=scan_type,
        )
    )


def free_scan_id(number: str, kind: str, taken: set[str]) -> str:
    """A second series under one number becomes ``1-MR1``."""
    candidate, serial = number, 0
    while candidate in taken:
        serial += 1
        candidate = f"{number}-{kind}{serial}"
    return candidate


def _free_name(site: Site, scan: PrearchiveScan, header: Header, sent: Sent, uid: str) -> str:
    """The sender's name, unless it is no good or another object has it; then the name by template."""
    name = Path(sent.name).name
    holder = site.state.prearchive_objects.get(f"{scan.session}/{scan.id}/{name}")
    if (
        not sent.asks("rename")
        and _SAFE_NAME.fullmatch(name)
        and name.strip(".")
        and (holder is None or holder.uid == uid)
    ):
        return name
    digest = hashlib.sha256(f"{header['SOPClassUID']}{uid}".encode()).digest()[:5]
    parts = (header["StudyInstanceUID"], header["SeriesNumber"], header["InstanceNumber"], digest.hex())
    return "-".join(re.sub(r"[^\w.]", "_", part) for part in parts) + ".dcm"


def session_folder(site: Site, session: PrearchiveSession) -> Path:
    # A label is used as it came, so it must not climb out of the prearchive.
    label = session.folder.replace("/", "_").replace("..", "__")
    return site.folders.prearchive / f"{session.project}/{session.timestamp}/{label}"


def scan_folder(site: Site, session: PrearchiveSession, scan: PrearchiveScan) -> Path:
    return session_folder(site, session) / f"SCANS/{scan.id}/DICOM"
