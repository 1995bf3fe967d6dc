"""``/data/services/…``: import, archive, prearchive actions, catalog refresh, header dump, tokens; progress."""

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.responses import Response

from lading.sandbox.xnat import answers, archive, catalog, gradual, importers, prearchive
from lading.sandbox.xnat.answers import Json, Refusal
from lading.sandbox.xnat.auth import EDIT
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.owners import owner_of_uri, project_of
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import AliasToken, PrearchiveSession, Resource
from lading.sandbox.xnat.tables import table

if TYPE_CHECKING:
    from pydicom import DataElement

_ALL_REFRESHES = ("append", "delete", "checksum", "populateStats")


def archive_sessions(site: Site, call: Call) -> Response:
    """``POST /data/services/archive``: blocks until done; every failure is a 500."""
    sources = call.all("src")
    if not sources:
        raise Refusal(400, "No prearchive session was specified (src).")
    if any("/archive/" in source.replace("/prearchive/", "/") for source in sources):
        raise Refusal(400, "Only prearchive sessions can be archived.")
    sessions = [prearchive.find_by_uri(site, call.user, unquote(source)) for source in sources]
    project = call.get("project")
    if project and not site.accounts.can(call.user, EDIT, project):
        raise Refusal(403, "Invalid permissions for new project.")
    if project:
        sessions = [_routed(site, call.user, session, project) for session in sessions]
    order = _order(call, single=len(sources) == 1)
    listener = call.get("http-session-listener")
    if listener:
        site.tracking.begin(listener, call.user, call.session)
        site.archive_workers.submit(_archive_tracked, site, listener, sessions, order)
        return answers.moved(303, f"/app/template/ArchiveProgress.vm?id={listener}")
    uris = [archive.archive_for_client(site, session, order) for session in sessions]
    if call.flag("redirect"):
        return answers.moved(303, f"/data{uris[0]}")
    return answers.uri_list(*(f"/data{uri}" for uri in uris))


def _routed(site: Site, user: str, session: PrearchiveSession, project: str) -> PrearchiveSession:
    return session if session.project == project else prearchive.move(site, user, session, project)


def _order(call: Call, *, single: bool) -> archive.Order:
    """One source may always merge, and ``overwrite_files`` is ignored; several merge only when told to."""
    overwrite = call.get("overwrite").lower()
    asked = overwrite in ("append", "delete")
    return archive.Order(
        call.user,
        subject=call.get("subject"),
        label=call.get("session"),
        merge=single or asked,
        override=asked if single else overwrite == "delete" or call.flag("overwrite_files"),
    )


def _archive_tracked(site: Site, listener: str, sessions: list[PrearchiveSession], order: archive.Order) -> None:
    try:
        uris = [archive.archive(site, session.key, order) for session in sessions]
    except Refusal as refusal:
        site.tracking.end(listener, refusal.message, succeeded=False)
    else:
        site.tracking.end(listener, f"Archive:{uris[0]}", succeeded=True)


def validate_archive(site: Site, call: Call) -> Response:
    """``POST /data/services/validate-archive``: what archiving would stumble over."""
    sources = call.all("src")
    if len(sources) != 1:
        raise Refusal(400, "Exactly one prearchive session can be validated.")
    session = prearchive.find_by_uri(site, call.user, unquote(sources[0]))
    found = archive.conflicts(site, session, _order(call, single=True))
    rows = [
        {"code": conflict.code, "type": "CONFLICT" if conflict.overridable else "FAIL", "message": conflict.message}
        for conflict in found
    ]
    return table(call, ["code", "type", "message"], rows)


def prearchive_action(site: Site, call: Call) -> Response:
    """``POST /data/services/prearchive/{move,delete,rebuild}`` on one or several ``src``."""
    action = call.args["action"]
    sessions = [prearchive.find_by_uri(site, call.user, unquote(source)) for source in call.all("src")]
    if not sessions:
        raise Refusal(400, "No prearchive session was specified (src).")
    uris = []
    for session in sessions:
        if not call.flag("overrideLock"):
            prearchive.demand_unlocked(session)
        match action:
            case "delete":
                prearchive.delete(site, session)
            case "rebuild":
                uris.append(prearchive.build(site, prearchive.reset(site, session)).uri)
            case "move":
                uris.append(prearchive.move(site, call.user, session, call.get("newProject")).uri)
            case _:
                raise Refusal(404, "Not Found")
    return answers.uri_list(*(f"/data{uri}" for uri in uris))


