"""The server's memory, for the people who run it: what there is, and the few things they may ask for.

Every wish is checked against one table of what makes sense at which stage; whatever touches files is done by a worker.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from lading.delivery import DeliveryId, Event, Labels, Stage
from lading.engine import admission, database, deliveries, jobs
from lading.engine.database import Connection, recording
from lading.engine.deliveries import MOST_URGENT, Change, Row, Superseded, TableJournal
from lading.engine.errands import LABELS_NOTE
from lading.engine.reaper import wake_idle
from lading.engine.steps import step_at
from lading.errors import LadingError, Rejected
from lading.findings import Finding
from lading.pipeline import IMPORT_RECORD
from lading.seal import label_findings

_WAITING = frozenset({Stage.ARRIVED, Stage.ACCEPTED, Stage.QUEUED})
ALLOWED: Mapping[str, frozenset[Stage]] = {
    "pause": _WAITING | {Stage.SENDING, Stage.IMPORTING, Stage.IMPORTED},
    "resume": _WAITING | {Stage.SENDING, Stage.IMPORTING, Stage.IMPORTED},
    "cancel": _WAITING | {Stage.HELD, Stage.REJECTED},
    "retry": _WAITING | {Stage.HELD, Stage.IMPORTED},
    "fix": frozenset({Stage.REJECTED, Stage.HELD, Stage.QUEUED}),
    "release": frozenset({Stage.REJECTED, Stage.CANCELLED}),
    "verify": frozenset({Stage.VERIFIED, Stage.IMPORTED, Stage.HELD}),
}
"""What may be asked for, at which stages. An import that runs is never torn away from under its worker."""


class Unknown(LadingError):
    """No delivery, or more than one, fits what was typed."""

    code = "unknown-delivery"
    exit_code = 2


class NotNow(LadingError):
    """The wish makes no sense at the delivery's stage."""

    code = "not-now"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """Everything about one delivery."""

    row: Row
    findings: tuple[Finding, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class RepositoryView:
    """How a repository stands: `running` of `imports` slots are taken, `queued` wait; `down_since` and why, when it is."""

    name: str
    imports: int
    running: int
    queued: int
    paused: bool
    down_since: datetime | None
    retry_at: datetime | None
    note: str


class Ledger:
    """The deliveries in the database at `dsn`. Every method raises EngineError when that does not answer."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    def close(self) -> None:
        """Give the connection back. The ledger may be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- what there is -------------------------------------------------------------------------------------------------

    def deliveries(self, stages: Sequence[Stage] = (), *, limit: int = 100) -> list[Row]:
        """Newest first; of every stage when none is named."""
        with self._asked("listing deliveries") as connection:
            if not stages:
                return deliveries.select(connection, "true", limit=limit)
            return deliveries.select(connection, "stage = ANY(%s)", ([str(s) for s in stages],), limit=limit)

    def hints(self, needing: Sequence[DeliveryId]) -> dict[str, tuple[Finding, ...]]:
        """For each of these deliveries, the first few of its findings, those with a hint first."""
        with self._asked("looking up findings") as connection:
            return deliveries.hints_of(connection, needing)

    def show(self, delivery: DeliveryId) -> DeliveryView:
        """Everything about one. Raises Unknown."""
        with self._asked(f"looking up {delivery}") as connection:
            row = _row(connection, delivery)
            return DeliveryView(
                row, deliveries.findings_of(connection, delivery), deliveries.events_of(connection, delivery)
            )

    def find(self, text: str) -> DeliveryId:
        """The one id that begins or ends with `text`. Raises Unknown for none and for many, naming some."""
        found = self.starting_with(text)
        if text in found:
            return DeliveryId(text)
        if len(found) == 1:
            return found[0]
        if not found:
            raise Unknown(f"no delivery {text!r} here", next_command="lading list")
        raise Unknown(
            f"{text!r} fits {len(found)} deliveries or more: {', '.join(found[:5])}", next_command="lading list"
        )

    def starting_with(self, text: str) -> list[DeliveryId]:
        """At most ten ids that begin or end so, newest first."""
        literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        with self._asked("looking for a delivery") as connection:
            rows = deliveries.select(connection, "id LIKE %s OR id LIKE %s", (literal + "%", "%" + literal), limit=10)
        return [DeliveryId(row.id) for row in rows]

    def counts(self) -> dict[Stage, int]:
        """How many deliveries there are at each stage."""
        with self._asked("counting") as connection:
            rows = connection.execute("SELECT stage, count(*) FROM deliveries GROUP BY stage").fetchall()
        return {Stage(stage): int(count) for stage, count in rows}

    def repositories(self) -> list[RepositoryView]:
        """How every repository stands."""
        with self._asked("asking how the repositories stand") as connection:
            rows = connection.execute(
                "SELECT r.name, r.imports,"
                " (SELECT count(*) FROM deliveries d WHERE d.repository = r.name AND d.stage = 'IMPORTING'),"
                " (SELECT count(*) FROM deliveries d WHERE d.repository = r.name AND d.stage = 'QUEUED'),"
                " EXISTS (SELECT 1 FROM pauses p WHERE p.target IN ('all', 'repository:' || r.name)),"
                " r.down_since, r.retry_at, r.note FROM repositories r ORDER BY r.name"
            ).fetchall()
        return [RepositoryView(*row) for row in rows]

    def pauses(self) -> list[str]:
        """What is paused besides single deliveries: "all", "route:NAME", "repository:NAME"."""
        with self._asked("asking what is paused") as connection:
            return [row[0] for row in connection.execute("SELECT target FROM pauses ORDER BY target").fetchall()]

    def events(self, since: int = 0, *, limit: int = 1000) -> list[tuple[int, DeliveryId, Event]]:
        """Events after the number `since`, oldest first, with the number to go on from."""
        with self._asked("reading events") as connection:
            rows = connection.execute(
                "SELECT id, delivery, at, stage, note FROM events WHERE id > %s ORDER BY id LIMIT %s", (since, limit)
            ).fetchall()
        return [
            (number, DeliveryId(delivery), Event(at, Stage(stage), note)) for number, delivery, at, stage, note in rows
        ]

    # -- what may be asked for -----------------------------------------------------------------------------------------

    def pause(self, delivery: DeliveryId) -> None:
        """Start no further step of it; a step in hand is finished."""
        with self._changing(delivery, "pause") as (connection, row):
            _set_paused(connection, row, paused=True)

    def resume(self, delivery: DeliveryId) -> None:
        """The reverse of pause."""
        with self._changing(delivery, "resume") as (connection, row):
            _set_paused(connection, row, paused=False)
            wake_idle(connection)
            admission.admit(connection, row.repository)

    def pause_target(self, target: str) -> None:
        """Start no further step of "all", of "route:NAME", or no import and verification into "repository:NAME"."""
        with self._asked(f"pausing {target}") as connection:
            connection.execute("INSERT INTO pauses (target) VALUES (%s) ON CONFLICT DO NOTHING", (target,))

    def resume_target(self, target: str) -> None:
        """The reverse of pause_target; harmless when it was not paused."""
        with self._asked(f"resuming {target}") as connection, connection.transaction():
            connection.execute("DELETE FROM pauses WHERE target = %s", (target,))
            wake_idle(connection)

    def set_priority(self, delivery: DeliveryId, priority: int) -> None:
        """From -100 to 100; higher goes first, before any turn. Takes effect with its next step."""
        bounded = max(-MOST_URGENT, min(MOST_URGENT, priority))
        with self._asked(f"giving {delivery} priority {bounded}") as connection:
            row = _row(connection, delivery)
            connection.execute("UPDATE deliveries SET priority = %s WHERE id = %s", (bounded, row.id))
            deliveries.add_event(connection, row.id, Stage(row.stage), f"priority {bounded}")

    def retry(self, delivery: DeliveryId) -> None:
        """Try at once what is held or waits for its next attempt; its attempts count anew."""
        with self._changing(delivery, "retry") as (connection, row):
            to = Stage(row.held_from or row.stage) if row.stage == Stage.HELD else Stage(row.stage)
            mended = deliveries.fence(connection, row)
            deliveries.advance(connection, mended, to, Change(repairs=0))
            deliveries.add_event(connection, row.id, to, "retried by the operator")
            step = step_at(to)
            if step is not None:
                jobs.queue(connection, jobs.Job(delivery, mended.epoch, step), priority=row.priority)
            admission.has_answered(connection, row.repository)  # Somebody knows better than our patience.
            admission.admit(connection, row.repository)

    def fix(self, delivery: DeliveryId, labels: Labels) -> None:
        """Give it other labels, and let it run the whole line again under them. Raises Rejected when they cannot name folders."""
        if found := label_findings(labels):
            raise Rejected(
                f"{labels} cannot be used: {found[0].message}",
                findings=found,
                safe="nothing was changed",
                next_command=found[0].hint.replace(" ID ", f" {delivery} "),
            )
        with self._changing(delivery, "fix") as (connection, row):
            TableJournal(connection, delivery).note(LABELS_NOTE, json.dumps(labels.as_dict()))
            _send_on_errand(connection, row, "release", f"to be released as {labels}")

    def release(self, delivery: DeliveryId) -> None:
        """Let it run the whole line again as it is: after the rules, or the repository, were put right.

        Nothing is overridden: an error found again refuses it again.
        """
        with self._changing(delivery, "release") as (connection, row):
            TableJournal(connection, delivery).forget(LABELS_NOTE)
            _send_on_errand(connection, row, "release", "to be released as it is")

    def cancel(self, delivery: DeliveryId) -> None:
        """Give it up; its files are kept in quarantine, and the sender can read that it was cancelled."""
        with self._changing(delivery, "cancel") as (connection, row):
            _send_on_errand(connection, row, "cancel", "to be cancelled")

    def verify(self, delivery: DeliveryId, *, reread: bool = False) -> None:
        """Read it back from the repository again, and write a fresh receipt. `reread`: the repository reads its disk again."""
        with self._changing(delivery, "verify") as (connection, row):
            if TableJournal(connection, delivery).recall(IMPORT_RECORD) is None:
                raise NotNow(
                    f"{delivery} is {row.stage} and was never imported: there is nothing to read back",
                    safe="nothing was changed",
                    next_command=f"lading show {delivery}",
                )
            errand = "reread" if reread else "verify-again"
            _send_on_errand(connection, row, errand, "to be read back again" + (", from its disk" if reread else ""))

    # -- how -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(self, doing: str) -> Iterator[Connection]:
        if self._connection is None or self._connection.closed:
            self._connection = database.connect(self._dsn, "lading ledger")
        with recording(doing):
            yield self._connection

    @contextmanager
    def _changing(self, delivery: DeliveryId, wish: str) -> Iterator[tuple[Connection, Row]]:
        """One transaction around a change of a row that nobody else changes meanwhile."""
        try:
            with self._asked(f"{wish} of {delivery}") as connection, connection.transaction():
                connection.execute("SELECT 1 FROM deliveries WHERE id = %s FOR UPDATE", (delivery,))
                row = _row(connection, delivery)
                _require(wish, row)
                yield connection, row
        except Superseded as exc:
            raise NotNow(f"{delivery} moved on meanwhile", next_command=f"lading show {delivery}") from exc


def _row(connection: Connection, delivery: DeliveryId) -> Row:
    row = deliveries.load(connection, delivery)
    if row is None:
        raise Unknown(f"no delivery {delivery!r} here", next_command="lading list")
    return row


def _require(wish: str, row: Row) -> None:
    if Stage(row.stage) in ALLOWED[wish]:
        return
    possible = [other for other, stages in ALLOWED.items() if Stage(row.stage) in stages]
    allowed = f"possible now: {', '.join(possible)}" if possible else "nothing is left to ask for"
    raise NotNow(
        f"{row.id} is {row.stage}, where {wish} makes no sense; {allowed}",
        safe="nothing was changed",
        next_command=f"lading {possible[0]} {row.id}" if possible else f"lading show {row.id}",
    )


def _set_paused(connection: Connection, row: Row, *, paused: bool) -> None:
    if row.paused is not paused:
        connection.execute("UPDATE deliveries SET paused = %s, updated_at = now() WHERE id = %s", (paused, row.id))
        deliveries.add_event(connection, row.id, Stage(row.stage), "paused" if paused else "resumed")


def _send_on_errand(connection: Connection, row: Row, errand: str, note: str) -> None:
    """Fence off whoever works on it now, and let a worker do the errand as soon as the delivery is free."""
    fenced = deliveries.fence(connection, row)
    stage = Stage(row.stage)
    if stage in _WAITING:
        # Off the line: neither admission nor a woken step may pick it up before the errand is done.
        stage = Stage.HELD
        deliveries.advance(connection, fenced, stage, Change(held_from=row.stage))
    deliveries.add_event(connection, row.id, stage, note)
    jobs.queue(connection, jobs.Job(DeliveryId(row.id), fenced.epoch, errand), priority=MOST_URGENT)
