"""Registers deliveries in OMERO and proves, file by file, that they are there. The other modules are its steps."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Self

import attrs
import structlog

from lading.delivery import FileOutcome, Labels, Parcel
from lading.errors import Rejected, TargetMissing
from lading.findings import Finding, error, refuses
from lading.manifest import Entry
from lading.ports import ImportPlan, ImportRecord, Journal, Settings
from omero_importer import decided, target
from omero_importer.bioformats import bioformats
from omero_importer.decided import Decided
from omero_importer.errand import Errand
from omero_importer.filesets import Decide, FilesetsDecision, Place
from omero_importer.lacking import lacking
from omero_importer.readback import Proof
from omero_importer.session import Connection, Sessions, Who
from omero_importer.session_in_hand import SessionInHand
from omero_importer.settings import RepositorySettings, RouteSettings, repository_settings, route_settings
from omero_importer.sources import Source
from omero_importer.target import Address, Container, Targets
from omero_importer.underway import Interrupted
from omero_importer.used_files import UsedFiles
from omero_importer.valve import Valve

_REMEMBERED = 4
_REMEMBERED_FILES = 50_000
_FILES_PER_FILESET = 50_000
_log = structlog.get_logger("omero_importer")

_shared_bioformats = lru_cache(bioformats)
"""One JVM for all routes of a process."""


class OmeroImporter:
    """The Importer for one OMERO and one route. Safe to share between threads; each process logs in for itself."""

    def __init__(
        self,
        server: RepositorySettings,
        route: RouteSettings,
        *,
        state: Path,
        in_hand: SessionInHand | None = None,
        decide: Decide | None = None,
        inbox: Path | None = None,
    ) -> None:
        self._server, self._route, self._inbox = server, route, inbox
        self._targets = Targets(route, state / "locks")
        self.valve = Valve(state, f"{server.host}:{server.port}", server.valve)
        self._sessions = Sessions(server, in_hand, on_busy=self.valve.saw_back_off)
        self._decide = decide or UsedFiles(route.files, _shared_bioformats(server.bioformats))
        self._decided: OrderedDict[tuple[str, str, str], FilesetsDecision] = OrderedDict()
        self._kept = Decided(state)
        self._interrupted = Interrupted()
        self._lock = threading.Lock()
        if not server.ssl.verify and server.plain == "no":
            _log.warning("the certificate is not verified (ssl.verify = false)", server=self._sessions.server)

    @classmethod
    def from_settings(
        cls,
        repository_table: Settings,
        route_table: Settings,
        *,
        inbox_root: Path,
        state: Path,
    ) -> Self:
        """From `[repositories.NAME]` (without `kind` and `imports`) and `[routes.NAME.import]`. Raises ConfigError."""
        server, in_hand = repository_settings(repository_table)
        return cls(server, route_settings(route_table), state=state, in_hand=in_hand, inbox=inbox_root)

    def __repr__(self) -> str:
        return f"OmeroImporter({self._sessions.server!r})"

    def close(self) -> None:
        """Log out."""
        self._sessions.close()

    def lacking(self) -> Iterator[Finding]:
        """Bio-Formats, and for the engine cli what `omero import` needs."""
        return lacking(self._server, self._route)

    def probe(self) -> None:
        """OMERO answers, lets us in, has its repository ready, and is not in trouble."""
        self.valve.demand_open()
        self._sessions.run(Who(), "logging in", lambda connection: connection.repository())

    def probe_project(self, project: str) -> Container | None:
        """The route's targets for PROJECT can be filled, as far as reading can tell; None where the project is still to be made.

        Owner and group are looked up too, where the template needs no more than the project. Raises TargetMissing.
        """
        where = target.address(self._route, Labels(project, "participant", "session"))
        needs_more = any(
            f"{{{label}}}" in text
            for label in ("participant", "session", "sender")
            for text in (self._route.owner, self._route.group, self._route.project)
        )
        if needs_more or where.screen:
            return None
        return self._sessions.run(
            where.who,
            f"looking for project {where.project}",
            lambda connection: self._targets.look_for_project(connection, where.project),
        )

    def plan(self, parcel: Parcel, skips: Mapping[str, str] | None = None) -> ImportPlan:
        """The preflight. `skips` maps files (paths) that a check leaves out to the reason; the plan carries it on."""
        where = target.address(self._route, parcel.delivery.labels, parcel.delivery.sender)
        self.valve.demand_open()
        entries = _entries(parcel)
        errand = self._errand(
            parcel, entries, where, self._decision_to_import(parcel, entries, skips or {}), _NoJournal()
        )
        findings = (*errand.decision.findings, *_too_large(errand.decision))
        if refuses(findings):
            return ImportPlan((), self._as_target(where, skips or {}), findings)

        def look(connection: Connection) -> tuple[str, ...]:
            found = self._targets.look(connection, where)
            return tuple(errand.steps(found, errand.free_marks(connection)))

        steps = self._sessions.run(where.who, f"looking for {where}", look)
        return ImportPlan(steps, self._as_target(where, skips or {}), findings)

    def run(self, parcel: Parcel, plan: ImportPlan, journal: Journal) -> ImportRecord:
        """See the role. Everything that is begun in OMERO carries the delivery's mark: the journal is not needed to find it."""
        where, skips = self._from_target(plan.target)
        entries = _entries(parcel)
        errand = self._errand(parcel, entries, where, self._decision_to_import(parcel, entries, skips), journal)
        if refuses(findings := (*errand.decision.findings, *_too_large(errand.decision))):
            raise Rejected(f"importing {parcel.delivery.labels}: OMERO would not take it", findings=findings)
        self._kept.keep(parcel, errand.decision)
        doing = f"importing {parcel.delivery.labels}"
        place = self._sessions.run(where.who, doing, errand.bring, cut_off=errand.cut_off)
        values = {
            **self._as_target(where, skips),
            "place_kind": place.kind,
            "place_id": str(place.id),
            "prefix": place.prefix,
            "uri": self._uri(place),
        }
        return ImportRecord(values, already_there=errand.sent.nothing)

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterator[FileOutcome]:
        """See the role. Over a login of its own; by OMERO's checksums, images and links. Needs the manifest, and no file of it.

        With a person's session: what that person may see in all of their groups; the server is not asked to read its disk.
        """
        in_person = self._sessions.in_person
        return self._read_back(parcel, record, attrs.evolve(self._route, reread=False) if in_person else self._route)

    def reread(self, parcel: Parcel, record: ImportRecord) -> Iterator[FileOutcome]:
        """As `verify`, and the server reads every file from its disk again (`verifyChecksums`), whatever the route says."""
        return self._read_back(parcel, record, attrs.evolve(self._route, reread=True))

    def _read_back(self, parcel: Parcel, record: ImportRecord, route: RouteSettings) -> Iterator[FileOutcome]:
        where, skips = self._from_target(record.target)
        in_person = self._sessions.in_person
        entries = _entries(parcel)
        decision = self._kept.recall(parcel, entries.keys())
        if decision is None and not in_person and decided.lies_here(parcel):
            decision = self._decision(parcel, skips)
        errand = self._errand(parcel, entries, where, decision or FilesetsDecision(()), _NoJournal())
        doing = f"reading {parcel.delivery.labels} back"
        with self._sessions.fresh(Who() if in_person else where.who, doing) as connection:
            if in_person:
                connection.look_everywhere()
            place = self._place(connection, errand, record)
            marks = errand.marks(connection)
            if decision is None:
                decision = decided.as_held(connection, marks, place, parcel, skips)
            ids, deliveries = tuple(mark.id for mark in marks), tuple(mark.delivery for mark in marks)
            number = parcel.delivery.id
            yield from Proof(connection, errand.source, decision, place, number, ids, deliveries, route).outcomes()
            yield from decided.unheld(entries.values(), decision)

    def _place(self, connection: Connection, errand: Errand, record: ImportRecord) -> Place:
        values = record.target
        # A person's copy of the record comes from an inbox; the kind becomes a word of a query.
        if values.get("place_id", "").isdecimal() and values.get("place_kind") in ("Dataset", "Screen"):
            return Place(values["place_kind"], int(values["place_id"]), 0, values.get("prefix", errand.prefix))
        found = self._targets.look(connection, errand.address)
        if found is None:
            raise TargetMissing(
                f"reading {errand.parcel.delivery.labels} back from {connection.server}: there is no {errand.address}",
                next_command="lading retry",
            )
        return errand.place(found, 0)

    def _errand(
        self,
        parcel: Parcel,
        entries: Mapping[str, Entry],
        where: Address,
        decision: FilesetsDecision,
        journal: Journal,
    ) -> Errand:
        return Errand(
            parcel=parcel,
            source=Source(parcel.root, entries, self._inbox),
            decision=decision,
            address=where,
            settings=self._server,
            route=self._route,
            targets=self._targets,
            valve=self.valve,
            journal=journal,
            interrupted=self._interrupted,
        )

    def _decision_to_import(
        self, parcel: Parcel, entries: Mapping[str, Entry], skips: Mapping[str, str]
    ) -> FilesetsDecision:
        """Of a parcel that was withdrawn, what was decided then: links and annotations can still be mended."""
        kept = None if decided.lies_here(parcel) else self._kept.recall(parcel, entries.keys())
        return kept or self._decision(parcel, skips)

    def _decision(self, parcel: Parcel, skips: Mapping[str, str]) -> FilesetsDecision:
        """Asking Bio-Formats takes its time: plan, run and verify share what it said."""
        key = (str(parcel.root), parcel.manifest.summary.digest, repr(sorted(skips.items())))
        with self._lock:
            known = self._decided.get(key)
        if known is not None:
            return known
        made = self._decide(parcel, skips)
        if parcel.manifest.summary.files <= _REMEMBERED_FILES:
            with self._lock:
                self._decided[key] = made
                while len(self._decided) > _REMEMBERED:
                    self._decided.popitem(last=False)
        return made

    def _as_target(self, where: Address, skips: Mapping[str, str]) -> dict[str, str]:
        return {
            "kind": "omero",
            "url": self._sessions.server,
            "owner": where.who.owner,
            "group": where.who.group,
            "project": where.project,
            "dataset": where.dataset,
            "screen": where.screen,
            "skips": json.dumps(dict(skips)) if skips else "",
        }

    def _from_target(self, values: Mapping[str, str]) -> tuple[Address, dict[str, str]]:
        address = Address(
            Who(values.get("owner", ""), values.get("group", "")),
            values.get("project", ""),
            values.get("dataset", ""),
            values.get("screen", ""),
        )
        return address, json.loads(values.get("skips") or "{}")

    def _uri(self, place: Place) -> str:
        if self._server.web:
            return f"{self._server.web.rstrip('/')}/webclient/?show={place.kind.lower()}-{place.id}"
        return f"omero://{self._sessions.server}/{place.kind}:{place.id}"


def _entries(parcel: Parcel) -> dict[str, Entry]:
    """The lines of the manifest by path: each question about them reads them from here."""
    return {entry.path: entry for entry in parcel.manifest}


def _too_large(decision: FilesetsDecision) -> Iterator[Finding]:
    for plan in decision.filesets:
        if len(plan.files) > _FILES_PER_FILESET:
            yield error(
                "fileset-too-large",
                f"{plan.entry} is one fileset of {len(plan.files)} files; OMERO is told of all of them in one message of at most "
                f"64 MB, which is about {_FILES_PER_FILESET}",
                path=plan.entry,
                hint="write larger chunks, or shards, or a single file",
            )


class _NoJournal:
    """Verifying notes nothing and relies on nothing noted."""

    def note(self, key: str, value: str) -> None:
        """Do nothing."""

    def recall(self, key: str) -> str | None:  # noqa: ARG002
        """Nothing."""
        return None
