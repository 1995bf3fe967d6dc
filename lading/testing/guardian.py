"""Ends what tests have started once the process that runs them is gone, however it went: a pytest plug-in.

A process of its own waits at a pipe whose other end nobody but the tests' process holds. When that end closes it kills everything
that carries the mark which the tests' process put into its environment: servers, what they started in their turn, and what made a
session of its own. Then it removes the folder that the tests shared.

Not by PR_SET_PDEATHSIG: that goes off with the *thread* that started a server, and reaches no grandchildren.

    pytest_plugins = ["lading.testing.guardian"]        # in the conftest.py of the tests
"""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "STARTED_BY_TESTS"
"""The name in the environment (some tests take LADING_* out); the value is another one for each process that runs tests."""
_LONGEST_S = 60.0
_guardians: dict[int, "subprocess.Popen[bytes]"] = {}


def pytest_configure() -> None:
    """The process that distributes the tests has a guardian, and so has each that runs them."""
    watch()


def watch() -> None:
    """From now on, what this process starts will not outlive it, on Linux. May be called again."""
    if sys.platform != "linux" or os.getpid() in _guardians:
        return
    ours = f"{os.getpid()}-{secrets.token_hex(8)}"
    folder = _shared_folder(os.getpid())
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, ours, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is for the tests
        env=environment,  # it must not be found by another guardian
        cwd="/",
    )
    assert guardian.stdin is not None
    # What is started by exec does not inherit the pipe; a fork would.
    os.register_at_fork(after_in_child=guardian.stdin.close)
    os.environ[MARK] = ours
    _guardians[os.getpid()] = guardian


def shared_folder() -> Path:
    """A folder for what the tests of this process share; other users may read it. It is removed when the process has ended."""
    watch()
    return _shared_folder(os.getpid())


@functools.cache
def _shared_folder(_process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lading-tests-"))
    folder.chmod(0o755)
    if sys.platform != "linux":
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def main(mark: str, folder: str) -> None:
    """Wait for the end of standard input, then kill whoever carries `mark` until nobody is left, and remove `folder`."""
    while os.read(0, 1024):
        pass
    wanted = f"{MARK}={mark}".encode()
    deadline = time.monotonic() + _LONGEST_S
    # Twice without a find: one that was killed may have started another just before.
    empty = 0
    while empty < 2 and time.monotonic() < deadline:
        empty = 0 if [pid for pid in _pids() if _kill(pid, wanted)] else empty + 1
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _pids() -> Iterator[int]:
    return (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())


def _kill(pid: int, wanted: bytes) -> bool:
    """Whether the process carried the mark. It is held on to while it is looked at: its number may be given to another."""
    with contextlib.suppress(OSError):
        held = os.pidfd_open(pid)
        try:
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(held, signal.SIGKILL)
                return True
        finally:
            os.close(held)
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
