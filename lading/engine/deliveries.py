"""The deliveries table and its neighbours: every statement that reads or moves a delivery, and the fence around it."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.rows import class_row, dict_row

from lading.delivery import Delivery, DeliveryId, Event, Labels, Stage
from lading.engine import jobs
from lading.engine.database import Connection
from lading.findings import Finding, Severity

COLUMNS = (
    "id, inbox, route, repository, project, participant, session, sender, priority, stage, epoch, paused, files,"
    " bytes, digest, attempt, repairs, failing_since, not_before, held_from, error, created_at, arrived_at, queued_at,"
    " updated_at"
)


MOST_URGENT = 100
"""Priorities are -100 to 100: a sender cannot ask for more."""
_BIGGEST = 2**63 - 1


class Superseded(Exception):
    """The row has moved on under another epoch: whatever this process did must not be recorded."""


@dataclass(frozen=True, slots=True)
class Row:
    """A delivery as the engine keeps it. `error` is `LadingError.as_dict()` of the last failure; times are UTC."""

    id: str
    inbox: str
    route: str
    repository: str
    project: str
    participant: str
    session: str
    sender: str
    priority: int
    stage: str
    epoch: int
    paused: bool
    files: int
    bytes: int
    digest: str
    attempt: int
    repairs: int
    failing_since: datetime | None
    not_before: datetime | None
    held_from: str | None
    error: dict[str, str | bool] | None
    created_at: datetime
    arrived_at: datetime
    queued_at: datetime | None
    updated_at: datetime

    @property
    def labels(self) -> Labels:
        """Where it belongs, as last decided."""
        return Labels(self.project, self.participant, self.session)

    @property
    def delivery(self) -> Delivery:
        """The value that the parts see."""
        return Delivery(
            id=DeliveryId(self.id),
            route=self.route,
            labels=self.labels,
            stage=Stage(self.stage),
            files=self.files,
            bytes=self.bytes,
            digest=self.digest,
            sender=self.sender,
            priority=self.priority,
            created_at=self.created_at,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction does to a row, besides the new stage; None leaves a column alone."""

    attempt: int = 0
    repairs: int | None = None
    failing_since: datetime | None = None
    not_before: datetime | None = None
    held_from: str | None = None
    error: dict[str, str | bool] | None = None

    @classmethod
    def unchanged(cls, row: Row) -> "Change":
        """What the row says already."""
        return cls(row.attempt, row.repairs, row.failing_since, row.not_before, row.held_from, row.error)


def load(connection: Connection, delivery: str) -> Row | None:
    """The row, or None."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        query = f"SELECT {COLUMNS} FROM deliveries WHERE id = %s"  # noqa: S608 - our own column names
        return cursor.execute(query, (delivery,)).fetchone()


@dataclass(frozen=True, slots=True)
class Ready:
    """A row whose step is due. `halted`: paused in one way or another. `refused`: what an interrupted refusal found."""

    row: Row
    halted: bool
    refused: str | None
    repository_down: bool


def ready(connection: Connection, delivery: str) -> Ready | None:
    """Everything that the start of a step needs, in one question; None without such a row."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(_READY, (delivery,)).fetchone()
    if found is None:
        return None
    halted, refused, down = found.pop("halted"), found.pop("refused"), found.pop("repository_down")
    return Ready(Row(**found), bool(halted), refused, bool(down))


REFUSED_NOTE = "refused"
"""Journal key: the findings of a refusal that is being carried out, as JSON."""
_READY = f"""
SELECT {COLUMNS},
    d.paused OR EXISTS (SELECT 1 FROM pauses p WHERE p.target IN ('all', 'route:' || d.route)
        OR (p.target = 'repository:' || d.repository AND d.stage IN ('IMPORTING', 'IMPORTED'))) AS halted,
    (SELECT value FROM journal j WHERE j.delivery = d.id AND j.key = '{REFUSED_NOTE}') AS refused,
    (SELECT down_since IS NOT NULL FROM repositories r WHERE r.name = d.repository) AS repository_down
FROM deliveries d WHERE id = %s
"""  # noqa: S608 - our own text


