"""Puts the non-DICOM files of a delivery into session or scan resources: one writer per resource, bytes unchanged.

An upload that is answered 200 may have stored nothing (the file was there, or our account may not write), so what is there is
listed first, the answer's body is read, and reading back decides in the end.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import requests

from lading.errors import Refused, TargetUnavailable
from lading.manifest import Entry
from xnat_importer import errors
from xnat_importer.copies import opened
from xnat_importer.errand import Errand
from xnat_importer.scratch import scratch
from xnat_importer.session import Query, quoted, quoted_path
from xnat_importer.settings import RouteSettings
from xnat_importer.target import MARK_RESOURCE, Archived, Stored, demand, mark_name

_SAFE = "The files are in the inbox."
_ROUNDS = 5
_ANOTHER_WRITER = "another thread or process modified"


@dataclass(frozen=True, slots=True)
class Place:
    """A resource of the session (`scan` "") or of one of its scans."""

    resource: str
    scan: str = ""

    def base(self, archived: Archived) -> str:
        """The owner's path, quoted."""
        return archived.path + (quoted("scans", self.scan) if self.scan else "")

    def __str__(self) -> str:
        return f"scan {self.scan}, resource {self.resource}" if self.scan else f"resource {self.resource}"


def assign(companions: Iterable[Entry], route: RouteSettings) -> dict[Place, list[Entry]]:
    """Which files go where: the first rule that matches the path or the bare name wins."""
    found: dict[Place, list[Entry]] = {}
    for entry in companions:
        name = entry.path.rpartition("/")[2]
        rule = next((r for r in route.resources if fnmatch(entry.path, r.match) or fnmatch(name, r.match)), None)
        place = Place(rule.resource, rule.scan) if rule else Place(route.companions)
        found.setdefault(place, []).append(entry)
    return found


def unlistable(companions: Iterable[Entry]) -> list[str]:
    """Files that XNAT would store and never list, so that nobody could prove that they are there."""
    return [entry.path for entry in companions if entry.path.lower().endswith(("_catalog.xml", ".xml.lock"))]


def mark(errand: Errand, archived: Archived) -> None:
    """Write into the session that it holds this delivery. Writing it again is harmless."""
    note = {
        "delivery": errand.delivery,
        "project": errand.target.project,
        "subject": errand.target.subject,
        "session": errand.target.session,
        "study": errand.target.study,
        "dicom_files": len(errand.contents.dicom),
        "companions": len(errand.contents.companions),
    }
    content = json.dumps(note, indent=1, sort_keys=True).encode()
    path = f"{archived.path}{quoted('resources', MARK_RESOURCE, 'files', mark_name(errand.delivery))}"
    doing = f"marking session {archived.label} as holding delivery {errand.delivery}"
    response = errand.session.put(
        path,
        doing=doing,
        query=[("inbody", "true"), ("format", "JSON"), ("overwrite", "true")],
        body=lambda: content,
        content_type="application/octet-stream",
    )
    # Two deliveries may mark one session at the same moment; the mark only speeds up what the study's identity proves.
    if not _is_another_writer(response):
        demand(response, doing, errand.session.url)


def fill(errand: Errand, archived: Archived, place: Place, entries: Sequence[Entry]) -> int:
    """Bring one resource to hold `entries`; returns how many had to be sent.

    Raises Refused (other content is there already, or the proxy takes no such file), TargetMissing, TargetUnavailable.
    """
    sent = 0
    said = ""
    for _ in range(_ROUNDS):
        missing, differing = _compare(errand, archived, place, entries)
        _demand_replaceable(errand, place, differing)
        waiting = [*missing, *differing]
        if not waiting:
            return sent
        errand.journal.note(_journal_key(place), "begun")
        said = _send(errand, archived, place, waiting, overwrite=bool(differing))
        sent += len(waiting)
        if not said:
            return sent
        # A file may lie on the server's disk without being listed; a refresh brings disk and list together.
        errand.repository.refresh(archived)
    raise TargetUnavailable(
        f"filling {place} of {errand.target}: XNAT kept refusing (“{said}”)", safe=_SAFE, next_command="lading retry"
    )


