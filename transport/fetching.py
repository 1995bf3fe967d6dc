"""Pull: brings folders from behind a protocol into an inbox on this machine, as deliveries.

Two kinds of places. A *foreign* one holds session folders, named by a template; each is brought when it has been quiet for two
looks, listed from what was read, and sealed here. A *waypoint* is shaped like an inbox (a bucket or a shared folder that agents
carry into): what is sealed there is brought with its own papers (see `transport.fetch_waypoint`).

The source is only read. Everything may be cut off at any line and called again.
"""

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from lading.delivery import DeliveryId
from lading.errors import ConfigError, EngineError, LadingError, Unreachable
from lading.filters import FileRules
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress, Progress
from lading.seal import MAX_SEAL_BYTES
from lading.staging import sentinel
from lading.template import Template
from transport.bodies import SmallBody
from transport.boot import this_boot
from transport.fetch_deadlines import DAY_S, Near, step_at, steps, warnings_at
from transport.fetch_ledger import Ledger, Progressing, Remembered
from transport.fetch_look import Choice, Look
from transport.pacing import Pace, Unpaced
from transport.placing import small_file
from transport.remote import RemotePlace
from transport.stalling import Watch, Watched

if TYPE_CHECKING:
    from transport.fetch_foreign import ForeignRound


@attrs.frozen(kw_only=True)
class FetchConfig:
    """What is fetched, and when (`[routes.NAME.fetch]`, beside `kind` and the keys of that protocol).

    `template` names the session folders below the place. `quiet`: seconds without a change, seen by at least two looks, before a
    folder counts as complete; `marker`: a file that must be in it too. `every`: seconds between two rounds of the server; 0 is
    only by command. `waypoint`: the place is shaped like an inbox, and what is sealed there is brought with its own papers;
    `clear`: the data of a delivery is removed there once the repository provably holds it. `empty_files`: patterns of names that
    may have no content; any other file without content stays at the source, with a finding. `deadline_days`: how long the source
    keeps data after its last change (0: for ever); people are told when `warn_days` of it are left (0: half of it), again
    three days and a day before the end, and when it is over.
    """

    template: str = "{project}/{participant}/{session}"
    quiet: float = 300.0
    marker: str = ""
    every: float = 600.0
    waypoint: bool = False
    clear: bool = False
    empty_files: tuple[str, ...] = ()
    deadline_days: float = 0.0
    warn_days: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How one remote folder stands. `due`: when the source may remove it (seconds since the epoch), None when it keeps it.

    `safe`: the repository provably holds it. `step`: it is not, and so many days before the end people are told (see
    `transport.fetch_deadlines`); None when the end is far, or there is none.
    """

    folder: Remembered
    due: float | None
    safe: bool
    step: float | None = None

    @property
    def urgent(self) -> bool:
        """Whether somebody should see to it."""
        return self.step is not None


@dataclass(frozen=True, slots=True)
class Fetching:
    """What a fetcher works with: one route's place, inbox and rules."""

    route: str
    place: RemotePlace
    config: FetchConfig
    inbox: Inbox
    state: Path
    rules: FileRules = field(default_factory=FileRules)
    algorithms: tuple[str, ...] = ()
    priority: int = 0
    pace: Pace = field(default_factory=Unpaced)
    boot: str = field(default_factory=this_boot)

    @property
    def source(self) -> str:
        """What tells the place from another one, whichever way it is written."""
        return self.place.name.rstrip("/")


