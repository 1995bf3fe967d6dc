"""Who may read, link, annotate, change and delete what.

As in OMERO: every object has an owner and a group, the group's permissions say what its members may do with each other's
objects ("rw----" nothing, "rwr---" read, "rwra--" annotate, "rwrw--" everything), leaders and administrators may more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import omero.model

from lading.sandbox.omero import errors, model
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.store import Store

_K = TypeVar("_K")
_V = TypeVar("_V")
ROOT, GUEST = 0, 1
SYSTEM_GROUP, USER_GROUP, GUEST_GROUP = 0, 1, 2
ALL_GROUPS = -1
PERMISSIONS_FIELD = "@permissions"
"""Where a group's record keeps its permissions; the wire has them in `details`."""

# These have no group of their own; everybody reads them, administrators change them.
_SYSTEM_TYPES = frozenset(
    [
        "DBPatch",
        "Event",
        "EventLog",
        "Experimenter",
        "ExperimenterGroup",
        "ExternalInfo",
        "GroupExperimenterMap",
        "Node",
        "Session",
        "Share",
    ]
)
_PRIVILEGES = (
    "Chgrp Chown DeleteFile DeleteManagedRepo DeleteOwned DeleteScriptRepo ModifyGroup ModifyGroupMembership ModifyUser "
    "ReadSession Sudo WriteFile WriteManagedRepo WriteOwned WriteScriptRepo"
)
PRIVILEGES = tuple(_PRIVILEGES.split())


@dataclass(frozen=True, slots=True)
class Context:
    """On whose behalf a call is carried out. `group` is ALL_GROUPS when the caller looks across all of its groups."""

    session_uuid: str
    session_id: int
    user: int
    user_name: str
    group: int
    is_admin: bool
    member_of: tuple[int, ...]
    leader_of: tuple[int, ...]


SYSTEM = Context("", -1, ROOT, "root", SYSTEM_GROUP, True, (SYSTEM_GROUP, USER_GROUP), ())
"""The server itself."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user may do with one object."""

    link: bool
    edit: bool
    delete: bool
    annotate: bool
    chgrp: bool
    chown: bool

    @property
    def restrictions(self) -> list[bool]:
        """As omero.model.Permissions counts them: true means no."""
        return [not allowed for allowed in (self.link, self.edit, self.delete, self.annotate, self.chgrp, self.chown)]


@cache
def is_system_type(cls: str) -> bool:
    """Records of this class belong to no group."""
    return cls in _SYSTEM_TYPES or model.is_enumeration(cls)


def group_permissions(store: Store, group: int) -> str:
    """ "rwra--" and the like."""
    record = store.get("ExperimenterGroup", group)
    return (record.text(PERMISSIONS_FIELD) if record else "") or "rw----"


def can_read(store: Store, context: Context, record: Record) -> bool:
    """In the group (or groups) that the context looks at, and open to this user there."""
    if is_system_type(record.cls) or record.group in (SYSTEM_GROUP, USER_GROUP):
        return True
    if context.group not in (ALL_GROUPS, record.group):
        return False
    if context.is_admin:
        return True
    if record.group not in context.member_of:
        return False
    return (
        record.owner == context.user
        or record.group in context.leader_of
        or group_permissions(store, record.group)[2] == "r"
    )


def rights(store: Store, context: Context, record: Record) -> Rights:
    """What the context's user may do with the record."""
    if context.is_admin:
        return Rights(True, True, True, True, True, True)
    if is_system_type(record.cls):
        return Rights(True, False, False, True, False, False)
    shared = record.group in (SYSTEM_GROUP, USER_GROUP)
    mine, leads = record.owner == context.user, record.group in context.leader_of
    granted = "-" if shared or record.group not in context.member_of else group_permissions(store, record.group)[3]
    write = mine or leads or granted == "w"
    return Rights(
        link=write or shared,
        edit=write,
        delete=write,
        annotate=write or granted == "a" or shared,
        chgrp=mine,
        chown=leads,
    )


def check_class(context: Context, cls: str) -> None:
    """The user may add records of this class at all. Raises SecurityViolation."""
    if is_system_type(cls) and not context.is_admin:
        raise errors.security(f"{cls} is a System-type, and may be created only through privileged APIs.")
    if context.user == GUEST:
        raise errors.security(f"not permitted to create {cls}")


def check_creation(store: Store, context: Context, record: Record) -> None:
    """The user may add this record, link included. Raises SecurityViolation."""
    check_class(context, record.cls)
    if not model.is_link(record.cls):
        return
    parent, child = (store.follow(record.get(end)) for end in ("parent", "child"))
    if parent is None or child is None:
        return
    owned = [end for end in (parent, child) if not is_system_type(end.cls) and end.group > USER_GROUP]
    if any(end.group != record.group for end in owned):
        raise errors.mixed_groups(
            f"MIXED GROUPS: {record.cls} of group {record.group} between {parent.ref} and {child.ref}"
        )
    for end in (parent, child):
        allowed = rights(store, context, end)
        enough = allowed.annotate if record.cls.endswith("AnnotationLink") else allowed.link
        if not enough or not can_read(store, context, end):
            raise errors.security(f"Cannot link to {end.cls}:{end.id}: owned by {end.owner} in group {end.group}")


class DetailsMaker:
    """Makes the `details` of wire objects for one viewer: owner, group, times, and what the viewer may do.

    Owners, groups, times and permissions are shared between the objects of one answer, as Hibernate does it: an import of
    twenty thousand files would otherwise make eighty thousand objects that say the same.
    """

    def __init__(self, store: Store, context: Context) -> None:
        self._store, self._context = store, context
        self._owners: dict[int, omero.model.Experimenter] = {}
        self._groups: dict[int, omero.model.ExperimenterGroup] = {}
        self._events: dict[int, omero.model.Event] = {}
        self._permissions: dict[tuple[int, Rights], omero.model.Permissions] = {}

    def details(self, record: Record) -> omero.model.Details:
        """Owner and group are unloaded."""
        made = omero.model.DetailsI()
        made._owner = _cached(
            self._owners, record.owner, lambda number: omero.model.ExperimenterI(number, loaded=False)
        )
        made._group = _cached(
            self._groups, record.group, lambda number: omero.model.ExperimenterGroupI(number, loaded=False)
        )
        made._creationEvent = _cached(self._events, record.created, _event)
        made._updateEvent = _cached(self._events, record.updated, _event)
        group = record.id if record.cls == "ExperimenterGroup" else record.group
        allowed = group, rights(self._store, self._context, record)
        made._permissions = _cached(self._permissions, allowed, self._permissions_of)
        return made

    def _permissions_of(self, allowed: tuple[int, Rights]) -> omero.model.Permissions:
        group, granted = allowed
        made = omero.model.PermissionsI(group_permissions(self._store, group))
        made._restrictions = granted.restrictions
        made._extendedRestrictions = []
        return made


def _cached(known: dict[_K, _V], key: _K, make: Callable[[_K], _V]) -> _V:
    if key not in known:
        known[key] = make(key)
    return known[key]


def _event(time: int) -> omero.model.Event:
    event = omero.model.EventI(1, loaded=True)
    event._time = omero.rtypes.rtime(time)
    event._toggleCollectionsLoaded(False)
    return event


def memberships(store: Store, user: int) -> list[Record]:
    """The user's GroupExperimenterMap records, the default group first."""
    return list(store.find("GroupExperimenterMap", child=Ref("Experimenter", user)))