def _compare(
    errand: Errand, archived: Archived, place: Place, entries: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """What is not there, and what is there with other content. Without a digest, size decides: reading back is stricter."""
    listed = errand.repository.files(place.base(archived), place.resource, scan=place.scan)
    if any(not file.md5 for file in listed) and errand.repository.refresh(archived):
        listed = errand.repository.files(place.base(archived), place.resource, scan=place.scan)
    there: Mapping[str, Stored] = {file.path: file for file in listed}
    missing, differing = [], []
    for entry in entries:
        stored = there.get(entry.path)
        if stored is None:
            missing.append(entry)
        elif stored.size != entry.size or (stored.md5 and stored.md5 != entry.digests.get("md5", stored.md5)):
            differing.append(entry)
    return missing, differing


def _demand_replaceable(errand: Errand, place: Place, differing: Sequence[Entry]) -> None:
    # What differs after we began is our own damaged upload; what differed before is somebody's work.
    if not differing or errand.route.overwrite or errand.journal.recall(_journal_key(place)):
        return
    names = ", ".join(entry.path for entry in differing[:3]) + (" …" if len(differing) > 3 else "")
    raise Refused(
        f"filling {place} of {errand.target}: XNAT holds other content under the same name: {names}",
        safe="Nothing was replaced. " + _SAFE,
        next_command="set overwrite = true for the route, or remove the files in XNAT, then: lading retry",
    )


def _journal_key(place: Place) -> str:
    return f"xnat.resource.{place.scan}.{place.resource}"


def _send(errand: Errand, archived: Archived, place: Place, entries: Sequence[Entry], *, overwrite: bool) -> str:
    """Send, one after the other. Returns "" or why the rest has to be compared and sent once more."""
    if len(entries) > errand.route.bulk_above:
        for part in _parts(entries, errand.route.part_mb << 20):
            said = _send_bulk(errand, archived, place, part, overwrite=overwrite)
            if said:
                return said
        return ""
    for entry in entries:
        said = _send_file(errand, archived, place, entry, overwrite=overwrite)
        if said:
            return said
    return ""


def _parts(entries: Sequence[Entry], limit: int) -> Iterable[Sequence[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        if part and size + entry.size > limit:
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.size
    if part:
        yield part


def _send_file(errand: Errand, archived: Archived, place: Place, entry: Entry, *, overwrite: bool) -> str:
    path = f"{place.base(archived)}{quoted('resources', place.resource, 'files')}/{quoted_path(entry.path)}"
    doing = f"uploading {entry.path} to {place} of {errand.target}"
    query = [("overwrite", "true")] if overwrite else []
    timeout = errand.server.upload_timeout
    if entry.size:
        response = errand.session.put(
            path,
            doing=doing,
            query=[("inbody", "true"), *query],
            body=lambda: opened(errand.root, entry, inbox=errand.inbox),
            content_type="application/octet-stream",
            timeout=timeout,
        )
    else:
        # XNAT takes an empty body for a missing one; a form field may be empty.
        name = entry.path.rpartition("/")[2].encode("utf-8", "replace").decode()
        response = errand.session.put(
            path, doing=doing, query=query, files=lambda: {"file": (name, io.BytesIO(b""))}, timeout=timeout
        )
    if response.status_code == 413:
        raise Refused(
            f"{doing}: the proxy before XNAT refuses a body of {entry.size:,} bytes (HTTP 413)",
            safe=_SAFE,
            next_command="raise the proxy's limit (client_max_body_size), then: lading retry",
        )
    return _judged(errand, response, doing)


def _send_bulk(errand: Errand, archived: Archived, place: Place, part: Sequence[Entry], *, overwrite: bool) -> str:
    """Many files as one archive, because each single upload makes XNAT read, hash and write its whole catalog."""
    path = f"{place.base(archived)}{quoted('resources', place.resource, 'files', 'lading-upload.tar')}"
    doing = f"uploading {len(part)} files to {place} of {errand.target}"
    query: Query = [("extract", "true"), ("inbody", "true")] + ([("overwrite", "true")] if overwrite else [])
    with scratch(errand.state / "uploads", ".tar", sum(entry.size for entry in part)) as archive:
        _write_tar(archive, errand, part)
        response = errand.session.put(
            path,
            doing=doing,
            query=query,
            body=lambda: archive.open("rb"),
            content_type="application/x-tar",
            timeout=errand.server.upload_timeout,
        )
    if response.status_code == 413 and len(part) > 1:
        middle = len(part) // 2
        return _send_bulk(errand, archived, place, part[:middle], overwrite=overwrite) or _send_bulk(
            errand, archived, place, part[middle:], overwrite=overwrite
        )
    if response.status_code == 413:
        return _send_file(errand, archived, place, part[0], overwrite=overwrite)
    return _judged(errand, response, doing)


def _write_tar(out: Path, errand: Errand, part: Sequence[Entry]) -> None:
    with tarfile.open(out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in part:
            info = tarfile.TarInfo(entry.path)
            info.size, info.mtime, info.mode = entry.size, entry.mtime_ns // 1_000_000_000, 0o644
            with opened(errand.root, entry, inbox=errand.inbox) as source:
                archive.addfile(info, source)


def _judged(errand: Errand, response: requests.Response, doing: str) -> str:
    """ "" for a file that was taken, a reason to compare once more, or the error."""
    if _is_another_writer(response):
        return errors.reason(response)
    demand(response, doing, errand.session.url)
    try:
        duplicates = json.loads(response.text).get("duplicates", []) if response.text.lstrip().startswith("{") else []
    except (ValueError, AttributeError):
        duplicates = []
    return f"there already: {', '.join(map(str, duplicates[:3]))}" if duplicates else ""


def _is_another_writer(response: requests.Response) -> bool:
    return response.status_code == 500 and _ANOTHER_WRITER in response.text.lower()
