"""Runs one rsync: hands it the list of names, follows its progress, ends it when asked, says what its failure means."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.errors import (
    AccessDenied,
    ConfigError,
    Corrupted,
    LadingError,
    OutOfSpace,
    SourceChanged,
    UnexpectedFault,
    Unreachable,
)
from lading.ports import Progress
from transport.pacing import Pace
from transport.rsync_silence import SilenceWatch

# rsync(1), "EXIT VALUES"; what each means for us. A message on stderr that we know decides before this table does.
EXIT_CODES: dict[int, tuple[type[LadingError], str]] = {
    1: (ConfigError, "rsync did not understand its options"),
    2: (ConfigError, "the two rsync programs cannot talk to each other"),
    3: (SourceChanged, "rsync could not select the files"),
    4: (ConfigError, "the rsync on the other side refuses an option that we need"),
    5: (AccessDenied, "the rsync on the other side refused us"),
    6: (UnexpectedFault, "rsync could not write its log"),
    10: (Unreachable, "the connection was lost"),
    11: (AccessDenied, "rsync could not write"),
    12: (Unreachable, "the connection was lost"),
    13: (UnexpectedFault, "rsync failed in its own diagnostics"),
    14: (Unreachable, "rsync lost its partner process"),
    15: (Unreachable, "rsync lost its partner process"),
    16: (Unreachable, "rsync was killed"),
    19: (Unreachable, "rsync was killed"),
    20: (Unreachable, "rsync was interrupted"),
    21: (Unreachable, "rsync lost its partner process"),
    22: (Unreachable, "rsync ran out of memory"),
    23: (AccessDenied, "some files could not be carried"),
    24: (SourceChanged, "files vanished while they were carried"),
    25: (UnexpectedFault, "rsync stopped at its limit of deletions"),
    30: (Unreachable, "the other side stopped answering"),
    35: (Unreachable, "the other side did not answer"),
    124: (AccessDenied, "the remote shell failed"),
    125: (AccessDenied, "the remote shell was killed"),
    126: (AccessDenied, "rsync cannot be started on the other side"),
    127: (AccessDenied, "there is no rsync on the other side"),
    255: (Unreachable, "ssh could not connect"),
}

# What rsync, ssh and rrsync print, in the C locale, when the exit code alone does not tell who must act. First match wins.
MESSAGES: tuple[tuple[str, type[LadingError], str], ...] = (
    (r"certificate refused|TLS failed", AccessDenied, "the certificate of the server is not trusted; see ca_file"),
    (r"cannot connect to \S+: ", Unreachable, "the server did not answer"),
    (r"@ERROR: auth failed", AccessDenied, "the daemon refused user or password"),
    (r"@ERROR: Unknown module|@ERROR: access denied", AccessDenied, "the daemon does not offer this module to us"),
    (r"@ERROR: max connections", Unreachable, "the daemon is busy"),
    (r"module is read only", AccessDenied, "the module may not be written"),
    (r"The server is configured to refuse", ConfigError, "the daemon refuses an option that we need"),
    (r"No space left on device", OutOfSpace, "the disk of the inbox is full"),
    (r"Disk quota exceeded", OutOfSpace, "the quota of the inbox is used up"),
    (r"Host key verification failed", AccessDenied, "the host key is not the one we trust"),
    (r"Permission denied \((?:publickey|password|keyboard)", AccessDenied, "the server refused our key"),
    (r"Too many authentication failures", AccessDenied, "the server refused our key"),
    (r"UNPROTECTED PRIVATE KEY|Load key .*: ", AccessDenied, "the private key cannot be used"),
    (r"Identity file .* not accessible", AccessDenied, "the private key cannot be read"),
    (
        r"Another instance of rrsync",
        Unreachable,
        "another rsync is under way there, and rrsync lets in one at a time; `rrsync -no-lock` in authorized_keys lets in several",
    ),
    (r"has been disabled|rrsync error", AccessDenied, "the restricted key forbids what we need"),
    (r"on remote machine: --?[a-z-]+: unknown option", ConfigError, "the rsync on the other side is too old"),
    (r"\[(?:R|r)eceiver.*(?:denied|not permitted|Read-only)", AccessDenied, "the inbox may not be written"),
    (r"\[generator.*(?:denied|not permitted|Read-only)", AccessDenied, "the inbox may not be written"),
    (r"\[sender.*(?:denied|not permitted)", AccessDenied, "a file may not be read"),
    (r"file has vanished", SourceChanged, "files vanished while they were carried"),
    (r"failed verification -- update discarded", Corrupted, "a file was damaged on the way"),
    (r"rsync: (?:command )?not found|rsync: No such file", AccessDenied, "there is no rsync on the other side"),
)

_PROGRESS = re.compile(rb"\s*([0-9]+)\s+[0-9]+%")
_TAIL_LINES = 40
_GATHER_S = 0.005
"""rsync says a line for every file, at once. Who is woken for each takes the processors from it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an rsync ended: its exit code and the last lines of its standard error.

    `stopped`: we ended it for another rate. `silent_s`: we ended it because the other side had said nothing for so long.
    """

    code: int
    stderr: str
    stopped: bool = False
    silent_s: float = 0.0

    def error(self, doing: str) -> LadingError:
        """What went wrong, in our terms. `doing` says what we were doing, to what."""
        if self.silent_s and self.code:
            return Unreachable(f"{doing}: the other side said nothing for {self.silent_s:.0f} s, and rsync was ended")
        kind, meaning = EXIT_CODES.get(self.code, (UnexpectedFault, "rsync failed"))
        for pattern, known, words in MESSAGES:
            if re.search(pattern, self.stderr):
                kind, meaning = known, words
                break
        detail = _telling_line(self.stderr)
        message = f"{doing}: {meaning} (rsync exit code {self.code}{'; ' + detail if detail else ''})"
        return kind(message, next_command="" if kind.retried else "lading doctor")


class Rsync:
    """Starts the program `program` (name or path). `grace`: seconds between asking it to end and killing it.

    `environment` is asked before every run for what the program needs besides ours: a password, for one.
    """

    def __init__(
        self, program: str = "rsync", *, grace: float = 3.0, environment: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._program, self._grace, self._environment = program, grace, environment

    def run(
        self,
        arguments: Iterable[str],
        *,
        cwd: Path,
        names: Iterable[str] = (),
        on_line: Callable[[bytes], None] | None = None,
        pace: Pace | None = None,
        hold: bool = False,
        patience: float | None = None,
    ) -> Ended:
        """Run to the end in the folder `cwd`, with `names` NUL-separated on standard input.

        `hold`: standard input stays open after the names, until the end; a far side that reads it sees our death there.

        Every line of output goes to `on_line`. With a `pace` the program is ended as soon as the allowed rate is no longer the
        one it was started with (`stopped`), and with `patience` after so many seconds without a byte from the other side. Raises
        ConfigError when the program is not installed. Whatever is raised here, also KeyboardInterrupt, the program and its ssh
        are gone afterwards.
        """
        argv = [self._program, *arguments]
        rate = pace.rate() if pace else None
        if rate is not None:
            # rsync's unit is 1024 bytes, and 0 means no limit.
            argv.insert(1, f"--bwlimit={max(1, int(rate / 1024))}")
        child = _start(argv, cwd, self._environment())
        threads: list[threading.Thread] = []
        feeder = _Feeder(child, names, hold=hold)
        try:
            tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
            threads = [
                threading.Thread(target=feeder.feed, daemon=True),
                threading.Thread(target=_keep_tail, args=(child, tail), daemon=True),
            ]
            for thread in threads:
                thread.start()
            watch = _RateWatch(child, pace, rate)
            # It ends rsync at once: its ssh, and rsync itself, may wait for room in a line that nobody empties.
            with SilenceWatch(child.pid, patience, lambda: _signal(child, signal.SIGKILL)) as silence:
                for line in _lines(child):
                    if on_line:
                        on_line(line)
                    watch.look()
            code = _exit_code(child, threads[-1], self._grace)
            feeder.over.set()
            for thread in threads:
                thread.join(self._grace)
            if feeder.failure:
                raise feeder.failure
            return Ended(code, b"\n".join(tail).decode("utf-8", "backslashreplace"), watch.stopped, silence.silent_s)
        finally:
            _end(child, self._grace)
            feeder.over.set()
            for thread in threads:
                thread.join(self._grace)
            # An ssh that serves several may hold the pipe as long as it believes in a dead line: it is left to its listener then.
            for pipe in (child.stdout, *(() if any(thread.is_alive() for thread in threads) else (child.stderr,))):
                if pipe:
                    pipe.close()


class _RateWatch:
    """Ends the child when the pace has changed. Looks at most once a second: rsync prints several times as often."""

    def __init__(self, child: "subprocess.Popen[bytes]", pace: Pace | None, rate: float | None) -> None:
        self._child, self._pace, self._rate = child, pace, rate
        self._next = time.monotonic() + 1
        self.stopped = False

    def look(self) -> None:
        if self._pace is None or self.stopped or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        if self._pace.rate() != self._rate:
            self.stopped = True
            _signal(self._child, signal.SIGTERM)


class Told:
    """Turns rsync's output into progress. What an attempt found done is told at the end, so that the sum is right."""

    def __init__(self, files: int, size: int, progress: Progress) -> None:
        self._files, self._bytes, self._progress = files, size, progress
        self._before = 0
        self._moved = False

    @property
    def moved(self) -> bool:
        """Whether any file or byte was told."""
        return self._moved

    def start(self) -> None:
        """An rsync begins, and counts from nothing."""
        self._before = 0

    def line(self, line: bytes) -> None:
        """A line of its output."""
        if line[:2] in (b"<f", b">f"):
            self._advance(1, 0)
        elif (now := bytes_done(line)) is not None:
            self._advance(0, now - self._before)
            self._before = max(now, self._before)

    def finish(self) -> None:
        """All is there."""
        self._advance(self._files, self._bytes)

    def _advance(self, files: int, size: int) -> None:
        files, size = min(max(files, 0), self._files), min(max(size, 0), self._bytes)
        self._files -= files
        self._bytes -= size
        if files or size:
            self._moved = True
            self._progress.advance(files=files, bytes=size)


