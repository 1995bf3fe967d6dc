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

import attrs

from lading import manifest
from lading.delivery import Delivery, DeliveryId, Slot, Stage, delivery_id, new_delivery_id
from lading.errors import ConfigError, EngineError, LadingError, Rejected, SourceChanged, Unreachable
from lading.filters import FileRules
from lading.findings import Severity, error, warning
from lading.inbox import Inbox, InboxLimits
from lading.manifest import Entry
from lading.ports import NoProgress, Progress
from lading.seal import MAX_SEAL_BYTES, is_sealed, label_findings, seal
from lading.staging import sentinel
from lading.template import Template
from transport.bodies import SmallBody
from transport.fetch_deadlines import DAY_S, Near, step_at, steps, warnings_at
from transport.fetch_files import PROVEN, Bringing, bring_handed_over, hash_here
from transport.fetch_ledger import Ledger, Progressing, Remembered, Row, changed
from transport.fetch_look import Choice, HostileName, Look, chosen, folders_at, left_out, look_at, refused, walked
from transport.foreign import TARGET, shown, translating
from transport.landing import Landing
from transport.naming import refuse_names
from transport.pacing import Pace, Unpaced
from transport.placing import small_file
from transport.remote import CopiesTrees, HandsOver, RemotePlace
from transport.stalling import Watch, Watched

_VANISHED = "vanished-before-fetch"


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
            round_ = _ForeignRound(self._setting, self._template, self._choice, ledger, files, clock=self._clock)
            return round_.run(only.strip("/"), progress or NoProgress())

    def preview(self, *, only: str = "") -> list[tuple[str, Look]]:
        """The dry run: the folders that a round would look at, and what is in each. Notes nothing."""
        if self._config.waypoint:
            raise ConfigError("a waypoint has no dry run: what is sealed there is brought, nothing else")
        with self._connected() as files, contextlib.closing(self._ledger()) as ledger:
            round_ = _ForeignRound(self._setting, self._template, self._choice, ledger, files, clock=self._clock)
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
        return Ledger(self._ledger_path)

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


