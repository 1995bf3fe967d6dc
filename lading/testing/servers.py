"""Real servers on loopback for tests: each in its own session, with its own keys, gone when the test is over."""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = "/usr/sbin/sshd"
_START_S = 120.0
_PORTS = range(10_000, 32_000)
_SHARES = 8
_given: set[int] = set()


@dataclass(frozen=True)
class Sshd:
    """A running sshd: `user`@127.0.0.1:`port`, let in with `identity`; `known_hosts` pins its host key."""

    user: str
    port: int
    identity: Path
    known_hosts: Path
    authorized_keys: Path
    log: Path

    def trusting(self, other_port: int, folder: Path) -> Path:
        """A known_hosts file that expects this server's key at another port (a proxy's)."""
        file = folder / f"known_hosts-{other_port}"
        key = self.known_hosts.read_text().split(" ", 1)[1]
        file.write_text(f"[127.0.0.1]:{other_port} {key}")
        return file


def missing_for_sshd() -> str:
    """What is missing on this machine to run an sshd, or ""."""
    for program in (SSHD, "ssh-keygen", "ssh"):
        if not shutil.which(program):
            return f"{program} is not installed (Debian: openssh-server openssh-client)"
    return ""


@contextlib.contextmanager
def sshd(folder: Path, *, forced_command: str = "", extra: str = "") -> Iterator[Sshd]:
    """An sshd of our own account, all its files in `folder`. `forced_command` restricts the key (`command="…",restrict`).

    `extra`: more lines of its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host_key, identity = make_key(folder / "host_key"), make_key(folder / "identity")
    port = free_port()
    authorized = folder / "authorized_keys"
    options = f'command="{forced_command}",restrict ' if forced_command else ""
    authorized.write_text(options + identity.with_suffix(".pub").read_text())
    authorized.chmod(0o600)
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(
        f"[127.0.0.1]:{port} " + " ".join(host_key.with_suffix(".pub").read_text().split()[:2]) + "\n"
    )
    config = folder / "sshd_config"
    config.write_text(
        f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey "{host_key}"
PidFile "{folder / "sshd.pid"}"
AuthorizedKeysFile "{authorized}"
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
PrintMotd no
MaxStartups 50:30:100
Subsystem sftp internal-sftp
{extra}
"""
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # sshd insists on an absolute path: it executes itself for every connection.
    with server([SSHD, "-D", "-e", "-f", str(config)], port, folder / "sshd.log"):
        yield Sshd(getpass.getuser(), port, identity, known_hosts, authorized, folder / "sshd.log")


@contextlib.contextmanager
def server(argv: list[str], port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A server process that listens on 127.0.0.1:`port` when this yields; its whole group ends with the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_for(process, port, log)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def make_key(path: Path) -> Path:
    """A fresh key pair without a passphrase: `path` and `path`.pub."""
    for stale in (path, path.with_suffix(".pub")):
        stale.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, never the same twice.

    Below the range that the system gives to clients, so that none of those takes it before its server starts; and from
    another part of it in each process of a test run that uses several.
    """
    share = (_PORTS.stop - _PORTS.start) // _SHARES
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    while True:
        port = _PORTS.start + worker * share + secrets.randbelow(share)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} does not listen on {port}: {log.read_text(errors='replace')[-2000:]}")