def bytes_done(line: bytes) -> int | None:
    """The bytes carried so far, when `line` is one of --info=progress2."""
    match = _PROGRESS.match(line)
    return int(match[1]) if match else None


def unescaped(name: bytes) -> str:
    r"""A name as rsync prints it (`\#012` for a newline), as a relative POSIX path."""
    return os.fsdecode(re.sub(rb"\\#([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name))


def _start(argv: list[str], cwd: Path, extra: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    # RSYNC_* variables change how arguments are read (--old-args put files into a wrong place with exit code 0).
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RSYNC_")}
    environment["LC_ALL"] = "C"
    environment.update(extra)
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Its own process group, so that rsync, its helpers and ssh end together.
            start_new_session=sys.platform != "win32",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except FileNotFoundError as exc:
        if exc.filename == os.fspath(cwd):
            raise SourceChanged(f"the folder {cwd} is gone") from exc
        raise ConfigError(
            f"the program {argv[0]!r} is not installed on this machine", next_command="lading doctor"
        ) from exc
    except PermissionError as exc:
        raise AccessDenied(f"cannot start {argv[0]!r} in {cwd}: {exc.strerror}", next_command="lading doctor") from exc


def as_listed(name: str) -> bytes:
    """A relative POSIX path as --files-from --from0 takes it."""
    # "./": else a name beginning with "#" or ";" is a comment, and the top folder gets no permissions.
    return b"./" + os.fsencode(name) + b"\0"


class _Feeder:
    """Writes the names; what their source raises is kept for the caller: half a list must not pass for a whole one."""

    def __init__(self, child: "subprocess.Popen[bytes]", names: Iterable[str], *, hold: bool) -> None:
        self._pipe, self._names, self._hold = child.stdin, names, hold
        self.over = threading.Event()
        self.failure: LadingError | None = None

    def feed(self) -> None:
        if self._pipe is None:
            return
        # A broken pipe means that the child is gone; its exit code tells why.
        with contextlib.suppress(OSError, ValueError), self._pipe:
            try:
                for name in self._names:
                    self._pipe.write(as_listed(name))
                if self._hold:
                    self._pipe.flush()
                    self.over.wait()
            except LadingError as exc:
                self.failure = exc


def _keep_tail(child: "subprocess.Popen[bytes]", tail: "deque[bytes]") -> None:
    if child.stderr is None:
        return
    try:
        while line := child.stderr.readline(4096):
            if line.strip():
                tail.append(line.rstrip())
    except (OSError, ValueError):
        pass


def _lines(child: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Standard output, cut at line feeds and at the carriage returns of the progress display."""
    if child.stdout is None:
        return
    rest = b""
    fd = child.stdout.fileno()
    while block := os.read(fd, 1 << 16):
        *whole, rest = re.split(rb"[\r\n]", rest + block)
        yield from whole
        rest = rest[-65536:]
        time.sleep(_GATHER_S)
    if rest:
        yield rest


def _exit_code(child: "subprocess.Popen[bytes]", listener: threading.Thread, grace: float) -> int:
    """Wait for the end, then see that nothing of the child is left.

    rsync gives up a line that is dead after its time-out; its ssh does not, and holds our pipe while it waits.
    """
    if sys.platform != "win32":
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        listener.join(grace)  # its last words, and those of ssh
        if listener.is_alive():
            # Not yet reaped, so the group's number is still ours and cannot hit a stranger.
            _signal(child, signal.SIGKILL)
    return child.wait()


def _end(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """See that nothing of the child is left; nothing is done when it has ended by itself."""
    if child.returncode is not None:
        return
    # Asked first: on SIGTERM rsync puts what it has of a file where the next attempt finds it.
    _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while not _has_ended(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Not yet reaped, so the group's number is still ours and cannot hit a stranger.
    _signal(child, getattr(signal, "SIGKILL", signal.SIGTERM))
    child.wait()


def _has_ended(child: "subprocess.Popen[bytes]") -> bool:
    if sys.platform == "win32":
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.terminate()
        else:
            os.killpg(child.pid, number)


def _telling_line(stderr: str) -> str:
    """The first line that says more than "rsync error"."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("rsync error:", "@@@@", "Warning:", "debug1:"))]
    return (telling or lines or [""])[0][:300]