def refresh_catalogs(site: Site, call: Call) -> Response:
    """``POST /data/services/refresh/catalog``."""
    asked = [option for options in call.all("options") for option in options.split(",") if option]
    asked += [option for option in _ALL_REFRESHES if call.flag(option)]
    for uri in call.all("resource"):
        _refresh(site, call.user, unquote(uri), asked)
    return answers.empty()


def refresh_catalogs_json(site: Site, call: Call) -> Response:
    """``POST /xapi/archive/catalogs/refresh[/op1,op2]`` with a JSON list of resources."""
    try:
        uris = json.loads(call.body)
    except ValueError as error:
        raise Refusal(400, "A JSON list of resources is needed.") from error
    asked = [option for option in call.args.get("operations", "").split(",") if option]
    for uri in uris:
        _refresh(site, call.user, str(uri), asked)
    return answers.empty()


def _refresh(site: Site, user: str, uri: str, asked: list[str]) -> None:
    owner, label = owner_of_uri(site, user, uri)
    site.accounts.demand(user, EDIT, project_of(site, owner), "Insufficient privileges to refresh this catalog.")
    options = asked or [option for option in _ALL_REFRESHES if option != "checksum" or site.faults.checksums]
    for resource in _resources_below(site, owner, label):
        catalog.refresh(site, resource, options)


def _resources_below(site: Site, owner: str, label: str) -> list[Resource]:
    if label:
        resource = site.state.resource(owner, label)
        if resource is None:
            raise Refusal(404, f"Unable to find resource {label}")
        return [resource]
    found = site.state.resources.of(owner)
    kind, _, key = owner.partition(":")
    for scan in site.state.scans.of(key) if kind == "experiment" else []:
        found += site.state.resources.of(f"scan:{key}/{scan.id}")
    return found


def dump_headers(site: Site, call: Call) -> Response:
    """``GET /data/services/dicomdump?src=…[&field=…]``: the header of the first, or the named, object."""
    import pydicom  # noqa: PLC0415 - takes half a second to import; most sites never need it

    path = _dump_source(site, call.user, unquote(call.get("src")).removeprefix("/data"))
    if path is None:
        raise Refusal(404, "Unable to find a DICOM file at the specified source.")
    wanted = {field.replace(",", "").strip("()").upper() for field in call.all("field")}
    rows = [
        {
            "tag1": str(element.tag).replace(" ", "").upper(),
            "tag2": "",
            "vr": element.VR,
            "value": _shown(element),
            "desc": element.name,
        }
        for element in pydicom.dcmread(path, stop_before_pixels=True)
        if not wanted or {f"{element.tag:08X}", element.keyword.upper()} & wanted
    ]
    return table(call, ["tag1", "tag2", "vr", "value", "desc"], rows)


def _shown(element: "DataElement") -> str:
    value = element.value
    if element.VR == "SQ" or isinstance(value, bytes):
        return ""
    return "\\".join(map(str, value)) if element.VM > 1 else str(value)


def _dump_source(site: Site, user: str, uri: str) -> Path | None:
    above, _, name = uri.partition("/files/")
    if above.startswith("/prearchive/"):
        return _in_prearchive(site, user, above, name)
    owner, label = owner_of_uri(site, user, above)
    for resource in _resources_below(site, owner, label):
        for entry in site.state.entries.of(resource.id):
            if entry.uid and name in ("", entry.path):
                return catalog.on_disk(site, resource, entry.path)
    return None


def _in_prearchive(site: Site, user: str, uri: str, name: str) -> Path | None:
    parts = uri.strip("/").split("/")
    session = prearchive.find_by_uri(site, user, "/".join(parts[:5]))
    for scan in site.state.prearchive_scans.of(session.key):
        if len(parts) < 7 or scan.id == parts[6]:
            for item in site.state.prearchive_objects.of(session.key):
                if item.scan == scan.id and name in ("", item.name):
                    return gradual.scan_folder(site, session, scan) / item.name
    return None


