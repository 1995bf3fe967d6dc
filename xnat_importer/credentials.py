"""Finds the user and password for one XNAT. They are never taken from argv, and never shown."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from lading.config import nearest
from lading.errors import AccessDenied, ConfigError
from lading.logins import Login, Place, login, private_file

_KINDS = ("env", "keyring", "file", "netrc")
_DOCTOR = "lading doctor"


def find(spec: str, url: str) -> Login:
    """The login that `spec` points to, for the XNAT at `url`. An alias token works as well: alias and secret.

    "netrc[:PATH]" reads the machine's entry; for "env" (LADING_XNAT_…), "keyring" (the service is the URL) and "file" see
    `lading.logins.login`. Raises ConfigError for an unusable `spec`, AccessDenied when nothing is there or other people
    could read it.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"credentials = {spec!r}{nearest(kind, _KINDS)}", next_command=_DOCTOR)
    if kind == "netrc":
        return _from_netrc(Path(argument).expanduser() if argument else Path.home() / _netrc_name(), url)
    return login(spec, Place("XNAT", service=url, prefix="LADING_XNAT"))


def _from_netrc(path: Path, url: str) -> Login:
    private_file(path, "login")
    host = urlsplit(url)
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError) as exc:
        raise AccessDenied(f"cannot read {path}: {type(exc).__name__}", next_command=_DOCTOR) from None
    found = entries.authenticators(host.netloc) or entries.authenticators(host.hostname or "")
    if not found or not found[0] or not found[2]:
        raise AccessDenied(f"{path} has no login for machine {host.hostname}", next_command=_DOCTOR)
    return Login(found[0], found[2])


def _netrc_name() -> str:
    return "_netrc" if os.name == "nt" else ".netrc"
