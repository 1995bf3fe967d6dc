"""What the agent's outbox tells. It is opened for reading only: figures neither make an outbox nor wait for its writers."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import quote

from lading.agent.outbox import OUTBOX_NAME
from lading.config import Config
from lading.delivery import Stage
from lading.errors import EngineError
from lading.metrics import catalogue, live
from lading.metrics.figures import Figure
from lading.ports import Clock

_PATIENCE_S = 2.0
_WAITING = (Stage.FOUND, Stage.READY, Stage.SENDING, Stage.ARRIVED, Stage.REJECTED, Stage.HELD, Stage.PAUSED)
_PROVEN = (Stage.VERIFIED, Stage.CLEANABLE, Stage.CLEANED)
# Named one by one: the index by stage answers no question about what a stage is not. Who pushes live for days is not late.
_DELIVERIES = (
    "SELECT route, stage, count(*), sum(CASE WHEN arrived_at = 0 THEN max(bytes - sent_bytes, 0) ELSE 0 END),"  # noqa: S608
    " min(CASE live WHEN 0 THEN created_at END)"
    f" FROM deliveries WHERE stage IN ({','.join('?' * len(_WAITING))}) GROUP BY route, stage"
)
_FAILING = (
    "SELECT route, error_code, count(*) FROM deliveries"  # noqa: S608 - only question marks
    f" WHERE stage IN ({','.join('?' * len(_WAITING))}) AND error_code <> '' GROUP BY route, error_code"
)
_VERIFIED = f"SELECT count(*) FROM deliveries WHERE stage IN ({','.join('?' * len(_PROVEN))})"  # noqa: S608
# The ids sort by time.
_RECEIPT = "SELECT max(verified_at) FROM (SELECT verified_at FROM deliveries ORDER BY id DESC LIMIT 1000)"
_BEFORE_LIVE = ("CASE live WHEN 0 THEN created_at END", "created_at")
"""An outbox of a release before live mode, which its agent has not opened since, has no such column."""
QUESTIONS = ((_DELIVERIES, _WAITING), (_FAILING, _WAITING), (_VERIFIED, _PROVEN), (_RECEIPT, ()))


def figures(config: Config, clock: Clock) -> list[Figure]:
    """The figures of the outbox in `config.home`. Raises EngineError when it cannot be read."""
    path = (config.home / OUTBOX_NAME).absolute()
    try:
        # Not mode=ro: a reader of a WAL takes part in its shared memory, and makes that where nobody else has it open.
        uri = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE_S, isolation_level=None)) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            found = [*_deliveries(db, config, clock()), *_watches(db, config)]
            return [*found, *live.figures(db, config, clock())] if live.is_known(db) else found
    except (sqlite3.Error, OSError) as exc:
        raise EngineError(
            f"could not read the outbox {path}: {exc}", safe="no source was touched", next_command="lading doctor"
        ) from exc


def _deliveries(db: sqlite3.Connection, config: Config, now: float) -> Iterator[Figure]:
    unsent = {name: 0 for name, route in config.routes.items() if route.transport}
    for route in unsent:
        for stage in _WAITING:
            yield catalogue.AGENT_DELIVERIES.of(0, route, stage)
    question = _DELIVERIES if live.is_known(db) else _DELIVERIES.replace(*_BEFORE_LIVE)
    for route, stage, number, left, oldest in db.execute(question, _WAITING).fetchall():
        unsent[route] = unsent.get(route, 0) + left
        yield catalogue.AGENT_DELIVERIES.of(number, route, stage)
        if oldest is not None:
            yield catalogue.AGENT_OLDEST.of(max(0.0, now - oldest), route, stage)
    for route, left in unsent.items():
        yield catalogue.AGENT_UNSENT.of(left, route)
    for route, code, number in db.execute(_FAILING, _WAITING).fetchall():
        yield catalogue.AGENT_FAILING.of(number, route, code)
    yield catalogue.AGENT_VERIFIED.of(db.execute(_VERIFIED, _PROVEN).fetchone()[0])
    last = db.execute(_RECEIPT).fetchone()[0]
    if last:
        yield catalogue.AGENT_RECEIPT.of(last)


def _watches(db: sqlite3.Connection, config: Config) -> Iterator[Figure]:
    watched = {os.fsencode(watch.path) for watch in config.agent.watch}
    for path, at, error, report in db.execute("SELECT path, at, error, report FROM watches").fetchall():
        if path in watched:
            name = os.fsdecode(path)
            yield catalogue.WATCH_UP.of(not error, name)
            yield catalogue.WATCH_SCAN.of(at, name)
            yield catalogue.WATCH_INCOMPLETE.of(len(json.loads(report)["waiting"]), name)
