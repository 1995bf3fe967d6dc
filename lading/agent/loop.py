"""The agent: looks, carries, asks for receipts and cleans up, each in its own thread, until it is told to stop."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from lading.agent import carrier, cleaner, receipts, taking
from lading.agent.edge import foreseen
from lading.agent.live import LiveAgent, split
from lading.agent.locks import FileLock, held
from lading.agent.outbox import Outbox, Outgoing
from lading.agent.parts import AgentParts, LiveParts
from lading.agent.reporting import REPORT_EVERY_S, conditions, office
from lading.agent.waking import Waker
from lading.config import AgentConfig, Config, WatchConfig
from lading.errors import ConfigError, LadingError, UnexpectedFault, Unreachable
from lading.ports import Resting, Source
from lading.reporters.office import Office

log = structlog.get_logger()

AGENT_LOCK = "agent.lock"
LOOK_INTO_OUTBOX_S = 0.5
"""How soon a delivery that another process put into the outbox is noticed."""
STOPPING_S = 10.0
"""A carry may take hours. After so long it is left to the next start, which finishes it."""
_SCAN_SHARE = 0.1  # of the time may go into scanning, however large the watched folders
_TELL_AGAIN_S = 60.0
_LEAST_SCAN_PAUSE_S = 0.2
"""Events come in thousands while an instrument writes."""


def agent_lock(home: Path) -> FileLock:
    """Held by the one agent of a home folder; its `holder` is that agent's process id."""
    return FileLock(home / AGENT_LOCK)


def run(config: Config, parts: AgentParts, outbox: Outbox, *, stop: threading.Event, once: bool = False) -> None:
    """Be the agent of `config.home` until `stop` is set.

    With `once`: look until nothing is merely waiting for its quiet period, carry what can be carried now, ask once for every
    receipt, clean what is due, and return. Raises ConfigError when another agent is at work, EngineError when the
    outbox cannot be written.
    """
    lock = agent_lock(config.home)
    with foreseen("starting the agent"):
        config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours = lock.acquire(patience=1.0)
    if not ours:
        raise ConfigError(
            f"another agent (process {lock.holder()}) already works on {config.home}",
            safe="it goes on undisturbed",
            next_command="lading status",
        )
    try:
        agent = Agent(config.agent, parts, outbox, stop, office(config, outbox))
        log.info("agent started", home=str(config.home), watches=len(config.agent.watch))
        if once:
            agent.once()
        else:
            agent.work()
    finally:
        lock.release()
        log.info("agent stopped", home=str(config.home))


