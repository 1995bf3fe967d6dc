"""omero.api.ISession: sessions by name, and those that administrators open for somebody else."""

import Ice
import omero.api
import omero.sys
from omero.rtypes import unwrap

from lading.sandbox.omero import directory, errors, graph
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.sessions import MAX_IDLE_MS, Session
from lading.sandbox.omero.wire import servant


@servant
class SessionService(Service, omero.api.ISession):
    """`createSessionWithTimeouts` is how sudo works: the administrator gets a session that belongs to the other user."""

    uses_database = True

    def createSessionWithTimeouts(
        self, who: omero.sys.Principal, live_ms: int, idle_ms: int, current: Ice.Current
    ) -> omero.model.IObject:
        return self._sudo(who, live_ms, idle_ms, current)

    def createSessionWithTimeout(
        self, who: omero.sys.Principal, live_ms: int, current: Ice.Current
    ) -> omero.model.IObject:
        return self._sudo(who, live_ms, 0, current)

    def createUserSession(self, live_ms: int, idle_ms: int, group: str, current: Ice.Current) -> omero.model.IObject:
        person = self.store.get("Experimenter", self.session.user)
        assert person is not None
        return self._show(self._open(person.text("omeName"), group, live_ms, idle_ms), current)

    def getSession(self, identity: str, current: Ice.Current) -> omero.model.IObject:
        session = self._find(identity, current)
        return self._show(session, current)

    def getReferenceCount(self, identity: str, current: Ice.Current) -> int:
        return len(self._find(identity, current).clients)

    def closeSession(self, wanted: omero.model.IObject, current: Ice.Current) -> int:
        """-2: there is no such session (any more), as OMERO says it."""
        session = self.site.sessions.get(unwrap(wanted.uuid) or "")
        if session is None:
            return -2
        self._check_mine(session, current)
        self.site.sessions.end(session)
        return -2

    def getMyOpenSessions(self, current: Ice.Current) -> list[omero.model.IObject]:
        mine = [session for session in self.site.sessions.all() if session.user == self.session.user]
        return [self._show(session, current) for session in mine]

    def _sudo(self, who: omero.sys.Principal, live_ms: int, idle_ms: int, current: Ice.Current) -> omero.model.IObject:
        if not self.context(current).is_admin:
            raise errors.security("Only administrators may open sessions for others")
        return self._show(self._open(who.name, who.group or "", live_ms, idle_ms, sudoer=self.session.user), current)

    def _open(self, name: str, group: str, live_ms: int, idle_ms: int, sudoer: int | None = None) -> Session:
        person = directory.user_named(self.store, name)
        if person is None:
            raise errors.api_usage(f"No such user: {name}")
        if idle_ms > MAX_IDLE_MS and sudoer is None:
            raise errors.security(f"an idle time of {idle_ms} ms is longer than {MAX_IDLE_MS} ms")
        return self.site.sessions.open(person, group=group, idle_ms=idle_ms, live_ms=live_ms, sudoer=sudoer)

    def _find(self, identity: str, current: Ice.Current) -> Session:
        session = self.site.sessions.get(identity)
        if session is None:
            raise errors.removed_session(f"no session {identity}")
        self._check_mine(session, current)
        return session

    def _check_mine(self, session: Session, current: Ice.Current) -> None:
        if session.user != self.session.user and not self.context(current).is_admin:
            raise errors.security("another user's session")

    def _show(self, session: Session, current: Ice.Current) -> omero.model.IObject:
        record = self.store.get("Session", session.number)
        if record is None:
            raise errors.removed_session(f"no session {session.uuid}")
        return graph.build(self.store, record, self.context(current))
