"""The stand-in as a process: how it starts, and that it never stays behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import Ice
import pytest

from lading.sandbox.omero import accounts
from lading.testing.omero_server import Login, OmeroServer

PATIENCE_S = 120.0
STARTER = """
import pathlib, sys, time
from lading.sandbox.omero import SandboxOmero
SandboxOmero(pathlib.Path(sys.argv[1]), tls=False, java=False).start()
print("up", flush=True)
time.sleep(600)
"""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`lading sandbox omero`, as one types it."""
    argv = [sys.executable, "-m", "lading", "sandbox", "omero", "--root", str(tmp_path / "root"), "--ssl-port", "0"]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*argv, "--ready-file", str(tmp_path / "ready")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_command_serves_until_it_is_told_to_stop(started: "subprocess.Popen[bytes]", tmp_path: Path):
    until((tmp_path / "ready").exists)
    ready = json.loads((tmp_path / "ready").read_text())
    password = accounts.read(tmp_path / "root" / "accounts.json").users["alice"].password
    server = OmeroServer("127.0.0.1", ready["ports"]["ssl"], "alice", password, None)

    with Login(server, "alice", password) as alice:
        assert alice.factory.getAdminService().getEventContext().userName == "alice"
    started.send_signal(signal.SIGTERM)

    assert started.wait(PATIENCE_S) == 0
    said = (tmp_path / "out").read_text()
    assert "not OMERO.server" in said
    assert str(tmp_path / "root" / "accounts.json") in said
    assert password not in said
    with pytest.raises(Ice.Exception):
        Login(server, "alice", password)


def test_it_does_not_outlive_who_started_it(tmp_path: Path):
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            STARTER,
            str(tmp_path / "root"),
        ],
        stdout=subprocess.PIPE,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    server = json.loads((tmp_path / "root" / "ready.json").read_text())["pid"]

    starter.kill()
    starter.wait()
    starter.stdout.close()

    until(lambda: not running(server))


def running(pid: int) -> bool:
    """A zombie, which nobody has waited for yet, does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
