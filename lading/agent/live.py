"""Live mode on the instrument: one thread looks, and one per open acquisition pushes, until the agent is told to stop."""

import threading
import time
from collections.abc import Sequence

import structlog

from lading.agent.live_book import LiveBook
from lading.agent.live_push import Push, attempt, may_go
from lading.agent.live_watch import LiveSource, LiveWatch
from lading.agent.locks import held
from lading.agent.outbox import Outbox
from lading.agent.parts import AgentParts, LiveParts
from lading.config import WatchConfig
from lading.delivery import DeliveryId
from lading.deposit import deposit_folder
from lading.errors import ConfigError, EngineError
from lading.ports import Source

log = structlog.get_logger()

_LOOK_SHARE = 0.1  # of the time may go into looking, however many files there are
_LONGEST_PAUSE_S = 2.0
_LEAST_PAUSE_S = 0.1
_THIN_OUT_EVERY_S = 6 * 3600.0
_MOST_PUSHES = 16
"""Acquisitions pushed at a time: an instrument has one or two; after a long absence of the target there may be many."""

Watched = Sequence[tuple[WatchConfig, Source]]


def split(parts: AgentParts, sources: Watched) -> tuple[Watched, Watched]:
    """The sources whose deliveries are carried when they are complete, and those that are pushed live."""
    if not isinstance(parts, LiveParts):
        return sources, ()
    live = [pair for pair in sources if parts.live(pair[0].route) is not None]
    return [pair for pair in sources if pair not in live], live


class LiveAgent:
    """Everything live of one agent. Raises ConfigError when a route is live and its transport cannot do that."""

    def __init__(self, outbox: Outbox, parts: LiveParts, sources: Watched, stop: threading.Event) -> None:
        self._parts, self._stop = parts, stop
        self._book = LiveBook(outbox)
        self._book.thin_out()
        self._thinned = time.monotonic()
        self._watches = [self._watch(watch, source) for watch, source in sources]
        self._pushing: dict[DeliveryId, threading.Thread] = {}
        self.failure: list[BaseException] = []

    def work(self) -> None:
        """Look and push until told to stop, then give what is under way a moment. Raises EngineError."""
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                pause = self._look()
                self._start_pushes()
                if self.failure:
                    raise self.failure[0]
                took = time.monotonic() - began
                self._stop.wait(max(pause - took, took * (1 / _LOOK_SHARE - 1), _LEAST_PAUSE_S))
        finally:
            for thread in self._pushing.values():
                thread.join(5.0)

    def once(self) -> None:
        """Look until nothing merely waits to come to rest, push what can be pushed now, and close what is over."""
        while not self._stop.is_set():
            pauses = [pause for watch in self._watches if (pause := watch.look()) is not None]
            for delivery in self._book.deliveries(open_only=True):
                self._push(delivery, until_idle=True)
            if not pauses:
                break
            self._stop.wait(min(pauses) + _LEAST_PAUSE_S)
        for watch in self._watches:
            watch.look()  # a closed session goes on

    def _watch(self, watch: WatchConfig, source: Source) -> LiveWatch:
        live = self._parts.live(watch.route)
        if live is None or not isinstance(source, LiveSource):
            raise ConfigError(f"agent.watch {watch.path}: the source {source!r} cannot be used for live mode")
        self._parts.deposit(watch.route, live.folder)  # refused here rather than in the middle of an acquisition
        return LiveWatch(self._book, watch, live, source, self._parts.rules(watch.route))

    def _look(self) -> float:
        if time.monotonic() - self._thinned > _THIN_OUT_EVERY_S:
            self._book.thin_out()
            self._thinned = time.monotonic()
        pauses = [watch.look() for watch in self._watches]
        return min([_LONGEST_PAUSE_S, *(pause for pause in pauses if pause is not None)])

    def _start_pushes(self) -> None:
        self._pushing = {delivery: thread for delivery, thread in self._pushing.items() if thread.is_alive()}
        for delivery in self._book.deliveries(open_only=True):
            if len(self._pushing) >= _MOST_PUSHES:
                return
            if delivery in self._pushing or not may_go(self._book.outbox.get(delivery), self._book.outbox.clock()):
                continue
            # Daemons: a transport blocks for as long as the network pleases, and leaving it is safe at every line.
            thread = threading.Thread(
                target=self._guarded, args=(delivery,), daemon=True, name=f"lading-push-{delivery}"
            )
            self._pushing[delivery] = thread
            thread.start()

    def _guarded(self, delivery: DeliveryId) -> None:
        try:
            self._push(delivery)
        except EngineError as exc:
            self.failure.append(exc)
        except BaseException as exc:
            self.failure.append(exc)
            raise

    def _push(self, delivery: DeliveryId, *, until_idle: bool = False) -> None:
        """Visits until it is closed, set aside, or put off."""
        with held(self._book.outbox.lock(delivery)) as ours:
            item = self._book.outbox.get(delivery) if ours else None
            live = self._parts.live(item.delivery.route) if item else None
            if item is None or live is None or not may_go(item, self._book.outbox.clock()):
                return
            deposit = self._parts.deposit(item.delivery.route, deposit_folder(live.folder, item.delivery.labels))
            probe = self._parts.transport(item.delivery.route).probe
            attempt(Push(self._book, live, item, probe, self._stop), self._book, item, deposit, until_idle=until_idle)