def select(connection: Connection, where: str, values: tuple[object, ...] = (), *, limit: int = 1000) -> list[Row]:
    """Rows by a condition of ours (never of a user's), newest first."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        query = (
            f"SELECT {COLUMNS} FROM deliveries WHERE {where}"  # noqa: S608 - values are always parameters
            " ORDER BY arrived_at DESC, id DESC LIMIT %s"
        )
        return cursor.execute(query, (*values, limit)).fetchall()


def register(connection: Connection, inbox: str, repository: str, delivery: Delivery, priority: int) -> int | None:
    """A sealed slot was found: a new row at ARRIVED, or a row that waited for its files again. Returns the epoch to
    queue the first step under, None when the delivery is known and nothing is to be done.
    """
    row = connection.execute(
        "INSERT INTO deliveries (id, inbox, route, repository, project, participant, session, sender, priority, stage,"
        " files, bytes, digest, created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'ARRIVED', %s, %s, %s, %s)"
        " ON CONFLICT (id) DO UPDATE SET stage = 'ARRIVED', epoch = deliveries.epoch + 1, files = excluded.files,"
        " bytes = excluded.bytes, digest = excluded.digest, arrived_at = now(), updated_at = now()"
        " WHERE deliveries.stage = 'SENDING' AND deliveries.inbox = excluded.inbox RETURNING epoch",
        (
            delivery.id,
            inbox,
            storable(delivery.route),
            repository,
            *map(storable, delivery.labels.as_dict().values()),
            storable(delivery.sender),
            priority,
            _within(delivery.files, _BIGGEST),
            _within(delivery.bytes, _BIGGEST),
            storable(delivery.digest),
            delivery.created_at,
        ),
    ).fetchone()
    if row is None:
        return None
    add_event(connection, delivery.id, Stage.ARRIVED, f"in inbox {inbox}" if row[0] == 1 else "sent again")
    return int(row[0])


@dataclass(frozen=True, slots=True)
class Told:
    """What is written beside a change of stage: an event (unless `note` is None), by which step, and the next job.

    The findings that an earlier run of `step` left go; `then` is queued, not before `at`, unless the row is paused.
    """

    note: str | None = None
    seconds: float | None = None
    step: str = ""
    then: jobs.Job | None = None
    at: datetime | None = None


_ADVANCE = f"""
WITH moved AS (
    UPDATE deliveries SET stage = %(to)s, attempt = %(attempt)s, repairs = coalesce(%(repairs)s, repairs),
        failing_since = %(failing_since)s, not_before = %(not_before)s, held_from = %(held_from)s, error = %(error)s,
        updated_at = now(), queued_at = CASE WHEN %(to)s = 'QUEUED' THEN coalesce(queued_at, now()) ELSE queued_at END
    WHERE id = %(id)s AND epoch = %(epoch)s RETURNING id, paused, priority
), told AS (
    INSERT INTO events (delivery, stage, note, seconds)
    SELECT id, %(to)s, %(note)s, %(seconds)s FROM moved WHERE %(note)s::text IS NOT NULL
), cleared AS (
    DELETE FROM findings USING moved WHERE findings.delivery = moved.id AND findings.step = %(step)s
)
SELECT paused, CASE WHEN %(args)s::jsonb IS NOT NULL AND NOT paused THEN {jobs.deferring()} END FROM moved
"""  # noqa: S608 - our own text


def advance(
    connection: Connection, row: Row, to: Stage, change: Change | None = None, told: Told | None = None
) -> bool:
    """Move the row to `to` if its epoch is still ours, with all that goes with it, in one statement.

    Says whether the row is paused. Raises Superseded.
    """
    change, told = change or Change(), told or Told()
    values = {
        "to": str(to),
        "id": row.id,
        "epoch": row.epoch,
        "attempt": change.attempt,
        "repairs": change.repairs,
        "failing_since": change.failing_since,
        "not_before": change.not_before,
        "held_from": change.held_from,
        "error": json.dumps(_storable(change.error)) if change.error else None,
        "note": None if told.note is None else storable(told.note)[:2000],
        "seconds": told.seconds,
        "step": told.step,
    }
    found = connection.execute(
        _ADVANCE, values | jobs.deferral(told.then, priority=row.priority, at=told.at)
    ).fetchone()
    if found is None:
        raise Superseded(row.id)
    return bool(found[0])


def describe(connection: Connection, row: Row, delivery: Delivery) -> None:
    """What the papers say about the delivery, once they are proven; under the same fence."""
    if replace(delivery, stage=Stage(row.stage), priority=row.priority, created_at=row.created_at) == row.delivery:
        return
    found = connection.execute(
        "UPDATE deliveries SET route = %s, project = %s, participant = %s, session = %s, files = %s, bytes = %s,"
        " digest = %s WHERE id = %s AND epoch = %s RETURNING id",
        (
            storable(delivery.route),
            *map(storable, delivery.labels.as_dict().values()),
            _within(delivery.files, _BIGGEST),
            _within(delivery.bytes, _BIGGEST),
            delivery.digest,
            row.id,
            row.epoch,
        ),
    ).fetchone()
    if found is None:
        raise Superseded(row.id)


def assign(connection: Connection, row: Row, repository: str) -> Row:
    """The row with the repository that its route leads to now; settings may have changed since the delivery arrived."""
    if row.repository != repository:
        connection.execute("UPDATE deliveries SET repository = %s WHERE id = %s", (repository, row.id))
    return replace(row, repository=repository)


def fence(connection: Connection, row: Row) -> Row:
    """Shut everybody out who works on the delivery now; the row under its new epoch. Raises Superseded."""
    found = connection.execute(
        "UPDATE deliveries SET epoch = epoch + 1, updated_at = now() WHERE id = %s AND epoch = %s RETURNING epoch",
        (row.id, row.epoch),
    ).fetchone()
    if found is None:
        raise Superseded(row.id)
    return replace(row, epoch=int(found[0]))


def add_event(
    connection: Connection, delivery: str, stage: Stage, note: str = "", *, seconds: float | None = None
) -> None:
    """One line in the life of a delivery; `seconds`: how long the step that led there took."""
    connection.execute(
        "INSERT INTO events (delivery, stage, note, seconds) VALUES (%s, %s, %s, %s)",
        (delivery, str(stage), storable(note)[:2000], seconds),
    )


def add_findings(connection: Connection, delivery: str, step: str, findings: Iterable[Finding]) -> None:
    """What a step found; `advance` has cleared away what an earlier run of it found."""
    rows = [
        (delivery, step, f.code, str(f.severity), storable(f.path), storable(f.message), storable(f.hint))
        for f in findings
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO findings (delivery, step, code, severity, path, message, hint)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                rows,
            )


def forget_findings(connection: Connection, delivery: str) -> None:
    """As if nothing had been found yet: the delivery starts again."""
    connection.execute("DELETE FROM findings WHERE delivery = %s", (delivery,))


def findings_of(connection: Connection, delivery: str) -> tuple[Finding, ...]:
    """Everything found about the delivery that still stands, oldest first."""
    rows = connection.execute(
        "SELECT code, severity, message, path, hint FROM findings WHERE delivery = %s ORDER BY id", (delivery,)
    ).fetchall()
    return tuple(Finding(code, Severity(severity), message, path, hint) for code, severity, message, path, hint in rows)


def hints_of(connection: Connection, needing: Sequence[str]) -> dict[str, tuple[Finding, ...]]:
    """For each of these deliveries, the first few of its findings, those with a hint first."""
    rows = connection.execute(
        "SELECT d.id, f.code, f.severity, f.message, f.path, f.hint FROM unnest(%s::text[]) AS d (id) CROSS JOIN LATERAL"
        " (SELECT * FROM findings WHERE delivery = d.id ORDER BY hint = '', id LIMIT 5) f ORDER BY d.id, f.id",
        (list(needing),),
    ).fetchall()
    found: dict[str, tuple[Finding, ...]] = {}
    for delivery, code, severity, message, path, hint in rows:
        found[delivery] = (*found.get(delivery, ()), Finding(code, Severity(severity), message, path, hint))
    return found


def events_of(connection: Connection, delivery: str) -> tuple[Event, ...]:
    """The life of the delivery, oldest first."""
    rows = connection.execute("SELECT at, stage, note FROM events WHERE delivery = %s ORDER BY id", (delivery,))
    return tuple(Event(at, Stage(stage), note) for at, stage, note in rows.fetchall())


@contextlib.contextmanager
def held(connection: Connection, delivery: str) -> Iterator[bool]:
    """The delivery's lock, for as long as the connection lives and the context lasts; False when somebody has it.

    The connection that holds it is the one that commits: who lost the lock cannot record anything either.
    """
    key = f"lading/{delivery}"
    row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchone()
    got = bool(row and row[0])
    try:
        yield got
    finally:
        if got and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (key,))


class TableJournal:
    """The Journal of one delivery: rows in the `journal` table, each committed at once.

    Made anew for every step, and read once in it: whoever holds the delivery's lock is the only one to write there.
    """

    def __init__(self, connection: Connection, delivery: str) -> None:
        self._connection = connection
        self._delivery = delivery
        self._noted: dict[str, str] | None = None

    def note(self, key: str, value: str) -> None:
        """See `lading.ports.Journal`."""
        self._connection.execute(
            "INSERT INTO journal (delivery, key, value) VALUES (%s, %s, %s)"
            " ON CONFLICT (delivery, key) DO UPDATE SET value = excluded.value, at = now()",
            (self._delivery, key, value),
        )
        if self._noted is not None:
            self._noted[key] = value

    def recall(self, key: str) -> str | None:
        """See `lading.ports.Journal`."""
        if self._noted is None:
            rows = self._connection.execute("SELECT key, value FROM journal WHERE delivery = %s", (self._delivery,))
            self._noted = {str(name): str(value) for name, value in rows.fetchall()}
        return self._noted.get(key)

    def forget(self, key: str) -> None:
        """As if the key had never been noted."""
        self._connection.execute("DELETE FROM journal WHERE delivery = %s AND key = %s", (self._delivery, key))
        if self._noted is not None:
            self._noted.pop(key, None)


def storable(text: str) -> str:
    """`text` as PostgreSQL takes it: without surrogates, which the manifest keeps for a name that is not UTF-8, and NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _storable(error: Mapping[str, str | bool]) -> dict[str, str | bool]:
    return {key: storable(value) if isinstance(value, str) else value for key, value in error.items()}


def _within(value: int, bound: int) -> int:
    # A seal is a stranger's text: its numbers need not fit our columns.
    return max(-bound, min(bound, value))
