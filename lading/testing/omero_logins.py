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


@dataclass(frozen=True, slots=True)
class Timed:
    """One login over TLS up to the first answer to a query, in seconds; and how busy the server's slots were after it."""

    seconds: float
    background: int
    waiting: int


@dataclass
class Logins:
    """Logs in as `user` until the end of the block, one login after the other. `timed` has every single one of them.

    A login that fails ends it; `__exit__` raises what it failed with.
    """

    sandbox: SandboxOmero
    user: str
    timed: list[Timed] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _problem: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="logins", daemon=True)
        self._thread.start()
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
        return sorted(self.timed, key=lambda one: one.seconds, reverse=True)[:5]

    def _run(self) -> None:
        try:
            while not self._ended.wait(_PAUSE_S):
                seconds = self.once()
                use = self.sandbox.do("use")
                assert isinstance(use, dict)
                busy, waiting = use["background"]["busy"], use["background"]["waiting"]
                self.timed.append(Timed(seconds, busy, waiting))
        except BaseException as exc:  # noqa: BLE001 - told to whoever waits for the end
            self._problem.append(exc)
