"""The agent's reports: what only the instrument's computer can know, and who was told of it; tables of the outbox.

The server tells what became of a delivery. The agent tells what keeps one from getting there: a share that is not mounted, an
inbox that does not answer, files that came late. Without mail settings it says so in its log and in `lading status`.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from lading.agent.outbox import CANCELLED_THERE, Outbox
from lading.agent.outgoing import LONGEST_WAIT_S
from lading.config import Config
from lading.delivery import DeliveryId
from lading.desk import Account
from lading.errors import OutOfSpace, SourceAway, Unreachable
from lading.ports import Report
from lading.reporters.office import Alarm, Audience, Condition, Ended, Office, Posted
from lading.reporters.words import Story, plural

REPORT_EVERY_S = 1.0
_KEPT_S = 30 * 86_400.0
_IN_THE_WAY = {Unreachable.code: "is not reachable", OutOfSpace.code: "is full"}
"""Errors that are the inbox's, not the delivery's: one alarm for all that wait, which are tried again by themselves."""
_WAITING = (
    "SELECT route, error_code, count(*) AS number, max(error) AS error FROM deliveries"
    " WHERE stage IN ('FOUND', 'READY', 'SENDING', 'ARRIVED', 'HELD') AND error_code IN (?, ?) GROUP BY route, error_code"
)
_AWAY = (
    "SELECT route, count(*) AS number, max(updated_at), error, next_command FROM deliveries"  # of the last one that failed
    " WHERE stage IN ('FOUND', 'READY', 'SENDING') AND error_code = ? GROUP BY route"
)


def office(config: Config, outbox: Outbox) -> Office:
    """The office over the outbox. Raises ConfigError."""
    return Office(OutboxDrawer(outbox), config, program="agent", clock=outbox.clock)


def conditions(outbox: Outbox) -> list[Condition]:
    """What is wrong now, going by what scans and carries last said. Raises EngineError."""
    found = [
        Condition(
            f"watch/{report.path}", f"the watched folder {report.path} cannot be looked into", detail=report.error,
            safe="Nothing is lost: what it holds is taken once it is back.", next_command=report.next_command,
        )
        for report in outbox.watches() if report.error
    ]  # fmt: skip
    for row in outbox.rows(_WAITING, *_IN_THE_WAY):
        route, code = row["route"], row["error_code"]
        found.append(
            Condition(
                f"route/{route}/{code}",
                f"the inbox of route {route} {_IN_THE_WAY[code]}",
                detail=f"{plural(row['number'], 'delivery')} wait for it.",
                quoted=f"What happened last: {row['error']}",
                safe="Nothing is lost: the sources are untouched, and are carried once it is well.",
                next_command="lading doctor",
            )
        )
    for row in outbox.rows(_AWAY, SourceAway.code):
        found.append(
            Condition(
                f"source/{row['route']}",
                f"folders to be sent by route {row['route']} are not there",
                detail=f"{plural(row['number'], 'delivery')} wait for them.",
                quoted=f"What happened last: {row['error']}",
                safe="What is in the inbox already is kept, and the rest is sent once the folders are back.",
                next_command=row["next_command"],
            )
        )
    return found


def raised(outbox: Outbox) -> list[Alarm]:
    """The alarms that stand. Raises EngineError."""
    return [alarm for alarm in OutboxDrawer(outbox).alarms() if alarm.raised and not alarm.well_since]


class OutboxDrawer:
    """See `lading.reporters.office.Drawer`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._open: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One of SQLite's; one office works on a drawer, in one thread."""
        with self._outbox.writing() as db:
            self._open = db
            try:
                yield
            finally:
                self._open = None

    def untold(self, audience: Audience) -> Sequence[Ended]:
        """Held for a reason of its own, refused before it left, or cancelled on the server, which tells what it refuses itself."""
        rows = self._outbox.rows(
            "SELECT id, updated_at FROM deliveries WHERE (stage = 'HELD' OR (stage = 'REJECTED' AND arrived_at = 0)"  # noqa: S608 - our own text
            f" OR (stage = 'CANCELLED' AND error_code = '{CANCELLED_THERE}'))"
            f" AND told_{audience} <> stage || '/' || error_code AND error_code NOT IN (?, ?) ORDER BY updated_at",
            *_IN_THE_WAY,
        )
        now = self._outbox.clock()
        return [Ended(self._outbox.get(row["id"]).delivery, max(0.0, now - row["updated_at"])) for row in rows]

    def story(self, delivery: DeliveryId) -> Story:
        """Its findings and its last failure."""
        item = self._outbox.get(delivery)
        changed = datetime.fromtimestamp(item.updated_at, UTC)
        return Story(
            Account(
                item.delivery, changed, ("agent",), findings=tuple(self._outbox.findings(delivery)), error=item.error,
                next_command=item.next_command,
            )
        )  # fmt: skip

    def mark_told(self, audience: Audience, ended: Sequence[Ended]) -> None:
        """As they are."""
        with self._writing() as db:
            db.executemany(
                f"UPDATE deliveries SET told_{audience} = stage || '/' || error_code WHERE id = ?",  # noqa: S608 - our own text
                [(one.delivery.id,) for one in ended],
            )

    def post(self, posted: Posted) -> None:
        """A row of `reports`; those of last month go."""
        report = posted.report
        with self._writing() as db:
            db.execute("DELETE FROM reports WHERE done_at > 0 AND done_at < ?", (self._outbox.clock() - _KEPT_S,))
            db.execute(
                "INSERT INTO reports (id, place, readers, subject, body, at) VALUES (?,?,?,?,?,?)",
                (report.id, posted.place, json.dumps(report.to), _text(report.subject), _text(report.text),
                 report.at.timestamp()),
            )  # fmt: skip

    def waits(self, place: str, to: tuple[str, ...]) -> bool:
        """Whether one of theirs is not done."""
        query = "SELECT 1 FROM reports WHERE done_at = 0 AND place = ? AND readers = ? LIMIT 1"
        return bool(self._outbox.rows(query, place, json.dumps(to)))

    def due(self, resting: Collection[str]) -> Sequence[Posted]:
        """At most a hundred."""
        rows = self._outbox.rows(
            # What is put off for longer than anything is, the clock was set back under.
            "SELECT * FROM reports WHERE done_at = 0 AND (not_before <= ?1 OR not_before > ?1 + ?2)"
            " AND place NOT IN (SELECT value FROM json_each(?3)) ORDER BY not_before, at, id LIMIT 100",
            self._outbox.clock(),
            LONGEST_WAIT_S,
            json.dumps(list(resting)),
        )
        return [
            Posted(
                row["place"],
                Report(
                    row["id"], tuple(json.loads(row["readers"])), row["subject"], row["body"],
                    datetime.fromtimestamp(row["at"], UTC),
                ),
                row["attempts"],
            )
            for row in rows
        ]  # fmt: skip

    def cross_off(self, report: Report, given_up: str = "") -> None:
        """Done."""
        with self._writing() as db:
            values = (self._outbox.clock(), _text(given_up), report.id)
            db.execute("UPDATE reports SET done_at = ?, given_up = ? WHERE id = ?", values)

    def put_off(self, report: Report, seconds: float, *, refused: bool = True) -> None:
        """Not before so many seconds from now."""
        with self._writing() as db:
            values = (int(refused), self._outbox.clock() + seconds, report.id)
            db.execute("UPDATE reports SET attempts = attempts + ?, not_before = ? WHERE id = ?", values)

    def alarms(self) -> Sequence[Alarm]:
        """All."""
        rows = self._outbox.rows("SELECT * FROM alarms ORDER BY key")
        return [Alarm(r["key"], r["what"], r["since"], bool(r["raised"]), r["well_since"]) for r in rows]

    def keep(self, alarm: Alarm) -> None:
        """One row per key."""
        with self._writing() as db:
            values = (_text(alarm.key), _text(alarm.what), alarm.since, int(alarm.raised), alarm.well_since)
            db.execute("INSERT OR REPLACE INTO alarms VALUES (?,?,?,?,?)", values)

    def forget(self, key: str) -> None:
        """Its row goes."""
        with self._writing() as db:
            db.execute("DELETE FROM alarms WHERE key = ?", (_text(key),))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The transaction around us, or one of its own."""
        if self._open is not None:
            yield self._open
        else:
            with self._outbox.writing() as db:
                yield db


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
