"""An rsync daemon on loopback for tests, with a login, and a TLS server before it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.servers import free_port, server

USER = "scanner"


@dataclass(frozen=True)
class Rsyncd:
    """A daemon at 127.0.0.1:`port` whose module `inbox` is the folder it was started for; USER may write with `password`."""

    port: int
    password: str


@contextlib.contextmanager
def rsyncd(folder: Path, module: Path, *, read_only: bool = False) -> Iterator[Rsyncd]:
    """The daemon, all its own files in `folder`. The module refuses deletions of what a client does not name."""
    folder.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), "a daemon's Secret"
    secrets = folder / "secrets"
    secrets.touch(0o600)
    secrets.write_text(f"{USER}:{password}\n")
    identity = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config = folder / "rsyncd.conf"
    config.write_text(
        f"""\
port = {port}
address = 127.0.0.1
use chroot = no
reverse lookup = no
lock file = {folder}/lock
{identity}
[inbox]
path = {module}
read only = {"yes" if read_only else "no"}
auth users = {USER}
secrets file = {secrets}
"""
    )
    argv = ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--log-file={folder}/rsyncd.log"]
    with server(argv, port, folder / "stderr.log"):
        yield Rsyncd(port, password)


@contextlib.contextmanager
def tls_before(port: int, folder: Path, certificate: Path) -> Iterator[int]:
    """stunnel in front of 127.0.0.1:`port`, with the key and chain in the PEM file `certificate`; yields its own port."""
    folder.mkdir(parents=True, exist_ok=True)
    own = free_port()
    config = folder / "stunnel.conf"
    config.write_text(
        f"""\
foreground = yes
pid =
syslog = no
[rsync]
accept = 127.0.0.1:{own}
connect = 127.0.0.1:{port}
cert = {certificate}
TIMEOUTclose = 0
"""
    )
    with server(["stunnel4", str(config)], own, folder / "stunnel.log"):
        yield own
