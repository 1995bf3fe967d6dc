"""Finds a password where the settings say that it is kept. It is never in the settings themselves, in argv, or shown."""

import os
import stat
from pathlib import Path

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError

_KINDS = ("env", "file", "keyring")
_DOCTOR = "lading doctor"
_MAX_BYTES = 64 << 10


def password(spec: str, what: str) -> str:
    """The secret that `spec` points to; `what` says whose it is, for messages.

    "env:NAME" reads an environment variable; "file:PATH" the first line of a file that nobody else can read (0600);
    "keyring:SERVICE/USER" the system's key ring. Raises ConfigError for an unusable `spec`, AccessDenied when nothing is there.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS or not argument:
        # What was written may be the secret itself: it is not repeated.
        raise ConfigError(
            f"the password of {what} must be given as env:NAME, file:PATH or keyring:SERVICE/USER"
            f"{nearest(kind, _KINDS) if len(kind) < 12 and argument else ''}",
            next_command=_DOCTOR,
        )
    if kind == "env":
        return _from_environment(argument, what)
    return _from_file(Path(argument).expanduser(), what) if kind == "file" else _from_keyring(argument, what)


def _from_environment(name: str, what: str) -> str:
    found = os.environ.get(name)
    if not found:
        raise AccessDenied(f"no password for {what}: {name} is not set", next_command=f"read -rs {name}; export {name}")
    return found


def _from_file(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES)
    except OSError as exc:
        raise AccessDenied(f"no password for {what}: cannot read {path}: {exc.strerror}", next_command=_DOCTOR) from exc
    # Windows keeps rights in lists that the mode does not show.
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessDenied(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); nothing was sent",
            next_command=f"chmod 600 {path}",
        )
    line = content.partition(b"\n")[0].rstrip(b"\r")
    try:
        secret = line.decode("utf-8")
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise AccessDenied(f"no password for {what}: the first line of {path} is not one", next_command=_DOCTOR)
    return secret


def _from_keyring(argument: str, what: str) -> str:
    service, _, user = argument.rpartition("/")
    try:
        import keyring  # noqa: PLC0415 - an extra that only this kind needs
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            "a password in the key ring needs the extra: pip install 'lading[keyring]'", next_command=_DOCTOR
        ) from exc
    try:
        found = keyring.get_password(service, user)
    except KeyringError as exc:
        raise AccessDenied(f"the key ring does not answer: {type(exc).__name__}", next_command=_DOCTOR) from exc
    if not found:
        raise AccessDenied(
            f"no password for {what}: the key ring has none for {user!r} of {service!r}",
            next_command=f"keyring set {service} {user}",
        )
    return str(found)
