"""The stand-in as a whole: what its parts share, and the gate that every call passes."""

import itertools
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import Ice
import omero

from lading.disk import write_whole
from lading.sandbox.omero import directory, errors, graph
from lading.sandbox.omero.accounts import Accounts
from lading.sandbox.omero.connections import Connections
from lading.sandbox.omero.faults import Faults
from lading.sandbox.omero.glacier2 import Front
from lading.sandbox.omero.permissions import SYSTEM, Context
from lading.sandbox.omero.pixels import Images
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.sessions import IDLE_MS, Session, Sessions
from lading.sandbox.omero.slots import Background, Limits
from lading.sandbox.omero.spoiling import Spoiler
from lading.sandbox.omero.store import Store
from lading.sandbox.omero.stored_files import StoredFiles
from lading.sandbox.omero.wire import LOG, Call, Listening, Servant, Wire

if TYPE_CHECKING:
    from lading.sandbox.omero.services.base import Service

SERVANTS_PER_SESSION = 10_000
_LOOK_EVERY_S = 0.2
_LOG_LINES = 5_000
_NO_CONNECTION = nullcontext()


def factory_category(client: str) -> str:
    """Of the identity of a client's ServiceFactory; its name is the session's UUID."""
    return f"session-{client}"


class Hook(Protocol):
    """Sees every call, and may spoil it: the faults are hooks."""

    def before(self, call: Call) -> None:
        """Before it is carried out. What this raises is the answer (`wire.NoAnswer`: there is none)."""

    def after(self, call: Call) -> None:
        """After it was carried out, before the answer leaves."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the starter decides.

    `front`: a real router's ports. `servants`: open stateful services a session may have. `java`: see `pixels.Images`.
    """

    root: Path
    accounts: Accounts
    listening: Listening
    front: Front | None = None
    idle_ms: int = IDLE_MS
    servants: int = SERVANTS_PER_SESSION
    threads: int = 100
    limits: Limits = field(default_factory=Limits)
    java: bool | None = None


