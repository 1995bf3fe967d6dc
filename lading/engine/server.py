"""The server's supervisor: the database, the scanner, the reaper, and worker processes that are started again."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event

import structlog

from lading import log
from lading.config import Config
from lading.engine import admission, database, jobs, postgres, reaper
from lading.engine.chores import Chores
from lading.engine.database import Connection
from lading.engine.parts import FACTORY, factory
from lading.engine.scanner import Scanner
from lading.engine.serving import Keeper, ServedParts
from lading.engine.worker import EXIT_NO_DATABASE
from lading.errors import ConfigError, EngineError

if sys.platform != "win32":
    import fcntl

HEARTBEAT = "server.json"
"""Below `home`: `{"pid", "at", "workers", "database", "inboxes"}`, rewritten every few seconds while the server lives.

`inboxes`: those that are left to another server, or where no notice can be given, and why."""
_SILENT_BEATS = 3
_TICK_S = 0.25
_GRACE_S = 15.0
_LONGEST_RESTART_S = 15.0
_log = structlog.get_logger("lading.engine")


def serve(config: Config, *, stop: Event, parts: str = FACTORY) -> None:
    """Serve until `stop` is set; then the workers finish the jobs in hand (up to 15 s) and nothing is left running.

    A database that goes away is waited for. Raises EngineError when there is none at the start, ConfigError.
    """
    log.set_up()
    if config.file is None:
        raise ConfigError("the server needs its settings in a file: its workers read them too")
    with _alone(config), postgres.database(config) as dsn:
        database.migrate(dsn)
        workers = [_WorkerProcess(config, parts) for _ in range(config.server.workers)]
        made = factory(parts)(config)
        keeper = Keeper(database.identity(dsn), made)
        served = ServedParts(made, keeper)
        chores = Chores(config, dsn, served)
        keeper.start()
        chores.start()
        try:
            _Supervisor(config, dsn, served, workers).run(stop)
        finally:
            chores.stop()
            _stop_all(workers)
            keeper.stop()
            (config.home / HEARTBEAT).unlink(missing_ok=True)


def silent_for(config: Config) -> timedelta:
    """How long a worker whose presence is gone must also have been silent before its jobs are taken over."""
    return timedelta(seconds=min(config.server.stale_after, _SILENT_BEATS * jobs.BEAT_S))


@dataclass(slots=True)
class _WorkerProcess:
    """One worker, started again with a growing pause when it ends early."""

    config: Config
    parts: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0

    def tend(self) -> None:
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return
            lived = now - self.started
            if lived > _LONGEST_RESTART_S or self.process.returncode == EXIT_NO_DATABASE:
                self.pause = 0.0
            else:
                self.pause = min(_LONGEST_RESTART_S, max(0.5, self.pause * 2))
            _log.warning("worker ended", worker=self.process.pid, status=self.process.returncode, again_in=self.pause)
            self._forget()
        if now - self.started >= self.pause:
            self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "lading.engine.worker", "--config", str(self.config.file)]
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(
                [*command, "--parts", self.parts, "--supervised"],
                stdin=subprocess.PIPE,
            )
        except OSError as exc:  # out of memory, of processes or of files for the moment: the other workers go on
            self.pause = min(_LONGEST_RESTART_S, max(0.5, self.pause * 2))
            _log.warning("worker not started", note=exc.strerror or str(exc), again_in=self.pause)

    def _forget(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None

    def ask_to_stop(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def end(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.warning(
                "worker killed", worker=self.process.pid, note="it did not finish in time; its job is taken up again"
            )
            self.process.kill()
            self.process.wait()
        self._forget()


def _stop_all(workers: list[_WorkerProcess]) -> None:
    deadline = time.monotonic() + _GRACE_S
    for worker in workers:
        worker.ask_to_stop()
    for worker in workers:
        worker.end(deadline)


@dataclass(slots=True)
class _Supervisor:
    config: Config
    dsn: str
    parts: ServedParts
    workers: list[_WorkerProcess]
    connection: Connection | None = None
    limits: dict[str, int] | None = None
    scanner: Scanner = field(init=False)
    reaper: "reaper.Reaper" = field(init=False)

    def __post_init__(self) -> None:
        self.scanner = Scanner(self.parts)
        self.reaper = reaper.Reaper(silent_for(self.config))

    def run(self, stop: Event) -> None:
        rounds = self._rounds()
        while not stop.is_set():
            try:
                next(rounds)
            except EngineError as exc:
                _log.warning("database away", note=exc.message)
                rounds = self._rounds()
                self._beat(database="away")
                self._revive()
                stop.wait(1.0)
                continue
            # Only now: without its database a worker ends as soon as it was started.
            for worker in self.workers:
                worker.tend()
            stop.wait(_TICK_S)
        self._disconnect()

    def _rounds(self) -> Iterator[None]:
        """One round of housekeeping per `next`, over one connection; whatever breaks it raises EngineError."""
        self._disconnect()
        self.limits = None
        self.connection = connection = database.connect(self.dsn, "lading supervisor")
        self._set_limits(connection)
        served = self._take_up(connection)
        scan = _Every(self.config.server.scan_every)
        look = _Every(1.0)
        wake = _Every(max(5.0, self.config.server.stale_after))
        while True:
            if scan.due():
                if self.parts.keeper.mine - served:
                    served = self._take_up(connection)
                served &= self.parts.keeper.mine
                self.scanner.scan(connection)
            if look.due():
                self._set_limits(connection)
                reaper.admit_everywhere(connection)
                self.reaper.reap(connection)
                self._beat(database="there")
            if wake.due():
                reaper.wake_idle(connection)
            yield

    def _take_up(self, connection: Connection) -> frozenset[str]:
        """Compare the inboxes that are ours to serve, which are returned, with what the database knows of them."""
        served = self.parts.keeper.mine
        self.scanner.forget()
        self.scanner.reconcile(connection)
        return served

    def _set_limits(self, connection: Connection) -> None:
        """How many imports each repository may have at this hour."""
        limits = dict(self.parts.limits)
        if limits == self.limits:
            return
        with database.recording("setting limits"):
            for name, imports in limits.items():
                admission.limit(connection, name, imports)
        self.limits = limits

    def _revive(self) -> None:
        if self.config.server.database == postgres.EMBEDDED:
            with contextlib.suppress(EngineError):
                postgres.Cluster(self.config.home / "postgres").start()

    def _disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _beat(self, **state: str) -> None:
        pids = [worker.process.pid for worker in self.workers if worker.process is not None]
        keeper = self.parts.keeper
        said = dict(keeper.troubles) | dict(keeper.elsewhere)
        _replace(
            self.config.home / HEARTBEAT,
            json.dumps({"pid": os.getpid(), "at": time.time(), "workers": pids, "inboxes": said} | state),
        )


class _Every:
    """Due at once, then every `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    # A full disk silences the heartbeat, which the doctor notices; the line goes on as far as it can.
    with contextlib.suppress(OSError):
        fresh.write_text(text)
        fresh.replace(path)


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    """One supervisor per home. Raises EngineError naming the one that runs."""
    config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (config.home / "server.lock").open("a+") as lock:
        try:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise EngineError(
                f"a server with the home {config.home} is running already (process {lock.read().strip()})",
                next_command="lading status",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
