"""An SSH connection with one SFTP session on it, as bytes in both directions; made by OpenSSH's own client, as a program.

The program does what costs most, the encryption, in a process of its own and several times as fast as a library does it in ours.
It ends with us: whoever kills us closes its standard input.
"""

import contextlib
import fcntl
import math
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import attrs

from lading.errors import AccessDenied, ConfigError, LadingError, Unreachable
from transport.ssh_line import LineError, Piece

# What ssh prints, in the C locale, and what it means for us; the first that fits. Anything else: the connection was lost.
REASONS: tuple[tuple[str, type[LadingError], str], ...] = (
    (r"Host key verification failed", AccessDenied, "the host key is not the one we trust"),
    (
        r"subsystem request failed|open failed: administratively",
        AccessDenied,
        "the server offers no SFTP to this account",
    ),
    (r"UNPROTECTED PRIVATE KEY", AccessDenied, "the private key cannot be used: others may read it"),
    (r"Load key .*: (?:Permission denied|No such file)", AccessDenied, "the private key cannot be read"),
    (r"Load key .*: ", AccessDenied, "the private key cannot be used"),
    (r"Permission denied \(|Too many authentication failures", AccessDenied, "the server refused our login"),
    (r"Unable to negotiate|no matching .* found", ConfigError, "the server and we know no common algorithm"),
    (r"Bad configuration option|Bad SSH2 cipher|unknown option|usage: ssh", ConfigError, "this ssh is too old"),
    (r"Connection refused|timed out|Could not resolve|No route|unreachable", Unreachable, "no connection"),
)
_TAIL_LINES = 40
_LINE_BYTES = 4096
_READ_BYTES = 256 << 10
_PIPE_BYTES = 1 << 20  # what we can read and hash ahead, while the program encrypts
_PIECES = 512  # in one system call; systems take 1024
_LAST_WORDS_S = 5.0


@attrs.frozen(kw_only=True)
class KeyLogin:
    """Where, and as whom, without a secret of ours. `identity`: the private key; None: the agent and the keys of the account.

    `known_hosts`: the host keys we trust (None: those of the account and the system). `silence_s`: without an answer to a sign of
    life for that long, the connection counts as lost.
    """

    host: str
    port: int
    user: str | None
    identity: Path | None
    known_hosts: Path | None
    connect_s: float
    silence_s: float


def can_be_told(path: Path | None) -> bool:
    """Whether ssh can be given this path: it has no way to quote some characters."""
    return path is None or not re.search(r'["\n\r]|\$\{', str(path))


def words(program: str, login: KeyLogin) -> list[str]:
    """The program and its options, without the host. Nothing ever asks a question, and an unknown host is refused."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "PreferredAuthentications": "publickey",
        "ClearAllForwardings": "yes",
        "Compression": "no",
        "LogLevel": "ERROR",  # a banner is none of our business
        "ConnectTimeout": str(max(1, math.ceil(login.connect_s))),
        "ServerAliveInterval": str(max(1, round(login.silence_s / 3))),
        "ServerAliveCountMax": "3",
    }
    if login.identity is not None:
        options |= {"IdentityFile": _path(login.identity), "IdentitiesOnly": "yes", "IdentityAgent": "none"}
    if login.known_hosts is not None:
        options |= {"UserKnownHostsFile": _path(login.known_hosts), "GlobalKnownHostsFile": "none"}
    # What ~/.ssh/config says must not change what the settings say.
    argv = [program, "-F", "none", "-x", "-a", "-T", "-p", str(login.port)]
    if login.user:
        argv += ["-l", login.user]
    return argv + [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _path(path: Path) -> str:
    return f'"{path.expanduser()}"'.replace("%", "%%")


class ProgramLine:
    """ssh with the subsystem sftp; see Line. Raises ConfigError when it cannot be started.

    `argv`: as `words` gives it, perhaps with more options.
    """

    def __init__(self, argv: Sequence[str], host: str) -> None:
        try:
            child = subprocess.Popen(
                [*argv, "-s", "--", host, "sftp"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C is for us to answer
            )
        except OSError as exc:
            raise ConfigError(
                f"the program {argv[0]!r} cannot be started: {exc.strerror or exc}", next_command="lading doctor"
            ) from exc
        assert child.stdin and child.stdout and child.stderr  # noqa: S101, PT018 - pipes, as asked for
        self._child = child
        self._in, self._out = child.stdin.fileno(), child.stdout.fileno()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError, AttributeError):  # not on Linux, or there are many pipes already
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._lock = threading.Lock()
        self._busy = 0
        self._closed = False
        self._ended = threading.Event()
        self._said: deque[bytes] = deque(maxlen=_TAIL_LINES)
        threading.Thread(target=self._listen, name=f"lading-ssh-{host}", daemon=True).start()

    @property
    def is_closed(self) -> bool:
        """See Line."""
        return self._closed or self._ended.is_set()

    def send(self, pieces: Sequence[Piece]) -> None:
        """See Line."""
        self._enter()
        try:
            _write_all(self._in, pieces)
        except OSError:
            raise self._reason() from None
        finally:
            self._leave()

    def receive(self) -> bytes:
        """See Line."""
        self._enter()
        try:
            data = os.read(self._out, _READ_BYTES)
        except OSError:
            data = b""
        finally:
            self._leave()
        if not data:
            raise self._reason()
        return data

    def close(self) -> None:
        """See Line."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._child.returncode is None:  # it is only reaped under the lock: the number is still its own
                self._child.kill()
            if not self._busy:
                self._close_pipes()

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise LineError(Unreachable, "the connection was closed")
            self._busy += 1

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            if self._closed and not self._busy:
                self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _reason(self) -> LineError:
        """Why nothing can be said or heard any more."""
        if self._closed:
            return LineError(Unreachable, "the connection was closed")
        self._ended.wait(_LAST_WORDS_S)
        said = b"\n".join(self._said).decode("utf-8", "replace")
        detail = next((line.strip() for line in said.splitlines() if re.search(r"\w", line) and "@@@" not in line), "")
        shown = "".join(c if c.isprintable() else "?" for c in detail[:200])
        for pattern, kind, meaning in REASONS:
            found = re.search(pattern, said)
            if found:
                return LineError(kind, f"{meaning} ({shown})")
        return LineError(Unreachable, f"the connection was lost{f' ({shown})' if shown else ''}")

    def _listen(self) -> None:
        """Keep its last words; take note of its end."""
        stderr = self._child.stderr
        assert stderr is not None  # noqa: S101 - a pipe, as asked for
        with contextlib.suppress(OSError, ValueError), stderr:
            while line := stderr.readline(_LINE_BYTES):
                self._said.append(line)
        with contextlib.suppress(ChildProcessError):  # `close` may have reaped it: kill() looks first
            os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._child.wait()
        self._ended.set()


def _write_all(fd: int, pieces: Sequence[Piece]) -> None:
    waiting = deque(pieces)
    while waiting:
        together = [waiting.popleft() for _ in range(min(len(waiting), _PIECES))]
        written = os.writev(fd, together)
        for number, piece in enumerate(together):
            if written < len(piece):
                rest = [memoryview(piece)[written:], *together[number + 1 :]]
                waiting.extendleft(reversed(rest))
                break
            written -= len(piece)
