"""Sessions: who is logged in, on whose behalf a call is made, and when it is over.

A session outlives the connection it was made on: it ends when its last client closes it, when somebody closes it by
name, or when nobody called for longer than its idle time. What it held open (uploads, handles) ends with it.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from lading.sandbox.omero import directory, errors
from lading.sandbox.omero.permissions import ALL_GROUPS, SYSTEM_GROUP, Context, memberships
from lading.sandbox.omero.records import Record, Ref, Value
from lading.sandbox.omero.store import Store, milliseconds

IDLE_MS = 600_000
MAX_IDLE_MS = 6_000_000
"""omero.sessions.timeout and omero.sessions.max_user_time_to_idle: what users may raise their idle time to."""


class End(StrEnum):
    """Why a session is over."""

    CLOSED = "closed"
    IDLE = "idle for too long"
    AGE = "open for too long"


@dataclass(eq=False)
class Session:
    """One login. `group` is where its objects go unless a call says otherwise; times in milliseconds, 0 is for ever."""

    uuid: str
    number: int
    user: int
    user_name: str
    group: int
    idle_ms: int
    live_ms: int
    started: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)
    clients: set[str] = field(default_factory=set)
    ended: End | None = None

    def due(self, now: float) -> End | None:
        """Why it should end now, or None."""
        if self.live_ms and (now - self.started) * 1000 > self.live_ms:
            return End.AGE
        return End.IDLE if self.idle_ms and (now - self.touched) * 1000 > self.idle_ms else None

    def check(self) -> None:
        """Raises RemovedSessionException or SessionTimeoutException when it is over."""
        if self.ended is End.CLOSED:
            raise errors.removed_session(f"session {self.uuid} was closed")
        if self.ended is not None:
            raise errors.session_timeout(f"session {self.uuid} was {self.ended}")


class Sessions:
    """All of them. `on_end` are called once for each session that ends, after it has."""

    def __init__(self, store: Store, *, idle_ms: int = IDLE_MS) -> None:
        self._store, self._idle_ms = store, idle_ms
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()
        self.on_end: list[Callable[[Session], None]] = []

    def log_in(self, name: str, password: str, group: str, agent: str) -> Session:
        """A new session, or the one whose UUID is both name and password. Raises PermissionError, SecurityViolation."""
        joined = self.get(name) if name == password else None
        if joined is not None:
            return joined
        person = directory.user_named(self._store, name)
        if person is None or not directory.right_password(person, password):
            raise PermissionError(f"Password check failed for '{name}': []")
        return self.open(person, group=group, agent=agent)

    def trusted(self, name: str, group: str, agent: str) -> Session:
        """As `log_in`, for a router that has asked `allowed` already. Raises PermissionError, SecurityViolation."""
        joined = self.get(name)
        if joined is not None:
            return joined
        person = directory.user_named(self._store, name)
        if person is None:
            raise PermissionError(f"no user '{name}'")
        return self.open(person, group=group, agent=agent)

    def allowed(self, name: str, password: str) -> bool:
        """The verifier's question: may this one log in?"""
        if name == password and self.get(name) is not None:
            return True
        person = directory.user_named(self._store, name)
        return person is not None and directory.right_password(person, password)

    def open(
        self,
        person: Record,
        *,
        group: str = "",
        agent: str = "",
        idle_ms: int = 0,
        live_ms: int = 0,
        sudoer: int | None = None,
    ) -> Session:
        """A new session of this person, without asking for a password. Raises SecurityViolation."""
        chosen = self._group(person, group)
        identity, idle_ms = str(uuid.uuid4()), idle_ms or self._idle_ms
        fields: dict[str, Value] = {
            "uuid": identity,
            "owner": person.ref,
            "started": milliseconds(),
            "timeToIdle": idle_ms,
            "timeToLive": live_ms,
            "userAgent": agent,
            "defaultEventType": "User",
            "sudoer": None if sudoer is None else Ref("Experimenter", sudoer),
        }
        record = self._store.create("Session", fields, owner=person.id)
        session = Session(identity, record.id, person.id, person.text("omeName"), chosen.id, idle_ms, live_ms)
        with self._lock:
            self._open[identity] = session
        return session

    def get(self, identity: str) -> Session | None:
        """An open session by its UUID."""
        with self._lock:
            return self._open.get(identity)

    def all(self) -> list[Session]:
        """Every open session."""
        with self._lock:
            return list(self._open.values())

    def set_idle(self, session: Session, idle_ms: int) -> None:
        """Change a session's idle time."""
        session.idle_ms = idle_ms
        record = self._store.get("Session", session.number)
        if record is not None:
            self._store.change(record, timeToIdle=idle_ms)

    def end(self, session: Session, why: End = End.CLOSED) -> None:
        """It is over, whoever still uses it. Nothing happens when it is over already."""
        with self._lock:
            if self._open.pop(session.uuid, None) is None:
                return
            session.ended = why
        record = self._store.get("Session", session.number)
        if record is not None:
            self._store.change(record, closed=milliseconds())
        for told in self.on_end:
            told(session)

    def expire(self) -> None:
        """End every session whose time has come."""
        now = time.monotonic()
        for session in self.all():
            due = session.due(now)
            if due is not None:
                self.end(session, due)

    def context(self, session: Session, wishes: Mapping[str, str]) -> Context:
        """On whose behalf a call of this session is made; `wishes` is the call's Ice context. Raises SecurityViolation."""
        maps = memberships(self._store, session.user)
        groups = _ids(maps)
        leads = _ids(each for each in maps if each.get("owner"))
        context = Context(
            session.uuid,
            session.number,
            session.user,
            session.user_name,
            session.group,
            SYSTEM_GROUP in groups,
            groups,
            leads,
        )
        wish = wishes.get("omero.group", "")
        return self._in_group(context, wish) if wish else context

    def _in_group(self, context: Context, wish: str) -> Context:
        try:
            group = int(wish)
        except ValueError:
            raise errors.api_usage(f"omero.group must be a number, not {wish!r}") from None
        if group < 0:
            return replace(context, group=ALL_GROUPS)
        self._check_member(context, group)
        return replace(context, group=group)

    def _check_member(self, context: Context, group: int) -> None:
        if self._store.get("ExperimenterGroup", group) is None:
            raise errors.security(f"no such group: {group}")
        if group not in context.member_of and not context.is_admin:
            raise errors.security(f"User {context.user} is not a member of group {group} and cannot login")

    def _group(self, person: Record, wish: str) -> Record:
        if not wish:
            return directory.default_group(self._store, person)
        group = directory.group_named(self._store, wish)
        groups = _ids(memberships(self._store, person.id))
        if group is None or (group.id not in groups and SYSTEM_GROUP not in groups):
            raise errors.security(f"User {person.text('omeName')} is not a member of group {wish!r} and cannot login")
        return group


def _ids(maps: Iterable[Record]) -> tuple[int, ...]:
    return tuple(ref.id for each in maps if (ref := each.reference("parent")))
