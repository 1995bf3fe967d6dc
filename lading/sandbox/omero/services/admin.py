"""omero.api.IAdmin: people and groups."""

import Ice
import omero
import omero.api
import omero.sys
from omero.rtypes import unwrap

from lading.sandbox.omero import directory, errors, graph, permissions
from lading.sandbox.omero.permissions import GUEST, GUEST_GROUP, PERMISSIONS_FIELD, ROOT, SYSTEM_GROUP, USER_GROUP
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant

_WITH_GROUPS: graph.Plan = {"groupExperimenterMap": {"parent": {}}}
_WITH_MEMBERS: graph.Plan = {"groupExperimenterMap": {"child": {}}}


@servant
class AdminService(Service, omero.api.IAdmin):
    """Everybody may look; only administrators may change."""

    uses_database = True

    def getEventContext(self, current: Ice.Current) -> omero.sys.EventContext:
        return self.event_context(current)

    def getSecurityRoles(self, current: Ice.Current) -> omero.sys.Roles:
        roles = omero.sys.Roles()
        roles.rootId, roles.rootName = ROOT, "root"
        roles.guestId, roles.guestName = GUEST, "guest"
        roles.systemGroupId, roles.systemGroupName = SYSTEM_GROUP, "system"
        roles.userGroupId, roles.userGroupName = USER_GROUP, "user"
        roles.guestGroupId, roles.guestGroupName = GUEST_GROUP, "guest"
        return roles

    def getCurrentAdminPrivileges(self, current: Ice.Current) -> list[omero.model.IObject]:
        if not self.context(current).is_admin:
            return []
        return [self._show(record, current) for record in self.store.all("AdminPrivilege")]

    # -- looking ----------------------------------------------------------------------------------------------------

    def getGroup(self, number: int, current: Ice.Current) -> omero.model.IObject:
        return self._show(self._group(number), current, _WITH_MEMBERS)

    def lookupGroup(self, name: str, current: Ice.Current) -> omero.model.IObject:
        for group in self.store.find("ExperimenterGroup", name=name):
            return self._show(group, current, _WITH_MEMBERS)
        raise errors.api_usage(f"No such group: {name}")

    def lookupGroups(self, current: Ice.Current) -> list[omero.model.IObject]:
        return [self._show(group, current, _WITH_MEMBERS) for group in self.store.all("ExperimenterGroup")]

    def getExperimenter(self, number: int, current: Ice.Current) -> omero.model.IObject:
        return self._show(self._person(number), current, _WITH_GROUPS)

    def lookupExperimenter(self, name: str, current: Ice.Current) -> omero.model.IObject:
        person = directory.user_named(self.store, name)
        if person is None:
            raise errors.api_usage(f"No such experimenter: {name}")
        return self._show(person, current, _WITH_GROUPS)

    def lookupExperimenters(self, current: Ice.Current) -> list[omero.model.IObject]:
        return [self._show(person, current, _WITH_GROUPS) for person in self.store.all("Experimenter")]

    def containedExperimenters(self, group: int, current: Ice.Current) -> list[omero.model.IObject]:
        maps = self.store.find("GroupExperimenterMap", parent=Ref("ExperimenterGroup", group))
        people = [self.store.follow(each.get("child")) for each in maps]
        return [self._show(person, current, _WITH_GROUPS) for person in people if person is not None]

    def containedGroups(self, person: int, current: Ice.Current) -> list[omero.model.IObject]:
        groups = [self.store.follow(each.get("parent")) for each in permissions.memberships(self.store, person)]
        return [self._show(group, current, _WITH_MEMBERS) for group in groups if group is not None]

    def getDefaultGroup(self, person: int, current: Ice.Current) -> omero.model.IObject:
        return self._show(directory.default_group(self.store, self._person(person)), current)

    def getMemberOfGroupIds(self, person: omero.model.IObject, current: Ice.Current) -> list[int]:
        return [ref.id for each in self._maps(person) if (ref := each.reference("parent"))]

    def getLeaderOfGroupIds(self, person: omero.model.IObject, current: Ice.Current) -> list[int]:
        return [ref.id for each in self._maps(person) if each.get("owner") and (ref := each.reference("parent"))]

    def lookupLdapAuthExperimenter(self, person: int, current: Ice.Current) -> str:
        """ "" for everybody: no LDAP here."""
        return ""

    def lookupLdapAuthExperimenters(self, current: Ice.Current) -> list[object]:
        return []

    # -- changing ---------------------------------------------------------------------------------------------------

    def createGroup(self, wanted: omero.model.IObject, current: Ice.Current) -> int:
        self._check_admin(current)
        given = wanted.details.permissions if wanted.details is not None else None
        allowed = str(given) if given is not None else "rw----"
        description = unwrap(wanted.description) or ""
        return directory.create_group(self.store, wanted.name.val, allowed, description=description).id

    def createUser(self, wanted: omero.model.IObject, group: str, current: Ice.Current) -> int:
        self._check_admin(current)
        return self._create(wanted, (group,)).id

    def createExperimenter(
        self,
        wanted: omero.model.IObject,
        default: omero.model.IObject,
        others: list[omero.model.IObject],
        current: Ice.Current,
    ) -> int:
        self._check_admin(current)
        return self._create(wanted, self._names([default, *others])).id

    def createExperimenterWithPassword(
        self,
        wanted: omero.model.IObject,
        password: omero.RString,
        default: omero.model.IObject,
        others: list[omero.model.IObject],
        current: Ice.Current,
    ) -> int:
        self._check_admin(current)
        with self.store.transaction():
            person = self._create(wanted, self._names([default, *others]))
            directory.set_password(self.store, person, password.val)
        return person.id

    def addGroups(self, person: omero.model.IObject, groups: list[omero.model.IObject], current: Ice.Current) -> None:
        self._check_admin(current)
        with self.store.transaction():
            for name in self._names(groups):
                directory.add_to_group(self.store, self._person(person.id.val), name)

    def removeGroups(
        self, person: omero.model.IObject, groups: list[omero.model.IObject], current: Ice.Current
    ) -> None:
        self._check_admin(current)
        with self.store.transaction():
            for group in groups:
                parent = Ref("ExperimenterGroup", group.id.val)
                for each in list(
                    self.store.find("GroupExperimenterMap", child=Ref("Experimenter", person.id.val), parent=parent)
                ):
                    self.store.delete(each)

    def changeGroupPermissions(self, wanted: omero.model.IObject, allowed: object, current: Ice.Current) -> None:
        self._check_admin(current)
        self.store.change(self._group(wanted.id.val), **{PERMISSIONS_FIELD: str(allowed)})

    def changePassword(self, password: omero.RString, current: Ice.Current) -> None:
        directory.set_password(self.store, self._person(self.session.user), password.val)

    def changeUserPassword(self, name: str, password: omero.RString, current: Ice.Current) -> None:
        self._check_admin(current)
        person = directory.user_named(self.store, name)
        if person is None:
            raise errors.api_usage(f"No such experimenter: {name}")
        directory.set_password(self.store, person, password.val)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _create(self, wanted: omero.model.IObject, groups: tuple[str, ...]) -> Record:
        return directory.create_user(
            self.store,
            wanted.omeName.val,
            wanted.firstName.val,
            wanted.lastName.val,
            groups,
            email=unwrap(wanted.email) or "",
        )

    def _names(self, groups: list[omero.model.IObject]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._group(group.id.val).text("name") for group in groups if group is not None))

    def _check_admin(self, current: Ice.Current) -> None:
        if not self.context(current).is_admin:
            raise errors.security("Only administrators may change people and groups")

    def _maps(self, person: omero.model.IObject) -> list[Record]:
        return permissions.memberships(self.store, person.id.val)

    def _person(self, number: int) -> Record:
        person = self.store.get("Experimenter", number)
        if person is None:
            raise errors.api_usage(f"No such experimenter: {number}")
        return person

    def _group(self, number: int) -> Record:
        group = self.store.get("ExperimenterGroup", number)
        if group is None:
            raise errors.api_usage(f"No such group: {number}")
        return group

    def _show(self, record: Record, current: Ice.Current, plan: graph.Plan | None = None) -> omero.model.IObject:
        return graph.build(self.store, record, self.context(current), plan)
