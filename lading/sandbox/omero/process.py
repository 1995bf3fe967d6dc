"""Starts the stand-in as a process of its own, for tests and demonstrations.

A process, not a thread: Ice clients and servers in one process block each other easily, and a server can be killed.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from lading.sandbox.omero import accounts
from lading.sandbox.omero.accounts import Accounts

_QUIET = (15_000, 30_000)
_START_PATIENCE_S = 120.0
_STOP_PATIENCE_S = 20.0
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_ARENA_MAX": "1"}
"""glibc otherwise gives the memory of every block that arrives back to the system, and gets it anew, page by page."""
_ATTEMPTS = 10
HOST = "127.0.0.1"
CANNOT_START = 3
"""The server's exit status for that."""


class PortTaken(RuntimeError):
    """Somebody else listens where the stand-in was to listen."""


class SandboxOmero:
    """A stand-in OMERO. `root` holds everything it keeps; ports stay the same over `stop`, `kill` and `start`.

    `port`: for TCP, 0 takes a free one; TLS always does. `people`: who may log in; without it root, alice, bob and carol
    with new passwords. `idle_ms`: sessions end after so many milliseconds without a call. `limits`: fields of
    `slots.Limits`. `glacier2`: clients connect to Debian's real glacier2router, which stands in front. `java`: images are
    read with Bio-Formats where it is installed; without it the start of a JVM is saved. `servants`: how many services one
    session may hold open. `one_core`: it stays on one core, where the system can see to that. Its interpreter runs one thread
    at a time in any case, and whoever hands over to a thread on another core waits for that core.
    """

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        tls: bool = True,
        people: Accounts | None = None,
        idle_ms: int = 600_000,
        limits: Mapping[str, float] | None = None,
        glacier2: bool = False,
        java: bool = True,
        servants: int = 10_000,
        one_core: bool = False,
    ) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.people = people or accounts.fresh_accounts()
        accounts.write(self._accounts, self.people)
        self._tls, self._idle_ms, self._limits = tls, idle_ms, dict(limits or {})
        self._glacier2 = glacier2
        self._java, self._servants, self._one_core = java, servants, one_core
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port
        self._ports: dict[str, int] = {}
        self._control, self._token = 0, ""

    # -- what clients need ------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """Loopback."""
        return HOST

    @property
    def port(self) -> int:
        """TLS, or TCP when there is no TLS."""
        return self._ports["ssl" if self._tls else "tcp"]

    @property
    def tcp_port(self) -> int:
        """Without TLS."""
        return self._ports["tcp"]

    @property
    def certificate(self) -> Path:
        """What a client needs to verify us."""
        return self.root / "tls" / "certificate.pem"

    def password(self, user: str) -> str:
        """Of one of the people."""
        return self.people.users[user].password

    @property
    def log(self) -> Path:
        """What the process wrote."""
        return self.root / "server.log"

    # -- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when it answers. Raises RuntimeError, with the end of its log, when it does not."""
        chosen = bool(self._port or self._ports)
        for _ in range(_ATTEMPTS):
            if not self._ports:
                self._ports = {"tcp": self._port or quiet_port(), "ssl": quiet_port()}
            try:
                return self._launch()
            except PortTaken:
                if chosen:
                    raise
                self._ports = {}
        raise PortTaken(f"no free port was found for the stand-in OMERO in {_ATTEMPTS} attempts")

    def _launch(self) -> None:
        ready = self.root / "ready.json"
        ready.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "lading.sandbox.omero", "--root", str(self.root), "--ready-file", str(ready)]
        argv += ["--accounts", str(self._accounts), "--port", str(self._ports["tcp"])]
        argv += ["--ssl-port", str(self._ports["ssl"] if self._tls else -1), "--idle-ms", str(self._idle_ms)]
        # Not by PR_SET_PDEATHSIG: that would end the server with the *thread* that started it.
        argv += ["--parent", str(os.getpid())]
        argv += ["--limits", json.dumps(self._limits), "--servants", str(self._servants)]
        argv += ["--glacier2"] * self._glacier2 + ["--no-java"] * (not self._java)
        argv += ["--one-core"] * self._one_core
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=_ALLOCATOR | os.environ,
            )
        self._wait_until_ready(self._process, ready)

    def stop(self) -> None:
        """In an orderly way, or by force when that takes too long. May be called twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    @property
    def alive(self) -> bool:
        """The process runs."""
        return self._process is not None and self._process.poll() is None

    def processor_seconds(self) -> float:
        """What the process has used of the processors so far, where there is /proc. Raises OSError when it does not run."""
        pid = self._process.pid if self._process is not None else -1
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- control ----------------------------------------------------------------------------------------------------

    def do(self, command: str, **arguments: object) -> object:
        """One command of `control.py`. Raises RuntimeError with the server's reason, OSError when it does not answer."""
        line = json.dumps({"token": self._token, "do": command, **arguments}) + "\n"
        with socket.create_connection((HOST, self._control), timeout=60) as connection:
            connection.sendall(line.encode("utf-8"))
            answer = json.loads(connection.makefile("rb").readline() or b'{"error": "no answer"}')
        if "error" in answer:
            raise RuntimeError(f"the stand-in refused {command}: {answer['error']}")
        return answer["ok"]

    def faults(self, **knobs: object) -> None:
        """Set these knobs; without any, put all of them back."""
        self.do("faults", knobs=knobs, reset=not knobs)

    def count(self, operation: str) -> int:
        """How often an operation was called since the start, e.g. "IQuery.get"."""
        counts = self.do("counts")
        assert isinstance(counts, dict)
        return int(counts.get(operation, 0))

    def records(self, cls: str) -> int:
        """How many records of a class there are, whoever owns them."""
        number = self.do("records", cls=cls)
        assert isinstance(number, int)
        return number

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _accounts(self) -> Path:
        return self.root / "accounts.json"

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", ready: Path) -> None:
        deadline = time.monotonic() + _START_PATIENCE_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
                taken = process.poll() == CANNOT_START and "cannot listen" in tail
                self._end(signal.SIGKILL)
                raise (PortTaken if taken else RuntimeError)(f"the stand-in OMERO did not start: {tail}")
            time.sleep(0.02)
        told = json.loads(ready.read_text(encoding="utf-8"))
        self._ports |= told["ports"]
        self._control, self._token = told["control"], told["token"]

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def quiet_port() -> int:
    """A free port that no system hands out by itself.

    A server that is killed and started again must find its port free. One from the range of `bind(0)` may meanwhile have
    become somebody's, as the near end of an outgoing connection.
    """
    while True:
        port = random.SystemRandom().randint(*_QUIET)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
