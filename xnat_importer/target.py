"""What XNAT holds where a delivery belongs: project, archived session, prearchive, files. Reads only."""

import hashlib
import io
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from lading.errors import TargetMissing, TargetUnavailable
from xnat_importer import errors
from xnat_importer.dicom import Identity, identity_of
from xnat_importer.session import Query, XnatSession, quoted, quoted_path, unquoted

MARK_RESOURCE = "LADING"
_JSON = (("format", "json"),)
_PROJECT_FRESH_S = 60.0
# "delete" drops entries, never files, whose file is gone: they would be listed with their old digest for ever. A missing disk
# cannot empty a catalog that way, because the catalog lies on it.
_REFRESH = "append,delete,checksum"
_SHORT_REST = 512 << 10
# Enough for the header of nearly every image; longer ones (private sequences) take more.
_HEADER_BYTES = (64 << 10, 4 << 20)

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Project:
    """A project as our account sees it. `role` is "" when the members' list does not name us (administrators, groups)."""

    id: str
    role: str
    auto_archives: bool
    anonymised_by: tuple[str, ...]

    @property
    def may_edit(self) -> bool:
        """Whether the list of members leaves room for writing. The proof is the first write."""
        return self.role != "collaborator"


@dataclass(frozen=True, slots=True)
class Archived:
    """A session in the archive. `project` is its own, which is another one where it is only shared into ours."""

    project: str
    id: str
    label: str
    subject_id: str
    study: str

    @property
    def path(self) -> str:
        """Where its parts are asked for."""
        return quoted("data", "experiments", self.id)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session in the prearchive. `uri` is its path with /data; `study` is its StudyInstanceUID."""

    uri: str
    project: str
    name: str
    subject: str
    study: str
    status: str
    changed: str
    auto_archives: bool

    @property
    def path(self) -> str:
        """The URI, quoted."""
        return "/" + quoted_path(self.uri.strip("/"))


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that XNAT lists. `path` is its name inside the resource; `md5` is "" when XNAT shows no digest."""

    uri: str
    path: str
    size: int
    md5: str
    scan: str = ""
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One look at both places at once."""

    archived: Archived | None
    waiting: tuple[Waiting, ...]

    def __bool__(self) -> bool:
        return self.archived is not None or bool(self.waiting)


class Repository:
    """Questions to one XNAT. All of them raise TargetUnavailable and AccessDenied; what else is said on the method."""

    def __init__(self, session: XnatSession) -> None:
        self.session = session
        self._projects: dict[str, tuple[float, Project]] = {}
        self._subjects: dict[str, tuple[float, dict[str, set[str]]]] = {}
        self._lock = threading.Lock()

    def project(self, name: str, *, fresh: bool = False) -> Project:
        """The project. Asked again after a minute. Raises TargetMissing when it is absent or hidden from us."""
        with self._lock:
            known = self._projects.get(name)
        if known and not fresh and time.monotonic() - known[0] < _PROJECT_FRESH_S:
            return known[1]
        found = self._project(name)
        with self._lock:
            self._projects[name] = (time.monotonic(), found)
        return found

    def look(self, project: str, label: str, study: str, *, rewritten: bool = False) -> Found:
        """The session in archive and prearchive. With `rewritten`, a prearchive session of that label counts whatever its
        study: anonymisation may have replaced the identifier. Raises TargetMissing.
        """
        logins = self.session.logins
        archived = self._archived(project, label, believe_404=True)
        waiting = self._waiting(project)
        if self.session.logins != logins and archived is None:
            # The login was lost in between or before: that 404 may have been meant for a guest.
            archived = self._archived(project, label)
        if waiting is not None:
            ours = tuple(w for w in waiting if w.name == label and (rewritten or not study or w.study == study))
            return Found(archived, ours)
        raise TargetMissing(
            f"reading the prearchive of project {project} at {self.session.url}: our account may not edit this project",
            next_command="lading doctor",
        )

    def archived(self, project: str, label: str) -> Archived | None:
        """The session in the archive, read anew."""
        return self._archived(project, label)

    def subject_id(self, project: str, label: str) -> str:
        """XNAT's own id of a subject, "" when there is none of exactly that label."""
        response = self.session.get(
            quoted("data", "projects", project, "subjects", label), doing=f"reading subject {label}", query=_JSON
        )
        if response.status_code == 404:
            return ""
        return _fields(self._demand(response, f"reading subject {label}")).get("ID", "")

    def subject_twin(self, project: str, label: str) -> str:
        """A subject whose label differs from `label` by case only: XNAT would file the session under that one. "" if none.

        The project's list is read once a minute, and `label` is added to what is known.
        """
        with self._lock:
            read, known = self._subjects.get(project, (0.0, {}))
        if not known or time.monotonic() - read > _PROJECT_FRESH_S:
            path = quoted("data", "projects", project, "subjects")
            doing = f"listing the subjects of {project}"
            response = self.session.get(path, doing=doing, query=[*_JSON, ("columns", "ID,label")])
            known = {}
            for row in self._table(response, doing):
                known.setdefault(row.get("label", "").lower(), set()).add(row.get("label", ""))
            read = time.monotonic()
        with self._lock:
            same = known.setdefault(label.lower(), {label})
            twin = "" if label in same else min(same)
            self._subjects[project] = (read, known)
        return twin

    def scans_of(self, project: str, subject: str, session: str) -> list[str] | None:
        """The ids of the scans of that subject's session, None when the subject has no such session."""
        doing = f"listing the scans of {project}/{subject}/{session}"
        path = quoted("data", "projects", project, "subjects", subject, "experiments", session, "scans")
        response = self.session.get(path, doing=doing, query=_JSON)
        return None if response.status_code == 404 else [row["ID"] for row in self._table(response, doing)]

    def files_of_scans(self, archived: Archived, project: str, subject: str, session: str) -> list[Stored]:
        """The files of all scans of that subject's session in one listing, as far as they are those of `archived`.

        A short cut: empty, and not an error, when XNAT answers in any other way. `scans_of` and `scan_files` tell why.
        """
        doing = f"listing the files of {project}/{subject}/{session}"
        base = quoted("data", "projects", project, "subjects", subject, "experiments", session)
        response = self.session.get(f"{base}/scans/ALL/files", doing=doing, query=_JSON, believe_404=True)
        if response.status_code != 200:
            return []
        try:
            rows = self._table(response, doing)
        except TargetUnavailable:
            return []
        ours = re.compile(rf"/experiments/{re.escape(archived.id)}/scans/([^/]+)/resources/")
        found = ((ours.search(row.get("URI", "")), row) for row in rows)
        return [_stored(row, unquoted(match[1]), row.get("collection", "")) for match, row in found if match]

    def scans(self, archived: Archived) -> list[str]:
        """The ids of the session's scans."""
        return [row["ID"] for row in self._rows(f"{archived.path}/scans", f"listing the scans of {archived.label}")]

    def scan_files(self, archived: Archived, scan: str) -> Iterator[Stored]:
        """Every file of one scan, as the catalogs say."""
        base = f"{archived.path}{quoted('scans', scan)}"
        for row in self._rows(f"{base}/resources", f"listing scan {scan} of {archived.label}"):
            yield from self.files(base, row["label"] or row["xnat_abstractresource_id"], scan=scan)

    def files(self, base: str, resource: str, *, scan: str = "") -> list[Stored]:
        """The files of one resource of the owner at `base` (quoted); empty when there is no such resource."""
        path = f"{base}{quoted('resources', resource, 'files')}"
        response = self.session.get(path, doing=f"listing resource {resource}", query=_JSON)
        if response.status_code == 404:
            return []
        return [_stored(row, scan, resource) for row in self._table(response, f"listing resource {resource}")]

    def waiting_files(self, waiting: Waiting) -> Iterator[Stored]:
        """The DICOM files of a prearchive session. There are no digests in the prearchive."""
        doing = f"listing {waiting.name} in the prearchive"
        for scan in self._rows(f"{waiting.path}/scans", doing):
            base = f"{waiting.path}{quoted('scans', scan['ID'])}/resources"
            for row in self._rows(base, doing):
                for file in self._rows(f"{base}{quoted(row['label'], 'files')}", doing):
                    yield _stored(file, scan["ID"], row["label"])

    def waiting_log(self, waiting: Waiting) -> str:
        """What XNAT's log says last about a prearchive session, in one line."""
        response = self.session.get(f"{waiting.path}/logs/last", doing=f"reading the log of {waiting.name}")
        return errors.reason(response) if response.status_code == 200 else ""

    def delivery_is_marked(self, archived: Archived, delivery: str) -> bool:
        """Whether the session carries the mark of that delivery."""
        return any(file.path == mark_name(delivery) for file in self.files(archived.path, MARK_RESOURCE))

    def refresh(self, archived: Archived) -> bool:
        """Make XNAT read the files of the session again, all of them. False when we may not ask for that, or it is gone.

        A proxy may lose patience while XNAT hashes a large session; then it is asked scan by scan.
        """
        try:
            return self._refresh(archived, "")
        except TargetUnavailable:
            parts = [quoted("scans", scan) for scan in self.scans(archived)]
            rows = self._rows(f"{archived.path}/resources", f"listing the resources of {archived.label}")
            parts += [quoted("resources", row["label"]) for row in rows if row["label"]]
            return all(self._refresh(archived, part) for part in parts)

    def _refresh(self, archived: Archived, part: str) -> bool:
        doing = f"asking XNAT to read {archived.label}{part} again"
        response = self.session.post(
            "/data/services/refresh/catalog",
            doing=doing,
            query=[("resource", f"/archive/experiments/{archived.id}{part}"), ("options", _REFRESH)],
            timeout=3600,
        )
        if response.status_code in (403, 404):
            return False
        self._demand(response, doing)
        return True

    def download(self, uri: str, to: Path) -> str | None:
        """Write a stored file to `to`; its SHA-256, None when it is not there. Raises OSError for our own disk."""
        digest = hashlib.sha256()
        with self.session.stream(_uri_path(uri), doing=f"reading back {uri}") as response, to.open("wb") as out:
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise errors.from_response(response, doing=f"reading back {uri}", url=self.session.url)
            for block in response.iter_content(1 << 20):
                digest.update(block)
                out.write(block)
        return digest.hexdigest()

    def identity(self, uri: str) -> Identity | None:
        """Who the stored DICOM object is, from the bytes XNAT serves. None when it is not there or not readable."""
        with self.session.stream(_uri_path(uri), doing=f"reading the header of {uri}") as response:
            if response.status_code == 404:
                return None
            if response.status_code != 200:
                raise errors.from_response(response, doing=f"reading the header of {uri}", url=self.session.url)
            content = b""
            # Not a ranged request: proxies and old Tomcats answer those differently. The connection is dropped instead.
            blocks = response.iter_content(32 << 10)
            for wanted in _HEADER_BYTES:
                for block in blocks:
                    content += block
                    if len(content) >= wanted:
                        break
                found = identity_of(io.BytesIO(content))
                if found:
                    # A short rest is read out, so that the connection serves the next file.
                    if int(response.headers.get("Content-Length", 1 << 30)) - len(content) < _SHORT_REST:
                        deque(blocks, maxlen=0)
                    return found
        return None

    def _project(self, name: str) -> Project:
        path = quoted("data", "projects", name)
        response = self.session.get(path, doing=f"reading project {name}", query=_JSON)
        if response.status_code in (403, 404):
            raise TargetMissing(
                f"reading project {name} at {self.session.url}: there is no such project, or our account may not see it",
                safe="Nothing was sent.",
                next_command="lading doctor",
            )
        self._demand(response, f"reading project {name}")
        code = self.session.get(f"{path}/prearchive_code", doing=f"reading the policy of project {name}")
        return Project(
            name,
            role=self._role(name),
            auto_archives=code.status_code == 200 and code.text.strip() in ("4", "5"),
            anonymised_by=self.anonymised_by(name),
        )

    def anonymised_by(self, project: str) -> tuple[str, ...]:
        """Which scripts ("site", "project") rewrite DICOM headers. One that we are not allowed to ask for counts as on."""
        found = []
        for name, path in (
            ("site", "/xapi/anonymize/site/enabled"),
            ("project", quoted("xapi", "anonymize", "projects", project, "enabled")),
        ):
            response = self.session.get(path, doing=f"asking whether the {name} anonymises")
            if response.status_code >= 500:
                raise errors.from_response(
                    response, doing=f"asking whether the {name} anonymises", url=self.session.url
                )
            # 404: a version without that switch, or a project that never set one.
            if response.status_code != 404 and not (response.status_code == 200 and _says_no(response)):
                found.append(name)
        return tuple(found)

    def _role(self, project: str) -> str:
        response = self.session.get(
            quoted("data", "projects", project, "users"), doing=f"listing the members of {project}", query=_JSON
        )
        if response.status_code != 200:
            return ""
        user = self.session.user
        for row in self._table(response, f"listing the members of {project}"):
            if row.get("login", "").lower() == user.lower():
                return (row.get("GROUP_ID", "").rpartition("_")[2] or row.get("displayname", "").rstrip("s")).lower()
        return ""

    def _archived(self, project: str, label: str, *, believe_404: bool = False) -> Archived | None:
        doing = f"looking for session {label} in project {project}"
        response = self.session.get(
            quoted("data", "projects", project, "experiments", label), doing=doing, query=_JSON, believe_404=believe_404
        )
        if response.status_code == 404:
            return None
        fields = _fields(self._demand(response, doing))
        if not fields.get("ID"):
            raise TargetUnavailable(f"{doing} at {self.session.url}: the answer names no session")
        if fields.get("label", label).lower() != label.lower():
            return None  # found by its ID, which happens to be our label
        return Archived(
            fields.get("project", project), fields["ID"], label, fields.get("subject_ID", ""), fields.get("UID", "")
        )

    def _waiting(self, project: str) -> list[Waiting] | None:
        doing = f"reading the prearchive of project {project}"
        response = self.session.get(quoted("data", "prearchive", "projects", project), doing=doing, query=_JSON)
        if response.status_code in (403, 404):
            return None
        return [
            Waiting(
                uri="/data" + row["url"].removeprefix("/data"),
                project=row["project"],
                name=row["name"] or row.get("folderName", ""),
                subject=row.get("subject", ""),
                study=row.get("tag", ""),
                status=row["status"],
                changed=row.get("lastmod", ""),
                auto_archives=row.get("autoarchive", "").lower().startswith("auto"),
            )
            for row in self._table(response, doing)
            if row.get("project") == project
        ]

    def _rows(self, path: str, doing: str) -> list[Row]:
        return self._table(self.session.get(path, doing=doing, query=_JSON), doing)

    def _demand(self, response: requests.Response, doing: str) -> requests.Response:
        return demand(response, doing, self.session.url)

    def _table(self, response: requests.Response, doing: str) -> list[Row]:
        self._demand(response, doing)
        try:
            return [{k: str(v) for k, v in row.items()} for row in response.json()["ResultSet"]["Result"]]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise TargetUnavailable(
                f"{doing} at {self.session.url}: the answer is not the table that was asked for",
                next_command="lading retry",
            ) from exc


