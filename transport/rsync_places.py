"""Where rsync carries to: a folder of this machine, a folder behind ssh, or a module of a daemon, plain or inside TLS.

A place knows how rsync is told the address, and which options and environment that takes. Nothing here runs anything.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import attrs

from lading.errors import ConfigError
from transport.logins import password
from transport.rsync_silence import SILENT_TIMES

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.$-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%]+\])")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
_ASKS_S = 15
_UNANSWERED = 3  # so many may be; with the one after them ssh gives up
_PORTS = {"rsync": 873, "rsyncs": 874}


@attrs.frozen(kw_only=True)
class RsyncConfig:
    """`target`: the inbox, as `/path` (this machine), `user@host:/path` (ssh), `rsync://user@host:port/module/path` (a
    daemon) or `rsyncs://…` (a daemon inside TLS).

    `port`, `identity`, `known_hosts`, `ssh_config` are ssh's; a host key that is not known is refused, always.
    `password`: the daemon's, as env:NAME, file:PATH or keyring:SERVICE/USER. `ca_file`: whom TLS trusts instead of the system's
    list; `server_name`: the name in the certificate, when it is not the host's. A daemon without TLS hides neither data nor
    password: it is refused unless it is on this machine or `plain = true`.
    `timeout`: seconds of silence before a transfer counts as broken (rsync's --timeout; while we send, Lading itself waits
    three times as long for a sign of the other side); checksums of a huge file take that long on a slow
    disk. An ssh that hears nothing gives up in that time too, and after a minute at the latest. `connect_timeout`: seconds for
    the connection. `chmod`: permissions in the inbox (rsync's --chmod). `fsync`:
    each file is forced to the remote disk before the seal; without it the inbox does that when it reads everything
    back. `compress` suits slow lines. `names`: what the inbox's disk refuses ("posix", "windows", "smb").
    """

    target: str
    port: int = 0
    identity: Path | None = None
    known_hosts: Path | None = None
    ssh_config: Path | None = None
    password: str = ""
    ca_file: Path | None = None
    server_name: str = ""
    plain: bool = False
    timeout: int = 120
    connect_timeout: int = 10
    chmod: str = "D2770,F0660"
    compress: bool = False
    fsync: bool = False
    names: str = "posix"
    program: str = "rsync"
    remote_program: str = ""
    ssh: str = "ssh"

    @property
    def patience(self) -> float:
        """Seconds in which the other side may say nothing at all while we send."""
        return float(self.timeout * SILENT_TIMES)


def safe(timeout: int) -> list[str]:
    """ssh's options that every one of our connections has. A dead line is noticed after a minute, or `timeout` when that is less.

    Below rsync's own time-out lies ssh's: an rsync that gave up leaves its ssh behind, and that one holds our line.
    """
    asks = max(1, min(_ASKS_S, timeout // (_UNANSWERED + 1))) if timeout > 0 else _ASKS_S
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"ServerAliveInterval={asks}",
        f"ServerAliveCountMax={_UNANSWERED}",
    )
    return [word for option in options for word in ("-o", option)]


class RsyncPlace(Protocol):
    """The root of an inbox, as rsync is told it. `local`: its path on this machine, None when it is elsewhere."""

    @property
    def local(self) -> Path | None:
        """See the class."""

    def address(self, path: str) -> str:
        """The argument for `path` (relative POSIX) below the root."""

    def options(self) -> list[str]:
        """What the connection needs on the command line. No secret."""

    def environment(self) -> Mapping[str, str]:
        """What the connection needs in the environment; read anew for every run. Raises AccessDenied, ConfigError."""


@dataclass(frozen=True, slots=True)
class OnThisMachine:
    """A folder, without any daemon."""

    root: str

    @property
    def local(self) -> Path | None:
        """The folder."""
        return Path(self.root)

    def address(self, path: str) -> str:
        """A plain path."""
        return f"{self.root.rstrip('/')}/{path}"

    def options(self) -> list[str]:
        """None."""
        return []

    def environment(self) -> Mapping[str, str]:
        """Nothing."""
        return {}


@dataclass(frozen=True, slots=True)
class OverSsh:
    """A folder of a host that lets us in by ssh."""

    host: str
    root: str
    shell: str
    remote_program: str

    @property
    def local(self) -> Path | None:
        """It is elsewhere."""
        return None

    def address(self, path: str) -> str:
        """host:/path."""
        return f"{self.host}:{self.root.rstrip('/')}/{path}"

    def options(self) -> list[str]:
        """The remote shell, and the program over there when it is not simply `rsync`."""
        return [*([f"--rsync-path={self.remote_program}"] if self.remote_program else []), "-e", self.shell]

    def environment(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def through(self, options: Iterable[str]) -> "OverSsh":
        """The same place, reached by an ssh with these options more."""
        return replace(self, shell=" ".join([self.shell, *map(_quoted, options)]))


@dataclass(frozen=True, slots=True)
class AtADaemon:
    """A module of an rsync daemon. With a `shell`, the connection is made by that program (the TLS pipe)."""

    user: str
    host: str
    port: int
    root: str
    login: str
    connect_timeout: int
    shell: str = ""
    _what: str = field(default="", repr=False)

    @property
    def local(self) -> Path | None:
        """It is elsewhere, or shows only what its module shows."""
        return None

    def address(self, path: str) -> str:
        """user@host::module/path."""
        return f"{self.user + '@' if self.user else ''}{self.host}::{self.root}/{path}"

    def options(self) -> list[str]:
        """Port and time-out, or the program that makes the connection."""
        if self.shell:
            return ["-e", self.shell]
        return [f"--port={self.port}", f"--contimeout={self.connect_timeout}"]

    def environment(self) -> Mapping[str, str]:
        """The password. (A file would do as well, but not every kind of login is one.)"""
        if not self.login:
            return {}
        return {"RSYNC_PASSWORD": password(self.login, f"the rsync daemon {self.host}")}


def place_of(config: RsyncConfig) -> RsyncPlace:
    """The place that `config.target` names. Raises ConfigError."""
    if config.target.startswith(("rsync://", "rsyncs://")):
        return _daemon(config)
    if config.target.startswith("/"):
        return OnThisMachine(config.target)
    # A host that begins with a dash would be an option of ssh.
    target = config.target
    host, colon, path = target.rpartition(":") if target.startswith("[") else target.partition(":")
    if not colon or not path.startswith("/") or not _HOST.fullmatch(host):
        raise ConfigError(
            f"transport.target = {target!r} is neither /path, user@host:/path, nor rsync://host/module/path",
            next_command="lading doctor",
        )
    return OverSsh(host, path, _ssh(config), config.remote_program)


def _daemon(config: RsyncConfig) -> AtADaemon:
    try:
        parts = urlsplit(config.target)
        port = parts.port or config.port or _PORTS[parts.scheme]
    except ValueError as exc:
        raise ConfigError(f"transport.target = {config.target!r}: {exc}", next_command="lading doctor") from exc
    host, user, path = parts.hostname or "", unquote(parts.username or ""), unquote(parts.path).strip("/")
    if parts.password is not None:
        raise ConfigError("transport.target holds a password; give it as password = 'env:NAME' or 'file:PATH'")
    bracketed = f"[{host}]" if ":" in host else host
    folders = path.split("/")
    if (
        not _HOST.fullmatch(bracketed)
        or (user and not _USER.fullmatch(user))
        or not _MODULE.fullmatch(folders[0])
        or any(part in ("", ".", "..") for part in folders)
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(
            f"transport.target = {config.target!r} is not rsync://user@host:port/module/path",
            next_command="lading doctor",
        )
    if parts.scheme == "rsync" and not config.plain and not _is_here(host):
        raise ConfigError(
            f"transport.target = {config.target!r} would send data and password readable for everybody on the"
            " way: use rsyncs:// (TLS) or ssh, or say plain = true where the line itself is safe",
            next_command="lading doctor",
        )
    shell = _tls_pipe(config, host, port) if parts.scheme == "rsyncs" else ""
    return AtADaemon(user, bracketed, port, path, config.password, config.connect_timeout, shell)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _tls_pipe(config: RsyncConfig, host: str, port: int) -> str:
    """The program that rsync uses in place of ssh: our own pipe, so that a certificate is always checked, on Windows too."""
    words = [
        sys.executable,
        "-m",
        "transport.tls_pipe",
        f"--connect={host}:{port}",
        f"--timeout={config.connect_timeout}",
    ]
    if config.ca_file:
        words.append(f"--ca-file={config.ca_file}")
    if config.server_name:
        words.append(f"--server-name={config.server_name}")
    return " ".join(_quoted(word) for word in words)


def _ssh(config: RsyncConfig) -> str:
    """The ssh command for rsync's -e."""
    return " ".join(_quoted(word) for word in ssh_words(config))


def ssh_words(config: RsyncConfig) -> list[str]:
    """ssh and its options, without the host. Nothing ever asks a question, and an unknown host is refused."""
    words = [config.ssh, "-x", "-a"]
    if config.ssh_config:
        words += ["-F", str(config.ssh_config)]
    if config.port:
        words += ["-p", str(config.port)]
    if config.identity:
        words += ["-i", str(config.identity), "-o", "IdentitiesOnly=yes"]
    if config.known_hosts:
        words += ["-o", f'UserKnownHostsFile="{config.known_hosts}"']
    words += ["-o", f"ConnectTimeout={config.connect_timeout}"]
    return [*words, *safe(config.timeout), "-o", "ClearAllForwardings=yes"]


def _quoted(word: str) -> str:
    # rsync(1), --rsh: quotes as in a shell, a doubled quote stands for itself, no backslashes.
    return word if re.fullmatch(r"[A-Za-z0-9_./:=@%+,-]+", word) else '"' + word.replace('"', '""') + '"'
