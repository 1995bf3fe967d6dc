"""Which connection was used to log in to which session.

Glacier2 gives each connection its own session and hides all others from it. The router of our own does the same; behind
a real Glacier2, which does it itself, every call comes from the router and nothing is checked here.
"""

import threading

import Ice

from lading.sandbox.omero.sessions import Session


class Connections:
    """Connection → session. A connection is known by its two ends, which are unique while it is open."""

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._bound: dict[str, tuple[Session, str]] = {}
        self._lock = threading.Lock()

    def bind(self, connection: Ice.Connection, session: Session, client: str) -> None:
        """Somebody logged in (or joined) on this connection; `client` is the UUID that omero-py gave itself."""
        with self._lock:
            self._bound[connection.toString()] = (session, client)

    def unbind(self, connection: Ice.Connection) -> tuple[Session, str] | None:
        """It was closed, or logged out. Gives what it was bound to."""
        with self._lock:
            return self._bound.pop(connection.toString(), None)

    def session(self, connection: Ice.Connection) -> Session | None:
        """What it is bound to."""
        with self._lock:
            bound = self._bound.get(connection.toString())
        return bound[0] if bound else None

    def admit(self, session: Session, current: Ice.Current) -> None:
        """Raises ObjectNotExistException when the call comes by a connection of another session, or of none."""
        if not self._enforced or current.con is None:
            return
        bound = self._bound.get(current.con.toString())  # without the lock: it is asked at every call
        if bound is None or bound[0] is not session:
            raise Ice.ObjectNotExistException(current.id, current.facet, current.operation)

    def uses(self, session: Session) -> bool:
        """Somebody is connected to it."""
        with self._lock:
            return any(bound is session for bound, _ in self._bound.values())
