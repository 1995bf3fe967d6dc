"""Finds the login for one server, where the settings say that it is kept. It is never in argv, and never shown."""

import netrc
import os
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError

_KINDS = ("env", "keyring", "file", "netrc")
_DOCTOR = "lading doctor"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password; an access key and its secret, an app token or an alias token are the same to us."""

    user: str
    password: str = field(repr=False)


def find_login(spec: str, url: str, *, variables: str) -> Login:
    """The login that `spec` points to, for the server at `url` (scheme://host/…).

    "env[:PREFIX]" reads PREFIX_USER and PREFIX_PASSWORD, where `variables` is the default prefix; "keyring[:SERVICE]" the
    system's key ring, where the service is the URL and the user is kept under the name "user"; "file:PATH" a TOML file with
    `user` and `password`; "netrc[:PATH]" the machine's entry. Raises ConfigError for an unusable `spec`, AccessDenied when
    nothing is there or other people could read it.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"credentials = {kind!r}{nearest(kind, _KINDS)}", next_command=_DOCTOR)
    if kind == "env":
        return _from_environment(argument or variables, url)
    if kind == "keyring":
        return _from_keyring(argument or url)
    if kind == "netrc":
        return _from_netrc(Path(argument).expanduser() if argument else Path.home() / _netrc_name(), url)
    if not argument:
        raise ConfigError("credentials = 'file' needs a path, like 'file:/etc/lading/login.toml'", next_command=_DOCTOR)
    return _from_file(Path(argument).expanduser())


def _from_environment(prefix: str, url: str) -> Login:
    user, password = os.environ.get(f"{prefix}_USER"), os.environ.get(f"{prefix}_PASSWORD")
    if not user or not password:
        raise AccessDenied(
            f"no login for {url}: {prefix}_USER and {prefix}_PASSWORD are not both set",
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
    user, password = table.get("user"), table.get("password")
    if not isinstance(user, str) or not isinstance(password, str) or not user or not password:
        raise AccessDenied(f'{path} must hold user = "…" and password = "…"', next_command=_DOCTOR)
    return Login(user, password)


def _from_netrc(path: Path, url: str) -> Login:
    _demand_private(path)
    host = urlsplit(url)
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError) as exc:
        raise AccessDenied(f"cannot read {path}: {type(exc).__name__}", next_command=_DOCTOR) from None
    found = entries.authenticators(host.netloc) or entries.authenticators(host.hostname or "")
    if not found or not found[0] or not found[2]:
        raise AccessDenied(f"{path} has no login for machine {host.hostname}", next_command=_DOCTOR)
    return Login(found[0], found[2])


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


def _netrc_name() -> str:
    return "_netrc" if os.name == "nt" else ".netrc"
