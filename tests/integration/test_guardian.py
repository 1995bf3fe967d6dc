"""No server outlives the tests that started it, however they end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guardian looks into /proc")

TESTS = """
import contextlib, json, subprocess, sys, threading, time
from pathlib import Path
from lading.engine.postgres import Cluster
from lading.testing import guardian, servers

folder = Path(sys.argv[1])
guardian.watch()
guardian.watch()
opened = contextlib.ExitStack()
port = servers.free_port()
found = {"port": port}
(folder / "shared").symlink_to(guardian.shared_folder())

def start():
    server = opened.enter_context(
        servers.server([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], port, folder / "log")
    )
    found["server"] = server.pid

starter = threading.Thread(target=start)
starter.start()
starter.join()
away = subprocess.run(["sh", "-c", "setsid sleep 3000 >&- 2>&- & echo $!"], stdout=subprocess.PIPE, check=True)
found["in a session of its own"] = int(away.stdout)
cluster = Cluster(folder / "postgres")
cluster.start()
found["database"] = cluster.pid()
print(json.dumps(found), flush=True)
if sys.argv[2] == "stay":
    time.sleep(3000)
"""


@contextlib.contextmanager
def servers_of_tests(folder: Path, then: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, int]]]:
    """A process as one that runs tests is: it has started three servers, and then stays or ends without stopping them."""
    process = subprocess.Popen([sys.executable, "-c", TESTS, str(folder), then], stdout=subprocess.PIPE, text=True)
    started: dict[str, int] = {}
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        yield process, started
    finally:
        process.kill()
        process.communicate()
        for pid in (number for name, number in started.items() if name != "port"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def until(true: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 100
    while not true():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def test_what_tests_started_is_gone_after_they_were_killed_and_nothing_else(tmp_path: Path) -> None:
    with servers_of_tests(tmp_path, "stay") as (tests, started), subprocess.Popen(["sleep", "3000"]) as bystander:
        port = started.pop("port")
        # The thread that started the server has ended long ago, which is nobody's end.
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
        assert all(map(alive, started.values()))
        assert (tmp_path / "shared").is_dir()

        tests.kill()

        for name, pid in started.items():
            until(lambda pid=pid: not alive(pid), f"still there: {name}")
        until(lambda: not (tmp_path / "shared").exists(), "what the tests shared is still there")
        assert bystander.poll() is None
        bystander.kill()


def test_what_tests_forgot_to_stop_is_gone_after_they_ended(tmp_path: Path) -> None:
    with servers_of_tests(tmp_path, "end") as (tests, started):
        del started["port"]
        tests.wait(100)

        for name, pid in started.items():
            until(lambda pid=pid: not alive(pid), f"still there: {name}")
