"""Registers deliveries in XNAT and proves, file by file, that they are there. The other modules are its steps."""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import attrs

from lading.delivery import DeliveryId, FileOutcome, Labels, Parcel
from lading.disk import is_real_folder
from lading.errors import AccessDenied, Corrupted, Refused, TargetMissing
from lading.findings import Finding, note, warning
from lading.ports import ImportPlan, ImportRecord, Journal, Settings
from xnat_importer import dicom_import, readback, resources, withdrawn
from xnat_importer.contents import Contents, sort, unsorted
from xnat_importer.errand import Errand, Habit, Target
from xnat_importer.ownership import demand_ours, demand_same_study
from xnat_importer.session import XnatSession, as_query, quoted
from xnat_importer.settings import RepositorySettings, RouteSettings, repository_settings, route_settings
from xnat_importer.target import Archived, Found, Project, Repository, Stored, demand

# What XNAT keeps as it is; anything else it replaces by "_" in one place and refuses in another.
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOOK_IS_FRESH_S = 5.0
_REMEMBERED = 16
_REMEMBERED_FILES = 20_000
# Longer listings are read scan by scan: the memory that the answer takes is then that of the largest scan.
_LISTED_AT_ONCE = 5_000


class XnatImporter:
    """The Importer for one XNAT and one route. Safe to share between threads; each process logs in for itself."""

    def __init__(self, server: RepositorySettings, route: RouteSettings, *, inbox_root: Path, state: Path) -> None:
        self._server, self._route = server, route
        self._inbox_given, self._inbox_root, self._state = inbox_root, inbox_root.resolve(), state
        self._session = XnatSession(server)
        self._repository = Repository(self._session)
        self._habit = Habit()
        self._sorted: OrderedDict[tuple[str, str, str], Contents] = OrderedDict()
        self._looks: OrderedDict[DeliveryId, tuple[float, Found]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, repository_table: Settings, route_table: Settings, *, inbox_root: Path, state: Path) -> Self:
        """From `[repositories.NAME]` (without `kind` and `imports`) and `[routes.NAME.import]`. Raises ConfigError."""
        server = repository_settings(repository_table)
        route = route_settings(route_table)
        if route.route == "inbox" and not server.inbox_path:
            # Said to be read by the server, and nothing else said: both machines mount it at the same place.
            server = attrs.evolve(server, inbox_path=inbox_root.resolve().as_posix())
        return cls(server, route, inbox_root=inbox_root, state=state)

    def __repr__(self) -> str:
        return f"XnatImporter({self._server.url!r}, route={self._route.route!r})"

    @property
    def requests(self) -> int:
        """How many HTTP requests were made so far, for benchmarks."""
        return self._session.requests

    def close(self) -> None:
        """Log out."""
        self._session.close()

    def probe(self) -> None:
        """XNAT answers and lets us in."""
        if not self._session.is_logged_in():
            raise AccessDenied(
                f"logging in at {self._server.url}: XNAT takes us for a guest", next_command="lading doctor"
            )

    def probe_project(self, project: str) -> Project:
        """The project is there and may be edited, as far as reading can tell. Raises TargetMissing."""
        return self._editable(project, fresh=True)

    def plan(self, parcel: Parcel, skips: Mapping[str, str] | None = None) -> ImportPlan:
        """The preflight. `skips` maps files (paths) that a check leaves out to the reason; the plan carries it on."""
        labels = parcel.delivery.labels
        _demand_labels(parcel)
        _demand_copy(parcel)
        contents = self._contents(parcel, skips or {})
        project = self._editable(labels.project)
        target = self._target(parcel, contents, project, skips or {})
        findings = [*self._preflight_findings(target, contents, project)]
        found = self._look(parcel.delivery.id, target)
        if found.archived and not target.anonymised and found.archived.study != target.study:
            self._demand_marked(found.archived, target, parcel.delivery.id)
        return ImportPlan(tuple(self._steps(target, contents, project, found)), target.as_mapping(self._server.url),
                          tuple(findings))  # fmt: skip

    def run(self, parcel: Parcel, plan: ImportPlan, journal: Journal) -> ImportRecord:
        """See the role. The journal keeps the claim on the label and the id of the import request."""
        errand = self._errand(parcel, Target.from_mapping(plan.target), journal)
        if errand.contents.dicom:
            place = dicom_import.bring(errand, self._recent_look(parcel.delivery.id))
            archived, sent = place.archived, place.sent
        else:
            archived, sent = self._session_without_images(errand), 0
        if archived is None:
            return self._record(errand, None, sent)
        resources.mark(errand, archived)
        for resource, entries in resources.assign(errand.contents.companions, self._route).items():
            sent += resources.fill(errand, archived, resource, entries)
        return self._record(errand, archived, sent)

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterator[FileOutcome]:
        """See the role. XNAT is asked to read its disk again first; companions by MD5, DICOM by MD5 or by object."""
        wanted = Target.from_mapping(record.target)
        try:
            errand = self._errand(parcel, wanted, _NoJournal())
        except Corrupted:  # a file is gone: the copy was withdrawn
            yield from self._verify_withdrawn(parcel, wanted, record)
            return
        target, contents, repository = errand.target, errand.contents, errand.repository
        for entry, reason in contents.skipped:
            yield readback.filtered(entry, reason)
        archived = self._read_anew(target, record)
        stored = self._stored(errand, archived) if archived is not None else None
        if archived is not None and stored is not None:
            if contents.dicom:
                yield from readback.dicom(errand, contents.dicom, stored, lambda: self._rewrites(target.project))
            for place, entries in resources.assign(contents.companions, self._route).items():
                yield from readback.companions(errand, archived, place, entries)
            return
        found = repository.look(target.project, target.session, target.study, rewritten=target.anonymised)
        waiting = [file for session in found.waiting for file in repository.waiting_files(session)]
        yield from readback.dicom(errand, contents.dicom, waiting, lambda: self._rewrites(target.project))
        for entry in contents.companions:
            yield readback.missing(entry, "the session is not archived yet")

    def _verify_withdrawn(self, parcel: Parcel, target: Target, record: ImportRecord) -> Iterator[FileOutcome]:
        contents = unsorted(parcel, target.skips)
        errand = self._errand(parcel, target, _NoJournal(), contents)
        for entry, reason in contents.skipped:
            yield readback.filtered(entry, reason)
        yield from withdrawn.outcomes(errand, self._read_anew(target, record))

    def _read_anew(self, target: Target, record: ImportRecord) -> Archived | None:
        """The session, after XNAT has read its files again: the recorded one, or whichever has its label since that was deleted."""
        recorded = _as_recorded(record)
        if recorded is not None and self._repository.refresh(recorded):
            return recorded
        found = self._repository.archived(target.project, target.session)
        if found is not None and (recorded is None or found.id != recorded.id):
            self._repository.refresh(found)
        return found

    def _stored(self, errand: Errand, archived: Archived) -> list[Stored] | None:
        """The files of the session's scans, None when there is no such session of that subject.

        By project, subject and label, so that what is proven is also where people look for it.
        """
        target, repository, dicom = errand.target, errand.repository, errand.contents.dicom
        if 0 < len(dicom) <= _LISTED_AT_ONCE and not target.anonymised:
            listed = repository.files_of_scans(archived, target.project, target.subject, target.session)
            if readback.proves_all(dicom, listed):
                return listed
        # Not everything is there, byte for byte: what the single listing leaves out is asked for, scan by scan.
        scans = repository.scans_of(target.project, target.subject, target.session)
        if scans is None or not dicom:
            return None if scans is None else []
        return [file for scan in scans for file in repository.scan_files(archived, scan)]

    def _rewrites(self, project: str) -> bool:
        return bool(self._repository.anonymised_by(project))

    def _contents(self, parcel: Parcel, skips: Mapping[str, str]) -> Contents:
        key = (str(parcel.root), parcel.manifest.summary.digest, repr(sorted(skips.items())))
        with self._lock:
            known = self._sorted.get(key)
        if known is not None:
            return known
        contents = sort(parcel, skips)
        if parcel.manifest.summary.files <= _REMEMBERED_FILES:
            with self._lock:
                self._sorted[key] = contents
                while len(self._sorted) > _REMEMBERED:
                    self._sorted.popitem(last=False)
        return contents

    def _editable(self, name: str, *, fresh: bool = False) -> Project:
        project = self._repository.project(name, fresh=fresh)
        if not project.may_edit:
            raise TargetMissing(
                f"checking project {name} at {self._server.url}: our account {self._session.user!r} is a {project.role} there "
                "and may not add data; it must be a member or an owner",
                safe="Nothing was sent.",
                next_command="lading doctor",
            )
        return project

    def _target(self, parcel: Parcel, contents: Contents, project: Project, skips: Mapping[str, str]) -> Target:
        labels = parcel.delivery.labels
        if len(contents.studies) > 1:
            raise Refused(
                f"importing {labels}: the session holds {len(contents.studies)} studies ({', '.join(contents.studies[:3])}); "
                "XNAT would make several sessions of one label",
                safe="Nothing was sent. The files are in the inbox.",
                next_command=f"lading show {parcel.delivery.id}",
            )
        hidden = resources.unlistable(contents.companions)
        if hidden:
            raise Refused(
                f"importing {labels}: XNAT never lists files of such names, so nobody could prove them: "
                f"{', '.join(hidden[:3])}",
                safe="Nothing was sent. The files are in the inbox.",
                next_command="exclude them in the route or rename them at the source",
            )
        return Target(
            project=labels.project,
            subject=labels.participant,
            session=self._session_label(labels),
            study=contents.studies[0] if contents.studies else "",
            server_path=self._server_path(parcel, contents),
            anonymised=bool(project.anonymised_by),
            auto_archives=project.auto_archives,
            skips=skips,
        )

    def _session_label(self, labels: Labels) -> str:
        label = self._route.session_label.format(**labels.as_dict())
        if not _LABEL.fullmatch(label):
            raise Refused(
                f"importing {labels}: the session label {label!r} is longer than the 64 characters that XNAT takes",
                safe="Nothing was sent. The files are in the inbox.",
                next_command="shorten import.session_label of the route, then: lading retry",
            )
        return label

    def _server_path(self, parcel: Parcel, contents: Contents) -> str:
        """The published folder as the server sees it, "" when the files are to be uploaded."""
        if self._route.route == "upload" or not self._server.inbox_path or not contents.dicom or contents.skips_dicom:
            return ""
        root = parcel.root.resolve()
        if parcel.published and root.is_relative_to(self._inbox_root):
            return f"{self._server.inbox_path.rstrip('/')}/{root.relative_to(self._inbox_root).as_posix()}"
        if self._route.route == "inbox":
            raise Refused(
                f"importing {parcel.delivery.labels}: {parcel.root} is not a published folder of the inbox {self._inbox_root}",
                safe="The files are in the inbox.",
                next_command="lading retry",
            )
        return ""

    def _preflight_findings(self, target: Target, contents: Contents, project: Project) -> Iterator[Finding]:
        twin = self._repository.subject_twin(target.project, target.subject)
        if twin:
            raise Refused(
                f"importing {target}: the project has a participant {twin!r}; XNAT does not tell the two apart by case "
                "and would file the session under that one",
                safe="Nothing was sent. The files are in the inbox.",
                next_command=f"lading fix DELIVERY --participant {twin}",
            )
        if project.anonymised_by:
            yield note(
                "xnat-anonymises",
                f"XNAT rewrites DICOM headers here ({' and '.join(project.anonymised_by)} script): bytes will differ; "
                "objects are compared by SOPInstanceUID and pixel data",
            )
            if contents.companions:
                yield warning(
                    "companions-not-anonymised",
                    f"{len(contents.companions)} non-DICOM files go to XNAT unchanged: its anonymisation does not touch them",
                    hint="make sure that they name no patient",
                )

    def _look(self, delivery: DeliveryId, target: Target) -> Found:
        found = self._repository.look(target.project, target.session, target.study, rewritten=False)
        with self._lock:
            self._looks[delivery] = (time.monotonic(), found)
            while len(self._looks) > _REMEMBERED:
                self._looks.popitem(last=False)
        return found

    def _recent_look(self, delivery: DeliveryId) -> Found | None:
        """The look of a plan made a moment ago; once only, and only if there was nothing to find."""
        with self._lock:
            at, found = self._looks.pop(delivery, (0.0, Found(None, ())))
        return found if at and not found and time.monotonic() - at < _LOOK_IS_FRESH_S else None

    def _steps(self, target: Target, contents: Contents, project: Project, found: Found) -> Iterator[str]:
        size = sum(file.entry.size for file in contents.dicom)
        if found.archived:
            yield f"XNAT holds a session {target.session} in {target.project} already: compare, send only what is missing"
        if found.waiting:
            yield f"carry on with {len(found.waiting)} session(s) of this study in the prearchive"
        if contents.dicom and target.server_path:
            yield f"let XNAT import {len(contents.dicom)} DICOM files ({size:,} bytes) from {target.server_path}"
        elif contents.dicom:
            yield f"upload {len(contents.dicom)} DICOM files ({size:,} bytes)"
        else:
            yield f"create session {target.session} ({self._route.session_type}), there is no DICOM"
        if contents.dicom and self._route.archive == "never":
            yield "leave it in the prearchive for a person to archive"
        elif contents.dicom and project.auto_archives and self._route.archive == "auto":
            yield "wait until the project has archived it"
        elif contents.dicom:
            yield "archive it"
        for place, entries in resources.assign(contents.companions, self._route).items():
            yield f"put {len(entries)} other files into {place}"
        for entry, reason in contents.skipped[:20]:
            yield f"leave out {entry.path}: {reason}"
        yield "read every file back and compare"

    def _errand(self, parcel: Parcel, target: Target, journal: Journal, contents: Contents | None = None) -> Errand:
        return Errand(
            repository=self._repository,
            server=self._server,
            route=self._route,
            delivery=parcel.delivery.id,
            root=parcel.root,
            inbox=self._inbox_given,
            target=target,
            contents=contents or self._contents(parcel, target.skips),
            journal=journal,
            state=self._state,
            habit=self._habit,
        )

    def _session_without_images(self, errand: Errand) -> Archived:
        target = errand.target
        found = errand.repository.archived(target.project, target.session)
        if found is not None:
            demand_ours(errand, found)
            return found
        errand.claim()
        subject = quoted("data", "projects", target.project, "subjects", target.subject)
        doing = f"creating subject {target.subject} in project {target.project}"
        demand(self._session.put(subject, doing=doing), doing, self._server.url)
        doing = f"creating session {target}"
        response = self._session.put(
            f"{subject}{quoted('experiments', target.session)}",
            doing=doing,
            query=as_query({"xsiType": self._route.session_type, "req_format": "qs",
                            f"{self._route.session_type}/label": target.session}),
        )  # fmt: skip
        demand(response, doing, self._server.url)
        created = errand.repository.archived(target.project, target.session)
        if created is None:
            raise Refused(
                f"{doing}: XNAT answered {response.status_code} and does not show the session",
                safe="The files are in the inbox.",
                next_command="lading retry",
            )
        return created

    def _demand_marked(self, archived: Archived, target: Target, delivery: DeliveryId) -> None:
        if not self._repository.delivery_is_marked(archived, delivery):
            demand_same_study(target, archived, delivery)

    def _record(self, errand: Errand, archived: Archived | None, sent: int) -> ImportRecord:
        values = errand.target.as_mapping(self._server.url)
        if archived is not None:
            values |= {
                "place": "archive",
                "experiment": archived.id,
                "uri": f"{self._server.url}/data/experiments/{archived.id}",
            }
        else:
            values["place"] = "prearchive"
        return ImportRecord(values, already_there=sent == 0)


