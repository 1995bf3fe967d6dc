"""Filesets that no mark leads to any more: somebody removed the mark in OMERO, or moved images to another group.

They are known by the names of their files, which nobody changes there, and by their content. They are not imported a second time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lading.delivery import Delivery
from lading.errors import Refused
from lading.listing.names import printable
from lading.manifest import Entry
from omero_importer import annotations, holdings
from omero_importer.annotations import Mark
from omero_importer.filesets import FilesetPlan
from omero_importer.holdings import ClientName, StoredFile
from omero_importer.ice import ParametersI, plain, rlist, rstring
from omero_importer.session import ANYWHERE, Connection

_LOOKED_FOR_AT_ONCE = 200

Same = Callable[[Entry, StoredFile], bool]


@dataclass(frozen=True, slots=True)
class Strays:
    """Looks for those of one delivery. `same` tells whether OMERO's file may be ours, by what OMERO says of it."""

    connection: Connection
    delivery: Delivery
    digest: str
    entries: Mapping[str, Entry]
    name: ClientName
    same: Same

    def of(self, plans: Sequence[FilesetPlan]) -> Iterator[tuple[FilesetPlan, int]]:
        """Plans, none of which is under a mark of ours, and the Filesets of our group that they are. Raises Refused.

        That is when one of them is in another group: somebody's decision, which is not ours to undo, nor to work around. A plan may
        be there more than once: all of them are ours.
        """
        groups = self._unclaimed([self.name(plan.entry) for plan in plans])
        there: set[str] = set()
        by_paths = {frozenset(map(self.name, plan.files)): plan for plan in plans}
        away: list[tuple[FilesetPlan, int]] = []
        for fileset in sorted(groups):
            files = {one.client_path: one for one in holdings.stored_files(self.connection, [fileset], ANYWHERE)}
            plan = by_paths.get(frozenset(files))
            if plan is None or not self._is_it(plan, fileset, files):
                continue
            if groups[fileset] != self.connection.group_id:
                away.append((plan, groups[fileset]))
            else:
                there.add(plan.key)
                yield plan, fileset
        for plan, group in away:
            if plan.key not in there:
                raise self._moved(plan, group)

    def _is_it(self, plan: FilesetPlan, fileset: int, files: dict[str, StoredFile]) -> bool:
        query = "select i.id from Image i where i.fileset.id = :id"
        images = self.connection.queries.projection(query, ParametersI().addId(fileset), ANYWHERE)
        return bool(images) and all(self.same(self.entries[path], files[self.name(path)]) for path in plan.files)

    def _unclaimed(self, paths: Sequence[str]) -> dict[int, int]:
        """The Filesets with one of these client paths, in any group that we see, that are no other delivery's; with their group."""
        found: dict[int, int] = {}
        query = "select distinct e.fileset.id, e.fileset.details.group.id from FilesetEntry e where e.clientPath in (:paths)"
        for start in range(0, len(paths), _LOOKED_FOR_AT_ONCE):
            parameters = ParametersI()
            parameters.add("paths", rlist([rstring(path) for path in paths[start : start + _LOOKED_FOR_AT_ONCE]]))
            found |= {row[0]: row[1] for row in plain(self.connection.queries.projection(query, parameters, ANYWHERE))}
        for fileset, mark in annotations.marks_on(self.connection, sorted(found)):
            if found.get(fileset) == self.connection.group_id or not self._moved_along(mark):
                found.pop(fileset, None)
        return found

    def _moved_along(self, mark: Mark) -> bool:
        """Whether a mark in another group is ours. Another route may bring the same session there, and that is all right."""
        if mark.delivery == self.delivery.id:
            return True
        return mark.digest == self.digest and mark.route == self.delivery.route

    def _moved(self, plan: FilesetPlan, group: int) -> Refused:
        query = "select g.name from ExperimenterGroup g where g.id = :id"
        rows = plain(self.connection.queries.projection(query, ParametersI().addId(group), ANYWHERE))
        name = rows[0][0] if rows else group
        return Refused(
            f"importing {self.delivery.labels}: {printable(plan.entry)} is in OMERO, in group {name!r} instead of "
            f"{self.connection.group!r}; it is not imported a second time",
            safe="What OMERO holds stays as it is.",
            next_command="move it back in OMERO, or remove it there; then: lading retry",
        )
