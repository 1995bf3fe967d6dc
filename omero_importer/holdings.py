"""What OMERO holds of a delivery: its Filesets, their files with checksums, their images and where those are linked. Reads only."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omero_importer.annotations import batches
from omero_importer.client_paths import client_path
from omero_importer.filesets import FilesetPlan, Place
from omero_importer.ice import ParametersI, plain, rlong
from omero_importer.session import Connection

_FILESETS_AT_ONCE = 100
_FILES_AT_ONCE = 50_000
"""About 300 bytes each in an answer. A Fileset that is larger was never sent."""

_FILES = (
    "select e.fileset.id, e.clientPath, o.id, o.size, o.hash, h.value, o.path, o.name"
    " from FilesetEntry e join e.originalFile o left outer join o.hasher h where e.fileset.id in (:ids)"
)
_IMAGES = "select i.fileset.id, i.id from Image i where i.fileset.id in (:ids)"
_PIXELS = (
    "select i.fileset.id, i.id from Pixels p join p.image i"
    " where i.fileset.id in (:ids) and p.sizeX > 0 and p.sizeY > 0"
)
_IN_DATASET = (
    "select i.fileset.id, i.id from DatasetImageLink l join l.child i"
    " where l.parent.id = :place and i.fileset.id in (:ids)"
)
_ON_SCREEN = (
    "select i.fileset.id, i.id from WellSample s join s.image i join s.well w join w.plate p join p.screenLinks l"
    " where l.parent.id = :place and i.fileset.id in (:ids)"
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as OMERO's database describes it. `checksum` is "" where it shows none."""

    fileset: int
    client_path: str
    id: int
    size: int
    checksum: str
    hasher: str
    path: str


@dataclass(slots=True)
class HeldFileset:
    """A Fileset of ours. `linked`: its images that are in the place where they belong."""

    id: int
    paths: frozenset[str] = frozenset()
    images: set[int] = field(default_factory=set)
    with_pixels: set[int] = field(default_factory=set)
    linked: set[int] = field(default_factory=set)


def fileset_ids(connection: Connection, marks: Sequence[int]) -> list[int]:
    """The Filesets that are linked to one of the marks, oldest first."""
    if not marks:
        return []
    query = "select l.parent.id from FilesetAnnotationLink l where l.child.id in (:ids)"
    return sorted({row[0] for row in _rows(connection, query, marks)})


def held(connection: Connection, marks: Sequence[int], place: Place) -> Iterator[HeldFileset]:
    """The Filesets under the marks, without their files' checksums."""
    yield from described(connection, fileset_ids(connection, marks), place)


def described(connection: Connection, filesets: Sequence[int], place: Place) -> Iterator[HeldFileset]:
    """These Filesets, without their files' checksums."""
    for batch in _answerable(connection, filesets):
        found = {one: HeldFileset(one) for one in batch}
        paths: dict[int, set[str]] = defaultdict(set)
        entries = "select e.fileset.id, e.clientPath from FilesetEntry e where e.fileset.id in (:ids)"
        for fileset, path in _rows(connection, entries, batch):
            paths[fileset].add(path)
        for fileset, image in _rows(connection, _IMAGES, batch):
            found[fileset].images.add(image)
        for fileset, image in _rows(connection, _PIXELS, batch):
            found[fileset].with_pixels.add(image)
        linked = _IN_DATASET if place.kind == "Dataset" else _ON_SCREEN
        for fileset, image in _rows(connection, linked, batch, place=place.id):
            found[fileset].linked.add(image)
        for one in batch:
            found[one].paths = frozenset(paths[one])
            yield found[one]


def groups(connection: Connection, filesets: Sequence[int]) -> dict[int, int]:
    """The group that each of these Filesets is in."""
    query = "select distinct e.fileset.id, e.fileset.details.group.id from FilesetEntry e where e.fileset.id in (:ids)"
    return {row[0]: row[1] for row in _rows(connection, query, filesets)}


def stored_files(
    connection: Connection, filesets: Sequence[int], where: Mapping[str, str] | None = None
) -> Iterator[StoredFile]:
    """The files of the Filesets. `where`: the context of the query."""
    for batch in _answerable(connection, filesets, where):
        for fileset, known_as, file, size, checksum, hasher, path, name in _rows(
            connection, _FILES, batch, where=where
        ):
            yield StoredFile(fileset, known_as, file, size or 0, checksum or "", hasher or "", f"{path or ''}{name}")


def _answerable(
    connection: Connection, filesets: Sequence[int], where: Mapping[str, str] | None = None
) -> Iterator[list[int]]:
    """The Filesets in lists about whose files OMERO can answer in one message, which is of at most 64 MB."""
    query = "select e.fileset.id, count(e.id) from FilesetEntry e where e.fileset.id in (:ids) group by e.fileset.id"
    for many in batches(filesets, _FILESETS_AT_ONCE):
        counts = {row[0]: row[1] for row in _rows(connection, query, many, where=where)}
        some: list[int] = []
        files = 0
        for one in many:
            files += counts.get(one, 0)
            if some and files > _FILES_AT_ONCE:
                yield some
                some, files = [], counts.get(one, 0)
            some.append(one)
        yield some


class Matching:
    """Which Fileset in OMERO is which of our plans: the one with the same client paths."""

    def __init__(self, plans: Sequence[FilesetPlan], name: "ClientName") -> None:
        self._by_paths: Mapping[frozenset[str], FilesetPlan] = {
            frozenset(name(path) for path in plan.files): plan for plan in plans
        }

    def plan(self, fileset: HeldFileset) -> FilesetPlan | None:
        """None when no plan of ours has these files: the rules have changed since."""
        return self._by_paths.get(fileset.paths)


@dataclass(frozen=True, slots=True)
class ClientName:
    """Turns a path of the manifest into the name under which OMERO knows the file."""

    prefix: str

    def __call__(self, path: str) -> str:
        """PROJECT/participant/SESSION/path, every part as OMERO stores it."""
        return client_path(self.prefix + path)


def _rows(
    connection: Connection, query: str, ids: Sequence[int], *, place: int = -1, where: Mapping[str, str] | None = None
) -> list[list[Any]]:
    parameters = ParametersI().addIds(list(ids))
    if place >= 0:
        parameters.add("place", rlong(place))
    return plain(connection.queries.projection(query, parameters, dict(where or {})))
