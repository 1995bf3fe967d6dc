"""Finds a password where the settings say that it is kept. It is never in the settings themselves, in argv, or shown."""

import os
from pathlib import Path

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError
from lading.logins import from_keyring, private_file

_KINDS = ("env", "file", "keyring")
_DOCTOR = "lading doctor"


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
    secret = private_file(path, f"password for {what}").partition("\n")[0].rstrip("\r")
    if not secret:
        raise AccessDenied(f"no password for {what}: the first line of {path} is not one", next_command=_DOCTOR)
    return secret


def _from_keyring(argument: str, what: str) -> str:
    service, _, user = argument.rpartition("/")
    found = from_keyring(service, user)
    if not found:
        raise AccessDenied(
            f"no password for {what}: the key ring has none for {user!r} of {service!r}",
            next_command=f"keyring set {service} {user}",
        )
    return found
