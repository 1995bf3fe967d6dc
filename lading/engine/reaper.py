"""Brings back what would otherwise lie still: the jobs of dead workers, and deliveries that no job is about."""

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from lading.delivery import Stage
from lading.engine import admission, deliveries, jobs
from lading.engine.database import Connection, recording
from lading.engine.errands import ERRANDS
from lading.engine.judge import FAR_OFF
from lading.engine.steps import step_at
from lading.pipeline import LINE

_log = structlog.get_logger("lading.engine")


class Reaper:
    """Takes over from workers that are gone.

    It judges only after its own connection has lived for a whole `silent_for`: right after the database came back nobody
    has a heartbeat to show, and the naive rule made live workers' steps run twice (measured).
    """

    def __init__(self, silent_for: timedelta, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._silent_for = silent_for
        self._monotonic = monotonic
        self._connection: Connection | None = None
        self._since = 0.0
        self._frozen: set[int] = set()

    def reap(self, connection: Connection) -> int:
        """One look, over a connection that the caller keeps; how many deliveries were taken over."""
        if connection is not self._connection:
            self._connection, self._since = connection, self._monotonic()
        if self._monotonic() - self._since < self._silent_for.total_seconds():
            return 0
        with recording("taking over from dead workers"):
            taken = sum(_take_over(connection, job) for job in jobs.stalled(connection, self._silent_for))
            jobs.forget_workers(connection, self._silent_for)
            frozen = set(jobs.frozen(connection, self._silent_for))
        for worker in frozen - self._frozen:
            _log.warning("frozen", worker=worker, note="what it holds waits for it; kill it and it is taken over")
        self._frozen = frozen
        return taken


def wake_idle(connection: Connection) -> int:
    """Queue the step of every delivery on the line that is not paused and that no job is about: after a resume, or when
    a database was restored. How many there were.
    """
    with recording("waking idle deliveries"), connection.transaction():
        rows = connection.execute(
            "SELECT d.id, d.epoch, d.stage, d.priority, d.not_before FROM deliveries d"
            " WHERE d.stage = ANY(%s) AND NOT d.paused"
            " AND NOT EXISTS (SELECT 1 FROM pauses p WHERE p.target IN ('all', 'route:' || d.route)"
            "   OR (p.target = 'repository:' || d.repository AND d.stage IN ('IMPORTING', 'IMPORTED')))"
            " AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j"
            "   WHERE j.status IN ('todo', 'doing') AND j.args ->> 'delivery' = d.id)"
            " FOR UPDATE OF d SKIP LOCKED",
            ([str(stage) for stage in LINE],),
        ).fetchall()
        jobs.hasten(connection, FAR_OFF)
        for delivery, epoch, stage, priority, not_before in rows:
            job = jobs.Job(delivery, epoch, step_at(Stage(stage)) or "")
            jobs.queue(connection, job, priority=priority, at=not_before)
    return len(rows)


def admit_everywhere(connection: Connection) -> int:
    """Fill the free slots of every repository: for those that waited for a time, not for another delivery."""
    with recording("admitting imports"):
        names = connection.execute(
            "SELECT DISTINCT repository FROM deliveries WHERE stage = 'QUEUED' AND NOT paused"
        ).fetchall()
        return sum(len(admission.admit(connection, name)) for (name,) in names)


def _take_over(connection: Connection, stalled: jobs.StalledJob) -> bool:
    """In one transaction: the job goes, the epoch grows, the step is queued again. Not while anybody holds the delivery."""
    with deliveries.held(connection, stalled.job.delivery) as got:
        if not got:
            return False
        with connection.transaction():
            if not jobs.bury(connection, stalled):
                return False
            row = deliveries.load(connection, stalled.job.delivery)
            if row is None or row.epoch != stalled.job.epoch:
                return False
            # The job stood for the delivery from where it was; it may have come further before its worker died.
            step = stalled.job.step if stalled.job.step in ERRANDS else step_at(Stage(row.stage))
            if step is None:
                return False
            fenced = deliveries.fence(connection, row)
            note = f"{step} begun again: its worker was gone"
            told = deliveries.Told(note, then=jobs.Job(stalled.job.delivery, fenced.epoch, step))
            deliveries.advance(connection, fenced, Stage(row.stage), deliveries.Change.unchanged(row), told)
    _log.warning("taken over", delivery=stalled.job.delivery, step=stalled.job.step, worker=stalled.worker)
    return True
