"""Records ↔ the wire's graphs of objects.

`build` makes wire objects as OMERO sends them: a property is loaded only where the query asked for it; everything else is
an unloaded proxy, and collections are marked as unloaded. `save` takes a graph as IUpdate does: objects with an id are
changed, objects without are added, and the caller's graph comes back with all ids filled in.
"""

from collections.abc import Iterator

import omero
import omero.model
import omero.rtypes
from omero.rtypes import rint, rlong

from lading.sandbox.omero import errors, model, permissions
from lading.sandbox.omero.permissions import ALL_GROUPS, USER_GROUP, Context
from lading.sandbox.omero.records import Pairs, Quantity, Record, Ref, Value
from lading.sandbox.omero.store import Store

Plan = dict[str, "Plan"]
"""Which properties of an object are loaded, and which of theirs: {"imageLinks": {"child": {}}}."""

_PLAIN = (bool, int, float, str)
_PLAIN_ON_WIRE = (omero.RBool, omero.RInt, omero.RLong, omero.RDouble, omero.RString, omero.RTime)
_UNIQUE_LINKS = frozenset({"ProjectDatasetLink", "DatasetImageLink", "ScreenPlateLink"})


def build(store: Store, record: Record, context: Context, plan: Plan | None = None) -> omero.model.IObject:
    """The wire object of a record as the context's user sees it."""
    return Builder(store, context).build(record, plan or {})


class Builder:
    """Makes the wire objects of one answer: what several of them refer to is made once."""

    def __init__(self, store: Store, context: Context) -> None:
        self._store, self._context = store, context
        self._details_maker = permissions.DetailsMaker(store, context)
        self._made: dict[tuple[str, int, int], omero.model.IObject] = {}

    def build(self, record: Record, plan: Plan) -> omero.model.IObject:
        """With the properties of `plan` loaded. The same `plan` object gives the same wire object."""
        key = (record.cls, record.id, id(plan) if plan else 0)
        if key in self._made:
            return self._made[key]
        described = model.model_class(record.cls)
        made = self._made[key] = getattr(omero.model, record.cls + "I")(record.id, True)
        made._toggleCollectionsLoaded(False)
        if hasattr(made, "_version"):
            made._version = rint(record.version)
        for field in described.fields:
            setattr(made, "_" + field, self._field(record, field, plan))
        for name, collection in described.collections.items():
            if name in plan:
                self._load(made, record, name, collection.inverse, plan[name])
        made._details = self._details(record, plan.get("details", {}))
        return made

    def _field(self, record: Record, field: str, plan: Plan) -> object:
        value = record.get(field)
        if isinstance(value, Ref):
            target = self._store.follow(value)
            if target is not None and (field in plan or model.is_enumeration(value.cls)):
                return self.build(target, plan.get(field, {}))
            return getattr(omero.model, (target.cls if target else value.cls) + "I")(value.id, False)
        return as_wire(record.cls, field, value)

    def _load(self, made: omero.model.IObject, record: Record, name: str, inverse: str, plan: Plan) -> None:
        members = [
            self.build(each, plan)
            for each in self._store.members(record, name)
            if permissions.can_read(self._store, self._context, each)
        ]
        for each in members:
            setattr(each, "_" + inverse, made)
        setattr(made, f"_{name}Seq", members)
        setattr(made, f"_{name}Loaded", True)

    def _details(self, record: Record, plan: Plan) -> omero.model.Details:
        made = self._details_maker.details(record)
        if not plan:
            return made
        owner, group = self._store.get("Experimenter", record.owner), self._store.get("ExperimenterGroup", record.group)
        if "owner" in plan and owner is not None:
            made._owner = self.build(owner, plan["owner"])
        if "group" in plan and group is not None:
            made._group = self.build(group, plan["group"])
        return made


def as_wire(cls: str, field: str, value: Value) -> object:
    """A field's plain value as the wire wants it."""
    match value:
        case None:
            return None
        case Pairs(items):
            return [omero.model.NamedValue(name, text) for name, text in items]
        case Quantity(kind, unit, number):
            units = getattr(omero.model.enums, "Units" + kind.removesuffix("I"))
            return getattr(omero.model, kind)(number, getattr(units, unit))
    wrap = model.wrapper(cls, field) or omero.rtypes.wrap
    return wrap(value)


