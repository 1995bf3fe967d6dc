"""What all services share."""

from typing import TYPE_CHECKING

import Ice
import omero.sys

from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.wire import Servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site


class Service(Servant):
    """Belongs to one session of one site."""

    def __init__(self, site: "Site", session: Session) -> None:
        self.gate = site
        self.site, self.session, self.store = site, session, site.store

    def context(self, current: Ice.Current) -> Context:
        """On whose behalf, and in which group, this call is made. Raises SecurityViolation."""
        return self.site.sessions.context(self.session, current.ctx)

    def event_context(self, current: Ice.Current) -> omero.sys.EventContext:
        """The same as the wire wants it."""
        return event_context(self.site, self.context(current))


class StatefulService(Service):
    """One that its user opens and closes; registered with `site.add_stateful`."""

    def activate(self, current: Ice.Current) -> None:
        """Nothing is ever passivated here."""

    def passivate(self, current: Ice.Current) -> None:
        """Nothing is ever passivated here."""

    def close(self, current: Ice.Current) -> None:
        """Its user needs it no more."""
        self.site.remove_stateful(current.id)
        self.closed()

    def getCurrentEventContext(self, current: Ice.Current) -> omero.sys.EventContext:
        """Of this call."""
        return self.event_context(current)


def client_of(current: Ice.Current) -> str:
    """The UUID that the calling client has given itself."""
    return str(current.ctx.get("omero.client.uuid", ""))


def event_context(site: "Site", context: Context) -> omero.sys.EventContext:
    """Who, in which group, with which privileges."""
    from lading.sandbox.omero.permissions import PRIVILEGES, group_permissions  # noqa: PLC0415

    made = omero.sys.EventContext()
    made.shareId, made.sessionId, made.sessionUuid = -1, context.session_id, context.session_uuid
    made.userId, made.userName = context.user, context.user_name
    group = site.store.get("ExperimenterGroup", context.group)
    made.groupId, made.groupName = context.group, group.text("name") if group else ""
    made.isAdmin = context.is_admin
    made.adminPrivileges = list(PRIVILEGES) if context.is_admin else []
    made.eventId, made.eventType = -1, "User"
    made.memberOfGroups, made.leaderOfGroups = list(context.member_of), list(context.leader_of)
    made.groupPermissions = omero.model.PermissionsI(group_permissions(site.store, context.group))
    return made
