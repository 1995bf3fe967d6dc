"""Debian's real glacier2router in front of the stand-in, as in a real OMERO: package zeroc-glacier2.

It is a child of the server process and dies with it. Nothing here imports Ice.
"""

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lading.sandbox.omero.certificates import Identity

HOST = "127.0.0.1"
PROGRAM = "glacier2router"
_START_PATIENCE_S = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Front:
    """Where clients connect. `ssl_port` -1 for no TLS."""

    tcp_port: int
    ssl_port: int = -1


def missing() -> str:
    """What is missing on this machine to run the router, or ""."""
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not installed (Debian: zeroc-glacier2)"


def front(tcp_port: int, ssl_port: int) -> Front:
    """Free ports instead of each 0."""
    return Front(tcp_port or _free_port(), ssl_port or _free_port())


@contextmanager
def running(folder: Path, where: Front, behind: int, identity: Identity | None, message_kib: int) -> Iterator[None]:
    """The router, for the stand-in that listens on the TCP port `behind`. Raises RuntimeError, with its log."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, log = folder / "glacier2.cfg", folder / "glacier2.log"
    wanted = _settings(where, behind, identity, message_kib)
    settings.write_text("".join(f"{name}={value}\n" for name, value in wanted.items()), encoding="utf-8")
    with log.open("ab") as out:
        process = subprocess.Popen(
            [PROGRAM, f"--Ice.Config={settings}"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - called before any of our threads may be
        )
    try:
        _wait_for(process, where.tcp_port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _settings(where: Front, behind: int, identity: Identity | None, message_kib: int) -> dict[str, str]:
    ours = f"tcp -h {HOST} -p {behind}"
    endpoints = f"tcp -h {HOST} -p {where.tcp_port}"
    wanted = {
        "Glacier2.InstanceName": "OMERO.Glacier2",
        "Glacier2.Server.Endpoints": f"tcp -h {HOST}",
        "Glacier2.SessionManager": f"OMERO.Glacier2/manager:{ours}",
        "Glacier2.PermissionsVerifier": f"OMERO.Glacier2/verifier:{ours}",
        "Glacier2.SessionTimeout": "600",
        # Without it the group of a call and the like would stay at the router.
        "Glacier2.Client.ForwardContext": "1",
        "Glacier2.Server.ForwardContext": "1",
        "Ice.MessageSizeMax": str(message_kib),
        "Ice.Warn.Connections": "0",
    }
    if identity is not None and where.ssl_port >= 0:
        endpoints += f":ssl -h {HOST} -p {where.ssl_port}"
        wanted |= {
            "Ice.Plugin.IceSSL": "IceSSL:createIceSSL",
            "IceSSL.VerifyPeer": "0",
            "IceSSL.CertFile": str(identity.certificate),
            "IceSSL.KeyFile": str(identity.key),
        }
    return {**wanted, "Glacier2.Client.Endpoints": endpoints}


def _die_with_parent() -> None:
    """In the child: kill it when the thread that made it (the main one) is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{PROGRAM} does not listen on {port}: {log.read_text(errors='replace')[-2000:]}")
