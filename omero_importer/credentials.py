"""Finds the login for one OMERO: a user and password, or the key of a session. Never taken from argv, and never shown."""

import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError

_KINDS = ("env", "keyring", "file")
_DOCTOR = "lading doctor"
_PREFIX = "LADING_OMERO"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and password, or, with `user` "", the key of a session that is open already."""

    user: str
    secret: str = field(repr=False)

    @property
    def joins(self) -> bool:
        """Whether it joins a session of somebody else's making, which is not ours to close."""
        return not self.user


def find(spec: str, host: str) -> Login:
    """The login that `spec` points to, for the OMERO at `host`.

    "env[:PREFIX]" reads PREFIX_SESSION, else PREFIX_USER and PREFIX_PASSWORD (LADING_OMERO_…); "keyring[:SERVICE]" the system's
    key ring, where the service is the host and the user is kept under the name "user"; "file:PATH" a TOML file with
    `user` and `password`, or `session`. Raises ConfigError for an unusable `spec`, AccessDenied when nothing is there or
    other people could read it.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"credentials = {spec!r}{nearest(kind, _KINDS)}", next_command=_DOCTOR)
    if kind == "env":
        return _from_environment(argument or _PREFIX)
    if kind == "keyring":
        return _from_keyring(argument or host)
    if not argument:
        raise ConfigError("credentials = 'file' needs a path, like 'file:/etc/lading/omero.toml'", next_command=_DOCTOR)
    return _from_file(Path(argument).expanduser())


def _from_environment(prefix: str) -> Login:
    key = os.environ.get(f"{prefix}_SESSION")
    if key:
        return Login("", key)
    user, password = os.environ.get(f"{prefix}_USER"), os.environ.get(f"{prefix}_PASSWORD")
    if not user or not password:
        raise AccessDenied(
            f"no login for OMERO: {prefix}_USER and {prefix}_PASSWORD are not both set, and {prefix}_SESSION neither",
            next_command=f"export {prefix}_USER=NAME; read -rs {prefix}_PASSWORD; export {prefix}_PASSWORD",
        )
    return Login(user, password)


def _from_keyring(service: str) -> Login:
    try:
        import keyring  # noqa: PLC0415 - an extra that only this kind needs
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            "credentials = 'keyring' needs the extra: pip install 'lading[keyring]'", next_command=_DOCTOR
        ) from exc
    try:
        user = keyring.get_password(service, "user")
        password = keyring.get_password(service, user) if user else None
    except KeyringError as exc:
        raise AccessDenied(f"the key ring does not answer: {type(exc).__name__}", next_command=_DOCTOR) from exc
    if not user or not password:
        raise AccessDenied(
            f"the key ring holds no login for {service!r}",
            next_command=f"keyring set {service} user && keyring set {service} THAT_USER",
        )
    return Login(user, password)


def _from_file(path: Path) -> Login:
    _demand_private(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        # The parser's message may quote the line with the password: the cause is not kept.
        raise AccessDenied(f"cannot read a login from {path}: {type(exc).__name__}", next_command=_DOCTOR) from None
    session, user, password = (table.get(key) for key in ("session", "user", "password"))
    if isinstance(session, str) and session:
        return Login("", session)
    if not isinstance(user, str) or not isinstance(password, str) or not user or not password:
        raise AccessDenied(f'{path} must hold user = "…" and password = "…", or session = "…"', next_command=_DOCTOR)
    return Login(user, password)


def _demand_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise AccessDenied(f"no login: cannot read {path}: {exc.strerror}", next_command=_DOCTOR) from exc
    # Windows keeps rights in lists that the mode does not show.
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessDenied(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); nothing was sent",
            next_command=f"chmod 600 {path}",
        )
