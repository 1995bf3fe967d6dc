"""What the server's database tells, in a few questions that its indexes answer: nothing counts what was proven long ago.

What only grows is in the table `tallies`, which the database itself keeps with every move of a delivery.
"""

import time
from collections.abc import Iterator, Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lading.config import Config
from lading.delivery import Stage
from lading.engine import database, postgres
from lading.engine.database import Connection
from lading.engine.server import silent_for
from lading.metrics import catalogue
from lading.metrics.figures import Figure

UNKNOWN_ROUTE = "(unknown)"
"""The label of routes that the settings do not name: whoever writes into an inbox must not be able to make labels."""

_PATIENCE_S = 3
_WAITING = (Stage.SENDING, Stage.ARRIVED, Stage.ACCEPTED, Stage.QUEUED, Stage.IMPORTING, Stage.IMPORTED, Stage.REJECTED,
            Stage.HELD, Stage.PAUSED)  # fmt: skip
_ENDS = (Stage.VERIFIED, Stage.REJECTED, Stage.HELD, Stage.CANCELLED)

_ROUTE = f"CASE WHEN route = ANY(%(routes)s) THEN route ELSE '{UNKNOWN_ROUTE}' END"
# The two halves are those of the partial indexes.
_UNFINISHED = (
    "(SELECT * FROM deliveries WHERE stage NOT IN ('VERIFIED', 'REJECTED', 'CANCELLED')"
    " UNION ALL SELECT * FROM deliveries WHERE stage = 'REJECTED') d"
)
_DELIVERIES = f"""
SELECT {_ROUTE}, CASE WHEN paused THEN 'PAUSED' ELSE stage END, count(*), sum(bytes),
    extract(epoch FROM now() - min(arrived_at))::float8
FROM {_UNFINISHED} GROUP BY 1, 2
"""  # noqa: S608 - our own text
_FAILING = f"""
SELECT {_ROUTE}, coalesce(error ->> 'code', ''), count(*) FROM {_UNFINISHED} WHERE error IS NOT NULL GROUP BY 1, 2
"""  # noqa: S608 - our own text
_TALLIES = f"SELECT what, {_ROUTE}, word, sum(number), sum(files), sum(bytes) FROM tallies GROUP BY 1, 2, 3"  # noqa: S608
_REPOSITORIES = """
SELECT r.name, r.imports, r.down_since IS NULL, r.failures,
    EXISTS (SELECT 1 FROM pauses p WHERE p.target IN ('all', 'repository:' || r.name)),
    (SELECT count(*) FROM deliveries d WHERE d.repository = r.name AND d.stage = 'IMPORTING'),
    (SELECT count(*) FROM deliveries d WHERE d.repository = r.name AND d.stage = 'QUEUED')
FROM repositories r ORDER BY r.name
"""
_ENGINE = """
SELECT
    (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())),
    (SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND scheduled_at > now()),
    (SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'),
    (SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - %(silent)s),
    (SELECT extract(epoch FROM now() - min(last_heartbeat))::float8 FROM procrastinate_workers),
    (SELECT count(*) FROM reports WHERE done_at IS NULL),
    (SELECT extract(epoch FROM now() - min(at))::float8 FROM reports WHERE done_at IS NULL),
    (SELECT count(*) FROM alarms WHERE raised AND NOT starts_with(key, 'notice/'))
"""
QUESTIONS = (_DELIVERIES, _FAILING, _TALLIES, _REPOSITORIES, _ENGINE)


