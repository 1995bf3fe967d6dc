"""The import handlers that take an uploaded file: DICOM-zip, SI and gradual-DICOM."""

import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import unquote

from starlette.responses import Response

from lading.sandbox.xnat import answers, archive, catalog, gradual, inbox, prearchive
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.calls import Call, Upload
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import PrearchiveSession

_DESTINATION = re.compile(
    r"/(?P<where>archive|prearchive)(?:/projects/(?P<project>[^/]+))?"
    r"(?:/subjects/(?P<subject>[^/]+))?(?:/experiments/(?P<session>[^/]+))?(?:/[^/]+/[^/]+)?"
)
_ALIASES = (("project", "PROJECT_ID"), ("subject", "SUBJECT_ID"), ("session", "EXPT_LABEL"))


@dataclass(frozen=True)
class _Job:
    """One import: what came, from whom, and what is to become of it."""

    user: str
    parameters: dict[str, str]
    upload: Upload
    to_archive: bool
    commits: bool
    lenient: bool


def import_service(site: Site, call: Call) -> Response:
    """``POST /data/services/import``."""
    handler = call.get("import-handler")
    if handler == "inbox":
        return answers.uri_list(f"/xapi/dicom/{inbox.submit(site, call).id}")
    upload = _upload(site, call)
    if not handler:
        handler = "gradual-DICOM" if call.content_type.startswith("application/dicom") else "DICOM-zip"
    work = _HANDLERS.get(handler)
    if work is None:
        raise Refusal(404, f"Unknown importer implementation specified: {handler}")
    job = _job(site, call, upload)
    listener = call.get("http-session-listener")
    site.tracking.begin(listener, call.user, call.session)
    if listener and call.has("src"):
        site.archive_workers.submit(_tracked, site, listener, work, job)
        return answers.text(f"Submitted for {'archival' if job.to_archive else 'prearchival'}")
    return answers.uri_list(*(f"/data{uri}" for uri in _tracked(site, listener, work, job)))


def _tracked(site: Site, listener: str, work: "_Handler", job: _Job) -> list[str]:
    try:
        uris = work(site, job)
    except Refusal as refusal:
        site.tracking.end(listener, refusal.message, succeeded=False)
        raise
    kind = "Archive" if job.to_archive else "Prearchive"
    site.tracking.end(listener, f"{kind}:{uris[0] if uris else ''}", succeeded=True)
    return uris


def _upload(site: Site, call: Call) -> Upload:
    if call.has("src"):
        return _cached(site, call)
    if not call.uploads:
        raise Refusal(400, "Unable to identify upload format.")
    if len(call.uploads) > 1:
        raise Refusal(400, "Importer is limited to one uploaded resource at a time.")
    return call.uploads[0]


def _cached(site: Site, call: Call) -> Upload:
    """A file that the user put into the cache before: ``/user/cache/resources/X/files/F``."""
    found = re.fullmatch(r"(?:/data)?/user/cache/resources/([^/]+)/files/(.+)", call.get("src"))
    path = cached_file(site, call.user, *map(unquote, found.groups())) if found else None
    if path is None or not path.is_file():
        raise Refusal(404, f"Unable to find {call.get('src')}")
    return Upload(path.name, path.open("rb"), path.stat().st_size)


def cached_file(site: Site, user: str, resource: str, name: str) -> Path:
    return site.folders.cache / user / catalog.checked_path(f"{resource}/{name}")


def _job(site: Site, call: Call, upload: Upload) -> _Job:
    parameters = call.as_dict()
    for alias, name in _ALIASES:
        if alias in parameters:
            parameters.setdefault(name, parameters[alias])
    found = _DESTINATION.fullmatch(parameters.get("dest", ""))
    where = ""
    if found:
        where = found["where"]
        for alias, name in _ALIASES:
            if found[alias]:
                parameters[name] = unquote(found[alias])
        parameters["AA"] = "true" if where == "archive" else "false"
    # Only an action given in the query makes the importer lenient; dest does not, though it commits too.
    committed = parameters.get("action") == "commit"
    asked = parameters.get("Ignore-Unparsable", "").lower() == "true"
    return _Job(
        user=call.user,
        parameters=parameters,
        upload=upload,
        to_archive=where == "archive",
        commits=committed or bool(where),
        lenient=asked or committed or site.faults.lenient_zip,
    )


