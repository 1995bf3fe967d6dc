"""Finds logins where the settings say that they are kept: never in the settings themselves, in argv, a log or a repr."""

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError

_DOCTOR = "lading doctor"
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Login:
    """A user and password (or the two halves of a token), or, with `user` "", the key of a session that is open already."""

    user: str
    secret: str = field(repr=False)

    @property
    def joins(self) -> bool:
        """Whether it joins a session of somebody else's making, which is not ours to close."""
        return not self.user


@dataclass(frozen=True, slots=True)
class Place:
    """What a login is for: `what` in messages ("XNAT"), `service` in the key ring, `prefix` of the variables.

    `sessions`: the key of a session will do as well, as PREFIX_SESSION or as `session` in the file.
    """

    what: str
    service: str
    prefix: str
    sessions: bool = False


def login(spec: str, place: Place) -> Login:
    """The login that `spec` points to.

    "env[:PREFIX]" reads PREFIX_USER and PREFIX_PASSWORD; "keyring[:SERVICE]" the system's key ring, where the user is kept
    under the name "user"; "file:PATH" a TOML file with `user` and `password` that nobody else can read. Raises ConfigError
    for an unusable `spec`, AccessDenied when nothing is there or other people could read it.
    """
    kind, _, argument = spec.partition(":")
    if kind == "env":
        return _from_environment(argument or place.prefix, place)
    if kind == "keyring":
        return _from_keyring(argument or place.service)
    if kind == "file" and argument:
        return _from_file(Path(argument).expanduser(), place)
    if kind == "file":
        raise ConfigError(
            f"credentials = 'file' needs a path, like 'file:/etc/lading/{place.what.lower()}.toml'",
            next_command=_DOCTOR,
        )
    raise ConfigError(f"credentials = {spec!r}{nearest(kind, ('env', 'keyring', 'file'))}", next_command=_DOCTOR)


def private_file(path: Path, what: str) -> str:
    """The text of a file of at most 64 KiB that only its owner can read. `what` says what it should hold, for messages.

    Raises AccessDenied; the cause is not kept where it could quote the content.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES)
    except OSError as exc:
        raise AccessDenied(f"no {what}: cannot read {path}: {exc.strerror}", next_command=f"ls -l {path}") from exc
    # Windows keeps rights in lists that the mode does not show.
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessDenied(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); nothing was sent",
            next_command=f"chmod 600 {path}",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise AccessDenied(f"no {what}: {path} is not text", next_command=f"edit {path}") from None


def from_keyring(service: str, user: str) -> str | None:
    """What the system's key ring keeps under these two names. Raises ConfigError without the extra, AccessDenied."""
    try:
        import keyring  # noqa: PLC0415 - an extra that only this kind needs
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            "a login in the key ring needs the extra: pip install 'lading[keyring]'", next_command=_DOCTOR
        ) from exc
    try:
        found = keyring.get_password(service, user)
    except KeyringError as exc:
        raise AccessDenied(f"the key ring does not answer: {type(exc).__name__}", next_command=_DOCTOR) from exc
    return None if found is None else str(found)


def _from_environment(prefix: str, place: Place) -> Login:
    key = os.environ.get(f"{prefix}_SESSION") if place.sessions else None
    if key:
        return Login("", key)
    user, password = os.environ.get(f"{prefix}_USER"), os.environ.get(f"{prefix}_PASSWORD")
    if not user or not password:
        neither = f", and {prefix}_SESSION neither" if place.sessions else ""
        raise AccessDenied(
            f"no login for {place.what}: {prefix}_USER and {prefix}_PASSWORD are not both set{neither}",
            next_command=f"export {prefix}_USER=NAME; read -rs {prefix}_PASSWORD; export {prefix}_PASSWORD",
        )
    return Login(user, password)


def _from_keyring(service: str) -> Login:
    user = from_keyring(service, "user")
    password = from_keyring(service, user) if user else None
    if not user or not password:
        raise AccessDenied(
            f"the key ring holds no login for {service!r}",
            next_command=f"keyring set {service} user && keyring set {service} THAT_USER",
        )
    return Login(user, password)


def _from_file(path: Path, place: Place) -> Login:
    text = private_file(path, "login")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        # The parser's message may quote the line with the password: the cause is not kept.
        raise AccessDenied(
            f"cannot read a login from {path}: {type(exc).__name__}", next_command=f"edit {path}"
        ) from None
    session, user, password = (table.get(key) for key in ("session", "user", "password"))
    if place.sessions and isinstance(session, str) and session:
        return Login("", session)
    if not isinstance(user, str) or not isinstance(password, str) or not user or not password:
        other = ', or session = "…"' if place.sessions else ""
        raise AccessDenied(f'{path} must hold user = "…" and password = "…"{other}', next_command=f"edit {path}")
    return Login(user, password)
