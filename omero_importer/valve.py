"""Leaves a server alone while it is in trouble: one valve per repository, shared by all our processes on this machine.

    open ──(a signal of trouble)──► closed ──(time)──► ajar ──(some imports went well, one at a time)──► open
                                       ▲                 │
                                       └──(trouble again: twice as long)

What it knows is one small file that `lading status` reads too (`lading.valves`).
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from lading.disk import write_whole
from lading.errors import TargetUnavailable
from lading.locks import FileLock
from lading.ports import Clock
from lading.valves import AJAR, CLOSED, FOLDER, ValveState, counted, read_state
from omero_importer.settings import ValveSettings

_LOCK_S = 10.0
_LOOK_S = 0.5
_LEARNT = 0.1
"""How much one measurement counts in the usual latency."""
_FLOOR_S = 0.5
"""A database that answers this fast is not in trouble, however fast it was before."""
_STRIKES = 2
"""One slow answer may be chance."""
_TOLD_S = 1.0


class Valve:
    """The valve of the repository called `name`, whose state lies below `home`."""

    def __init__(self, home: Path, name: str, settings: ValveSettings, *, clock: Clock = time.time) -> None:
        self.name, self._settings, self._clock = name, settings, clock
        stem = re.sub(r"[^A-Za-z0-9.-]", "_", name)
        self._file = home / FOLDER / f"{stem}.json"
        self._lock = FileLock(home / FOLDER / f".{stem}.lock")
        self._passage = FileLock(home / FOLDER / f".{stem}.passage")
        self._threads = threading.Lock()
        self._told_slot = float("-inf")

    def __repr__(self) -> str:
        return f"Valve({self.name!r}, {self.state().position(self._clock())})"

    def state(self) -> ValveState:
        """What the file says; a valve nobody ever touched is open."""
        return read_state(self._file) or ValveState(self.name)

    def demand_open(self) -> None:
        """Raises TargetUnavailable, saying why and for how long, while the valve is closed."""
        state, now = self.state(), self._clock()
        if state.position(now) == CLOSED:
            raise TargetUnavailable(
                f"importing into {self.name}: we leave the server alone for {state.until - now:.0f} s more, because "
                f"{state.reason}",
                safe="The files are in the inbox.",
                next_command="lading status",
            )

    def close(self, reason: str, cause: str = "") -> None:
        """Trouble: close, longer than last time if that was not long ago. `cause`: the reason in one word, for the figures."""
        with self._changing() as change:
            change(lambda state: self._closed(state, reason, cause))

    def saw_database(self, seconds: float) -> None:
        """How long a query took; learns what is usual."""
        limit = self._settings.database_wait
        with self._changing() as change:
            state = self.state()
            usual = state.usual or seconds
            too_slow = seconds > limit or seconds > max(_FLOOR_S, usual * self._settings.database_factor)
            if not too_slow:
                learnt = usual + _LEARNT * (seconds - usual)
                change(lambda state: replace(state, usual=learnt, slow=0, database=seconds))
            elif state.slow + 1 < _STRIKES:
                change(lambda state: replace(state, slow=state.slow + 1, database=seconds))
            else:
                reason = f"its database took {seconds:.1f} s to answer (usual: {usual * 1000:.0f} ms)"
                change(lambda state: self._closed(replace(state, database=seconds), reason, "database"))

    def saw_free(self, kilobytes: int) -> None:
        """How much room the server's disk has."""
        free = kilobytes / 1_000_000
        reason = f"only {free:.1f} GB of its disk are free (valve.free_gb = {self._settings.free_gb:g})"
        with self._changing() as change:
            seen = replace(self.state(), free=kilobytes * 1000.0)
            change(lambda _: self._closed(seen, reason, "disk") if free < self._settings.free_gb else seen)

    def saw_back_off(self, seconds: float) -> None:
        """The server stayed busy however long we waited; it asked us to stay away for so long."""
        self.close(f"it is busy and stays so; it asks us to stay away for {seconds:.1f} s", "busy")

    def saw_no_room(self, words: str) -> None:
        """The server could not write what we sent."""
        self.close(f"it could not write to its disk: {' '.join(words.split())[:200]}", "write")

    @contextmanager
    def import_under_way(self, *, patience: float = 0.0) -> Iterator[None]:
        """Around an import, from asking for it to its end: of `slots` over all processes. While the valve is ajar, one passes.

        What is uploaded already is worth waiting for, up to `patience` seconds. Raises TargetUnavailable.
        """
        self._wait_until_open(patience)
        turn = max(patience, self._settings.verify_wait)
        with counted(self._file, self._settings.slots, patience=turn) as counts:
            if not counts:
                raise self._not_yet(
                    f"{self._settings.slots} imports are under way (valve.slots), and none of them ends"
                )
            self._wait_until_open(patience)
            ajar = self.state().position(self._clock()) == AJAR
            if ajar and not self._passage.acquire(patience=turn):
                raise self._not_yet("the server is recovering, and one import at a time passes")
            try:
                yield
            finally:
                if ajar:
                    self._passage.release()
        if ajar:
            self._went_well()

    def _not_yet(self, why: str) -> TargetUnavailable:
        return TargetUnavailable(
            f"importing into {self.name}: {why}", safe="The files are in the inbox.", next_command="lading status"
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around `verifyUpload`: closes the valve as soon as it takes too long, and not only when it has come back."""
        wait = self._settings.verify_wait
        reason = f"an import waited longer than {wait:g} s for one of its background slots"
        timer = threading.Timer(wait, self.close, (reason, "slot"))
        timer.daemon = True
        timer.start()
        begun = time.monotonic()
        try:
            yield
        finally:
            timer.cancel()
            self._saw_slot(time.monotonic() - begun)

    def _wait_until_open(self, patience: float) -> None:
        until = time.monotonic() + patience
        while self.state().position(self._clock()) == CLOSED and time.monotonic() < until:
            time.sleep(_LOOK_S)
        self.demand_open()

    def _went_well(self) -> None:
        with self._changing() as change:
            change(
                lambda state: replace(state, calm=max(0, state.calm - 1), pause=state.pause if state.calm > 1 else 0.0)
            )

    def _saw_slot(self, seconds: float) -> None:
        """How long an import waited for a background slot: for the figures, so not for each of a thousand quick ones."""
        with self._threads:
            due = seconds >= _TOLD_S or time.monotonic() - self._told_slot >= _TOLD_S
            if due:
                self._told_slot = time.monotonic()
        if due:
            with self._changing() as change:
                change(lambda state: replace(state, verify=seconds))

    def _closed(self, state: ValveState, reason: str, cause: str) -> ValveState:
        now = self._clock()
        if now < state.until:
            return replace(state, reason=reason, cause=cause, slow=0)  # it is one and the same trouble
        longer = state.pause * 2 if state.calm else 0.0
        pause = min(max(longer, self._settings.first_pause), self._settings.longest_pause)
        return replace(
            state,
            until=now + pause,
            pause=pause,
            calm=self._settings.calm,
            slow=0,
            reason=reason,
            cause=cause,
            since=now,
        )

    @contextmanager
    def _changing(self) -> Iterator[Callable[[Callable[[ValveState], ValveState]], None]]:
        def change(step: Callable[[ValveState], ValveState]) -> None:
            content = json.dumps(asdict(replace(step(self.state()), repository=self.name)))
            write_whole(self._file, content.encode(), mode=0o644)

        with self._threads:
            if not self._lock.acquire(patience=_LOCK_S):
                yield lambda _: None  # what one process saw is not worth more waiting
                return
            try:
                yield change
            finally:
                self._lock.release()
