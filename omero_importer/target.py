"""Where a delivery's images go: found by name in OMERO, made when it is missing, and never twice.

OMERO does not keep names unique, and finding and making are two requests there. So makers take turns on this machine, and
whoever has made one looks again: of several the oldest counts, and an empty younger one of ours is removed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.delivery import Labels
from lading.errors import Refused, TargetMissing, TargetUnavailable
from lading.locks import FileLock
from omero_importer import graphs
from omero_importer.ice import ParametersI, model, rlong, rstring, unloaded
from omero_importer.session import Connection, Who
from omero_importer.settings import RouteSettings, filled

_NAME_CHARS = 255
_TURN_S = 120.0


@dataclass(frozen=True, slots=True)
class Address:
    """A target by its names: a dataset in a project, or a screen. Whose it is, and in which group."""

    who: Who
    project: str
    dataset: str
    screen: str = ""

    def __str__(self) -> str:
        return f"screen {self.screen!r}" if self.screen else f"dataset {self.dataset!r} of project {self.project!r}"


@dataclass(frozen=True, slots=True)
class Container:
    """A project, dataset or screen that is there, as our account sees it."""

    id: int
    owner_id: int
    may_link: bool


def address(route: RouteSettings, labels: Labels, sender: str = "") -> Address:
    """The target that the route's templates give for a delivery by `sender` (user@host).

    Raises Refused when OMERO could not store such a name.
    """
    owner, group = filled(route.owner, labels, sender), filled(route.group, labels)
    found = Address(
        Who(route.owners.get(owner, owner), route.groups.get(group, group)),
        "" if route.screen else filled(route.project, labels),
        "" if route.screen else filled(route.dataset, labels),
        filled(route.screen, labels),
    )
    for name in (found.project, found.dataset, found.screen):
        if len(name) > _NAME_CHARS or not name.isprintable():
            raise Refused(
                f"importing {labels}: {name!r} cannot be a name in OMERO (up to {_NAME_CHARS} printable characters)",
                safe="Nothing was sent. The files are in the inbox.",
                next_command="change the route's templates, or: lading fix DELIVERY --session LABEL",
            )
    return found


class Targets:
    """Finds and makes targets. `locks` is a folder for the files by which makers take turns."""

    def __init__(self, route: RouteSettings, locks: Path) -> None:
        self._route, self._locks = route, locks

    def look(self, connection: Connection, where: Address) -> Container | None:
        """The target, None when it is still to be made. Reads only. Raises TargetMissing when it may not be made or filled."""
        if where.screen:
            return self._chosen(
                connection, _screens(connection, where.screen), f"screen {where.screen!r}", may_make=self._makes_all
            )
        project = self.look_for_project(connection, where.project)
        if project is None:
            return None
        datasets = _datasets(connection, project.id, where.dataset)
        return self._chosen(connection, datasets, str(where), may_make=self._route.create != "none")

    def look_for_project(self, connection: Connection, name: str) -> Container | None:
        """The project, None when it is still to be made. Raises TargetMissing."""
        return self._chosen(connection, _projects(connection, name), f"project {name!r}", may_make=self._makes_all)

    def ensure(self, connection: Connection, where: Address) -> Container:
        """The target, made if need be. May be called again, and by several at once. Raises TargetMissing."""
        found = self.look(connection, where)
        if found is not None:
            return found
        name = hashlib.sha256(f"{connection.server}\0{where}\0{where.who}".encode()).hexdigest()[:24]
        turn = FileLock(self._locks / f"{name}.lock")
        if not turn.acquire(patience=_TURN_S):
            raise TargetUnavailable(
                f"making {where} at {connection.server}: somebody else on this machine is making it, for {_TURN_S:.0f} s now",
                next_command="lading retry",
            )
        try:
            return self.look(connection, where) or self._make(connection, where)
        finally:
            turn.release()

    @property
    def _makes_all(self) -> bool:
        return self._route.create == "all"

    def _make(self, connection: Connection, where: Address) -> Container:
        if where.screen:
            screen = model.ScreenI()
            screen.name = rstring(where.screen)
            made = connection.updates.saveAndReturnObject(screen).id.val
            return _oldest(connection, "Screen", made, lambda: _screens(connection, where.screen))
        project = self.look_for_project(connection, where.project)
        if project is None:
            new = model.ProjectI()
            new.name = rstring(where.project)
            made = connection.updates.saveAndReturnObject(new).id.val
            project = _oldest(connection, "Project", made, lambda: _projects(connection, where.project))
        dataset, link = model.DatasetI(), model.ProjectDatasetLinkI()
        dataset.name = rstring(where.dataset)
        # In one save: no dataset without its project, whatever happens in between.
        link.parent, link.child = unloaded("Project", project.id), dataset
        made = connection.updates.saveAndReturnObject(link).child.id.val
        parent = project.id
        return _oldest(connection, "Dataset", made, lambda: _datasets(connection, parent, where.dataset))

    def _chosen(
        self, connection: Connection, found: Sequence[Container], what: str, *, may_make: bool
    ) -> Container | None:
        """Our own oldest, else the oldest that we may add to."""
        usable = [one for one in found if one.may_link]
        if usable:
            return _preferred(connection, usable)
        if found and not may_make:
            raise TargetMissing(
                f"looking for {what} at {connection.server}: it belongs to somebody else, and {connection.user!r} may not add to "
                f"it in group {connection.group!r}",
                safe="Nothing was sent.",
                next_command="lading doctor",
            )
        if not may_make:
            raise TargetMissing(
                f"looking for {what} at {connection.server}: there is none that {connection.user!r} can see in group "
                f"{connection.group!r}, and the route does not make one (import.create = {self._route.create!r})",
                safe="Nothing was sent.",
                next_command="make it in OMERO, then: lading retry",
            )
        return None


def _preferred(connection: Connection, found: Sequence[Container]) -> Container:
    return min(found, key=lambda one: (one.owner_id != connection.user_id, one.id))


def _oldest(connection: Connection, kind: str, made: int, look: Callable[[], Sequence[Container]]) -> Container:
    """Another process on another machine may have made one at the same time."""
    counts = _preferred(connection, [one for one in look() if one.may_link])
    if counts.id != made:
        graphs.delete(
            connection, kind, [made], doing=f"removing a {kind.lower()} that somebody else had made meanwhile"
        )
    return counts


def _projects(connection: Connection, name: str) -> list[Container]:
    return _containers(connection, "select p from Project p join fetch p.details.owner where p.name = :name", name)


def _screens(connection: Connection, name: str) -> list[Container]:
    return _containers(connection, "select s from Screen s join fetch s.details.owner where s.name = :name", name)


def _datasets(connection: Connection, project: int, name: str) -> list[Container]:
    query = (
        "select d from Dataset d join fetch d.details.owner join d.projectLinks l"
        " where l.parent.id = :parent and d.name = :name"
    )
    return _containers(connection, query, name, parent=project)


def _containers(connection: Connection, query: str, name: str, *, parent: int = -1) -> list[Container]:
    parameters = ParametersI()
    parameters.add("name", rstring(name))
    if parent >= 0:
        parameters.add("parent", rlong(parent))
    found = {}
    for one in connection.queries.findAllByQuery(query, parameters):
        details = one.details
        found[one.id.val] = Container(one.id.val, details.owner.id.val, bool(details.permissions.canLink()))
    return [found[key] for key in sorted(found)]