class _ForeignRound:
    """One round over the session folders of a foreign place."""

    def __init__(
        self,
        setting: Fetching,
        template: Template,
        choice: Choice,
        ledger: Ledger,
        files: Watched,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._setting, self._config, self._template, self._choice = setting, setting.config, template, choice
        self._ledger, self._files, self._clock = ledger, files, clock

    def run(self, only: str, progress: Progress) -> list[Remembered]:
        seen: list[Remembered] = []
        for path in self.sessions(only):
            seen.append(self._one(path, progress, asked=bool(only)))
        if not only:
            seen += self._vanished({folder.path for folder in seen})
        return seen

    def sessions(self, only: str = "") -> list[str]:
        """The session folders there are, in order. Raises Rejected when `only` is none."""
        if only:
            if not self._template.labels(only) or self._files.look(only) is None:
                raise Rejected(
                    f"{only} is not a session folder of {self._setting.place.name}: it must look like {self._config.template}"
                )
            return [only]
        try:
            return folders_at(self._files, len(self._template.levels), self._template.fits)
        except HostileName as exc:
            raise Rejected(str(exc), findings=[refused(exc)]) from exc

    def look(self, path: str) -> Look:
        """What is in a session now."""
        return look_at(walked(self._files, path), self._choice, self._config.marker)

    def _one(self, path: str, progress: Progress, *, asked: bool) -> Remembered:
        """The folder after a look. `asked`: somebody named it, so what was held before is judged anew."""
        now = self._clock()
        known = self._ledger.get(path) or Remembered(path, first_seen=now)
        if known.state is Progressing.HELD and (asked or _VANISHED in {found.code for found in known.findings}):
            known = changed(known, state=Progressing.WAITING, findings=())
        try:
            look = self.look(path)
            known = self._ledger.put(self._noted(known, look, now))
            if known.state is Progressing.FETCHING:
                known = self._brought(known, look, progress)
        except HostileName as exc:
            return self._ledger.put(changed(known, state=Progressing.HELD, findings=(refused(exc),), note=str(exc)))
        except Rejected as exc:
            return self._ledger.put(
                changed(known, state=Progressing.HELD, findings=exc.findings or known.findings, note=exc.message)
            )
        except SourceChanged as exc:
            return self._ledger.put(changed(known, state=Progressing.WAITING, since=now, note=exc.message))
        except EngineError:
            raise
        except LadingError as exc:
            # What a service could not bring of one folder says nothing about the others, nor does a file that cannot be read; a
            # connection that broke does.
            theirs = isinstance(self._setting.place, HandsOver) and known.state is Progressing.FETCHING
            if isinstance(exc, Unreachable) and not theirs and not still_answers(self._files, path):
                raise
            command = f"; next: {exc.next_command}" if theirs and exc.next_command else ""
            return self._ledger.put(changed(known, note=exc.message + command))
        return known

    def _noted(self, known: Remembered, look: Look, now: float) -> Remembered:
        """The folder after a look. FETCHING: it is to be brought now."""
        given_back = known.state in (Progressing.FETCHED, Progressing.CHANGED) and self._was_given_back(known)
        if known.state is Progressing.FETCHED and not given_back:
            if known.fingerprint == look.fingerprint:
                return known
            found = warning(
                "changed-after-fetch",
                f"{known.path} changed at the source after it was fetched as {known.delivery}",
                hint="deliver what was added as a session of its own",
            )
            return changed(known, state=Progressing.CHANGED, findings=(*known.findings, found), note=found.message)
        if known.state is Progressing.CHANGED and not given_back:
            return known
        same = known.fingerprint == look.fingerprint
        if known.state is Progressing.HELD and same and known.findings:
            return known
        known = changed(
            known,
            fingerprint=look.fingerprint,
            # A clock that was set back must not make it wait until that time comes again.
            since=known.since if same and known.since <= now else now,
            newest=look.newest,
            files=look.files,
            bytes=look.bytes,
            findings=look.findings,
        )
        reason = self._not_ready(look, same=same, quiet_s=now - known.since)
        if reason:
            return changed(known, state=Progressing.WAITING, note=reason)
        labels = self._template.labels(known.path)
        unfit = [f for f in look.findings if f.severity is Severity.ERROR] + (label_findings(labels) if labels else [])
        if unfit or labels is None:
            findings = tuple(dict.fromkeys((*look.findings, *unfit)))
            return changed(known, state=Progressing.HELD, findings=findings, note=unfit[0].message if unfit else "")
        delivery = known.delivery or new_delivery_id()
        return changed(known, state=Progressing.FETCHING, delivery=delivery, note="being fetched")

    def _not_ready(self, look: Look, *, same: bool, quiet_s: float) -> str:
        if not look.files:
            return "nothing in it to fetch"
        if look.unfinished:
            return f"{look.unfinished} looks like an unfinished copy"
        if self._config.marker and not look.has_marker:
            return f"no marker {self._config.marker}"
        if not same:
            return "seen for the first time, or changed since the last look"
        if quiet_s < self._config.quiet:
            return f"quiet for {quiet_s:.0f} of {self._config.quiet:.0f} s"
        return ""

    def _was_given_back(self, known: Remembered) -> bool:
        """Whether the inbox found the delivery damaged: its seal is gone, its data is the sender's again."""
        slot = self._setting.inbox.root / Slot(DeliveryId(known.delivery)).path
        return (slot / "data").is_dir() and not is_sealed(slot)

    def _brought(self, known: Remembered, look: Look, progress: Progress) -> Remembered:
        delivery = delivery_id(known.delivery)
        setting = self._setting
        if not self._is_sealed(delivery):
            self._ledger.list_files(delivery, chosen(walked(self._files, known.path), self._choice))
            refuse_names((_entry(row) for row in self._ledger.files(delivery)), manifest.NameLimits.POSIX, "the inbox")
            slot = setting.inbox.reserve(delivery, look.bytes)
            with translating(f"cannot open {slot}", TARGET):
                landing = Landing(slot / "data")
            with landing:
                self._bring_files(known.path, delivery, landing, slot, progress)
                if self.look(known.path).fingerprint != look.fingerprint:
                    raise SourceChanged(f"{known.path} changed while it was fetched")
                with translating(f"cannot finish {slot}", TARGET):
                    landing.keep_only(row.path for row in self._ledger.files(delivery))
                    landing.make_durable()
            self._seal(known, delivery, slot)
        self._ledger.drop_files(delivery)
        return self._ledger.put(changed(known, state=Progressing.FETCHED, note=""))

    def _bring_files(self, folder: str, delivery: DeliveryId, landing: Landing, slot: Path, progress: Progress) -> None:
        setting = self._setting
        if isinstance(setting.place, HandsOver):
            bring_handed_over(
                setting.place,
                folder,
                slot / "data",
                self._ledger,
                delivery,
                algorithms=setting.algorithms,
                progress=progress,
            )
            return
        if isinstance(setting.place, CopiesTrees):
            missing = (row.path for row in self._ledger.files(delivery, missing=True))
            setting.place.copy_tree(folder, missing, slot / "data", setting.pace, progress)
            hash_here(slot / "data", self._ledger, delivery, setting.algorithms)
            return
        Bringing(
            setting.place,
            folder,
            landing,
            self._ledger,
            delivery,
            algorithms=setting.algorithms,
            pace=setting.pace,
            progress=progress,
        ).bring()

    def _is_sealed(self, delivery: DeliveryId) -> bool:
        """Whether we were cut off after the seal and before the note."""
        with translating(f"cannot look at {delivery}", TARGET):
            return is_sealed(self._setting.inbox.root / Slot(delivery).path)

    def _seal(self, known: Remembered, delivery: DeliveryId, slot: Path) -> None:
        unproven = 0

        def entries() -> Iterator[Entry]:
            nonlocal unproven
            for row in self._ledger.files(delivery):
                unproven += not row.digests.get(PROVEN)
                yield _entry(row, slot / "data")

        listed = manifest.write(
            slot,
            entries(),
            left_out(walked(self._files, known.path), self._choice),
            algorithms=self._setting.algorithms,
        )
        labels = self._template.labels(known.path)
        assert labels is not None  # noqa: S101 - looked at before
        made = Delivery(
            delivery,
            self._setting.route,
            labels,
            Stage.ARRIVED,
            sender=self._setting.place.name[:400],
            priority=self._setting.priority,
        )
        seal(slot, made, listed, origin="arrival" if unproven else "source", note=_seal_note(known, unproven))

    def _vanished(self, seen: set[str]) -> list[Remembered]:
        """What is gone from the source before it was fetched."""
        gone = []
        for known in self._ledger.all():
            if known.path in seen or known.state in (Progressing.FETCHED, Progressing.CHANGED):
                continue
            found = error(
                "vanished-before-fetch",
                f"{known.path} is gone from {self._setting.place.name}, and was not fetched",
                hint="ask for it at the source; what was fetched of it is kept in the inbox",
            )
            gone.append(self._ledger.put(changed(known, state=Progressing.HELD, findings=(found,), note=found.message)))
        return gone


def still_answers(files: Watched, path: str) -> bool:
    """Whether the place can be asked about `path`: then it is not the connection that failed."""
    try:
        return files.look(path) is not None
    except LadingError:
        return False


def _sentinel_json(made: sentinel.Sentinel) -> bytes:
    return json.dumps({"format": sentinel.FORMAT, "id": made.id, "limits": asdict(made.limits)}, indent=1).encode(
        "ascii"
    )


def _entry(row: Row, root: Path | None = None) -> Entry:
    """A line of the manifest. The time is that of the file here, which has the source's where that keeps times."""
    mtime_ns = 0
    if root is not None:
        with translating(f"cannot look at {shown(row.path)}", TARGET):
            mtime_ns = (root / row.path).lstat().st_mtime_ns
    digests = {name: digest for name, digest in row.digests.items() if name != PROVEN}
    return Entry(row.path, row.size, mtime_ns, digests or {"sha256": ""})


def _seal_note(known: Remembered, unproven: int) -> str:
    parts = []
    if unproven:
        parts.append(f"listed on arrival: for {unproven} of {known.files} files the source has no checksum")
    if known.findings:
        parts.append(
            f"{len(known.findings)} left at the source: " + "; ".join(f"{f.code} {f.path}" for f in known.findings[:5])
        )
    text = ". ".join(parts)
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
