"""What a delivery leaves in OMERO besides its files: the mark that says what came from where, tags and key-values.

The mark is one map annotation per delivery. Every Fileset is linked to it in the same save that makes the Fileset, so whatever
was begun can be found again, also by a machine without any memory of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lading.delivery import Delivery, Parcel
from lading.manifest import Entry
from omero_importer.filesets import KeyValues
from omero_importer.ice import ParametersI, model, plain, rlong, rstring, unloaded
from omero_importer.session import ANYWHERE, Connection

NS_DELIVERY = "lading/delivery"
NS_VALUES = "openmicroscopy.org/omero/client/mapAnnotation"
"""OMERO's clients let people see and edit the pairs of this namespace as their own."""

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that is there: of which delivery, the digest of what that held, by which route and under which labels it came."""

    id: int
    delivery: str
    digest: str
    route: str = ""
    labels: str = ""


def marks(connection: Connection, delivery: Delivery) -> list[Mark]:
    """The marks of everything that was ever delivered under the labels of `delivery`, oldest first."""
    return _with(connection, "labels", str(delivery.labels))


def marks_of(connection: Connection, delivery: Delivery) -> list[Mark]:
    """The marks of `delivery` itself, whatever labels it had then, oldest first."""
    return _with(connection, "delivery", delivery.id)


def _with(connection: Connection, name: str, value: str) -> list[Mark]:
    query = (
        "select distinct a.id from MapAnnotation a join a.mapValue v"
        " where a.ns = :ns and v.name = :name and v.value = :value"
    )
    parameters = ParametersI()
    for key, text in (("ns", NS_DELIVERY), ("name", name), ("value", value)):
        parameters.add(key, rstring(text))
    ids = sorted(row[0] for row in plain(connection.queries.projection(query, parameters)))
    return sorted(_read(connection, ids, {}), key=lambda mark: mark.id)


def marks_on(connection: Connection, filesets: Sequence[int]) -> Iterator[tuple[int, Mark]]:
    """The marks on Filesets in any group that we may see, each with its Fileset."""
    query = (
        "select l.parent.id, a.id from FilesetAnnotationLink l join l.child a"
        " where l.parent.id in (:ids) and a.ns = :ns"
    )
    for batch in batches(filesets):
        parameters = ParametersI().addIds(batch)
        parameters.add("ns", rstring(NS_DELIVERY))
        rows = plain(connection.queries.projection(query, parameters, ANYWHERE))
        known = {mark.id: mark for mark in _read(connection, sorted({row[1] for row in rows}), ANYWHERE)}
        yield from ((fileset, known[mark]) for fileset, mark in rows if mark in known)


def _read(connection: Connection, ids: Sequence[int], where: Mapping[str, str]) -> Iterator[Mark]:
    query = "select a from MapAnnotation a where a.id in (:ids)"
    for batch in batches(ids):
        for one in connection.queries.findAllByQuery(query, ParametersI().addIds(batch), dict(where)):
            values = {pair.name: pair.value for pair in one.mapValue or ()}
            known = (values.get(name, "") for name in ("delivery", "manifest", "route", "labels"))
            yield Mark(one.id.val, *known)


def make_mark(connection: Connection, parcel: Parcel, entries: Iterable[Entry]) -> Mark:
    """A new mark; `entries`: the lines of the parcel's manifest. The caller has looked."""
    delivery = parcel.delivery
    values = [
        ("labels", str(delivery.labels)),
        ("delivery", delivery.id),
        ("manifest", parcel.manifest.summary.digest),
        ("route", delivery.route),
        ("instrument", delivery.sender),
        ("files", str(parcel.manifest.summary.files)),
        ("bytes", str(parcel.manifest.summary.bytes)),
        *_times(entries),
    ]
    made = connection.updates.saveAndReturnObject(_map(NS_DELIVERY, [pair for pair in values if pair[1]]))
    return Mark(made.id.val, delivery.id, parcel.manifest.summary.digest)


