"""Makes servants known to OMERO's router, many with one call.

Everything that a client calls goes through Glacier2, which passes on calls only to servants that it was told of. Ice tells it by
itself, in a call of its own before the first call to each: for an import of many small files that is every fourth call.
"""

from collections.abc import Sequence
from typing import TypeVar

from omero_importer.ice import Glacier2, Ice
from omero_importer.session import Connection

Proxy = TypeVar("Proxy", bound=Ice.ObjectPrx)


def introduced(connection: Connection, proxies: Sequence[Proxy]) -> list[Proxy]:
    """Proxies for the same servants, in order, for which Ice asks the router nothing any more. As Ice raises.

    They live as long as the connection. To be used soon: a router remembers a thousand servants, and forgets the oldest.
    """
    router = connection.client.getCommunicator().getDefaultRouter()
    through = connection.factory.ice_getCachedConnection()
    if router is None or through is None:
        return list(proxies)
    Glacier2.RouterPrx.uncheckedCast(router).addProxies(list(proxies))
    return [
        # Of the connection it knows nothing else: neither its router, nor how long an answer may take.
        type(proxy).uncheckedCast(
            through.createProxy(proxy.ice_getIdentity()).ice_invocationTimeout(proxy.ice_getInvocationTimeout())
        )
        for proxy in proxies
    ]
