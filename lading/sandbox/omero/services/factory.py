"""omero.api.ServiceFactory: what a login gives, and where all other services come from."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import Ice
import omero
import omero.api
import omero.cmd
import omero.grid

from lading.sandbox.omero import errors
from lading.sandbox.omero.permissions import memberships
from lading.sandbox.omero.requests import submit
from lading.sandbox.omero.services import table
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.wire import servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

_GETTERS = [
    "Admin",
    "Config",
    "Container",
    "Ldap",
    "Metadata",
    "Pixels",
    "Projection",
    "Query",
    "RenderingSettings",
    "RepositoryInfo",
    "Roi",
    "Script",
    "Session",
    "Share",
    "Timeline",
    "Types",
    "Update",
]
_CREATORS = [
    "Exporter",
    "JobHandle",
    "RawFileStore",
    "RawPixelsStore",
    "RenderingEngine",
    "SearchService",
    "ThumbnailStore",
]


class _ServiceFactory(Service):
    """One per client: two clients that share a session may differ in whether it ends with them."""

    def __init__(self, site: "Site", session: Session, client: str) -> None:
        super().__init__(site, session)
        self._client = client
        self.closes_session = True

    def service(self, name: str) -> Ice.ObjectPrx:
        """The session's service of this name, unchecked. Raises ApiUsageException when the stand-in has none."""
        short = name.rpartition(".")[2]
        if short in table.STATEFUL:
            return self.site.add_stateful(table.STATEFUL[short](self.site, self.session))
        if short not in table.STATELESS:
            raise errors.api_usage(f"service {name} is not in the stand-in")
        make = table.STATELESS[short]
        return self.site.shared(self.session, short, self.session.uuid, lambda: make(self.site, self.session))

    # -- what Slice asks for ----------------------------------------------------------------------------------------

    def getSecurityContexts(self, current: Ice.Current) -> list[omero.model.IObject]:
        maps = memberships(self.store, self.session.user)
        return [omero.model.ExperimenterGroupI(ref.id, False) for each in maps if (ref := each.reference("parent"))]

    def setSecurityContext(self, wanted: omero.model.IObject, current: Ice.Current) -> omero.model.IObject:
        if wanted is None or wanted.id is None:
            raise errors.api_usage("a group with an id is needed")
        context = self.site.sessions.context(self.session, {"omero.group": str(wanted.id.val)})
        before, self.session.group = self.session.group, context.group
        return omero.model.ExperimenterGroupI(before, False)

    def setSecurityPassword(self, password: str, current: Ice.Current) -> None:
        if not self.site.sessions.allowed(self.session.user_name, password):
            raise errors.security("wrong password")

    def getByName(self, name: str, current: Ice.Current) -> Ice.ObjectPrx:
        return omero.api.ServiceInterfacePrx.uncheckedCast(self.service(name))

    def createByName(self, name: str, current: Ice.Current) -> Ice.ObjectPrx:
        return omero.api.StatefulServiceInterfacePrx.uncheckedCast(self.service(name))

    def sharedResources(self, current: Ice.Current) -> Ice.ObjectPrx:
        return omero.grid.SharedResourcesPrx.uncheckedCast(self.service("SharedResources"))

    def subscribe(self, topic: str, proxy: Ice.ObjectPrx, current: Ice.Current) -> None:
        """Topics are for scripts; nobody publishes here."""

    def setCallback(self, callback: Ice.ObjectPrx, current: Ice.Current) -> None:
        """Clients are told of nothing by this way; they poll."""

    def closeOnDestroy(self, current: Ice.Current) -> None:
        self.closes_session = True

    def detachOnDestroy(self, current: Ice.Current) -> None:
        self.closes_session = False

    def activeServices(self, current: Ice.Current) -> list[str]:
        return [type(each).__name__ for each in self.site.stateful(self.session)]

    def keepAllAlive(self, proxies: list[Ice.ObjectPrx], current: Ice.Current) -> int:
        return 0

    def keepAlive(self, proxy: Ice.ObjectPrx, current: Ice.Current) -> bool:
        """The gate has noted the call: that is all there is to keeping alive."""
        return True

    def submit(self, request: omero.cmd.Request, current: Ice.Current) -> Ice.ObjectPrx:
        return submit(self.site, self.session, self.context(current), request)

    def destroy(self, current: Ice.Current) -> None:
        """A real Glacier2 calls this when its session is over."""
        self.leave()

    def leave(self) -> None:
        """This client is gone. The session ends with its last client, unless that one said otherwise."""
        self.session.clients.discard(self._client)
        self.site.remove_factory(self.session, self._client)
        if self.closes_session and not self.session.clients:
            self.site.sessions.end(self.session)


def _getter(name: str) -> Callable[[_ServiceFactory, Ice.Current], Ice.ObjectPrx]:
    proxy = getattr(omero.api, f"I{name}Prx")

    def get(self: _ServiceFactory, current: Ice.Current) -> Ice.ObjectPrx:
        return proxy.uncheckedCast(self.service(f"I{name}"))

    return get


def _creator(name: str) -> Callable[[_ServiceFactory, Ice.Current], Ice.ObjectPrx]:
    proxy = getattr(omero.api, "SearchPrx" if name == "SearchService" else f"{name}Prx")

    def create(self: _ServiceFactory, current: Ice.Current) -> Ice.ObjectPrx:
        return proxy.uncheckedCast(self.service(name))

    return create


for _name in _GETTERS:
    setattr(_ServiceFactory, f"get{_name}Service", _getter(_name))
for _name in _CREATORS:
    setattr(_ServiceFactory, f"create{_name}", _creator(_name))


@servant
class ServiceFactory(_ServiceFactory, omero.api.ServiceFactory):
    """Completed."""
