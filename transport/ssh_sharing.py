"""One ssh connection for several programs that each start an ssh: they log in once, not every time.

OpenSSH's own multiplexing: a master, in the background, holds the connection; whoever is told its socket goes through it, or
makes a connection of its own when there is no master any more. A master that nobody uses ends by itself, also when we
were killed.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_IDLE_S = 10
_PREFIX = "lading-ssh-"
_OLD_S = 3600.0
_LONGEST = 80  # bytes of a socket's path: systems allow 104 to 108, and ssh adds 17 while it makes one
_PATIENCE_S = 30.0
_FAST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_NO_SHARING = re.compile(r"[Cc]ontrol(?:Path|Socket|Master| socket)|unix_listener|mux")


class NotSharedError(Exception):
    """The master could not log in; the message is what ssh said."""


@contextmanager
def shared(ssh: Sequence[str], host: str, *, seconds: float) -> Iterator[list[str]]:
    """The options that make an ssh go through one connection to `host`, or none where that cannot be had.

    `ssh`: the command with its options, as for a connection of its own. `seconds`: for the log-in. Raises NotSharedError when
    ssh cannot log in; what it was told then is the reason for any other ssh as well.
    """
    if sys.platform == "win32" or Path(ssh[0]).name != "ssh":
        yield []
        return
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        socket = f"{folder}/s"
        if len(socket.encode()) > _LONGEST or not _begun([*ssh, f"-oControlPath={socket}"], host, seconds):
            yield []
            return
        try:
            yield ["-o", f"ControlPath={socket}", "-o", "ControlMaster=no"]
        finally:
            _run([ssh[0], "-F", "none", f"-oControlPath={socket}", "-O", "exit", host], _PATIENCE_S)


def _sweep() -> None:
    """Remove the folders of those who were killed: their masters have ended, and taken the sockets with them."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or not empty
            if old.stat().st_mtime < time.time() - _OLD_S:
                old.rmdir()


def _begun(ssh: list[str], host: str, seconds: float) -> bool:
    """Whether there is a master now."""
    how = [*fast_first(ssh, host), "-oControlMaster=yes", f"-oControlPersist={_IDLE_S}", "-N", "-f"]
    code, said = _run([*ssh, *how, host], seconds + _PATIENCE_S)
    if code > 0 and not _NO_SHARING.search(said):
        raise NotSharedError(said)
    return not code


def fast_first(ssh: Sequence[str], host: str) -> list[str]:
    """The ciphers that ssh may use here, in another order: the processor's AES costs a part of what ChaCha20 does.

    None is added: what the account or the system rules out stays out.
    """
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            [*ssh, "-G", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
        for line in asked.stdout.splitlines():
            key, _, value = line.partition(" ")
            if key == "ciphers":
                allowed = value.strip().split(",")
                return [f"-oCiphers={','.join(sorted(allowed, key=lambda name: name not in _FAST))}"]
    return []


def _run(argv: list[str], seconds: float) -> tuple[int, str]:
    """Exit code (-1: it cannot be run, or does not end) and standard error.

    Through a file: an old ssh in the background would hold a pipe open.
    """
    with tempfile.TemporaryFile() as said:
        try:
            code = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=seconds,
                start_new_session=True,
                check=False,
            ).returncode
        except (OSError, subprocess.TimeoutExpired):
            code = -1
        said.seek(0)
        return code, said.read(16 << 10).decode("utf-8", "replace")
