"""The server's reports: who was told what, in the tables beside the deliveries; and the thread that tells.

In a thread of its own: a mail server that takes a minute to say no must hold up nothing else.
"""

import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from threading import Event, Thread
from urllib.parse import urlsplit

import structlog

from lading.config import Config
from lading.delivery import DeliveryId
from lading.desk import Account
from lading.engine import database, deliveries
from lading.engine.database import Connection, recording
from lading.engine.deliveries import Row
from lading.engine.parts import Parts
from lading.engine.serving import ServedParts
from lading.errors import EngineError, LadingError
from lading.inbox import Inbox
from lading.pipeline import IMPORT_RECORD
from lading.ports import Report
from lading.reporters.office import Alarm, Audience, Condition, Ended, Notice, Office, Posted
from lading.reporters.words import Story, plural

_REPORTING = 0x1AD3
"""The lock of the one office of a database: with two servers on it, nobody is told twice."""
_EVERY_S = 2.0
_NOTICES_EVERY_S = 600.0
_MOST_AT_ONCE = 10_000
_KEPT = timedelta(days=30)
_STOPPING_S = 5.0
_AFTER_A_BUG_S = 60.0
_HOUR_S = 3600.0
_MARK = "lading_mark(d.stage, d.epoch, d.error)"
_log = structlog.get_logger("lading.reports")


class Reporting:
    """Tells people, in the background. Raises ConfigError for settings that cannot be used."""

    def __init__(self, config: Config, dsn: str, parts: Parts) -> None:
        self._config = config
        self._dsn = dsn
        self._parts = parts
        self._stop = Event()
        self._look_again = 0.0
        self._drawer = TableDrawer()
        self._office = Office(self._drawer, config, program="server")
        self._thread = Thread(target=self._run, name="lading reports", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more; a report on its way has a moment to arrive, so that it need not be sent again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOPPING_S)

    def _run(self) -> None:
        away = ""
        while not self._stop.is_set():
            try:
                with contextlib.closing(database.connect(self._dsn, "lading reports")) as connection:
                    self._drawer.connection = connection
                    away = ""
                    self._rounds(connection)
            except LadingError as exc:
                if exc.message != away:
                    _log.warning("reports wait", code=exc.code, note=exc.message)
                away = exc.message
                self._stop.wait(_EVERY_S)
            except Exception:  # noqa: BLE001 - a bug in one report must not silence all that come later
                _log.exception("reports wait")
                self._stop.wait(_AFTER_A_BUG_S)

    def _rounds(self, connection: Connection) -> None:
        ours = False
        while not self._stop.wait(min(_EVERY_S, self._config.server.scan_every)):
            with recording("telling people"):
                ours = ours or _is_ours(connection)
                if ours:
                    self._office.round(conditions(connection, self._config, self._parts), self._notices())
                    connection.execute("DELETE FROM reports WHERE done_at < now() - %s", (_KEPT,))

    def _notices(self) -> Sequence[Notice] | None:
        """What people should hear of in time: now and then, for it is counted in days."""
        now = time.monotonic()
        if now < self._look_again:
            return None
        self._look_again = now + _NOTICES_EVERY_S
        return self._parts.notices()


