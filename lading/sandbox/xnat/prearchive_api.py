"""``/data/prearchive/…``: rows, scans, files and logs of what waits, and the actions on one session."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from starlette.responses import FileResponse, Response

from lading.sandbox.xnat import answers, archive, catalog, gradual, modality, owners, prearchive
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import UNASSIGNED, PrearchiveScan, PrearchiveSession
from lading.sandbox.xnat.tables import Cells, document, element, table

_COLUMNS = [
    "project",
    "timestamp",
    "lastmod",
    "uploaded",
    "scan_date",
    "scan_time",
    "subject",
    "folderName",
    "name",
    "tag",
    "status",
    "url",
    "autoarchive",
    "prevent_anon",
    "prevent_auto_commit",
    "SOURCE",
    "VISIT",
    "PROTOCOL",
    "TIMEZONE",
]
_SESSION = "prearchive/projects/{project}/{timestamp}/{name}"


def _row(session: PrearchiveSession) -> Cells:
    return {
        "project": session.project,
        "timestamp": session.timestamp,
        "lastmod": session.lastmod,
        "uploaded": session.uploaded,
        "scan_date": session.scan_date,
        "scan_time": session.scan_time,
        "subject": session.subject,
        "folderName": session.folder,
        "name": session.name,
        "tag": session.tag,
        "status": session.status,
        "url": session.uri,
        "autoarchive": session.auto_archive,
        "prevent_anon": str(session.prevent_anon).lower(),
        "prevent_auto_commit": str(session.prevent_auto_commit).lower(),
        "SOURCE": session.source,
        "VISIT": session.visit,
        "PROTOCOL": "",
        "TIMEZONE": session.timezone,
    }


def list_sessions(site: Site, call: Call) -> Response:
    """All, or those of the projects in the path (``P1,P2``). ``?tag=`` is for the admin, as in XNAT."""
    asked = [name for name in call.args.get("projects", "").split(",") if name]
    for name in asked:
        if name != UNASSIGNED:
            owners.find_project(site, call.user, name)
    if call.has("tag") and call.user != site.accounts.admin:
        raise Refusal(403, "Only users with access to all data can search by tag.")
    found = [session for name in asked or [""] for session in prearchive.visible(site, call.user, name)]
    if call.has("tag"):
        found = [session for session in found if session.tag == call.get("tag")]
    return table(call, _COLUMNS, [_row(session) for session in found])


def rebuild_table(site: Site, call: Call) -> Response:
    """``PUT /data/prearchive``: the admin's last resort."""
    if call.user != site.accounts.admin:
        raise Refusal(403, "Only an administrator can rebuild the prearchive table.")
    for session in site.state.prearchive.all():
        prearchive.reset(site, session)
    return answers.empty()


def _find(site: Site, call: Call) -> PrearchiveSession:
    key = "/".join(call.args[name] for name in ("project", "timestamp", "name"))
    return prearchive.find(site, call.user, key)


def show_session(site: Site, call: Call) -> Response:
    session = _find(site, call)
    match call.get("format"):
        case "zip":
            return catalog.zip_answer(site, _zip_members(site, session))
        case "xml":
            return _session_xml(site, session)
    return table(call, _COLUMNS, [_row(session)])


def _session_xml(site: Site, session: PrearchiveSession) -> Response:
    scans = site.state.prearchive_scans.of(session.key)
    inside = "".join(
        element("xnat:scan", {"ID": scan.id, "UID": scan.uid, "xsi:type": modality.scan_xsi(scan.scan_type)})
        for scan in scans
    )
    kind = modality.leading(scan.session_type for scan in scans)
    name = "OtherDicom" if kind == modality.OTHER else kind.upper()
    shown = {"UID": session.tag, "project": session.project, "label": session.name, "subject_ID": session.subject}
    return document(f"xnat:{name}Session", shown, element("xnat:scans", {}, inside))


def _zip_members(site: Site, session: PrearchiveSession) -> Iterator[tuple[Path, str]]:
    for scan in site.state.prearchive_scans.of(session.key):
        for name, path in _objects(site, session, scan):
            yield path, f"{session.name}/SCANS/{scan.id}/DICOM/{name}"