def link(connection: Connection, annotation: int, kind: str, ids: Iterable[int]) -> int:
    """Link the annotation to the objects of `kind` that are not linked to it yet; how many those were."""
    added = 0
    link_class = getattr(model, f"{kind}AnnotationLinkI")
    query = f"select l.parent.id from {kind}AnnotationLink l where l.child.id = :child and l.parent.id in (:ids)"  # noqa: S608 - `kind` is a word of ours
    for batch in batches(sorted(set(ids))):
        parameters = ParametersI().addIds(batch)
        parameters.add("child", rlong(annotation))
        there = {row[0] for row in plain(connection.queries.projection(query, parameters))}
        links = []
        for one in batch:
            if one not in there:
                new = link_class()
                new.parent = unloaded(kind, one)
                new.child = unloaded("MapAnnotation", annotation)
                links.append(new)
        if links:
            connection.updates.saveArray(links)
        added += len(links)
    return added


def ensure_values(connection: Connection, kind: str, parent: int, values: KeyValues, source: str) -> None:
    """Key-values of `source` (said in the annotation's description) on one object, once."""
    if not values:
        return
    query = (
        f"select a.id from {kind}AnnotationLink l join l.child a"  # noqa: S608
        " where l.parent.id = :id and a.ns = :ns and a.description = :source"
    )
    parameters = ParametersI().addId(parent)
    parameters.add("ns", rstring(NS_VALUES))
    parameters.add("source", rstring(source))
    if connection.queries.projection(query, parameters):
        return
    new = getattr(model, f"{kind}AnnotationLinkI")()
    new.parent = unloaded(kind, parent)
    new.child = _map(NS_VALUES, values)
    new.child.description = rstring(source)
    connection.updates.saveObject(new)


def ensure_tags(connection: Connection, kind: str, parent: int, tags: Sequence[str]) -> None:
    """The tags on one object. A tag of that name that we can see is used; two makers at once may make two, which is harmless."""
    for tag in dict.fromkeys(tags):
        parameters = ParametersI()
        parameters.add("tag", rstring(tag))
        rows = plain(
            connection.queries.projection("select t.id from TagAnnotation t where t.textValue = :tag", parameters)
        )
        ids = sorted(row[0] for row in rows)
        if not ids:
            new = model.TagAnnotationI()
            new.textValue = rstring(tag)
            ids = [connection.updates.saveAndReturnObject(new).id.val]
        _link_tag(connection, kind, parent, ids)


def _link_tag(connection: Connection, kind: str, parent: int, ids: Sequence[int]) -> None:
    query = f"select l.child.id from {kind}AnnotationLink l where l.parent.id = :parent and l.child.id in (:ids)"  # noqa: S608
    parameters = ParametersI().addIds(list(ids))
    parameters.add("parent", rlong(parent))
    if not connection.queries.projection(query, parameters):
        new = getattr(model, f"{kind}AnnotationLinkI")()
        new.parent = unloaded(kind, parent)
        new.child = unloaded("TagAnnotation", ids[0])
        connection.updates.saveObject(new)


def batches(ids: Sequence[int], size: int = _BATCH) -> Iterator[list[int]]:
    """Lists of ids that a query takes at once."""
    for at in range(0, len(ids), size):
        yield list(ids[at : at + size])


def _map(ns: str, values: Iterable[tuple[str, str]]) -> "model.MapAnnotationI":
    new = model.MapAnnotationI()
    new.ns = rstring(ns)
    new.mapValue = [model.NamedValue(name, value) for name, value in values]
    return new


def _times(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    first = last = 0
    for entry in entries:
        first = min(first or entry.mtime_ns, entry.mtime_ns)
        last = max(last, entry.mtime_ns)
    if not last:
        return []
    return [("first written", _iso(first)), ("last written", _iso(last))]


def _iso(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""  # a file system may say anything