def _is_ours(connection: Connection) -> bool:
    """Kept until the connection ends: two servers that took turns would call off each other's alarms."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_REPORTING,)).fetchone()
    return bool(row and row[0])


def conditions(connection: Connection, config: Config, parts: Parts) -> list[Condition]:
    """What is wrong now, as far as the server can see. Raises EngineError."""
    with recording("looking for what is wrong"):
        return [
            *_repositories(connection),
            *_inboxes(connection, config),
            *_served_elsewhere(parts),
            *_senders(connection, config),
            *(
                Condition(
                    f"program/{name}", f"the {name} of this machine does not run", next_command=f"lading {name} run"
                )
                for name in parts.silent()
            ),
        ]


def _repositories(connection: Connection) -> Iterator[Condition]:
    rows = connection.execute(
        "SELECT r.name, extract(epoch FROM r.down_since)::float8, r.note, count(d.id) FROM repositories r"
        " LEFT JOIN deliveries d ON d.repository = r.name AND d.stage IN ('QUEUED', 'IMPORTING', 'IMPORTED')"
        " WHERE r.down_since IS NOT NULL GROUP BY r.name"
    ).fetchall()
    for name, since, note, waiting in rows:
        yield Condition(
            f"repository/{name}", f"{name} is not reachable", since, f"{plural(waiting, 'delivery')} wait for it.",
            quoted=f"What happened last: {note}" if note else "",
        )  # fmt: skip


def _inboxes(connection: Connection, config: Config) -> Iterator[Condition]:
    for name, inbox in config.inboxes.items():
        try:
            Inbox.open(inbox.path)
        except LadingError as exc:
            row = connection.execute(
                "SELECT count(*) FROM deliveries WHERE inbox = %s AND stage NOT IN"
                " ('VERIFIED', 'REJECTED', 'HELD', 'CANCELLED')",
                (name,),
            ).fetchone()
            yield Condition(
                f"inbox/{name}", f"the inbox {name} is not there",
                detail=f"{exc.message}. {plural(int(row[0]) if row else 0, 'delivery')} in it wait.",
                next_command="lading inbox list",
            )  # fmt: skip


def _served_elsewhere(parts: Parts) -> Iterator[Condition]:
    for name, words in parts.keeper.elsewhere.items() if isinstance(parts, ServedParts) else ():
        yield Condition(
            f"served/{name}", f"two servers were given the inbox {name}", detail=f"{words}. This one leaves it alone.",
            safe="Nothing is lost: the other server works there.", next_command="lading doctor",
        )  # fmt: skip


def _senders(connection: Connection, config: Config) -> Iterator[Condition]:
    """Computers that ought to have sent something by now. One that never sent anything is silent since it was first missed."""
    for host, hours in config.mail.expect.items():
        row = connection.execute(
            "SELECT extract(epoch FROM max(arrived_at))::float8, extract(epoch FROM now() - max(arrived_at))::float8"
            " FROM deliveries WHERE substring(sender FROM '@(.*)$') = %s",
            (host,),
        ).fetchone()
        last, age = row or (None, None)
        if age is None or age > hours * _HOUR_S:
            yield Condition(
                f"sender/{host}", f"{host} has sent nothing", last,
                f"It is expected to send something every {hours:g} hours. Does its agent run?",
                safe="What it has not sent is still there.", next_command=f"lading status   (on {host})",
                after=hours * _HOUR_S if age is None else 0.0,
            )  # fmt: skip


class TableDrawer:
    """See `lading.reporters.office.Drawer`: columns of `deliveries`, and the tables `reports` and `alarms`."""

    connection: Connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """One of the database's."""
        with self.connection.transaction():
            yield

    def untold(self, audience: Audience) -> Sequence[Ended]:
        """Locked until the end of the transaction. What a job is about has not come to rest: an errand may be on its way."""
        query = (
            f"SELECT {deliveries.COLUMNS}, extract(epoch FROM now() - d.updated_at)::float8 AS rested"  # noqa: S608 - our own text
            f" FROM deliveries d WHERE d.stage IN ('VERIFIED', 'REJECTED', 'HELD') AND d.told_{audience} <> {_MARK}"
            " AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.status IN ('todo', 'doing')"
            "   AND j.args ->> 'delivery' = d.id)"
            f" ORDER BY d.updated_at LIMIT {_MOST_AT_ONCE} FOR UPDATE OF d SKIP LOCKED"
        )
        rows = self.connection.execute(query).fetchall()
        return [Ended(Row(*row[:-1]).delivery, float(row[-1])) for row in rows]

    def story(self, delivery: DeliveryId) -> Story:
        """Its findings, what reading back came to, and where the repository keeps it."""
        row = deliveries.load(self.connection, delivery)
        if row is None:
            raise EngineError(f"telling people about {delivery}: it is not in the database any more")
        failure = row.error or {}
        account = Account(
            delivery=row.delivery,
            changed_at=row.updated_at,
            known_to=("server",),
            findings=deliveries.findings_of(self.connection, delivery),
            error=str(failure.get("message", "")),
            next_command=str(failure.get("next", "")),
        )
        figures = self.connection.execute(
            "SELECT note FROM events WHERE delivery = %s AND stage = 'VERIFIED' AND seconds IS NOT NULL"
            " ORDER BY id DESC LIMIT 1",
            (delivery,),
        ).fetchone()
        return Story(account, str(figures[0]) if figures else "", self._link(delivery))

    def _link(self, delivery: DeliveryId) -> str:
        noted = deliveries.TableJournal(self.connection, delivery).recall(IMPORT_RECORD)
        target = json.loads(noted or "{}").get("target", {})
        for link in (target.get("uri", ""), target.get("url", "")):
            if urlsplit(link).scheme in ("http", "https"):
                return str(link)
        return ""

    def mark_told(self, audience: Audience, ended: Sequence[Ended]) -> None:
        """As they are: the transaction holds them since `untold`."""
        ids = [ended_one.delivery.id for ended_one in ended]
        self.connection.execute(
            f"UPDATE deliveries d SET told_{audience} = {_MARK} WHERE id = ANY(%s)",  # noqa: S608 - our own text
            (ids,),
        )

    def post(self, posted: Posted) -> None:
        """A row of `reports`."""
        report = posted.report
        self.connection.execute(
            "INSERT INTO reports (id, place, readers, subject, body, at) VALUES (%s, %s, %s, %s, %s, %s)",
            (report.id, posted.place, list(report.to), _text(report.subject), _text(report.text), report.at),
        )

    def waits(self, place: str, to: tuple[str, ...]) -> bool:
        """Whether one of theirs is not done."""
        return bool(
            self.connection.execute(
                "SELECT 1 FROM reports WHERE done_at IS NULL AND place = %s AND readers = %s LIMIT 1", (place, list(to))
            ).fetchone()
        )

    def due(self, resting: Collection[str]) -> Sequence[Posted]:
        """At most a hundred; the next round takes the others."""
        rows = self.connection.execute(
            "SELECT id, place, readers, subject, body, at, attempts FROM reports"
            " WHERE done_at IS NULL AND not_before <= now() AND place <> ALL(%s) ORDER BY not_before, at, id LIMIT 100",
            (list(resting),),
        ).fetchall()
        return [
            Posted(place, Report(id_, tuple(readers), subject, body, at), attempts)
            for id_, place, readers, subject, body, at, attempts in rows
        ]

    def cross_off(self, report: Report, given_up: str = "") -> None:
        """Done."""
        self.connection.execute(
            "UPDATE reports SET done_at = now(), given_up = %s WHERE id = %s", (_text(given_up)[:500], report.id)
        )

    def put_off(self, report: Report, seconds: float, *, refused: bool = True) -> None:
        """Not before so many seconds from now."""
        self.connection.execute(
            "UPDATE reports SET attempts = attempts + %s, not_before = now() + %s WHERE id = %s",
            (int(refused), timedelta(seconds=seconds), report.id),
        )

    def alarms(self) -> Sequence[Alarm]:
        """All."""
        rows = self.connection.execute("SELECT key, what, since, raised, well_since FROM alarms ORDER BY key")
        return [Alarm(*row) for row in rows.fetchall()]

    def keep(self, alarm: Alarm) -> None:
        """One row per key."""
        self.connection.execute(
            "INSERT INTO alarms (key, what, since, raised, well_since) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (key) DO UPDATE SET what = excluded.what, since = excluded.since, raised = excluded.raised,"
            " well_since = excluded.well_since",
            (alarm.key, alarm.what, alarm.since, alarm.raised, alarm.well_since),
        )

    def forget(self, key: str) -> None:
        """Its row goes."""
        self.connection.execute("DELETE FROM alarms WHERE key = %s", (key,))


def _text(value: str) -> str:
    # PostgreSQL takes neither surrogates nor NUL.
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