@dataclass
class Agent:
    """The threads around one outbox."""

    config: AgentConfig
    parts: AgentParts
    outbox: Outbox
    stop: threading.Event
    office: Office | None = None
    failure: list[BaseException] = field(default_factory=list)
    _turns: "Turns" = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is under way."""
        self._turns = Turns(self.parts, max(self.config.carriers, 1))

    def work(self) -> None:
        """Run all threads until `stop`; then give carries under way a moment. Raises what stopped a thread, if one was."""
        sources, live = self._sources()
        waker = Waker([watch for watch, _ in sources if watch.events])
        jobs: list[Callable[[], None]] = [lambda: self._scan(sources, waker), self._paperwork, self._report]
        carriers = max(self.config.carriers, 1)
        jobs += [self._carry] * carriers + [partial(self._carry, instead=True)] * carriers
        jobs += [live.work] if live else []
        # Daemons: a transport blocks for as long as the network pleases, and leaving it is safe at every line.
        threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True) for job in jobs]
        with waker:
            for thread in threads:
                thread.start()
            while not self.stop.wait(1.0):  # with a time-out: Windows cannot interrupt an endless wait by Ctrl-C
                pass
            waker.wake()
            until = time.monotonic() + STOPPING_S
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
        if self.failure:
            raise self.failure[0]

    def once(self) -> None:
        """One turn of everything, in this thread."""
        sources, live = self._sources()
        if live:
            live.once()
        while not self.stop.is_set():
            pauses = [taking.scan(self.outbox, self.parts, watch, source) for watch, source in sources]
            soon = [pause for pause in pauses if pause is not None]
            if not soon:
                break
            self.stop.wait(min(soon) + _LEAST_SCAN_PAUSE_S)
        while self.carry_next():
            pass
        self.ask_and_clean()
        self.tell()

    def _sources(self) -> tuple[Sequence[tuple[WatchConfig, Source]], LiveAgent | None]:
        ordinary, live = split(self.parts, self.parts.sources())
        if not live or not isinstance(self.parts, LiveParts):
            return ordinary, None
        return ordinary, LiveAgent(self.outbox, self.parts, live, self.stop)

    def carry_next(self) -> bool:
        """Make one attempt at the most urgent delivery that nobody else works on. False when there is none."""
        if self.stop.is_set():
            return False
        resting: set[str] = set()
        while items := self.outbox.carriable(but=resting):
            routes = {item.delivery.route for item in items}
            if not (more := {route for route in routes if rests(self.parts, route)}):
                break
            resting |= more
        return any(self._carried(item) for item in items)

    def _carried(self, item: Outgoing) -> bool:
        self._turns.is_for(item.delivery.route)
        return carrier.carry(self.outbox, self.parts, item.id)

    def ask_and_clean(self) -> None:
        """Ask for the receipts that are due, and clean the sources that are due."""
        away: set[str] = set()
        for item in self.outbox.awaiting_receipt():
            # An inbox that does not answer takes a minute to say so: it is asked once, and the others are not kept waiting.
            if self.stop.is_set() or item.delivery.route in away:
                continue
            receipts.ask(self.outbox, self.parts, item.id, every=self.config.receipts_every)
            if self.outbox.get(item.id).error_code == Unreachable.code:
                away.add(item.delivery.route)
        for item in self.outbox.cleanable():
            if not self.stop.is_set():
                cleaner.clean(self.outbox, self.parts, item.id)

    def tell(self) -> None:
        """Tell people what is wrong, and what nobody but this agent knows. Without an office nobody is told.

        Raises UnexpectedFault for what a reporter does not foresee, and EngineError.
        """
        if self.office is not None:
            with foreseen("telling people"):
                self.office.round(conditions(self.outbox))

    def _scan(self, sources: Sequence[tuple[WatchConfig, Source]], waker: Waker) -> None:
        while not self.stop.is_set():
            waker.clear()
            began = time.monotonic()
            pauses = [taking.scan(self.outbox, self.parts, watch, source) for watch, source in sources]
            took = time.monotonic() - began
            pause = min([self.config.scan_every, *(p for p in pauses if p is not None)])
            self.stop.wait(max(took * (1 / _SCAN_SHARE - 1), _LEAST_SCAN_PAUSE_S))
            waker.wait(max(pause - (time.monotonic() - began), 0.0))

    def _carry(self, *, instead: bool = False) -> None:
        while not self.stop.is_set():
            with self._turns.one(instead=instead) as ours:
                carried = ours and self.carry_next()
            if not carried:
                self.stop.wait(LOOK_INTO_OUTBOX_S)

    def _paperwork(self) -> None:
        while not self.stop.is_set():
            self.ask_and_clean()
            self.stop.wait(min(LOOK_INTO_OUTBOX_S, self.config.receipts_every))

    def _report(self) -> None:
        while not self.stop.is_set():
            pause = REPORT_EVERY_S
            try:
                self.tell()
            except UnexpectedFault:
                pause = _TELL_AGAIN_S  # nothing is carried the less because nobody can be told
            self.stop.wait(pause)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except LadingError as exc:
            log.error("agent stops", code=exc.code, error=exc.message)  # noqa: TRY400 - expected kind, no traceback
            self.failure.append(exc)
        except BaseException as exc:
            self.failure.append(exc)
            raise
        finally:
            self.stop.set()


class Turns:
    """Who may carry: `carriers` threads at a time. One that waits for the end of hours in which its route may not send is none."""

    def __init__(self, parts: AgentParts, carriers: int) -> None:
        self._parts, self._carriers = parts, carriers
        self._lock = threading.Lock()
        self._taken: dict[int, str] = {}

    @contextmanager
    def one(self, *, instead: bool) -> Iterator[bool]:
        """Take a turn, if there is one, for the block. `instead`: only of those that others would have who wait.

        Nothing begins on a route that rests, so never more than `carriers` wait, and as many can stand in for them.
        """
        me = threading.get_ident()
        with self._lock:
            at_work = sum(not rests(self._parts, route) for route in self._taken.values())
            ours = at_work < self._carriers and (not instead or len(self._taken) >= self._carriers)
            if ours:
                self._taken[me] = ""
        try:
            yield ours
        finally:
            with self._lock:
                self._taken.pop(me, None)

    def is_for(self, route: str) -> None:
        """What this thread's turn is for."""
        me = threading.get_ident()
        with self._lock:
            if me in self._taken:
                self._taken[me] = route


def rests(parts: AgentParts, route: str) -> bool:
    """Whether this is an hour in which `route` may not send. One that is not known does not rest: its carry says what is wrong."""
    if not route:
        return False
    try:
        transport = parts.transport(route)
    except LadingError:
        return False
    return isinstance(transport, Resting) and transport.rests()


def drain(config: Config, parts: AgentParts, *, stop: threading.Event) -> None:
    """Carry until the outbox holds nothing more to carry, or an agent took over. For `lading send` without an agent.

    A delivery that must be tried later keeps it running.
    """
    lock, agent = FileLock(config.home / "drain.lock"), agent_lock(config.home)
    outbox = Outbox(config.home)
    worker = Agent(config.agent, parts, outbox, stop)
    try:
        # Look once more after giving the lock back: a sender that saw it held relies on us.
        while outbox.has_cargo() and agent.holder() is None and not stop.is_set():
            with held(lock) as ours:
                if not ours:
                    return
                while outbox.has_cargo() and agent.holder() is None and not stop.is_set():
                    if not worker.carry_next():
                        stop.wait(LOOK_INTO_OUTBOX_S)
    finally:
        outbox.close()


def has_carrier(home: Path) -> bool:
    """Whether an agent or a `drain` works on the outbox in `home`."""
    return agent_lock(home).holder() is not None or FileLock(home / "drain.lock").holder() is not None
