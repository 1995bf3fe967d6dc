"""Two servers with databases of their own on one inbox: the second one leaves it alone for as long as the first one serves it.

Each says in the inbox which database it keeps its records in (`lading.staging.serving`). No two clocks are compared: a notice
counts until it has stood unchanged for two minutes of the reader's own clock.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from lading.engine.parts import Bare, Parts, RouteParts
from lading.errors import LadingError, Unreachable
from lading.inbox import Inbox
from lading.reporters.office import Notice
from lading.staging import serving
from lading.staging.serving import Seen, Serving

STANDS_S = 120.0
"""So long a notice binds others after it was last given."""
RENEW_S = 30.0
_LOOK_S = 1.0
_SAID_S = 60.0
BELIEVED_S = 2.0
"""A worker reads the notice again after so long: small steps must not each ask a network drive."""
_log = structlog.get_logger("lading.engine")


class Onlooker:
    """Says whether an inbox is served with another database than `database`. One per process, for any of its threads."""

    def __init__(self, database: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.database = database
        self.clock = clock
        self._stood: dict[Path, tuple[tuple[object, ...], float]] = {}
        self._believed: dict[Path, tuple[float, Serving | None]] = {}

    def other(self, root: Path, seen: Seen | None) -> Serving | None:
        """Who else serves the inbox where `seen` was read just now; None when nobody does (any more)."""
        if seen is None or seen.serving.database == self.database:
            self._stood.pop(root, None)
            return None
        now = self.clock()
        mark, since = self._stood.get(root, ((), now))
        if mark != seen.mark:
            since = now
            self._stood[root] = (seen.mark, now)
        return seen.serving if now - since < STANDS_S else None

    def demand_ours(self, name: str, inbox: Inbox) -> None:
        """Raises Unreachable while the inbox is served with another database. One that cannot be read is no hindrance."""
        at, other = self._believed.get(inbox.root, (-BELIEVED_S, None))
        if self.clock() - at >= BELIEVED_S:
            try:
                other = self.other(inbox.root, serving.read(inbox.root))
            except (ValueError, OSError):
                other = None
            self._believed[inbox.root] = (self.clock(), other)
        if other is not None:
            raise Unreachable(
                f"the inbox {name} is {_served_by(other)}",
                safe="nothing was done; it goes on when that server ends",
                next_command="lading doctor",
            )


class Keeper:
    """Gives notice in the inboxes of one server, in a thread of its own, and knows which of them are ours to serve.

    An inbox where no notice can be given (read-only, full) is served all the same, as before there were any.
    """

    def __init__(self, database: str, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self.mine: frozenset[str] = frozenset()
        """The inboxes that are ours to serve."""
        self.elsewhere: Mapping[str, str] = {}
        """Those that another server serves, and by whom."""
        self.troubles: Mapping[str, str] = {}
        """Where a notice is nonsense or cannot be given, and why."""
        self._parts = parts
        self._database = database
        self._onlooker = Onlooker(database, clock)
        self._clock = clock
        self._given: dict[str, float] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lading serving", daemon=True)

    def start(self) -> None:
        """Look once, then go on in the background."""
        self.keep()
        self._thread.start()

    def stop(self) -> None:
        """Take our notices away, so that the next server begins at once. Call it when nothing works there any more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(RENEW_S)
        if self._thread.is_alive():
            return  # a drive that does not answer
        for name, inbox in dict(self._parts.inboxes).items():
            try:
                if name in self.mine:
                    serving.remove(inbox.root, self._ours())
            except (ValueError, OSError) as exc:
                _log.warning("notice left behind", inbox=name, note=_reason(exc))
        self.mine = frozenset()

    def keep(self) -> None:
        """Look at every inbox once, and give notice where it is ours and due."""
        mine: set[str] = set()
        troubles: dict[str, str] = {}
        elsewhere: dict[str, str] = {}
        for name, inbox in dict(self._parts.inboxes).items():
            if self._look(name, inbox.root, troubles, elsewhere):
                mine.add(name)
            self._say(name, elsewhere.get(name) or troubles.get(name, ""), elsewhere=name in elsewhere)
        self.troubles, self.elsewhere, self.mine = troubles, elsewhere, frozenset(mine)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.keep()
            except (LadingError, OSError) as exc:
                _log.warning("notices not looked at", note=_reason(exc))

    def _look(self, name: str, root: Path, troubles: dict[str, str], elsewhere: dict[str, str]) -> bool:
        """Whether the inbox is ours."""
        nonsense = ""
        try:
            seen = serving.read(root)
        except ValueError as exc:
            seen, nonsense = None, _reason(exc)
        except OSError as exc:  # away, most likely: what was decided stands
            troubles[name] = f"{root / serving.SERVING} cannot be read: {_reason(exc)}"
            return name not in self.elsewhere
        other = self._onlooker.other(root, seen)
        if other is not None:
            elsewhere[name] = f"the inbox {name} is {_served_by(other)}"
            return False
        if nonsense:
            troubles[name] = f"{root / serving.SERVING} is nonsense, and ignored: {nonsense}"
        try:
            return self._give(name, root, seen, over=bool(nonsense))
        except FileNotFoundError:  # no inbox there now: others say so
            return name in self.mine
        except OSError as exc:
            troubles[name] = (
                f"no notice can be given in {root / serving.SERVING} ({_reason(exc)}): a second server would not know of us"
            )
            return True

    def _give(self, name: str, root: Path, seen: Seen | None, *, over: bool) -> bool:
        now = self._clock()
        if seen is not None and seen.serving.database == self._database:
            if now - self._given.get(name, -RENEW_S) >= RENEW_S:
                serving.renew(root, self._ours())
                self._given[name] = now
            return True
        if seen is None and not over:
            try:
                serving.write_new(root, self._ours())
            except FileExistsError:
                return False  # another was faster: the next look says who
            self._given[name] = now
            return True
        if seen is not None:
            _log.info(
                "inbox taken over", inbox=name, note=f"{seen.serving.who} has given no notice for {STANDS_S:.0f} s"
            )
        serving.write(root, self._ours())
        self._given[name] = now
        return False  # two may have found the same: the next look says whose it is

    def _say(self, name: str, words: str, *, elsewhere: bool) -> None:
        """In the log: at once; every minute while another serves the inbox; and when it is over."""
        said, at = self._said.get(name, ("", 0.0))
        if words != said or (elsewhere and self._clock() - at >= _SAID_S):
            if words:
                _log.warning("inbox left to another server" if elsewhere else "notice", inbox=name, note=words)
            else:
                _log.info("inbox served here", inbox=name)
            self._said[name] = (words, self._clock())

    def _ours(self) -> Serving:
        host = "".join(c for c in platform.node() if c.isprintable())[:255] or "a machine without a name"
        return Serving(self._database, host, os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True, slots=True)
class ServedParts:
    """The parts of a server, with those inboxes alone that are its own to serve."""

    parts: Parts
    keeper: Keeper

    @property
    def inboxes(self) -> Mapping[str, Inbox]:
        """See `Parts`."""
        return {name: inbox for name, inbox in dict(self.parts.inboxes).items() if name in self.keeper.mine}

    @property
    def bare(self) -> Mapping[str, Bare]:
        """See `Parts`."""
        return self.parts.bare

    @property
    def limits(self) -> Mapping[str, int]:
        """See `Parts`."""
        return self.parts.limits

    @property
    def receipt_key(self) -> bytes:
        """See `Parts`."""
        return self.parts.receipt_key

    def silent(self) -> Sequence[str]:
        """See `Parts`."""
        return self.parts.silent()

    def notices(self) -> Sequence[Notice]:
        """See `Parts`."""
        return self.parts.notices()

    def route(self, name: str) -> RouteParts:
        """See `Parts`."""
        return self.parts.route(name)


def _served_by(other: Serving) -> str:
    return f"served by {other.who}, which keeps its records in another database"


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