def demand(response: requests.Response, doing: str, url: str) -> requests.Response:
    """`response` when it is a success, else raises what its status stands for."""
    if response.status_code not in (200, 201):
        raise errors.from_response(response, doing=doing, url=url)
    return response


def uri_list(response: requests.Response) -> list[str]:
    """The URIs of a `text/uri-list`, with /data and without quoting."""
    found = []
    for line in response.text.split():
        path = line[line.index("/", 8) :] if line.startswith(("http://", "https://")) else line
        found.append(unquoted(path if path.startswith(("/data", "/xapi")) else "/data" + path))
    return found


def mark_name(delivery: str) -> str:
    """The file that says a session belongs to a delivery."""
    return f"delivery-{delivery}.json"


def with_md5(files: Sequence[Stored]) -> dict[str, Stored]:
    """By digest, blank ones left out."""
    return {file.md5: file for file in files if file.md5}


def _stored(row: Row, scan: str, resource: str) -> Stored:
    uri = row["URI"]
    name = unquoted(uri.partition("/files/")[2]) or row.get("Name", "")
    size = row.get("Size", "")
    return Stored(uri, name, int(size) if size.isdigit() else -1, row.get("digest", "").lower(), scan, resource)


def _uri_path(uri: str) -> str:
    """A file's URI as XNAT gave it, quoted exactly once: versions differ in whether they quote."""
    plain = unquoted(uri)
    # Some versions put the server's own context path in front; it is part of our URL already.
    return "/" + quoted_path(plain[max(plain.find("/data/"), 0) :].strip("/"))


def _fields(response: requests.Response) -> Row:
    try:
        fields = response.json()["items"][0]["data_fields"]
        return {str(key): str(value) for key, value in fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return {}


def _says_no(response: requests.Response) -> bool:
    return response.text.strip().lower() in ("false", '"false"')


__all__ = ["MARK_RESOURCE", "Archived", "Found", "Project", "Query", "Repository", "Stored", "Waiting"]
