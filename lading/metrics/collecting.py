"""Puts the figures of this machine's programs together, and takes them at most once a second however many ask."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import structlog

from lading.agent.outbox import OUTBOX_NAME
from lading.config import Config
from lading.errors import ConfigError, EngineError
from lading.metrics import agent, catalogue, machine
from lading.metrics.figures import Figure
from lading.ports import Clock

Program = Literal["server", "agent"]
Take = Callable[[], Iterable[Figure]]
KEPT_S = 1.0
_log = structlog.get_logger("lading.metrics")


class Collector:
    """The figures of `programs` on this machine. For several threads: they wait for one another, and share what was taken.

    A memory that cannot be read is a figure (`lading_up` 0), not an error: the others are taken all the same.
    """

    def __init__(
        self, config: Config, programs: Sequence[Program], *, kept: float = KEPT_S, clock: Clock = time.time
    ) -> None:
        self._kept = kept
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: tuple[float, tuple[Figure, ...]] = (float("-inf"), ())
        self._said: dict[str, str] = {}
        self._close: list[Callable[[], None]] = []
        self._takes: list[Take] = []
        for program in programs:
            self._takes.append(partial(machine.program, config, program))
            self._takes += self._server(config) if program == "server" else self._agent(config)

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            for close in self._close:
                close()

    def figures(self) -> tuple[Figure, ...]:
        """All of them, not older than `kept` seconds."""
        with self._lock:
            at, found = self._taken
            began = time.monotonic()
            if began - at < self._kept:
                return found
            figures = [figure for take in self._takes for figure in take()]
            done = time.monotonic()
            figures += [catalogue.COLLECTED.of(self._clock()), catalogue.COLLECTING.of(done - began)]
            self._taken = (done, tuple(figures))
            return self._taken[1]

    def _server(self, config: Config) -> list[Take]:
        try:
            from lading.metrics import files  # noqa: PLC0415 - the agent's install has no database libraries
            from lading.metrics.server import ServerMemoryFigures  # noqa: PLC0415
        except ImportError as exc:
            raise ConfigError(
                f"the server's figures need the Python package {exc.name!r}",
                next_command="pip install 'lading[server]'",
            ) from exc
        memory = ServerMemoryFigures(config)
        self._close.append(memory.close)
        return [
            partial(self._memory, "server", memory),
            partial(files.chores, config),
            partial(files.valves, config, self._clock),
            *files.inboxes(config),
            *files.fetching(config),
        ]

    def _agent(self, config: Config) -> list[Take]:
        return [partial(self._memory, "agent", partial(agent.figures, config, self._clock))]

    def _memory(self, program: Program, take: Take) -> list[Figure]:
        try:
            found = list(take())
        except EngineError as exc:
            if self._said.get(program) != exc.message:
                _log.warning("no figures", program=program, note=exc.message)
            self._said[program] = exc.message
            return [catalogue.UP.of(0, program)]
        self._said.pop(program, None)
        return [catalogue.UP.of(1, program), *found]


def programs_here(config: Config) -> tuple[Program, ...]:
    """The programs that the settings, and the files of this machine, say are here."""
    found: list[Program] = []
    if config.inboxes:
        found.append("server")
    if config.agent.watch or (config.home / OUTBOX_NAME).exists():
        found.append("agent")
    return tuple(found)
