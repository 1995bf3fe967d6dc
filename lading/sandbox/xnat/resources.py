"""Resources over HTTP: list, create, upload, download, delete; for projects, subjects, experiments and scans."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.responses import FileResponse, Response

from lading.sandbox.xnat import answers, catalog, owners
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.auth import EDIT
from lading.sandbox.xnat.calls import Call, Route, Upload, at_once, route
from lading.sandbox.xnat.catalog import Describes
from lading.sandbox.xnat.owners import Place
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import CatalogEntry, Resource
from lading.sandbox.xnat.tables import Cells, document, element, table

_COLUMNS = [
    "xnat_abstractresource_id",
    "label",
    "element_name",
    "category",
    "cat_id",
    "cat_desc",
    "file_count",
    "file_size",
    "tags",
    "content",
    "format",
]
_FILE_COLUMNS = ["Name", "Size", "URI", "collection", "file_tags", "file_format", "file_content", "cat_ID", "digest"]
_NO_EDIT = "User account doesn't have permission to modify this session."


@dataclass(frozen=True)
class _Found:
    """A resource and where it hangs."""

    place: Place
    resource: Resource


def list_resources(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    rows = [resource_row(site, place, resource) for resource in site.state.resources.of(place.owner)]
    return table(call, _COLUMNS, rows, "Resources")


def resource_row(site: Site, place: Place, resource: Resource) -> Cells:
    entries = site.state.entries.of(resource.id)
    return {
        "xnat_abstractresource_id": resource.id,
        "label": resource.label,
        "element_name": "xnat:resourceCatalog",
        "category": "scans" if place.scan else "resources",
        "cat_id": place.scan.id if place.scan else place.owner.partition(":")[2],
        "cat_desc": place.scan.type if place.scan else "",
        "file_count": len(entries),
        "file_size": sum(entry.size for entry in entries),
        "tags": resource.tags,
        "content": resource.content,
        "format": resource.format,
    }


def create(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    site.accounts.demand(call.user, EDIT, place.project_id, _NO_EDIT)
    catalog.create_resource(site, place.owner, call.args["resource"], _describes(call))
    return answers.empty()


def _describes(call: Call) -> Describes:
    return Describes(call.get("format"), call.get("content"), call.get("tags"))


def _find(site: Site, call: Call) -> _Found:
    place = owners.find(site, call.user, call.args)
    resource = site.state.resource(place.owner, call.args["resource"])
    if resource is None:
        raise Refusal(404, f"Unable to find the specified resource: {call.args['resource']}")
    return _Found(place, resource)


def show(site: Site, call: Call) -> Response:
    """The catalog itself, as XML."""
    found = _find(site, call)
    entries = "".join(
        element("cat:entry", _entry_attributes(entry)) for entry in site.state.entries.of(found.resource.id)
    )
    return document("cat:Catalog", {"ID": found.resource.label}, element("cat:entries", {}, entries))


def _entry_attributes(entry: CatalogEntry) -> Cells:
    return {
        "URI": entry.path,
        "name": entry.path.rsplit("/", 1)[-1],
        "ID": entry.path,
        "UID": entry.uid,
        "xsi:type": "cat:dicomEntry" if entry.uid else "",
        "format": entry.format,
        "content": entry.content,
        "digest": entry.digest,
    }


def delete(site: Site, call: Call) -> Response:
    found = _find(site, call)
    site.accounts.demand(call.user, EDIT, found.place.project_id, _NO_EDIT)
    catalog.delete_resource(site, found.resource)
    return answers.empty()


def upload(site: Site, call: Call) -> Response:
    """Stores files; says 200 to what it stored, to duplicates and to users without the right to do it."""
    place = owners.find(site, call.user, call.args)
    if not site.accounts.can(call.user, EDIT, place.project_id):
        if site.faults.no_edit_200:
            return answers.empty()
        raise Refusal(403, _NO_EDIT)
    uploads = _uploads(call)
    duplicates = []
    resource = _resource_for(site, place, call)
    for sent in uploads:
        duplicates += _store(site, resource, call, sent)
    if duplicates and not site.faults.duplicate_200:
        raise Refusal(409, f"File already exists: {', '.join(duplicates)}")
    if duplicates:
        return Response(json.dumps({"duplicates": duplicates}), media_type="text/html")
    return answers.empty()


def _uploads(call: Call) -> tuple[Upload, ...]:
    if call.uploads:
        return call.uploads
    if call.multipart or not call.content_type:
        kind = call.content_type or "unknown"
        raise Refusal(400, f"You tried to PUT a payload of {kind} but didn't provide any data to be uploaded.")
    raise Refusal(
        500,
        "In-body File posts must include the file directly as the body of the message. In this case, the request "
        "entity size is 0 but the media type is not application/zip (i.e. streaming compressed upload).",
    )


def _resource_for(site: Site, place: Place, call: Call) -> Resource:
    label = call.args["resource"]
    with site.state.changing():
        found = site.state.resource(place.owner, label)
        return found or catalog.create_resource(site, place.owner, label, _describes(call))


def _store(site: Site, resource: Resource, call: Call, sent: Upload) -> list[str]:
    path = call.args.get("path", "") or sent.name
    if not path:
        raise Refusal(400, "No file name was specified.")
    overwrite, describes = call.flag("overwrite"), _describes(call)
    if call.flag("extract") and path.lower().endswith(catalog.ARCHIVE_SUFFIXES):
        return catalog.store_archive(site, resource, path, sent.file, overwrite=overwrite, describes=describes)
    return catalog.store(site, resource, path, sent.file, overwrite=overwrite, describes=describes)


def list_files(site: Site, call: Call) -> Response:
    found = _find(site, call)
    return _files(site, call, [found])


def list_all_files(site: Site, call: Call) -> Response:
    """``…/files`` of an object, and ``…/scans/ALL/files``: the files of all its resources."""
    args = dict(call.args)
    everything = args.get("scan") in ("ALL", "*")
    if everything:
        args.pop("scan")
    place = owners.find(site, call.user, args)
    places = [place]
    if everything and place.experiment:
        places = [
            Place(place.project, place.subject, place.experiment, scan)
            for scan in site.state.scans.of(place.experiment.id)
        ]
    return _files(site, call, [_Found(at, row) for at in places for row in site.state.resources.of(at.owner)])


def _files(site: Site, call: Call, found: list[_Found]) -> Response:
    if call.get("format") in ("zip", "tar.gz"):
        return catalog.zip_answer(site, _zip_members(site, found))
    rows = [row for each in found for row in _file_rows(site, call, each)]
    return table(call, _FILE_COLUMNS, rows, "Files")


def _file_rows(site: Site, call: Call, found: _Found) -> Iterator[Cells]:
    resource = found.resource
    base = f"{found.place.uri}/resources/{resource.id}/files"
    for entry in sorted(site.state.entries.of(resource.id), key=lambda row: row.path):
        uri = f"{base}/{quote(entry.path)}"
        if call.get("locator") == "absolutePath":
            uri = str(catalog.on_disk(site, resource, entry.path))
        elif call.get("locator") == "projectPath":
            uri = f"{resource.folder}/{entry.path}".split("/", 2)[2]
        yield {
            "Name": entry.path.rsplit("/", 1)[-1],
            "Size": entry.size,
            "URI": uri,
            "collection": resource.label,
            "file_tags": entry.tags,
            "file_format": entry.format,
            "file_content": entry.content,
            "cat_ID": resource.id,
            "digest": "" if site.faults.blank_digests else entry.digest,
        }


def _zip_members(site: Site, found: list[_Found]) -> Iterator[tuple[Path, str]]:
    for each in found:
        place = each.place
        name = place.experiment.label if place.experiment else place.owner.partition(":")[2]
        scan = f"/scans/{place.scan.id}" if place.scan else ""
        for entry in site.state.entries.of(each.resource.id):
            inside = f"{name}{scan}/resources/{each.resource.label}/files/{entry.path}"
            yield catalog.on_disk(site, each.resource, entry.path), inside


def download(site: Site, call: Call) -> Response:
    """The bytes on disk, whatever the catalog says of them."""
    found = _find(site, call)
    entry = _entry(site, found, call)
    path = catalog.on_disk(site, found.resource, entry.path)
    if not path.is_file():
        raise Refusal(404, "Unable to find the specified file.")
    return FileResponse(path, media_type="application/octet-stream")


def _entry(site: Site, found: _Found, call: Call) -> CatalogEntry:
    entry = catalog.entry_of(site, found.resource, call.args["path"])
    if entry is None:
        raise Refusal(404, f"Unable to find the specified file: {call.args['path']}")
    return entry


def delete_file(site: Site, call: Call) -> Response:
    found = _find(site, call)
    site.accounts.demand(call.user, EDIT, found.place.project_id, _NO_EDIT)
    catalog.delete_file(site, _entry(site, found, call), found.resource)
    return answers.empty()


_EXPERIMENTS = (
    "experiments/{experiment}",
    "projects/{project}/experiments/{experiment}",
    "projects/{project}/subjects/{subject}/experiments/{experiment}",
    "subjects/{subject}/experiments/{experiment}",
)
_OWNERS = (
    *_EXPERIMENTS,
    *(f"{path}/scans/{{scan}}" for path in _EXPERIMENTS),
    "projects/{project}",
    "projects/{project}/subjects/{subject}",
    "subjects/{subject}",
)

ROUTES: list[Route[Site]] = [
    found
    for owner in _OWNERS
    for found in (
        *at_once(f"{owner}/resources", list_resources),
        *route("GET", f"{owner}/files", list_all_files),
        *at_once(f"{owner}/resources/{{resource}}", show),
        *route("PUT POST", f"{owner}/resources/{{resource}}", create),
        *route("DELETE", f"{owner}/resources/{{resource}}", delete),
        *route("GET", f"{owner}/resources/{{resource}}/files", list_files),
        *route("PUT POST", f"{owner}/resources/{{resource}}/files", upload),
        *route("GET", f"{owner}/resources/{{resource}}/files/{{path*}}", download),
        *route("PUT POST", f"{owner}/resources/{{resource}}/files/{{path*}}", upload),
        *route("DELETE", f"{owner}/resources/{{resource}}/files/{{path*}}", delete_file),
    )
]