def as_plain(value: object) -> Value:
    """A wire object's field as records keep it. Raises ApiUsageException for what they cannot hold."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, omero.model.IObject):
        return Ref(model.class_of(value), value._id.val)
    if isinstance(value, _PLAIN_ON_WIRE):
        return as_plain(value._val)
    if isinstance(value, omero.RType):
        return as_plain(omero.rtypes.unwrap(value))
    if isinstance(value, list | tuple) and all(isinstance(each, omero.model.NamedValue) for each in value):
        return Pairs(tuple((each.name, each.value) for each in value))
    if hasattr(value, "getUnit") and hasattr(value, "getValue"):
        return Quantity(type(value).__name__, str(value.getUnit()), value.getValue())
    raise errors.api_usage(f"cannot store a {type(value).__name__}")


def save(store: Store, thing: omero.model.IObject, context: Context, *, details: bool = True) -> omero.model.IObject:
    """Store one graph, all or nothing. Raises ValidationException, SecurityViolation, OptimisticLockException."""
    save_all(store, [thing], context, details=details)
    return thing


def save_all(store: Store, things: list[omero.model.IObject], context: Context, *, details: bool = True) -> None:
    """Store several graphs, which may share objects, all or nothing. `details`: fill in who may do what with them."""
    with store.transaction():
        saver = _Saver(store, context, details=details)
        for thing in things:
            saver.save(thing)


class _Saver:
    def __init__(self, store: Store, context: Context, *, details: bool) -> None:
        self._store, self._context = store, context
        self._details_maker = permissions.DetailsMaker(store, context) if details else None
        self._seen: dict[int, omero.model.IObject] = {}
        self._enumerations: dict[tuple[str, object], int] = {}

    def save(self, thing: omero.model.IObject | None) -> None:
        if thing is None or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        cls = model.class_of(thing)
        if not thing._loaded:
            self._existing(cls, thing)
        elif model.is_enumeration(cls) and thing._id is None:
            thing._id = rlong(self._enumeration(cls, thing))
        else:
            self._save_loaded(cls, thing)

    def _existing(self, cls: str, thing: omero.model.IObject) -> Record:
        number = thing._id.val if thing._id is not None else None
        record = self._store.get(cls, number) if number is not None else None
        if record is None:
            raise errors.validation(f"No row with the given identifier exists: [{cls}#{number}]")
        return record

    def _enumeration(self, cls: str, thing: omero.model.IObject) -> int:
        value = omero.rtypes.unwrap(thing._value)
        if (cls, value) not in self._enumerations:
            record = next(self._store.find(cls, value=value), None)
            if record is None:
                raise errors.validation(f"unknown enumeration {cls}={value}")
            self._enumerations[cls, value] = record.id
        return self._enumerations[cls, value]

    def _save_loaded(self, cls: str, thing: omero.model.IObject) -> None:
        record = self._existing(cls, thing) if thing._id is not None else None
        described = model.model_class(cls)
        # What this one refers to comes first, so that it has an id. Parents that are being saved already (we came from
        # their collections) have theirs.
        for field in described.references:
            referred = getattr(thing, "_" + field, None)
            if isinstance(referred, omero.model.IObject):
                self.save(referred)
        record = self._change(record, thing) if record else self._add(cls, thing)
        thing._id = rlong(record.id)
        if hasattr(thing, "_version"):
            thing._version = rint(record.version)
        if self._details_maker is not None:
            thing._details = self._details_maker.details(record)
        for member in _members(described, thing):
            self.save(member)

    def _values(self, cls: str, thing: omero.model.IObject) -> dict[str, Value]:
        described = model.model_class(cls)
        wire = {field: getattr(thing, "_" + field, None) for field in described.fields}
        for field, value in wire.items():
            if isinstance(value, omero.model.IObject) and value._id is None:
                raise errors.validation(f"{cls}.{field} refers to a {type(value).__name__} that refers back to it")
        return {field: as_plain(value) for field, value in wire.items()}

    def _add(self, cls: str, thing: omero.model.IObject) -> Record:
        permissions.check_class(self._context, cls)
        values = self._values(cls, thing)
        for field in model.required(cls):
            if values[field] is None and not _filled_by_server(cls, field):
                raise errors.validation(f"not-null property references a null or transient value: {cls}.{field}")
        owner, group = self._ownership(cls, thing, values)
        if cls in _UNIQUE_LINKS:
            self._check_unique(cls, values, owner)
        record = self._store.create(cls, values, owner=owner, group=group)
        permissions.check_creation(self._store, self._context, record)
        return record

    def _ownership(self, cls: str, thing: omero.model.IObject, values: dict[str, Value]) -> tuple[int, int]:
        """Administrators may say whose it is. Across all groups, a link goes where its ends are."""
        owner, group = self._context.user, self._context.group
        given = thing._details
        if given is not None and given._owner is not None and self._context.is_admin:
            owner = given._owner._id.val
        if given is not None and given._group is not None:
            group = given._group._id.val
        if group == ALL_GROUPS and not permissions.is_system_type(cls):
            groups = {
                end.group for value in values.values() if (end := self._store.follow(value)) and end.group > USER_GROUP
            }
            if len(groups) != 1:
                raise errors.security(f"cannot tell the group of a new {cls}: the call looks at all groups")
            (group,) = groups
        if group not in self._context.member_of and not self._context.is_admin:
            raise errors.security(f"User {self._context.user} is not a member of group {group}")
        return owner, max(group, 0)

    def _check_unique(self, cls: str, values: dict[str, Value], owner: int) -> None:
        for other in self._store.find(cls, parent=values["parent"], child=values["child"]):
            if other.owner == owner:
                raise errors.validation(f"could not insert: [{cls}]; duplicate key value violates unique constraint")

    def _change(self, record: Record, thing: omero.model.IObject) -> Record:
        values = self._values(record.cls, thing)
        changes = {field: value for field, value in values.items() if record.get(field) != value}
        if not changes:
            return record
        if not permissions.rights(self._store, self._context, record).edit:
            raise errors.security(f"Updating {record.cls}:{record.id} not allowed.")
        version = getattr(thing, "_version", None)
        if version is not None and version.val != record.version:
            raise errors.stale(f"{record.cls}:{record.id} was changed by somebody else since it was read")
        return self._store.change(record, **changes)


def _members(described: model.ModelClass, thing: omero.model.IObject) -> Iterator[omero.model.IObject]:
    for name in described.collections:
        if getattr(thing, f"_{name}Loaded", False):
            yield from getattr(thing, f"_{name}Seq", None) or ()


def _filled_by_server(cls: str, field: str) -> bool:
    """Jobs say who started them and how they fare; the server knows."""
    return model.is_a(cls, "Job") or (cls, field) in {("Fileset", "templatePrefix")}
