"""A Samba server on loopback for tests, with a user of its own and none of the machine's settings."""

import contextlib
import getpass
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.s3_servers import secret_file
from lading.testing.servers import free_port, server

SMBD = "/usr/sbin/smbd"
_FOLDERS = ("private", "lock", "state", "cache", "pid", "ncalrpc")


@dataclass(frozen=True)
class Smbd:
    """A server at 127.0.0.1:`port` whose share `inbox` is the folder it was started for. Secrets are in files, 0600."""

    port: int
    user: str
    password: str
    password_file: Path
    wrong_password_file: Path


def missing_for_smbd() -> str:
    """What is missing on this machine to run Samba, or ""."""
    for program in (SMBD, "pdbedit"):
        if not shutil.which(program):
            return f"{program} is not installed (Debian: samba)"
    return ""


@contextlib.contextmanager
def smbd(folder: Path, share: Path, *, protection: str = "server signing = mandatory") -> Iterator[Smbd]:
    """Samba with `share`, all its own files in `folder`. `protection`: lines of smb.conf about signing and encryption."""
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, mode=0o755, exist_ok=True)
    port, user, password = free_port(), getpass.getuser(), "a-secret-of-Samba"
    config = folder / "smb.conf"
    kinds = {"private": "dir", "ncalrpc": "dir"}
    places = "\n".join(f"{name} {kinds.get(name, 'directory')} = {folder}/{name}" for name in _FOLDERS)
    config.write_text(
        f"""\
[global]
server role = standalone server
smb ports = {port}
interfaces = 127.0.0.1/8
bind interfaces only = yes
disable netbios = yes
disable spoolss = yes
load printers = no
printcap name = /dev/null
{places}
passdb backend = tdbsam:{folder}/private/passdb.tdb
log file = {folder}/log.%m
server min protocol = SMB2_10
{protection}
[inbox]
path = {share}
read only = no
# A link must not lead out of a slot.
follow symlinks = no
"""
    )
    subprocess.run(
        ["pdbedit", "-s", str(config), "-a", "-t", "-u", user],
        input=f"{password}\n{password}\n".encode(),
        capture_output=True,
        check=True,
    )
    argv = [SMBD, "--foreground", "--no-process-group", f"--configfile={config}", "--debug-stdout"]
    with server(argv, port, folder / "smbd.log"):
        yield Smbd(
            port,
            user,
            password,
            secret_file(folder / "pw", password),
            secret_file(folder / "wrong-pw", "not the password"),
        )
