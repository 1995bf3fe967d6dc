"""Who is calling, and what they may do in a project."""

import base64
import binascii
import secrets
import threading
import time
import uuid
from dataclasses import dataclass

from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.faults import Faults
from lading.sandbox.xnat.state import UNASSIGNED, AliasToken, Experiment, Project, State, Subject

MAX_FAILED_LOGINS = 20
_TOKEN_LIFE = 2 * 86400.0

READ, EDIT, OWN = 1, 2, 3
_RANK = {"collaborator": READ, "member": EDIT, "owner": OWN}


@dataclass(frozen=True)
class Caller:
    """``user`` is "" for nobody. ``expired``: a login session was presented that no longer counts."""

    user: str = ""
    session: str = ""
    expired: bool = False


class Accounts:
    """Users, login sessions (lost with the process, as in Tomcat) and alias tokens (kept)."""

    def __init__(self, users: dict[str, str], state: State, faults: Faults) -> None:
        self.users = dict(users)
        self.admin = "admin" if "admin" in users else next(iter(users))
        self._state, self._faults = state, faults
        self._sessions: dict[str, tuple[str, float]] = {}
        self._failures: dict[str, int] = {}
        self._lock = threading.Lock()

    def login(self, user: str, password: str) -> str:
        """The name of the user. Raises Refusal 401; twenty failures lock the account."""
        name = user.rpartition("/")[2]
        token = self._state.tokens.get(name)
        if token and secrets.compare_digest(token.secret, password) and token.expires > time.time():
            return token.user
        known = self.users.get(name)
        locked = self._failures.get(name, 0) >= MAX_FAILED_LOGINS
        if known is not None and not locked and secrets.compare_digest(known.encode(), password.encode()):
            self._failures.pop(name, None)
            return name
        self._failures[name] = self._failures.get(name, 0) + 1
        raise Refusal(401, "Login attempt failed. Please try again.", {"WWW-Authenticate": _CHALLENGE})

    def open_session(self, user: str) -> str:
        """A new login session of this user; answers its JSESSIONID."""
        session = uuid.uuid4().hex.upper()
        with self._lock:
            self._sessions[session] = (user, time.monotonic())
        return session

    def close_session(self, session: str) -> None:
        """Logs one session out."""
        with self._lock:
            self._sessions.pop(session, None)

    def close_all_sessions(self) -> None:
        """Logs everybody out, as a restart does."""
        with self._lock:
            self._sessions.clear()

    def identify(self, cookie: str, authorization: str) -> Caller:
        """Cookie first, then Basic; Basic opens a session of its own. Raises Refusal 401 for a wrong password."""
        if cookie and (user := self._user_of(cookie)):
            return Caller(user, cookie)
        if authorization.lower().startswith("basic "):
            name, _, password = _decoded(authorization[6:]).partition(":")
            user = self.login(name, password)
            return Caller(user, self.open_session(user))
        return Caller(expired=bool(cookie))

    def _user_of(self, session: str) -> str:
        with self._lock:
            user, used = self._sessions.get(session, ("", 0.0))
            if not user:
                return ""
            if time.monotonic() - used > self._faults.session_timeout or self._faults.take("session_expiry"):
                del self._sessions[session]
                return ""
            self._sessions[session] = (user, time.monotonic())
            return user

    def issue_token(self, user: str) -> AliasToken:
        """A user name and password that are good for two days."""
        token = AliasToken(str(uuid.uuid4()), secrets.token_hex(32), user, time.time() + _TOKEN_LIFE)
        return self._state.tokens.put(token)

    def rank(self, user: str, project: Project) -> int:
        """0 for no access, else READ, EDIT or OWN."""
        return OWN if user == self.admin else _RANK.get(project.members.get(user, ""), 0)

    def can(self, user: str, need: int, project: str) -> bool:
        """Nobody but the admin can do anything with the Unassigned project."""
        if project == UNASSIGNED:
            return user == self.admin
        known = self._state.projects.get(project)
        return known is not None and self.rank(user, known) >= need

    def demand(self, user: str, need: int, project: str, message: str) -> None:
        """Raises Refusal: 404 when the user may not even know of the project, else 403."""
        if not self.can(user, READ, project):
            raise Refusal(404, f"Unable to find the specified project: {project}")
        if not self.can(user, need, project):
            raise Refusal(403, message)

    def visible(self, user: str, row: Subject | Experiment) -> bool:
        """Whether the user may read the project that this belongs to."""
        return self.can(user, READ, row.project)


_CHALLENGE = 'Basic realm="XNAT Protected Area"'


def login_required() -> Refusal:
    return Refusal(401, "The request requires user authentication", {"WWW-Authenticate": _CHALLENGE})


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
