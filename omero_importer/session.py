"""Logins at one OMERO: made when they are needed, renewed when they are lost, shared by the threads of one process.

One login for each owner and group. Whoever works through `Sessions.run` hands over a step that looks before it acts, so that it
may be done again after a lost session or a lost reply.
"""

import logging
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from lading import __version__
from lading.errors import ConfigError, TargetMissing, TargetUnavailable
from omero_importer import credentials, errors
from omero_importer.credentials import Login
from omero_importer.errors import Then
from omero_importer.ice import Glacier2, Ice, omero, unloaded
from omero_importer.session_in_hand import SessionInHand
from omero_importer.settings import RepositorySettings

Result = TypeVar("Result")

_KEPT = 8
"""So many logins stay open; the one that was used longest ago is closed."""
_BUSY_ATTEMPTS = 4
_LONGEST_WAIT_S = 15.0
_IDLE_MS = 600_000
_AWAY_S = 1.0
_LEAVING_S = 5.0
_REJOINS_S = (0.1, 0.3, 0.9)
"""Between attempts to join a session that the server still takes us for connected to."""
_CLIENT_ID = str(omero.constants.CLIENTUUID)
ANYWHERE = {"omero.group": "-1"}
"""The context of a query that looks at all groups which the user may see."""

# It would print what we say better, and its warnings go to the root logger's default handler.
for _name in ("omero.client", "omero.util.Resources"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Who:
    """Whose data it shall be, in which group. "" is the account's own."""

    owner: str = ""
    group: str = ""


class Connection:
    """One open session: the services that the importer uses, and who we are in it.

    `lent`: the session belongs to somebody who opened it; it is left, and never closed. `outlives`: it does not end with this
    connection already. `client_id`: by which OMERO knows this client.
    """

    def __init__(
        self, client: omero.clients.BaseClient, server: str, *, lent: bool = False, outlives: bool = False
    ) -> None:
        self.client, self.server = client, server
        self.lent, self._outlives = lent, outlives or lent
        self.client_id = str(client.getImplicitContext().get(_CLIENT_ID))
        self.key = str(client.getSessionId())
        self.factory: omero.api.ServiceFactoryPrx = client.getSession()
        context = self.factory.getAdminService().getEventContext()
        self.user_id, self.user = int(context.userId), str(context.userName)
        self.group_id, self.group = int(context.groupId), str(context.groupName)
        self.is_admin = bool(context.isAdmin)
        self._category = ""
        self._repository: omero.grid.ManagedRepositoryPrx | None = None

    # The key opens everything that the account may do: `__repr__` must not show it.
    def __repr__(self) -> str:
        return f"Connection({self.server!r}, {self.user!r}, {self.group!r})"

    @cached_property
    def queries(self) -> "omero.api.IQueryPrx":
        """Reads."""
        return self.factory.getQueryService()

    @cached_property
    def updates(self) -> "omero.api.IUpdatePrx":
        """Saves."""
        return self.factory.getUpdateService()

    @property
    def callback_category(self) -> str:
        """What the identity of a servant of ours must say, so that the server's calls find the way to us."""
        if not self._category:
            self._category = str(self.client.getCategory())
        return self._category

    def repository(self) -> "omero.grid.ManagedRepositoryPrx":
        """The managed repository. Raises TargetUnavailable while the server has none ready."""
        if self._repository is None:
            self._repository = self.client.getManagedRepository()
        if self._repository is None:
            raise TargetUnavailable(
                f"looking for the managed repository of {self.server}: it is not ready (stale lock files?)",
                next_command="lading doctor",
            )
        return self._repository

    def time_database(self) -> float:
        """How long the database takes to say what time it is, in seconds."""
        began = time.monotonic()
        self.factory.getConfigService().getDatabaseTime()
        return time.monotonic() - began

    def look_everywhere(self) -> None:
        """From now on, see what the user may see in any of their groups. For reading only: nothing can be saved this way."""
        self.client.getImplicitContext().put("omero.group", "-1")

    def outlive(self) -> None:
        """Have the session outlive its connection, so that it can be joined again. As Ice raises."""
        if not self._outlives:
            self.factory.detachOnDestroy()
            self._outlives = True

    def leave(self) -> None:
        """End the connection, and the session only if it does not outlive it. Never raises."""
        with suppress(Exception):  # whatever went wrong, the server ends idle sessions by itself
            self.client.closeSession()

    def close(self) -> None:
        """Log out. Never raises."""
        if self._outlives and not self.lent:
            with suppress(Exception):
                self.factory.closeOnDestroy()
        self.leave()


@dataclass(frozen=True, slots=True)
class _Lost:
    """A session whose connection broke. `leaving` ends what is left of the connection."""

    key: str = field(repr=False)
    client_id: str
    lent: bool
    leaving: threading.Thread


class Sessions:
    """The logins of this process at one OMERO. Safe to share between threads."""

    def __init__(
        self,
        settings: RepositorySettings,
        in_hand: SessionInHand | None = None,
        *,
        on_busy: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`on_busy` is told when a server stayed busy however long it was waited for: the seconds it asks to be left alone."""
        self.server = f"{settings.host}:{settings.port}"
        self._settings, self._in_hand = settings, in_hand
        self._on_busy = on_busy
        self._lock = threading.RLock()
        self._open: OrderedDict[Who, Connection] = OrderedDict()
        self._lost: dict[Who, _Lost] = {}
        self._process = os.getpid()
        self.logins = 0

    def __repr__(self) -> str:
        return f"Sessions({self.server!r})"

    @property
    def in_person(self) -> bool:
        """Whether a person's own session is used, and not the account that the settings name."""
        return self._in_hand is not None

    def run(
        self,
        who: Who,
        doing: str,
        step: Callable[[Connection], Result],
        *,
        cut_off: Callable[[], Hashable] = lambda: None,
    ) -> Result:
        """What `step` returns. It is done again, once, after a lost session or reply; a busy server is waited for.

        `step` must look before it acts. `cut_off`: how far that has come which can go on over another connection, None when there
        is no such thing. As long as it comes further each time the step is done again, and a server that is away is waited for.
        Raises what the table of errors says.
        """
        lost = busy = 0
        come, until = None, 0.0
        while True:
            connection = None
            try:
                connection = self.connection(who)
                return step(connection)
            except (Ice.Exception, omero.ClientError) as exc:
                line = errors.meaning(exc)
                problem = errors.from_exception(exc, doing=doing, server=self.server)
                if line.then is Then.WAIT and busy < _BUSY_ATTEMPTS:
                    busy += 1
                    _wait(errors.back_off_s(exc), busy)
                    continue
                if line.then is Then.WAIT:
                    self._on_busy(errors.back_off_s(exc))
                again = line.then in (Then.LOG_IN_AGAIN, Then.JOIN_AGAIN, Then.LOOK_AGAIN)
                if again and connection is not None:
                    self._forget(who, connection, lives_on=line.then is not Then.LOG_IN_AGAIN)
                    before, come = come, cut_off()
                    if not lost or come not in (None, before):
                        lost, until = lost + 1, time.monotonic() + self._settings.patience
                        continue
                elif again and come is not None and time.monotonic() < until:
                    time.sleep(_AWAY_S)
                    continue
                raise problem from exc

    def connection(self, who: Who) -> Connection:
        """The login for `who`, made if need be. Raises as Ice does, and AccessDenied, TargetMissing."""
        with self._lock:
            if self._process != os.getpid():
                # A forked child must leave its parent's connections alone.
                self._open, self._lost, self._process = OrderedDict(), {}, os.getpid()
            found = self._open.get(who)
            if found is None:
                found = self._joined_again(who) or self._log_in_to_stay(who)
                self._open[who] = found
            self._open.move_to_end(who)
            stale = self._open.popitem(last=False)[1] if len(self._open) > _KEPT else None
        if stale is not None:
            stale.close()
        return found

    @contextmanager
    def fresh(self, who: Who, doing: str) -> Iterator[Connection]:
        """A login of its own, for a look that owes nothing to what was seen before."""
        with self.translated(doing):
            connection = self._log_in(who)
        try:
            with self.translated(doing):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Foreign exceptions become ours."""
        try:
            yield
        except (Ice.Exception, omero.ClientError) as exc:
            raise errors.from_exception(exc, doing=doing, server=self.server) from exc

    def close(self) -> None:
        """Log out everywhere. Never raises."""
        with self._lock:
            connections, self._open = list(self._open.values()), OrderedDict()
        if self._process == os.getpid():
            for connection in connections:
                connection.close()

    def _forget(self, who: Who, connection: Connection, *, lives_on: bool) -> None:
        """`lives_on`: it was the connection that broke. The session, and an import that runs in it, may still be there."""
        # In a thread: a server that is gone may take its time not to answer.
        ending = connection.leave if lives_on else connection.close
        leaving = threading.Thread(target=ending, name="omero-logout", daemon=True)
        leaving.start()
        with self._lock:
            if self._open.get(who) is connection:
                del self._open[who]
                if lives_on:
                    self._lost[who] = _Lost(connection.key, connection.client_id, connection.lent, leaving)

    def _joined_again(self, who: Who) -> Connection | None:
        """The session that a broken connection left behind, in the group that it worked in; None when it is over. As Ice raises."""
        lost = self._lost.get(who)
        if lost is None:
            return None
        lost.leaving.join(_LEAVING_S)
        made = None
        # These say that it is over, or cannot be joined. After any other there may be another attempt.
        with suppress(Glacier2.PermissionDeniedException, Glacier2.CannotCreateSessionException, omero.ClientError):
            made = self._joined(lost)
        del self._lost[who]
        return made

    def _joined(self, lost: _Lost) -> Connection:
        """As the client that we were: OMERO opens files for an import only on behalf of the client that began it.

        As another one, where the server has still not noticed that that one is gone: then that is no hindrance.
        """
        for pause in _REJOINS_S:
            try:
                return self._join(lost.key, lent=lost.lent, client_id=lost.client_id)
            except (omero.WrappedCreateSessionException, omero.ClientError):
                time.sleep(pause)
        return self._join(lost.key, lent=lost.lent)

    def _join(self, key: str, *, lent: bool, client_id: str = "") -> Connection:
        client = self._client()
        try:
            if client_id:
                client.getImplicitContext().put(_CLIENT_ID, client_id)
            client.joinSession(key).detachOnDestroy()  # at once: from here on it must not end with this connection
            made = Connection(client, self.server, lent=lent, outlives=True)
        except BaseException:
            with suppress(Exception):
                client.closeSession()
            raise
        client.enableKeepAlive(int(self._settings.keep_alive))
        return made

    def _log_in_to_stay(self, who: Who) -> Connection:
        made = self._log_in(who)
        try:
            made.outlive()
        except BaseException:
            made.leave()
            raise
        return made

    def _log_in(self, who: Who) -> Connection:
        login = self._login()
        self.logins += 1
        client = self._client()
        try:
            if login.joins:
                client.joinSession(login.secret)
                client.getSession().detachOnDestroy()  # it belongs to whoever opened it
            else:
                client.createSession(login.user, login.secret)
            made = Connection(client, self.server, lent=login.joins)
            if who.owner and who.owner != made.user:
                return self._as_owner(made, who)
            if who.group and who.group != made.group:
                return self._into_group(made, who.group)
        except BaseException:
            with suppress(Exception):
                client.closeSession()
            raise
        client.enableKeepAlive(int(self._settings.keep_alive))
        return made

    def _login(self) -> Login:
        if self._in_hand is not None:
            if not self._in_hand.opens(self._settings.host, self._settings.port):
                raise ConfigError(
                    f"the session in hand is one at {self._in_hand.host}, the repository is {self.server}",
                    next_command="log in there: omero login",
                )
            return Login("", self._in_hand.key)
        return credentials.find(self._settings.credentials, self._settings.host)

    def _into_group(self, made: Connection, group: str) -> Connection:
        try:
            found = made.factory.getAdminService().lookupGroup(group)
            made.factory.setSecurityContext(unloaded("ExperimenterGroup", found.id.val))
        except (omero.ApiUsageException, omero.SecurityViolation, omero.ValidationException) as exc:
            raise TargetMissing(
                f"working in group {group!r} at {self.server}: there is no such group, or {made.user!r} is no member of it",
                safe="Nothing was sent.",
                next_command="lading doctor",
            ) from exc
        made.client.enableKeepAlive(int(self._settings.keep_alive))
        return Connection(made.client, self.server, lent=made.lent)

    def _as_owner(self, admin: Connection, who: Who) -> Connection:
        """A session of the owner's, opened by an account that may: nobody's password is shared."""
        principal = omero.sys.Principal()
        principal.name, principal.group, principal.eventType = who.owner, who.group or None, "User"
        try:
            session = admin.factory.getSessionService().createSessionWithTimeouts(principal, 0, _IDLE_MS)
        except (omero.ApiUsageException, omero.SecurityViolation, omero.ValidationException) as exc:
            raise TargetMissing(
                f"acting for {who.owner!r}{f' in group {who.group!r}' if who.group else ''} at {self.server}: there is no such "
                f"user or group, or our account {admin.user!r} lacks the privilege Sudo",
                safe="Nothing was sent.",
                next_command="lading doctor",
            ) from exc
        finally:
            threading.Thread(target=admin.close, name="omero-logout", daemon=True).start()
        client = self._client()
        client.joinSession(session.getUuid().getValue())
        client.getSession().closeOnDestroy()
        client.enableKeepAlive(int(self._settings.keep_alive))
        return Connection(client, self.server)

    def _client(self) -> "omero.clients.BaseClient":
        settings, ssl = self._settings, self._settings.ssl
        properties = {
            "Ice.Override.ConnectTimeout": str(int(settings.connect_timeout * 1000)),
            "Ice.Default.InvocationTimeout": str(int(settings.read_timeout * 1000)),
            "IceSSL.VerifyPeer": "2" if ssl.verify else "0",
        }
        if ssl.verify and ssl.ca is not None:
            properties["IceSSL.CAs"] = str(ssl.ca)
        elif ssl.verify:
            properties["IceSSL.UsePlatformCAs"] = "1"
        if ssl.verify and ssl.check_name:
            properties["IceSSL.CheckCertName"] = "1"
        if ssl.ciphers:
            properties["IceSSL.Ciphers"] = ssl.ciphers
        kind = "ssl" if settings.plain == "no" else "tcp"
        try:
            client = omero.client(host=f"{kind}://{settings.host}", port=settings.port, pmap=properties)
        except (Ice.Exception, omero.ClientError) as exc:
            raise errors.from_exception(exc, doing="setting up the connection", server=self.server) from exc
        client.setAgent(f"lading/{__version__}")
        return client


def _wait(back_off: float, attempt: int) -> None:
    wanted = back_off or 0.2 * 2**attempt
    time.sleep(min(_LONGEST_WAIT_S, wanted) * random.uniform(0.75, 1.25))  # noqa: S311 - to spread, not to hide