class Fetcher:
    """Fetches for one route. One round at a time, whoever asks: a second one, in any process, is refused with Unreachable."""

    def __init__(self, setting: Fetching, *, clock: Callable[[], float] = time.time) -> None:
        self._setting, self._config, self._clock = setting, setting.config, clock
        self._template = Template.parse(setting.config.template)
        self._choice = Choice(setting.rules, setting.config.empty_files)
        self._folder = setting.state / "fetch"

    @property
    def quiet(self) -> float:
        """Seconds without a change before a folder counts as complete."""
        return self._config.quiet

    def round(self, *, only: str = "", progress: Progress | None = None) -> list[Remembered]:
        """Look at everything (or at the folder `only`), bring what is complete. What was looked at, by path.

        A folder that cannot be brought says so in its note or findings, and the others go on. Raises Unreachable, AccessDenied
        (the place itself), EngineError.
        """
        with self._alone(), contextlib.closing(self._ledger()) as ledger, self._connected() as files:
            if self._config.waypoint:
                from transport.fetch_waypoint import WaypointRound  # noqa: PLC0415 - only where it is asked for

                return WaypointRound(self._setting, ledger, files, progress or NoProgress(), self._clock).run(only)
            return self._foreign(ledger, files).run(only.strip("/"), progress or NoProgress())

    def preview(self, *, only: str = "") -> list[tuple[str, Look]]:
        """The dry run: the folders that a round would look at, and what is in each. Notes nothing."""
        if self._config.waypoint:
            raise ConfigError("a waypoint has no dry run: what is sealed there is brought, nothing else")
        with self._connected() as files, contextlib.closing(self._ledger()) as ledger:
            round_ = self._foreign(ledger, files)
            return [(path, round_.look(path)) for path in round_.sessions(only.strip("/"))]

    def make_waypoint(self) -> str:
        """Make the place an inbox-shaped one: the folders and a sentinel. What is there stays. Its id."""
        with self._connected() as files:
            there = small_file(files, sentinel.SENTINEL, MAX_SEAL_BYTES)
            if there is not None:
                return sentinel.parse(there, self._setting.place.name).id
            for folder in (".lading/incoming", ".lading/receipts"):
                files.make_folders(folder)
            made = sentinel.Sentinel(secrets.token_hex(8), InboxLimits())
            files.place(sentinel.SENTINEL, SmallBody(_sentinel_json(made), self._clock()))
            return made.id

    def standings(self) -> list[Standing]:
        """What is known of every folder, from memory: nothing is asked of the server."""
        if not self._ledger_path.exists():
            return []
        with contextlib.closing(self._ledger()) as ledger:
            return [self._standing(folder) for folder in ledger.all()]

    def near(self) -> list[Near]:
        """What the source will not keep much longer and the repository does not hold; one for each warning that counts."""
        if not self._steps or not self._ledger_path.exists():
            return []
        now = self._clock()
        with contextlib.closing(self._ledger()) as ledger:
            found = [
                (folder, when)
                for folder in ledger.all()
                if (when := warnings_at(self._due(folder) - now, self._steps)) and not self._is_safe(folder)
            ]
        return [self._near(folder, step, early=early) for folder, when in found for step, early in when]

    def _foreign(self, ledger: Ledger, files: Watched) -> "ForeignRound":
        from transport.fetch_foreign import ForeignRound  # noqa: PLC0415 - it needs this module

        return ForeignRound(self._setting, self._template, self._choice, ledger, files, clock=self._clock)

    def _near(self, folder: Remembered, step: float, *, early: bool) -> Near:
        return Near(
            self._setting.route,
            folder.path,
            self._setting.place.name,
            str(folder.state),
            folder.delivery,
            self._due(folder),
            step,
            folder.first_seen,
            early,
        )

    @property
    def _steps(self) -> tuple[float, ...]:
        return steps(self._config.deadline_days, self._config.warn_days)

    def _standing(self, folder: Remembered) -> Standing:
        safe = self._is_safe(folder)
        if not self._steps:
            return Standing(folder, None, safe)
        due = self._due(folder)
        return Standing(folder, due, safe, None if safe else step_at(due - self._clock(), self._steps))

    def _due(self, folder: Remembered) -> float:
        """When the source may remove it."""
        return (folder.newest or folder.first_seen) + self._config.deadline_days * DAY_S

    def _is_safe(self, folder: Remembered) -> bool:
        receipt = None
        if folder.delivery and folder.state is Progressing.FETCHED:
            with contextlib.suppress(LadingError):
                receipt = self._setting.inbox.read_receipt(DeliveryId(folder.delivery))
        return receipt is not None and receipt.proves_all

    @property
    def _ledger_path(self) -> Path:
        return self._folder / f"{self._setting.route}.sqlite"

    def _ledger(self) -> Ledger:
        return Ledger(self._ledger_path, self._setting.source)

    @contextmanager
    def _connected(self) -> Iterator[Watched]:
        with Watch(self._setting.place.traits.stall_s) as watch:
            yield watch.over(self._setting.place.connect())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A lock that a killed process cannot leave behind, on every system."""
        lock = self._lock_file()
        try:
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as exc:
                if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise Unreachable(f"another process is fetching for the route {self._setting.route} now") from exc
                raise self._cannot_lock(exc) from exc
            yield
        finally:
            lock.close()

    def _lock_file(self) -> sqlite3.Connection:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return sqlite3.connect(self._folder / f"{self._setting.route}.lock", timeout=0, isolation_level=None)
        except (sqlite3.Error, OSError) as exc:
            raise self._cannot_lock(exc) from exc

    def _cannot_lock(self, exc: Exception) -> EngineError:
        return EngineError(f"cannot lock {self._folder}: {exc}", next_command="lading doctor")


def _sentinel_json(made: sentinel.Sentinel) -> bytes:
    return json.dumps({"format": sentinel.FORMAT, "id": made.id, "limits": asdict(made.limits)}, indent=1).encode(
        "ascii"
    )
