"""Somebody who logs in to an OMERO again and again, as people do while others import, and times each login."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import omero
import omero.clients

from lading.sandbox.omero import SandboxOmero

_PAUSE_S = 0.2
_BEAT_S, _LATE_S = 0.02, 0.05


@dataclass(frozen=True, slots=True)
class Timed:
    """One login over TLS up to the first answer to a query; and how busy the server's slots were after it.

    `seconds`: as it was felt. `stalled`: for so many of them this process itself could not go on, whatever OMERO did: the
    machine had no time for it.
    """

    seconds: float
    stalled: float
    background: int
    waiting: int

    @property
    def of_omero(self) -> float:
        """The seconds that are OMERO's."""
        return self.seconds - self.stalled


@dataclass
class Logins:
    """Logs in as `user` until the end of the block, one login after the other. `timed` has every single one of them.

    A login that fails ends it; `__exit__` raises what it failed with.
    """

    sandbox: SandboxOmero
    user: str
    timed: list[Timed] = field(default_factory=list)
    _stalled: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _problem: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="logins", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="heart", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(120)
        if self._problem and error is None:
            raise self._problem[0]

    def once(self) -> float:
        """Log in, ask something, log out; the seconds up to the answer."""
        began = time.monotonic()
        client = omero.client(host=self.sandbox.host, port=self.sandbox.port)
        try:
            session = client.createSession(self.user, self.sandbox.password(self.user))
            session.getQueryService().projection("select count(e) from Experimenter e", None)
            return time.monotonic() - began
        finally:
            client.closeSession()

    @property
    def slowest(self) -> list[Timed]:
        """The five slowest, for people."""
        return sorted(self.timed, key=lambda one: one.of_omero, reverse=True)[:5]

    def _run(self) -> None:
        try:
            while not self._ended.wait(_PAUSE_S):
                before = self._stalled
                seconds = self.once()
                stalled = self._stalled - before
                use = self.sandbox.do("use")
                assert isinstance(use, dict)
                busy, waiting = use["background"]["busy"], use["background"]["waiting"]
                self.timed.append(Timed(seconds, stalled, busy, waiting))
        except BaseException as exc:  # noqa: BLE001 - told to whoever waits for the end
            self._problem.append(exc)

    def _beat(self) -> None:
        """Notice when this process gets no time: whoever only sleeps should wake up when it wanted to."""
        last = time.monotonic()
        while not self._ended.wait(_BEAT_S):
            now = time.monotonic()
            late = now - last - _BEAT_S
            self._stalled += late if late > _LATE_S else 0.0
            last = now
