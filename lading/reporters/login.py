"""Finds the secret of a mail server or a chat: in the environment, a file of mode 0600, or the key ring; never in argv."""

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lading.config import nearest
from lading.errors import ConfigError, ReportError

_KINDS = ("env", "file", "keyring")
_DOCTOR = "lading doctor"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password that no repr shows."""

    user: str
    password: str = field(repr=False)


def find_login(spec: str, service: str) -> Login | None:
    """The login that `spec` points to; None for "".

    "env[:PREFIX]" reads PREFIX_USER and PREFIX_PASSWORD (LADING_MAIL_…), "file:PATH" a TOML file with `user` and `password`,
    "keyring[:SERVICE]" the system's key ring, where the user is kept under the name "user". Raises ConfigError for an
    unusable `spec`, ReportError when nothing is there or others could read it.
    """
    if not spec:
        return None
    kind, _, argument = spec.partition(":")
    if kind == "env":
        found: Mapping[str, object] = _from_environment(argument or "LADING_MAIL", ("user", "password"))
    elif kind == "file" and argument:
        found = private_table(Path(argument).expanduser())
    elif kind == "keyring":
        found = _from_keyring(argument or service)
    else:
        raise ConfigError(f"credentials = {spec!r}{nearest(kind, _KINDS)}", next_command=_DOCTOR)
    user, password = found.get("user"), found.get("password")
    if not isinstance(user, str) or not isinstance(password, str) or not user or not password:
        raise ReportError(f"no login for {service}: {spec!r} does not give user and password", next_command=_DOCTOR)
    return Login(user, password)


def private_table(path: Path) -> Mapping[str, object]:
    """The TOML file `path`, which nobody else may read. Raises ReportError; the file's content is in no message."""
    try:
        mode = path.stat().st_mode
        # Windows keeps rights in lists that the mode does not show.
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReportError(
                f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); nothing was sent",
                next_command=f"chmod 600 {path}",
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        # A parser's message may quote the line with the password: the cause is not kept.
        raise ReportError(f"cannot read a login from {path}: {type(exc).__name__}", next_command=_DOCTOR) from None


def _from_environment(prefix: str, names: tuple[str, ...]) -> Mapping[str, str]:
    return {name: os.environ.get(f"{prefix}_{name.upper()}", "") for name in names}


def _from_keyring(service: str) -> Mapping[str, object]:
    try:
        import keyring  # noqa: PLC0415 - an extra that only this kind needs
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            "credentials = 'keyring' needs the extra: pip install 'lading[keyring]'", next_command=_DOCTOR
        ) from exc
    try:
        user = keyring.get_password(service, "user")
        return {"user": user, "password": keyring.get_password(service, user) if user else None}
    except KeyringError as exc:
        raise ReportError(f"the key ring does not answer: {type(exc).__name__}", next_command=_DOCTOR) from exc
