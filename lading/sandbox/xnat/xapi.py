"""``/xapi/…``: build info, schemas, inbox requests, anonymisation, site configuration."""

import time
from dataclasses import replace
from importlib import resources

from starlette.responses import Response

from lading.sandbox.xnat import answers, inbox, owners
from lading.sandbox.xnat.answers import Json
from lading.sandbox.xnat.archive import CLIENT_PATIENCE
from lading.sandbox.xnat.auth import OWN
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.services import event_tracking, refresh_catalogs_json
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import InboxRequest

VERSION = "1.8.11"
_SCHEMAS = ("xdat", "xnat")
_SCRIPT = (
    'version "6.1"\nproject != "Unassigned" ? (0008,1030) := project\n(0010,0010) := subject\n(0010,0020) := session\n'
)


def build_info(site: Site, call: Call) -> Response:
    return answers.as_json(
        {"version": VERSION, "buildNumber": "0", "buildDate": "", "commit": "stand-in", "standIn": "lading sandbox"}
    )


def initialized(site: Site, call: Call) -> Response:
    return answers.text("true")


def uptime(site: Site, call: Call) -> Response:
    """Since this process began to answer: what was queued before is lost, as in a real server."""
    return answers.as_json({"Sec": f"{time.monotonic() - site.started:.3f}"})


def site_config(site: Site, call: Call) -> Response:
    """The few preferences that a client of imports may ask for; for the admin only, as in XNAT."""
    if call.user != site.accounts.admin:
        return answers.empty(403)
    known: dict[str, Json] = {
        "inboxPath": str(site.folders.inbox),
        "archivePath": str(site.folders.archive),
        "prearchivePath": str(site.folders.prearchive),
        "checksums": site.faults.checksums,
        "enableSitewideAnonymizationScript": site.faults.site_anon,
        "sessionArchiveTimeoutInterval": CLIENT_PATIENCE,
        "requireLogin": True,
    }
    name = call.args.get("name")
    if name is None:
        return answers.as_json(known)
    return answers.as_json(known[name]) if name in known else answers.empty(404)


def list_schemas(site: Site, call: Call) -> Response:
    return answers.as_json(list(_SCHEMAS))


def show_schema(site: Site, call: Call) -> Response:
    name = call.args["name"].rsplit("/", 1)[-1].removesuffix(".xsd")
    if name not in _SCHEMAS:
        return answers.empty(404)
    file = resources.files("lading.sandbox.xnat") / "schemas" / f"{name}.xsd"
    return Response(file.read_bytes(), media_type="application/xml")


def show_request(site: Site, call: Call) -> Response:
    """404 for what belongs to somebody else, too."""
    request = site.state.inbox.get(call.args["id"])
    if request is None or call.user not in (request.username, site.accounts.admin):
        return answers.empty(404)
    return answers.as_json(_request(request))


def list_requests(site: Site, call: Call) -> Response:
    seen = [row for row in site.state.inbox.all() if call.user in (row.username, site.accounts.admin)]
    if call.args["which"] == "active":
        seen = [row for row in seen if row.status not in inbox.FINAL]
    return answers.as_json([_request(row) for row in seen])


def _request(request: InboxRequest) -> Json:
    return {
        "id": request.id,
        "enabled": True,
        "created": request.created,
        "timestamp": request.timestamp,
        "disabled": 0,
        "username": request.username,
        "parameters": dict(request.parameters),
        "sessionPath": request.path,
        "status": request.status,
        "cleanupAfterImport": request.cleanup,
        "resolution": request.resolution,
    }


def site_anonymises(site: Site, call: Call) -> Response:
    return answers.as_json(site.faults.site_anon)


def put_site_anonymises(site: Site, call: Call) -> Response:
    if call.user != site.accounts.admin:
        return answers.empty(403)
    site.faults.site_anon = _wanted(call)
    return answers.as_json(site.faults.site_anon)


def project_anonymises(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    return answers.as_json(project.anonymise or site.faults.project_anon)


def put_project_anonymises(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    site.accounts.demand(call.user, OWN, project.id, "Only owners can change the anonymisation of a project.")
    site.state.projects.put(replace(project, anonymise=_wanted(call)))
    return answers.as_json(_wanted(call))


def _wanted(call: Call) -> bool:
    return call.get("enable", call.body.decode(errors="replace")).strip().lower() == "true"


def script(site: Site, call: Call) -> Response:
    if "project" in call.args:
        owners.find_project(site, call.user, call.args["project"])
    return answers.text(_SCRIPT)


def plugins(site: Site, call: Call) -> Response:
    return answers.as_json({})


ROUTES: list[Route[Site]] = [
    *at_once("siteConfig/buildInfo", build_info),
    *at_once("siteConfig/initialized", initialized),
    *at_once("siteConfig/uptime", uptime),
    *at_once("siteConfig", site_config),
    *at_once("siteConfig/{name}", site_config),
    *at_once("schemas", list_schemas),
    *route("GET", "schemas/{name*}", show_schema),
    *at_once("dicom/list/{which}", list_requests),
    *at_once("dicom/{id}", show_request),
    *at_once("event_tracking/{id}", event_tracking),
    *route("POST", "archive/catalogs/refresh", refresh_catalogs_json),
    *route("POST", "archive/catalogs/refresh/{operations}", refresh_catalogs_json),
    *at_once("anonymize/site/enabled", site_anonymises),
    *route("PUT", "anonymize/site/enabled", put_site_anonymises),
    *at_once("anonymize/projects/{project}/enabled", project_anonymises),
    *route("PUT", "anonymize/projects/{project}/enabled", put_project_anonymises),
    *at_once("anonymize/site", script),
    *at_once("anonymize/projects/{project}", script),
    *at_once("plugins", plugins),
]
OPEN_PATHS = ("siteConfig/buildInfo", "siteConfig/initialized")
