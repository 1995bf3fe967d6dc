"""Glacier2: logging in and out. Either the router itself, or the two servants that a real router asks."""

from collections.abc import Callable

import Glacier2
import Ice
import omero

from lading.sandbox.omero.services.factory import ServiceFactory
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.site import Site, factory_category
from lading.sandbox.omero.wire import LOG, Servant, servant

CATEGORY = "OMERO.Glacier2"
SESSION_TIMEOUT_S = 600
ACM_TIMEOUT_S = 60


def serve_router(site: Site) -> None:
    """The stand-in is its own router: clients connect to it directly."""
    site.wire.add(Router(site), "router", CATEGORY)


def serve_session_manager(site: Site) -> None:
    """A real glacier2router stands in front and asks us who may pass."""
    site.wire.add(SessionManager(site), "manager", CATEGORY)
    site.wire.add(PermissionsVerifier(site), "verifier", CATEGORY)


def _log_in(
    how: Callable[..., Session], site: Site, login: tuple[str, ...], current: Ice.Current
) -> tuple[Session, str, Ice.ObjectPrx]:
    """The session, the client's UUID, and its ServiceFactory."""
    client = current.ctx.get("omero.client.uuid", "")
    if not client:
        raise _cannot_create("omero.client.uuid is missing from the call's context: is this an OMERO client?")
    try:
        session = how(*login, current.ctx.get("omero.group", ""), current.ctx.get("omero.agent", ""))
    except PermissionError as error:
        raise Glacier2.PermissionDeniedException(str(error)) from error
    except omero.SecurityViolation as error:
        raise _cannot_create(error.message) from error
    return session, client, attach(site, session, client)


def attach(site: Site, session: Session, client: str) -> Ice.ObjectPrx:
    """The session's ServiceFactory for this client. Its identity's name is the session's UUID: clients rely on that.

    Raises WrappedCreateSessionException, as OMERO does, while the same client is connected to the session already.
    """
    if site.factory_of(session, client) is not None:
        raise _cannot_create(f"client {client} is connected to its session already")
    session.clients.add(client)
    proxy = site.shared(session, session.uuid, factory_category(client), lambda: ServiceFactory(site, session, client))
    return Glacier2.SessionPrx.uncheckedCast(proxy)


def _cannot_create(reason: str) -> omero.WrappedCreateSessionException:
    return omero.WrappedCreateSessionException(reason, False, 0, "ome.conditions.ApiUsageException")


class _ClosedConnection(Ice.ConnectionCallback):
    """Ice tells of every connection that is closed or lost."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def heartbeat(self, connection: Ice.Connection) -> None:
        """The client is still there."""

    def closed(self, connection: Ice.Connection) -> None:
        """The session itself stays until it is idle for too long: its user may come back and join it."""
        bound = self._site.connections.unbind(connection)
        if bound is not None:
            session, client = bound
            session.clients.discard(client)
            self._site.remove_factory(session, client)
            self._site.disconnected(session)


@servant
class Router(Servant, Glacier2.Router):
    """The stand-in as its own router."""

    def __init__(self, site: Site) -> None:
        self.gate, self._site = site, site
        self._on_close = _ClosedConnection(site)

    def getClientProxy(self, current: Ice.Current) -> Ice.ObjectPrx:
        """Nil: clients then send everything to the router's own endpoints."""
        return None

    def getServerProxy(self, current: Ice.Current) -> Ice.ObjectPrx:
        """Must have endpoints, though callbacks come through the client's own connection."""
        return self._site.wire.proxy("dummy", CATEGORY)

    def addProxy(self, proxy: Ice.ObjectPrx, current: Ice.Current) -> None:
        """Nothing to route."""

    def addProxies(self, proxies: list[Ice.ObjectPrx], current: Ice.Current) -> list[Ice.ObjectPrx]:
        return []

    def getCategoryForClient(self, current: Ice.Current) -> str:
        return f"client-{abs(hash(current.con.toString())):x}"

    def createSession(self, user: str, password: str, current: Ice.Current) -> Ice.ObjectPrx:
        session, client, proxy = _log_in(self._site.sessions.log_in, self._site, (user, password), current)
        self._site.connections.bind(current.con, session, client)
        current.con.setCallback(self._on_close)
        return proxy

    def createSessionFromSecureConnection(self, current: Ice.Current) -> Ice.ObjectPrx:
        raise Glacier2.PermissionDeniedException("log in with a name and a password")

    def refreshSession(self, current: Ice.Current) -> None:
        if self._site.connections.session(current.con) is None:
            raise Glacier2.SessionNotExistException

    def destroySession(self, current: Ice.Current) -> None:
        bound = self._site.connections.unbind(current.con)
        if bound is None:
            raise Glacier2.SessionNotExistException
        session, client = bound
        factory = self._site.factory_of(session, client)
        if isinstance(factory, ServiceFactory):
            factory.leave()
        self._site.disconnected(session)

    def getSessionTimeout(self, current: Ice.Current) -> int:
        return SESSION_TIMEOUT_S

    def getACMTimeout(self, current: Ice.Current) -> int:
        return ACM_TIMEOUT_S


@servant
class PermissionsVerifier(Servant, Glacier2.PermissionsVerifier):
    """A real router asks: is the password right?"""

    def __init__(self, site: Site) -> None:
        self.gate, self._site = site, site

    def checkPermissions(self, user: str, password: str, current: Ice.Current) -> tuple[bool, str]:
        allowed = self._site.sessions.allowed(user, password)
        return allowed, "" if allowed else f"Password check failed for '{user}': []"


@servant
class SessionManager(Servant, Glacier2.SessionManager):
    """A real router asks for a session, after the verifier has said yes."""

    def __init__(self, site: Site) -> None:
        self.gate, self._site = site, site

    def create(self, user: str, control: Ice.ObjectPrx, current: Ice.Current) -> Ice.ObjectPrx:
        session, _, proxy = _log_in(self._site.sessions.trusted, self._site, (user,), current)
        LOG.debug("session %s behind the router", session.uuid)
        return proxy
