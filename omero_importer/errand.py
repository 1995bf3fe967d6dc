"""One import on its way: what its steps share, and the steps. Each looks before it acts, so that all of it may run again."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from lading.delivery import Parcel
from lading.errors import Refused, TargetUnavailable
from lading.listing.names import printable
from lading.ports import Journal, NoProgress, Progress
from omero_importer import annotations, attachments, graphs, holdings, placing, uploads
from omero_importer.annotations import Mark
from omero_importer.cli_import import CliEngine
from omero_importer.decided import lies_here
from omero_importer.filesets import Engine, FilesetPlan, FilesetRecord, FilesetsDecision, Place
from omero_importer.holdings import ClientName, HeldFileset, Matching
from omero_importer.ice import ParametersI, plain
from omero_importer.ice_import import IceEngine
from omero_importer.import_end import running_import
from omero_importer.readback import Proof
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings, RouteSettings, filled
from omero_importer.sources import Source
from omero_importer.strays import Strays
from omero_importer.target import Address, Container, Targets
from omero_importer.underway import Interrupted
from omero_importer.valve import Valve
from omero_importer.vitals import measure

_SAFE = "Nothing was sent. The files are in the inbox."


@dataclass(slots=True)
class Sent:
    """What an import has really done so far, over all its attempts."""

    filesets: int = 0
    files: int = 0

    @property
    def nothing(self) -> bool:
        """Whether everything was there already."""
        return not self.filesets and not self.files


@dataclass(frozen=True)
class Errand:
    """The import of one parcel."""

    parcel: Parcel
    source: Source
    decision: FilesetsDecision
    address: Address
    settings: RepositorySettings
    route: RouteSettings
    targets: Targets
    valve: Valve
    journal: Journal
    progress: Progress = field(default_factory=NoProgress)
    sent: Sent = field(default_factory=Sent)
    interrupted: Interrupted = field(default_factory=Interrupted)

    @property
    def prefix(self) -> str:
        """What stands in front of every client path."""
        if self.route.engine == "cli":
            return f"{self.parcel.root.absolute().as_posix()}/"  # Java's importer knows files by nothing else
        return f"{self.parcel.delivery.labels}/"

    def cut_off(self) -> Hashable:
        """How far the uploads have come that were cut off and can go on; None when there are none."""
        return self.interrupted.come(self.prefix)

    def marks(self, connection: Connection) -> list[Mark]:
        """The marks that count as this delivery's: its own, and those of the same content under the same labels."""
        return self._ours(annotations.marks(connection, self.parcel.delivery))

    def free_marks(self, connection: Connection) -> list[Mark]:
        """The same, before something is sent. Raises Refused when another delivery was first and the route does not append."""
        found = annotations.marks(connection, self.parcel.delivery)
        ours = self._ours(found)
        if not ours and self.route.on_existing == "refuse":
            for other in found:
                self._demand_empty(connection, other)
        if not ours:
            self._demand_nothing_under_other_labels(connection)
        return ours

    def _ours(self, found: Sequence[Mark]) -> list[Mark]:
        delivery, digest = self.parcel.delivery.id, self.parcel.manifest.summary.digest
        return [mark for mark in found if mark.delivery == delivery or mark.digest == digest]

    def _demand_empty(self, connection: Connection, other: Mark) -> None:
        if not _has_content(connection, other):
            return
        delivery = self.parcel.delivery
        raise Refused(
            f"importing {delivery.labels}: delivery {other.delivery} has filled this session in OMERO already, with other files",
            safe=_SAFE,
            next_command=f"lading fix {delivery.id} --session OTHER-LABEL",
        )

    def _demand_nothing_under_other_labels(self, connection: Connection) -> None:
        """It may have been corrected when a part of it was in OMERO already, which nobody would look for there any more."""
        delivery = self.parcel.delivery
        for mark in annotations.marks_of(connection, delivery):
            if mark.labels != str(delivery.labels) and _has_content(connection, mark):
                raise Refused(
                    f"importing {delivery.labels}: a part of this delivery is in OMERO already, as {printable(mark.labels)}; it is "
                    "not imported a second time",
                    safe=_SAFE,
                    next_command=f"remove {printable(mark.labels)} in OMERO, then: lading retry {delivery.id}",
                )

    def place(self, target: Container, mark: int) -> Place:
        """Where the images go."""
        return Place("Screen" if self.address.screen else "Dataset", target.id, mark, self.prefix)

    def bring(self, connection: Connection) -> Place:
        """Make OMERO hold the parcel. Raises what the table of errors says."""
        measure(connection, self.valve)
        self.valve.demand_open()
        ours = self.free_marks(connection)
        target = self.targets.ensure(connection, self.address)
        if not ours:
            ours = [annotations.make_mark(connection, self.parcel, self.source.entries.values())]
        place = self.place(target, ours[0].id)
        annotations.link(connection, place.mark, place.kind, [place.id])
        images = self._bring_filesets(connection, place, ours)
        attaching = attachments.Attaching(
            connection, self.source, self.settings, self.route, place, self.parcel.delivery.id
        )
        deliveries = [mark.delivery for mark in ours]
        attachments.put_back(connection, place, deliveries, map(attaching.name, self.decision.attachments))
        if not lies_here(self.parcel):
            there = attachments.stored(connection, place, deliveries)
            self._demand_copy(path for path in self.decision.attachments if attaching.name(path) not in there)
        self.sent.files += attaching.fill(self.decision.attachments, deliveries, self.progress)
        self._describe(connection, place, images)
        placing.demand_belonging(connection, place, self.parcel.delivery.labels, self.decision.filesets, images)
        return place

    def _bring_filesets(self, connection: Connection, place: Place, ours: Sequence[Mark]) -> dict[str, tuple[int, ...]]:
        """Import what is missing. Returns the images of every fileset, by its key."""
        matching = Matching(self.decision.filesets, ClientName(place.prefix))
        images: dict[str, tuple[int, ...]] = {}
        here = self.decision.filesets if lies_here(self.parcel) else ()
        underway = self.interrupted.of(connection, place, here)
        for found in list(holdings.held(connection, [mark.id for mark in ours], place)):
            plan = matching.plan(found)
            if found.id in underway:
                continue  # its files go on where they stopped
            if not found.images and not self._completed_meanwhile(connection, found):
                self._remove(connection, found.id)
            elif plan is not None and plan.key not in images:
                self._mend(connection, place, found, plan)
                images[plan.key] = tuple(sorted(found.images))
        for number, upload in underway.items():
            if upload.plan.key in images:  # another attempt had got to its end
                self.interrupted.forget(upload)
                self._remove(connection, number)
        missing = [plan for plan in self.decision.filesets if plan.key not in images]
        if missing:
            images |= self._take_back(connection, place, missing)
            missing = [plan for plan in missing if plan.key not in images]
        if missing and not lies_here(self.parcel):
            self._demand_copy(plan.entry for plan in missing)
        for plan, record in self._engine(connection).import_filesets(missing, place, self.journal, self.progress):
            images[plan.key] = record.image_ids
            self._count(plan, record)
        return images

    def _take_back(
        self, connection: Connection, place: Place, missing: Sequence[FilesetPlan]
    ) -> dict[str, tuple[int, ...]]:
        """What the mark does not lead to any more is marked again. Returns its images, by the fileset's key."""
        delivery = self.parcel.delivery
        proof = Proof(connection, self.source, self.decision, place, delivery.id, (), (), self.route)
        name, entries = ClientName(place.prefix), self.source.entries
        strays = Strays(connection, delivery, self.parcel.manifest.summary.digest, entries, name, proof.may_be)
        found = {number: plan for plan, number in strays.of(missing)}
        annotations.link(connection, place.mark, "Fileset", found)
        images = {}
        for one in holdings.described(connection, sorted(found), place):
            if found[one.id].key not in images:  # a second one is marked, for the reading back to see it
                self._mend(connection, place, one, found[one.id])
                images[found[one.id].key] = tuple(sorted(one.images))
        return images

    def _demand_copy(self, missing: Iterable[str]) -> None:
        """Raises Refused when something is missing, for a parcel that is not here any more."""
        names = sorted(missing)
        if names:
            delivery = self.parcel.delivery
            raise Refused(
                f"importing {delivery.labels}: OMERO lacks {', '.join(names[:3])}{' …' if len(names) > 3 else ''}, and the copy in "
                "the inbox was withdrawn",
                safe="What OMERO holds stays as it is.",
                next_command="send the session again from its source: lading send SOURCE sends only what is missing",
            )

    def _engine(self, connection: Connection) -> Engine:
        if self.route.engine == "cli":
            return CliEngine(connection, self.source, self.settings, self.route, self.valve)
        return IceEngine(connection, self.source, self.settings, self.route, self.valve, self.interrupted)

    def _count(self, plan: FilesetPlan, record: FilesetRecord) -> None:
        self.sent.filesets += 1
        self.progress.advance(files=len(plan.files))
        if not record.image_ids:
            raise TargetUnavailable(f"importing {plan.entry}: OMERO says that it is done, and names no image")

    def _remove(self, connection: Connection, fileset: int) -> None:
        graphs.delete(connection, "Fileset", [fileset], doing="removing what is left of an import without images")

    def _completed_meanwhile(self, connection: Connection, found: HeldFileset) -> bool:
        """An import of an earlier life may still be under way on the server: then it is ours."""
        if running_import(connection, found.id, self.settings.patience):
            rows = connection.queries.projection(
                "select i.id from Image i where i.fileset.id = :id", ParametersI().addId(found.id)
            )
            found.images |= {row[0] for row in plain(rows)}
        return bool(found.images)

    def _mend(self, connection: Connection, place: Place, found: HeldFileset, plan: FilesetPlan) -> None:
        """A Fileset that is there: link its images or plates where they belong, and bring back files that its disk has lost."""
        astray = sorted(found.images - found.linked)
        if astray:
            placing.put_back(connection, place, astray)
        if not self.route.reread:
            return
        paths = {ClientName(place.prefix)(path): path for path in plan.files}
        for stored in list(holdings.stored_files(connection, [found.id])):
            if stored.client_path not in paths or connection.repository().fileExists(stored.path):
                continue
            entry = self.source.entries[paths[stored.client_path]]
            store = connection.factory.createRawFileStore()
            store.setFileId(stored.id)
            again = uploads.Outgoing(
                partial(self.source.opened, entry.path),
                entry,
                algorithm=stored.hasher or "SHA1-160",
                block=self.route.block_kb << 10,
                timeout=self.settings.read_timeout,
                save=True,
            )
            uploads.send_file(store, again, lambda count: self.progress.advance(bytes=count))
            self.sent.files += 1

    def _describe(self, connection: Connection, place: Place, images: Mapping[str, tuple[int, ...]]) -> None:
        """The mark on the images, tags and key-values."""
        labels = self.parcel.delivery.labels
        every = [image for some in images.values() for image in some]
        if "images" in self.route.annotate:
            annotations.link(connection, place.mark, "Image", every)
        tags = [filled(tag, labels) for tag in self.route.tags]
        annotations.ensure_tags(connection, place.kind, place.id, tags)
        source = attachments.description(self.parcel.delivery.id)
        if "dataset" in self.route.annotate:
            annotations.ensure_values(connection, place.kind, place.id, self.decision.session_values, source)
        if self.decision.file_values:
            for plan in self.decision.filesets:
                for path in plan.files:
                    for image in images.get(plan.key, ()) if path in self.decision.file_values else ():
                        values = self.decision.file_values[path]
                        annotations.ensure_values(connection, "Image", image, values, f"{source}: {path}")

    def steps(self, target: Container | None, ours: Sequence[Mark]) -> Iterator[str]:
        """The import in words."""
        size = sum(self.source.entries[path].size for plan in self.decision.filesets for path in plan.files)
        files = sum(len(plan.files) for plan in self.decision.filesets)
        if self.address.who.owner:
            yield f"act for {self.address.who.owner}"
        yield f"use {self.address}" if target is not None else f"make {self.address}"
        if ours:
            yield f"delivery {ours[0].delivery} was begun there before: send only what is missing"
        yield f"import {len(self.decision.filesets)} filesets of {files} files ({size:,} bytes)"
        if self.decision.attachments:
            yield f"attach {len(self.decision.attachments)} other files"
        for path, reason in list(self.decision.left_out.items())[:20]:
            yield f"leave out {path}: {reason}"
        yield "read every file back and compare"


def _has_content(connection: Connection, mark: Mark) -> bool:
    return bool(holdings.fileset_ids(connection, [mark.id])) or attachments.are_there(connection, mark.delivery)