def act(site: Site, call: Call) -> Response:
    """``POST …?action=build|reset-status|move|commit|set-status``."""
    session = _find(site, call)
    action = call.get("action")
    if action not in ("reset-status", "set-status"):
        prearchive.demand_unlocked(session)
    match action:
        case "build":
            return answers.uri_list("/data" + prearchive.build(site, session).uri)
        case "reset-status":
            return answers.uri_list("/data" + prearchive.reset(site, session).uri)
        case "set-status":
            return answers.uri_list("/data" + prearchive.set_status(site, session, call.get("status")).uri)
        case "move":
            moved = prearchive.move(site, call.user, session, call.get("newProject"))
            return answers.moved(301, "/data" + moved.uri)
        case "commit":
            return _commit(site, call, session)
    raise Refusal(400, f"User {call.user} requested an unsupported action on prearchive session: {action}")


def _commit(site: Site, call: Call, session: PrearchiveSession) -> Response:
    automatic = session.auto_archive == "AutoArchive"
    if call.has("AA"):
        automatic = call.flag("AA")
    built = prearchive.build(site, replace(session, auto_archive="AutoArchive" if automatic else "Manual"))
    if not automatic:
        return answers.uri_list("/data" + built.uri)
    return answers.moved(301, "/data" + archive.archive_for_client(site, built, archive.Order(call.user)))


def delete_session(site: Site, call: Call) -> Response:
    session = _find(site, call)
    prearchive.demand_unlocked(session)
    prearchive.delete(site, session)
    return answers.empty()


def list_logs(site: Site, call: Call) -> Response:
    lines = site.state.prearchive_logs.of(_find(site, call).key)
    return table(call, ["id", "entry"], [{"id": line.number, "entry": line.text} for line in lines])


def last_log(site: Site, call: Call) -> Response:
    lines = site.state.prearchive_logs.of(_find(site, call).key)
    return answers.text(lines[-1].text if lines else "")


def list_scans(site: Site, call: Call) -> Response:
    rows = [
        {
            "ID": scan.id,
            "xsiType": modality.scan_xsi(scan.scan_type),
            "series_description": scan.series_description,
        }
        for scan in site.state.prearchive_scans.of(_find(site, call).key)
    ]
    return table(call, ["ID", "xsiType", "series_description"], rows)


def _scan(site: Site, call: Call) -> tuple[PrearchiveSession, PrearchiveScan]:
    session = _find(site, call)
    scan = site.state.prearchive_scans.get(f"{session.key}/{call.args['scan']}")
    if scan is None or call.args.get("resource", "DICOM") != "DICOM":
        raise Refusal(404, "Unable to find the specified scan or resource.")
    return session, scan


def _objects(site: Site, session: PrearchiveSession, scan: PrearchiveScan) -> Iterator[tuple[str, Path]]:
    folder = gradual.scan_folder(site, session, scan)
    for item in site.state.prearchive_objects.of(session.key):
        if item.scan == scan.id:
            yield item.name, folder / item.name


def list_resources(site: Site, call: Call) -> Response:
    sizes = [path.stat().st_size for _, path in _objects(site, *_scan(site, call))]
    row: Cells = {"label": "DICOM", "file_count": len(sizes), "file_size": sum(sizes)}
    return table(call, ["label", "file_count", "file_size"], [row])


def list_files(site: Site, call: Call) -> Response:
    """No digest here: the prearchive has none."""
    session, scan = _scan(site, call)
    base = f"/data{session.uri}/scans/{scan.id}/resources/DICOM/files"
    rows: list[Cells] = [
        {"Name": name, "Size": path.stat().st_size, "URI": f"{base}/{quote(name)}"}
        for name, path in _objects(site, session, scan)
    ]
    return table(call, ["Name", "Size", "URI"], rows)


def download(site: Site, call: Call) -> Response:
    for name, path in _objects(site, *_scan(site, call)):
        if name == call.args["file"]:
            return FileResponse(path, media_type="application/octet-stream")
    raise Refusal(404, "Unable to find the specified file.")


ROUTES: list[Route[Site]] = [
    *at_once("prearchive", list_sessions),
    *route("PUT", "prearchive", rebuild_table),
    *at_once("prearchive/projects", list_sessions),
    *at_once("prearchive/experiments", list_sessions),
    *at_once("prearchive/projects/{projects}", list_sessions),
    *route("GET", _SESSION, show_session),
    *route("POST", _SESSION, act),
    *route("DELETE", _SESSION, delete_session),
    *at_once(_SESSION + "/logs", list_logs),
    *at_once(_SESSION + "/logs/last", last_log),
    *at_once(_SESSION + "/scans", list_scans),
    *route("GET", _SESSION + "/scans/{scan}/resources", list_resources),
    *route("GET", _SESSION + "/scans/{scan}/resources/{resource}/files", list_files),
    *route("GET", _SESSION + "/scans/{scan}/resources/{resource}/files/{file}", download),
]