def _dicom_zip(site: Site, job: _Job) -> list[str]:
    """The first entry that cannot be read ends it with 400, and what came before stays in the prearchive."""
    sessions: dict[str, PrearchiveSession] = {}
    taken = 0
    with catalog.unpacked(site, job.upload.name or _tar_or_zip(job.upload.file), job.upload.file) as folder:
        for path in _members(folder):
            try:
                session = gradual.receive(site, gradual.Sent(job.user, path, path.name, job.parameters))
            except Refusal as refusal:
                if job.lenient:
                    site.note(f"DICOM-zip ignored {path.name}")
                    continue
                name = path.relative_to(folder).as_posix()
                raise Refusal(400, f"unable to read DICOM object {name}") from refusal
            taken += 1
            if session is not None:
                sessions[session.key] = session
    if taken == 0:
        raise Refusal(400, "unable to read any DICOM object in the archive")
    return _finish(site, job, list(sessions.values()))


def _tar_or_zip(file: IO[bytes]) -> str:
    magic = file.read(2)
    file.seek(0)
    return "upload.zip" if magic == b"PK" else "upload.tar"


def _members(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _session_importer(site: Site, job: _Job) -> list[str]:
    """SI: everything goes in first; then several studies for the archive are an error, and stay in the prearchive."""
    sessions: dict[str, PrearchiveSession] = {}
    with catalog.unpacked(site, job.upload.name or _tar_or_zip(job.upload.file), job.upload.file) as folder:
        for path in _members(folder):
            try:
                session = gradual.receive(site, gradual.Sent(job.user, path, path.name, job.parameters))
            except Refusal:
                continue
            if session is not None:
                sessions[session.key] = session
    found = list(sessions.values())
    if not found:
        raise Refusal(400, "Upload did not include parsable files for session generation.")
    if job.to_archive and len(found) > 1:
        for session in found:
            prearchive.build(site, session)
        raise Refusal(400, "Upload included files for multiple imaging sessions.")
    return _finish(site, job, found, conflict_status=409)


def _gradual(site: Site, job: _Job) -> list[str]:
    temporary = site.folders.temporary / uuid.uuid4().hex
    try:
        with temporary.open("wb") as out:
            shutil.copyfileobj(job.upload.file, out, 1 << 20)
        name = job.upload.name or f"{uuid.uuid4().hex}.dcm"
        session = gradual.receive(site, gradual.Sent(job.user, temporary, name, job.parameters))
    finally:
        temporary.unlink(missing_ok=True)
    return [] if session is None else _finish(site, job, [session])


def _finish(site: Site, job: _Job, sessions: list[PrearchiveSession], conflict_status: int = 400) -> list[str]:
    """Archives, builds, or leaves RECEIVING for the rebuilder. Raises Refusal for a conflict."""
    if not job.commits:
        return [session.uri for session in sessions]
    uris = []
    for session in sessions:
        built = prearchive.build(site, session)
        if not job.to_archive:
            uris.append(built.uri)
            continue
        try:
            uris.append(archive.archive(site, session.key, _order(job)))
        except Refusal as refusal:
            text = f"unable to archive for the Prearchive session {session.uri}: {refusal.message}"
            raise Refusal(conflict_status if refusal.status == 409 else 500, text) from refusal
    return uris


def _order(job: _Job) -> archive.Order:
    overwrite = job.parameters.get("overwrite", "").lower()
    files = job.parameters.get("overwrite_files", "").lower() == "true"
    return archive.Order(
        job.user,
        merge=overwrite not in ("", "none"),
        override=overwrite in ("delete", "override") or (files and overwrite != ""),
    )


_Handler: TypeAlias = Callable[[Site, _Job], list[str]]
_HANDLERS: dict[str, _Handler] = {"DICOM-zip": _dicom_zip, "SI": _session_importer, "gradual-DICOM": _gradual}
