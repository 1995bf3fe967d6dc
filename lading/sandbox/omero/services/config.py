"""omero.api.IConfig: what the server says about itself."""

import re

import Ice
import omero
import omero.api
from omero.rtypes import rtime

from lading.sandbox.omero import errors
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.store import milliseconds
from lading.sandbox.omero.wire import servant

VERSION = "5.6.99"
"""Clients compare it with their own; the stand-in calls itself a version that there is not."""
_READABLE = re.compile(r"omero\.(client\..*|router\.insecure|cluster\.read_only.*|version)")


@servant
class ConfigService(Service, omero.api.IConfig):
    """Ordinary users read few keys; what they may not read is refused, not empty."""

    def getVersion(self, current: Ice.Current) -> str:
        return VERSION

    def getConfigValue(self, key: str, current: Ice.Current) -> str:
        if not (_READABLE.fullmatch(key) or self.context(current).is_admin):
            raise errors.security(f"Cannot read configuration: {key}")
        return self._values().get(key, "")

    def getConfigValues(self, pattern: str, current: Ice.Current) -> dict[str, str]:
        if not self.context(current).is_admin:
            raise errors.security("Only administrators may read the configuration")
        return {key: value for key, value in self._values().items() if re.search(pattern, key)}

    def getClientConfigDefaults(self, current: Ice.Current) -> dict[str, str]:
        return {}

    def getClientConfigValues(self, current: Ice.Current) -> dict[str, str]:
        return {key: value for key, value in self._values().items() if key.startswith("omero.client.")}

    def getDatabaseUuid(self, current: Ice.Current) -> str:
        return self.site.database_uuid

    def getServerTime(self, current: Ice.Current) -> omero.RTime:
        return rtime(milliseconds())

    def getDatabaseTime(self, current: Ice.Current) -> omero.RTime:
        """Needs a database connection, as in OMERO: this is how clients see that the pool is empty."""
        with self.site.background.connection():
            return rtime(milliseconds())

    def _values(self) -> dict[str, str]:
        front = self.site.options.front
        port = front.tcp_port if front is not None else self.site.wire.ports().get("tcp", 0)
        # Clients that asked for it leave TLS after the login, by this address.
        insecure = f"OMERO.Glacier2/router:tcp -p {port} -h @omero.host@" if port else ""
        return {
            "omero.router.insecure": insecure,
            "omero.client.ui.tree.type_order": "tagset,tag,project,dataset,screen,plate,acquisition,image",
            "omero.client.web.host": "",
            "omero.threads.background_threads": str(self.site.options.limits.background_slots),
            "omero.db.poolsize": str(self.site.options.limits.database_connections),
        }
