"""The engine `cli`: lets the real `omero import` do it, and looks in OMERO at what came of it.

First one Java process for many filesets; then, for those that are still missing, one for each, so that what kills Java takes no
other along. Whatever the command says, a fileset counts when it is found in OMERO with exactly its files, their checksums and at
least one image; then it is linked to the delivery's mark. A Fileset without that link and with our client paths is one that an
importer has left behind which died in between: it is taken over when it is whole, and removed when it has no image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.errors import Refused
from lading.manifest import Entry
from lading.ports import Journal, Progress
from omero_importer import annotations, graphs, holdings, uploads
from omero_importer.cli_command import OmeroImport, Said
from omero_importer.filesets import FilesetPlan, FilesetRecord, Place
from omero_importer.hashes import NO_PROOF
from omero_importer.holdings import ClientName, StoredFile
from omero_importer.ice import ParametersI, plain, rlist, rlong, rstring
from omero_importer.import_end import running_import
from omero_importer.in_place_rules import why_not
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings, RouteSettings
from omero_importer.sources import Source
from omero_importer.valve import Valve

_AT_ONCE = 50
_LOOKED_FOR_AT_ONCE = 200

Found = tuple[FilesetPlan, FilesetRecord]


@dataclass(frozen=True)
class CliEngine:
    """Imports with `omero import`, as the user of `connection`. Client paths are the files' absolute ones: Java makes them."""

    connection: Connection
    source: Source
    settings: RepositorySettings
    route: RouteSettings
    valve: Valve

    def import_filesets(
        self,
        plans: Iterable[FilesetPlan],
        place: Place,
        journal: Journal,  # noqa: ARG002 - client paths and the mark say more than a note could
        progress: Progress,
    ) -> Iterator[Found]:
        """See `Engine`."""
        pending = {plan.key: plan for plan in plans}
        command = OmeroImport(self.settings, self.connection, place.mark)
        reason = why_not(self.route.in_place, self.source.root)
        if reason:
            raise Refused(
                f"omero import --transfer={self.route.in_place.transfer}: {reason}", next_command="lading doctor"
            )
        command.end_leftovers()
        yield from self._arrived(pending, place, progress)
        said = []
        missing = list(pending.values())
        for start in range(0, len(missing), _AT_ONCE):
            said.append(self._run(command, missing[start : start + _AT_ONCE], place))
            yield from self._arrived(pending, place, progress)
        if pending:
            said.append(self._run_each(command, list(pending.values()), place))
            yield from self._arrived(pending, place, progress)
        if pending:
            raise self._refused(list(pending.values()), place, said)

    # -- having it done ---------------------------------------------------------------------------------------------

    def _run(self, command: OmeroImport, plans: Sequence[FilesetPlan], place: Place) -> Said:
        options = [
            word if value is True else f"{word}={value}"
            for word, value in ((f"--{name}", value) for name, value in self._options(place).items())
        ]
        with self.valve.import_under_way():
            return command.run(options, self._entries(plans), self._patience(plans))

    def _run_each(self, command: OmeroImport, plans: Sequence[FilesetPlan], place: Place) -> Said:
        # The table of a bulk import has a line for each path: names with a line break have one Java process together.
        plain = [plan for plan in plans if plan.entry.isprintable()]
        if len(plain) < len(plans):
            return self._run(command, plans, place)
        with self.valve.import_under_way():
            return command.run_bulk(self._options(place), self._entries(plans), self._patience(plans))

    def _entries(self, plans: Sequence[FilesetPlan]) -> list[Path]:
        return [self.source.path(plan.entry).absolute() for plan in plans]

    def _patience(self, plans: Sequence[FilesetPlan]) -> float:
        return self.settings.import_timeout * max(1, len(plans))

    def _options(self, place: Place) -> dict[str, str | bool]:
        """`omero import`'s long options."""
        options: dict[str, str | bool] = {
            "target": f"{place.kind}:{place.id}",
            "output": "yaml",
            "encrypted": "true",  # or the files would travel as plain TCP
            "parallel-upload": str(self.route.uploads),
            "no-upgrade-check": True,
        }
        if self.route.checksum:
            options["checksum-algorithm"] = self.route.checksum
        if not self.route.thumbnails:
            options["no-thumbnails"] = True
        if not self.route.stats:
            options["no-stats-info"] = True
        if self.route.in_place.transfer != "upload":
            options["transfer"] = self.route.in_place.transfer
        return options

    # -- looking ----------------------------------------------------------------------------------------------------

    def _arrived(self, pending: dict[str, FilesetPlan], place: Place, progress: Progress) -> Iterator[Found]:
        """What is in OMERO of the pending filesets, linked to the mark from now on; they are pending no more."""
        name = ClientName(place.prefix)
        by_paths = {frozenset(map(name, plan.files)): plan for plan in pending.values()}
        ids = self._unmarked([name(plan.entry) for plan in pending.values()])
        for batch in annotations.batches(ids, _LOOKED_FOR_AT_ONCE):
            files: dict[int, dict[str, StoredFile]] = {one: {} for one in batch}
            for stored in holdings.stored_files(self.connection, batch):
                files[stored.fileset][stored.client_path] = stored
            for fileset, found in files.items():
                plan = by_paths.get(frozenset(found))
                images = self._images(fileset)
                if not images:
                    graphs.delete(
                        self.connection, "Fileset", [fileset], doing="removing what is left of an import without images"
                    )
                elif plan is not None and plan.key in pending and self._equal(plan, found, name):
                    annotations.link(self.connection, place.mark, "Fileset", [fileset])
                    del pending[plan.key]
                    sent = sum(self.source.entries[path].size for path in plan.files)
                    progress.advance(bytes=sent)
                    yield plan, FilesetRecord(fileset, images)

    def _unmarked(self, paths: Sequence[str]) -> list[int]:
        """Filesets of ours with one of these client paths that no delivery claims."""
        found: set[int] = set()
        query = (
            "select e.fileset.id from FilesetEntry e"
            " where e.clientPath in (:paths) and e.fileset.details.owner.id = :owner"
        )
        for start in range(0, len(paths), _LOOKED_FOR_AT_ONCE):
            parameters = ParametersI()
            parameters.add("paths", rlist([rstring(path) for path in paths[start : start + _LOOKED_FOR_AT_ONCE]]))
            parameters.add("owner", rlong(self.connection.user_id))
            found |= {row[0] for row in plain(self.connection.queries.projection(query, parameters))}
        marked = (
            "select l.parent.id from FilesetAnnotationLink l join l.child a where l.parent.id in (:ids) and a.ns = :ns"
        )
        for batch in annotations.batches(sorted(found)):
            parameters = ParametersI().addIds(batch)
            parameters.add("ns", rstring(annotations.NS_DELIVERY))
            found -= {row[0] for row in plain(self.connection.queries.projection(marked, parameters))}
        return sorted(found)

    def _images(self, fileset: int) -> tuple[int, ...]:
        query = "select i.id from Image i where i.fileset.id = :id"
        parameters = ParametersI().addId(fileset)
        rows = plain(self.connection.queries.projection(query, parameters))
        if not rows and running_import(self.connection, fileset, self.settings.patience):
            rows = plain(self.connection.queries.projection(query, parameters))
        return tuple(sorted(row[0] for row in rows))

    def _equal(self, plan: FilesetPlan, found: dict[str, StoredFile], name: ClientName) -> bool:
        return all(_same(self.source.entries[path], found[name(path)]) for path in plan.files)

    def _refused(self, missing: Sequence[FilesetPlan], place: Place, said: Sequence[Said]) -> Refused:
        name = ClientName(place.prefix)
        others = self._unmarked([name(plan.entry) for plan in missing])
        words = "; then ".join(str(one) for one in said[-2:])
        grouped = f"; Fileset {others[0]} has other files than were planned, or other bytes" if others else ""
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return Refused(
            f"importing {missing[0].entry}{more} at {self.connection.server}: omero import did not bring it ({words}){grouped}",
            safe="The files are in the inbox.",
            next_command="lading retry",
        )


def _same(entry: Entry, stored: StoredFile) -> bool:
    """As far as the checksum goes that the server chose; the proof comes later, and is stricter."""
    known = uploads.checksum_known(entry, stored.hasher) if stored.hasher not in NO_PROOF else ""
    return stored.size == entry.size and (not known or stored.checksum == known)