def _as_recorded(record: ImportRecord) -> Archived | None:
    values = record.target
    if not values.get("experiment"):
        return None
    return Archived(values["project"], values["experiment"], values["session"], "", values.get("study", ""))


class _NoJournal:
    """Verifying notes nothing and relies on nothing noted."""

    def note(self, key: str, value: str) -> None:
        """Do nothing."""

    def recall(self, key: str) -> str | None:  # noqa: ARG002
        """Nothing."""
        return None


def _demand_copy(parcel: Parcel) -> None:
    if not is_real_folder(parcel.root):
        raise Refused(
            f"importing {parcel.delivery.labels}: the copy in the inbox was withdrawn",
            safe="What XNAT holds stays as it is.",
            next_command="send the session again from its source: what XNAT holds of it is not sent",
        )


def _demand_labels(parcel: Parcel) -> None:
    labels = parcel.delivery.labels
    for kind, value in labels.as_dict().items():
        if not _LABEL.fullmatch(value):
            raise Refused(
                f"importing {labels}: {kind} {value!r} is no XNAT label (letters, digits, _ and - only, up to 64); XNAT would "
                "change it, and two labels could become one",
                safe="Nothing was sent. The files are in the inbox.",
                next_command=f"lading fix {parcel.delivery.id} --{kind} {re.sub(r'[^A-Za-z0-9_-]', '_', value)[:64] or 'LABEL'}",
            )