def issue_token(site: Site, call: Call) -> Response:
    user = call.args.get("user", call.user)
    if call.user not in {user, site.accounts.admin}:
        raise Refusal(403, "Only an administrator can issue tokens for others.")
    return answers.as_json(_token_json(site.accounts.issue_token(user)))


def show_tokens(site: Site, call: Call) -> Response:
    return answers.as_json([_token_json(token) for token in site.state.tokens.all() if token.user == call.user])


def validate_token(site: Site, call: Call) -> Response:
    token = site.state.tokens.get(call.args["alias"])
    if token is None or token.secret != call.args["secret"]:
        return answers.as_json({})
    return answers.as_json({"valid": token.user})


def invalidate_token(site: Site, call: Call) -> Response:
    token = site.state.tokens.get(call.args["alias"])
    if token is not None and token.secret == call.args["secret"]:
        site.state.tokens.drop(token)
    return answers.empty()


def _token_json(token: AliasToken) -> Json:
    return {
        "alias": token.alias,
        "secret": token.secret,
        "xdatUserId": token.user,
        "singleUse": False,
        "estimatedExpirationTime": int(token.expires * 1000),
    }


def status(site: Site, call: Call) -> Response:
    """``GET /data/status/ID``: only in the login session that started it."""
    tracked = site.tracking.get(call.args["id"])
    if tracked is None or tracked.session != call.session:
        raise Refusal(404, "Unable to find the specified status listener.")
    messages: list[Json] = [{"status": kind, "msg": text} for kind, text in tracked.messages]
    return answers.as_json({"msgs": [messages]})


def event_tracking(site: Site, call: Call) -> Response:
    """``GET /xapi/event_tracking/ID``: for the same user, in any login session."""
    tracked = site.tracking.get(call.args["id"])
    if tracked is None or call.user not in {tracked.user, site.accounts.admin}:
        return answers.empty(404)
    return answers.as_json(
        {
            "key": call.args["id"],
            "payload": json.dumps([text for _, text in tracked.messages]),
            "succeeded": tracked.succeeded,
            "finalMessage": tracked.final or None,
        }
    )


def put_cached(site: Site, call: Call) -> Response:
    """``PUT /data/user/cache/resources/X/files/F``: a place to put a file before importing it."""
    if not call.uploads:
        raise Refusal(400, "No file was sent.")
    path = importers.cached_file(site, call.user, call.args["resource"], call.args["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    catalog.write_file(site, path, call.uploads[0].file)
    return answers.empty()


def get_cached(site: Site, call: Call) -> Response:
    path = importers.cached_file(site, call.user, call.args["resource"], call.args["path"])
    if not path.is_file():
        raise Refusal(404, "Unable to find file.")
    return Response(path.read_bytes(), media_type="application/octet-stream")


def delete_cached(site: Site, call: Call) -> Response:
    importers.cached_file(site, call.user, call.args["resource"], call.args["path"]).unlink(missing_ok=True)
    return answers.empty()


ROUTES: list[Route[Site]] = [
    *route("POST", "services/import", importers.import_service),
    *route("POST", "services/archive", archive_sessions),
    *route("POST", "services/validate-archive", validate_archive),
    *route("POST", "services/prearchive/{action}", prearchive_action),
    *route("POST", "services/refresh/catalog", refresh_catalogs),
    *route("GET", "services/dicomdump", dump_headers),
    *route("GET", "services/tokens/issue", issue_token),
    *route("GET", "services/tokens/issue/user/{user}", issue_token),
    *at_once("services/tokens/show", show_tokens),
    *at_once("services/tokens/validate/{alias}/{secret}", validate_token),
    *route("GET", "services/tokens/invalidate/{alias}/{secret}", invalidate_token),
    *at_once("status/{id}", status),
    *route("PUT POST", "user/cache/resources/{resource}/files/{path*}", put_cached),
    *route("GET", "user/cache/resources/{resource}/files/{path*}", get_cached),
    *route("DELETE", "user/cache/resources/{resource}/files/{path*}", delete_cached),
]