class Site:
    """Everything that services reach for. Made once; `open` answers calls, `close` ends it."""

    def __init__(self, options: Options) -> None:
        options.root.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.root = options.root
        self.store = Store(options.root / "omero.sqlite")
        directory.furnish(self.store, options.accounts)
        self.database_uuid = self.lasting_uuid("database")
        self.sessions = Sessions(self.store, idle_ms=options.idle_ms)
        self.sessions.on_end.append(self._forget)
        self.connections = Connections(enforced=options.front is None)
        self.wire = Wire(options.listening, threads=options.threads)
        self.background = Background(options.limits)
        self.faults = Faults()
        self.files = StoredFiles(self.store, options.root / "data", self.faults)
        self.images = Images(java=options.java)
        self.hooks: list[Hook] = [Spoiler(self)]
        self.on_deleted: list[Callable[[Sequence[Record]], None]] = [self.files.forget]
        self.counts: Counter[str] = Counter()
        self.queries: Counter[str] = Counter()
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._numbers = itertools.count(1)
        self._stateful: dict[str, dict[str, Service]] = {}
        self._shared: dict[str, list[Ice.Identity]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def open(self) -> None:
        """Answer calls from here on."""
        self.wire.activate()
        threading.Thread(target=self._watch_sessions, name="sessions", daemon=True).start()

    def close(self) -> None:
        """Answer nothing any more; what was committed stays."""
        self._closing.set()
        self.wire.close()
        self.background.close(1.0)
        self.images.close()
        self.store.close()

    # -- objects ----------------------------------------------------------------------------------------------------

    def save(
        self, thing: omero.model.IObject, context: Context = SYSTEM, *, details: bool = True
    ) -> omero.model.IObject:
        """Store a graph of wire objects as IUpdate does, and give it back with ids and, unless nobody looks, details."""
        return graph.save(self.store, thing, context, details=details)

    def build(self, record: Record, context: Context = SYSTEM, plan: graph.Plan | None = None) -> omero.model.IObject:
        """The wire's object of a record; `plan` says which properties are loaded too."""
        return graph.build(self.store, record, context, plan)

    def enumeration(self, cls: str, value: str, *, make: bool = False) -> Ref:
        """An enumeration's value. Raises ApiUsageException when there is none of this value, unless `make`."""
        found = next(self.store.find(cls, value=value), None)
        if found is None and make:
            found = self.store.create(cls, {"value": value})
        if found is None:
            raise errors.api_usage(f"unknown {cls} {value!r}")
        return found.ref

    def lasting_uuid(self, name: str) -> str:
        """A UUID that stays the same when the server starts again."""
        kept = self.root / f"{name}.uuid"
        if not kept.exists():
            write_whole(kept, str(uuid.uuid4()).encode("ascii"))
        return kept.read_text(encoding="ascii").strip()

    # -- services ---------------------------------------------------------------------------------------------------

    def add_stateful(self, service: "Service") -> Ice.ObjectPrx:
        """Serve something that belongs to its session and ends with it. Raises OverUsageException."""
        session, name = service.session, str(next(self._numbers))
        with self._lock:
            session.check()
            held = self._stateful.setdefault(session.uuid, {})
            if len(held) >= self.options.servants:
                raise errors.over_usage(f"{len(held)} servants are open in this session already; close some")
            held[name] = service
        return self.wire.add(service, name, session.uuid)

    def remove_stateful(self, identity: Ice.Identity) -> None:
        """It was closed by its user. May be called twice."""
        self.wire.remove(identity)
        with self._lock:
            self._stateful.get(identity.category, {}).pop(identity.name, None)

    def stateful(self, session: Session) -> list["Service"]:
        """What the session holds open."""
        with self._lock:
            return list(self._stateful.get(session.uuid, {}).values())

    def callback(self, proxy: Ice.ObjectPrx, current: Ice.Current) -> Ice.ObjectPrx:
        """The way back to a client: through the connection it opened, or through the router in front of us."""
        return proxy if self.options.front is not None else current.con.createProxy(proxy.ice_getIdentity())

    def shared(self, session: Session, name: str, category: str, make: Callable[[], Servant]) -> Ice.ObjectPrx:
        """A service without state, made when it is first asked for."""
        with self._lock:
            identity = Ice.Identity(name, category)
            if self.wire.adapter.find(identity) is None:
                self.wire.add(make(), name, category)
                self._shared.setdefault(session.uuid, []).append(identity)
        return self.wire.proxy(name, category)

    def factory_of(self, session: Session, client: str) -> Ice.Object | None:
        """The ServiceFactory of a client that is connected to the session."""
        return self.wire.adapter.find(Ice.Identity(session.uuid, factory_category(client)))

    def remove_factory(self, session: Session, client: str) -> None:
        """That client is gone. May be called twice."""
        identity = Ice.Identity(session.uuid, factory_category(client))
        self.wire.remove(identity)
        with self._lock:
            held = self._shared.get(session.uuid, [])
            if identity in held:
                held.remove(identity)

    def disconnected(self, session: Session) -> None:
        """A connection of this session is gone."""
        if session.ended and not self.connections.uses(session):
            self._remove_shared(session)

    def _forget(self, session: Session) -> None:
        with self._lock:
            held = self._stateful.pop(session.uuid, {})
        for name, service in held.items():
            self.wire.remove(Ice.Identity(name, session.uuid))
            try:
                service.closed()
            except Exception:  # noqa: BLE001 - one that cannot let go must not keep the others
                LOG.exception("%s cannot be closed", type(service).__name__)
        # Who is still connected hears that the session is over; anybody else finds nothing.
        self.disconnected(session)

    def _remove_shared(self, session: Session) -> None:
        with self._lock:
            identities = self._shared.pop(session.uuid, [])
        for identity in identities:
            self.wire.remove(identity)

    # -- the gate of every call -------------------------------------------------------------------------------------

    def before(self, call: Call) -> None:
        """Count it, see that its connection may use its session, let the hooks see it."""
        self.counts[call.label] += 1
        session = getattr(call.servant, "session", None)
        if isinstance(session, Session):
            self.connections.admit(session, call.current)
            session.check()
            session.touched = time.monotonic()
        for hook in self.hooks:
            hook.before(call)

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Lend it a database connection, if it needs one."""
        return self.background.connection() if call.servant.uses_database else _NO_CONNECTION

    def after(self, call: Call) -> None:
        """The hooks see it once more."""
        for hook in self.hooks:
            hook.after(call)

    def _watch_sessions(self) -> None:
        while not self._closing.wait(_LOOK_EVERY_S):
            self.sessions.expire()