class ServerMemoryFigures:
    """Asks the database of the settings over one connection of its own, which is made again when it broke. For one thread."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._routes = [name for name, route in config.routes.items() if route.inbox]
        self._connection: Connection | None = None

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __call__(self) -> list[Figure]:
        """The figures. Raises EngineError when the database is away or does not answer within seconds; starts none."""
        try:
            with database.recording("taking figures"):
                connection = self._connected()
                values = {"routes": self._routes, "silent": silent_for(self._config)}
                # All from one moment: a delivery is counted once, wherever it goes meanwhile.
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                found = list(self._figures(connection, values))
                connection.execute("COMMIT")
                return found
        except BaseException:
            self.close()
            raise

    def _figures(self, connection: Connection, values: Mapping[str, object]) -> Iterator[Figure]:
        began = time.monotonic()
        connection.execute("SELECT 1")
        yield catalogue.DATABASE_ANSWER.of(time.monotonic() - began)
        yield from self._deliveries(connection, values)
        yield from self._tallies(connection, values)
        yield from _repositories(connection)
        yield from _engine(connection, values)

    def _deliveries(self, connection: Connection, values: Mapping[str, object]) -> Iterator[Figure]:
        # A stage that nobody is at says 0: a rule about it must not depend on somebody having been there.
        for route in self._routes:
            for stage in _WAITING:
                yield catalogue.DELIVERIES.of(0, route, stage)
                yield catalogue.DELIVERIES_BYTES.of(0, route, stage)
        for route, stage, number, size, age in connection.execute(_DELIVERIES, values).fetchall():
            yield catalogue.DELIVERIES.of(number, route, stage)
            yield catalogue.DELIVERIES_BYTES.of(size, route, stage)
            yield catalogue.OLDEST.of(max(0.0, age), route, stage)
        for route, code, number in connection.execute(_FAILING, values).fetchall():
            yield catalogue.FAILING.of(number, route, code)

    def _tallies(self, connection: Connection, values: Mapping[str, object]) -> Iterator[Figure]:
        for route in self._routes:
            for stage in _ENDS:
                yield catalogue.ENDED.of(0, route, stage)
            yield catalogue.VERIFIED_FILES.of(0, route)
            yield catalogue.VERIFIED_BYTES.of(0, route)
        for what, route, word, number, files, size in connection.execute(_TALLIES, values).fetchall():
            if what == "failed":
                yield catalogue.FAILED.of(number, route, word)
                continue
            yield catalogue.ENDED.of(number, route, word)
            if word == Stage.VERIFIED:
                yield catalogue.VERIFIED_FILES.of(files, route)
                yield catalogue.VERIFIED_BYTES.of(size, route)

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            dsn = database.conninfo(postgres.dsn_of(self._config), "lading metrics")
            options = conninfo_to_dict(dsn).get("options", "")
            self._connection = psycopg.connect(
                make_conninfo(
                    dsn, connect_timeout=_PATIENCE_S, options=f"{options} -c statement_timeout={_PATIENCE_S * 1000}"
                ),
                autocommit=True,
            )
        return self._connection


def _repositories(connection: Connection) -> Iterator[Figure]:
    for name, imports, up, failures, paused, running, queued in connection.execute(_REPOSITORIES).fetchall():
        yield catalogue.REPOSITORY_UP.of(up, name)
        yield catalogue.REPOSITORY_FAILURES.of(failures, name)
        yield catalogue.REPOSITORY_PAUSED.of(paused, name)
        yield catalogue.IMPORTS.of(running, name)
        yield catalogue.IMPORTS_LIMIT.of(imports, name)
        yield catalogue.QUEUED.of(queued, name)


def _engine(connection: Connection, values: Mapping[str, object]) -> Iterator[Figure]:
    ((waiting, put_off, running, workers, oldest_beat, reports, oldest_report, alarms),) = connection.execute(
        _ENGINE, values
    ).fetchall()
    for state, number in (("waiting", waiting), ("later", put_off), ("running", running)):
        yield catalogue.JOBS.of(number, state)
    yield catalogue.WORKERS.of(workers)
    if oldest_beat is not None:
        yield catalogue.WORKER_HEARTBEAT.of(max(0.0, oldest_beat))
    yield catalogue.REPORTS.of(reports)
    if oldest_report is not None:
        yield catalogue.OLDEST_REPORT.of(max(0.0, oldest_report))
    yield catalogue.ALARMS.of(alarms)
