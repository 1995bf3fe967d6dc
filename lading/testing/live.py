"""A camera that writes movies, a deposit folder, and a reader process that never stops looking: what tests of live mode need."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.inbox import Inbox, InboxLimits

MOVIE_BYTES = 40_000

# Ends with its parent, however that ends; else a failed test would leave a process that writes into the next one's disk.
_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
"""

COMMAND = f"{_WITH_PARENT}\nfrom lading.cli import main\nmain()\n"

# Knows from a movie's name what it must hold. Looks until it is told to stop, then prints what it saw.
READER = (
    _WITH_PARENT
    + """
import json, time
from pathlib import Path
from lading.testing.live import movie, wrong_lines
folder = Path(sys.argv[1])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
looks = lists = 0
good, wrong, states = {}, [], []
print("ready", flush=True)
while not stop:
    looks += 1
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        time.sleep(0.01)
        continue
    for name in names:
        if not name.startswith("movie"):
            continue
        with open(folder / name, "rb") as file:
            info = os.fstat(file.fileno())
            mark = (info.st_ino, info.st_mtime_ns, info.st_size)
            if name in good:
                if good[name] != mark:
                    wrong.append(f"{name} was carried again: {good[name]} became {mark}")
                    good[name] = mark
                continue
            if file.read() != movie(name):
                wrong.append(f"{name} was seen half: {info.st_size} bytes")
            good[name] = mark
    try:
        listed = (folder / "manifest-sha256.txt").read_text()
        lists += 1
        wrong += wrong_lines(folder, listed, good)
    except FileNotFoundError:
        pass
    try:
        state = json.loads((folder / "STATUS.json").read_text())["state"]
        if states[-1:] != [state]:
            states.append(state)
    except FileNotFoundError:
        pass
    time.sleep(0.005)
print(json.dumps({"looks": looks, "lists": lists, "files": len(good), "wrong": wrong[:20], "states": states}))
"""
)


def movie(name: str) -> bytes:
    """What the movie `name` holds: told by the name alone."""
    block = hashlib.sha512(name.encode()).digest()
    return (block * (MOVIE_BYTES // len(block) + 1))[:MOVIE_BYTES]


def wrong_lines(folder: Path, listed: str, seen: dict[str, object]) -> list[str]:
    """What is wrong with a growing list that was read before its files: a line that is torn, or has no file."""
    wrong = []
    if listed and not listed.endswith("\n"):
        wrong.append(f"the list ends in the middle of a line: {listed[-80:]!r}")
    for line in listed.splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).exists():
            wrong.append(f"the list names {name}, which is not there")
        elif name.startswith("movie") and name not in seen and hashlib.sha256(movie(name)).hexdigest() != digest:
            wrong.append(f"the list has another digest for {name}")
    return wrong


@dataclass
class Reading:
    """What the reader saw, once it was stopped: how often it looked, how many movies and lists, what was wrong, which states."""

    looks: int = 0
    lists: int = 0
    files: int = 0
    wrong: tuple[str, ...] = ()
    states: tuple[str, ...] = ()


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[Reading]:
    """A process that reads along in `folder`; what it saw is in the yielded value after the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(folder)], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    reading = Reading()
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield reading
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate(timeout=120)[0])
        reading.looks, reading.lists, reading.files = told["looks"], told["lists"], told["files"]
        reading.wrong, reading.states = tuple(told["wrong"]), tuple(told["states"])
    finally:
        process.kill()
        process.wait()


@dataclass
class Camera:
    """Writes `number` movies into `session`, one every `every` seconds, each in two halves; then the marker `done`."""

    session: Path
    number: int
    every: float
    written: int = 0

    def run(self, stop: threading.Event) -> None:
        """Write until all are written, or until `stop`."""
        self.session.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        for number in range(self.number):
            if stop.wait(max(0.0, began + number * self.every - time.monotonic())):
                return
            name = f"movie{number:04}.mrc"
            content = movie(name)
            with (self.session / name).open("wb", buffering=0) as file:
                file.write(content[: MOVIE_BYTES // 2])
                stop.wait(min(self.every / 4, 0.05))
                file.write(content[MOVIE_BYTES // 2 :])
            self.written = number + 1
        (self.session / "done").touch()

    @contextlib.contextmanager
    def running(self) -> Iterator["Camera"]:
        """In the background; ended with the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(stop,))
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()


class LiveSite:
    """An instrument with a live route, driven through the command line."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.data, self.target = base / "instrument", base / "target"
        self.data.mkdir()
        self.target.mkdir()
        self.inbox = Inbox.create(self.target, limits=InboxLimits(keep_free_bytes=0))
        self.file = base / "lading.toml"
        self.configure()

    def configure(
        self,
        *,
        transport: str = "",
        live: str = 'marker = "done"',
        settle: float = 0.3,
        status_every: float = 0.3,
        more: str = "",
    ) -> None:
        """Write the settings. `live`, `more`: further lines of the live table, and of the file."""
        transport = transport or f'{{ kind = "local", path = "{self.target}" }}'
        self.file.write_text(
            f'home = "home"\n[routes.cryo]\ntransport = {transport}\n'
            f"[routes.cryo.live]\nsettle = {settle}\nstatus_every = {status_every}\n{live}\n"
            f"[agent]\nreceipts_every = 0.2\nscan_every = 0.5\n"
            f'[[agent.watch]]\npath = "{self.data}"\nroute = "cryo"\n{more}\n'
        )

    def session(self, labels: str = "EM/grid-1/s1") -> Path:
        """The folder at the instrument."""
        return self.data / labels

    def deposit(self, labels: str = "EM/grid-1/s1") -> Path:
        """The folder that others read."""
        return self.target / "deposit" / labels

    def status(self, labels: str = "EM/grid-1/s1") -> dict[str, object]:
        """What STATUS.json says, {} when there is none."""
        try:
            return dict(json.loads((self.deposit(labels) / "STATUS.json").read_text()))
        except FileNotFoundError:
            return {}

    def lading(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One command."""
        return subprocess.run(
            [sys.executable, "-c", COMMAND, "--config", str(self.file), *arguments],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def ask(self, *arguments: str) -> dict[str, object]:
        """One command that answers as JSON."""
        done = self.lading(*arguments, "--json")
        return dict(json.loads(done.stdout))

    @contextlib.contextmanager
    def agent(self) -> Iterator["subprocess.Popen[bytes]"]:
        """`lading agent run`; killed with the block. Its words are in agent.log."""
        with (self.base / "agent.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "--config", str(self.file), "agent", "run"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextlib.contextmanager
    def up(self, *, seconds: float = 60.0) -> Iterator[None]:
        """Once the agent that was just started is at work."""
        until = time.monotonic() + seconds
        while "agent started" not in (self.base / "agent.log").read_text(errors="replace"):
            assert time.monotonic() < until, "the agent does not start"
            time.sleep(0.05)
        yield

    def wait_for(self, state: str, *, seconds: float, labels: str = "EM/grid-1/s1") -> dict[str, object]:
        """Wait until STATUS.json says `state`. Raises AssertionError with the agent's last words."""
        until = time.monotonic() + seconds
        while (told := self.status(labels)).get("state") != state:
            if time.monotonic() > until:
                log = self.base / "agent.log"
                words = log.read_text(errors="replace")[-3000:] if log.exists() else ""
                raise AssertionError(f"not {state} but {told} after {seconds:g} s\n{words}")
            time.sleep(0.05)
        return told


def checked_sums(folder: Path) -> tuple[int, str]:
    """`sha256sum -c` of the list in `folder`: its exit code and what it said about files that failed."""
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", "--strict", "manifest-sha256.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
