"""Procrastinate, kept in one place: queueing a job inside our own transaction, the worker, and the jobs of the dead.

One job is one step of one delivery: `{"delivery": …, "epoch": …, "step": …}`. Procrastinate's public way to queue a job
uses a connection of its own; its SQL functions, versioned by name, are what makes "advance the stage and queue the next
job" one transaction, and "end this job and take the next" one more. Procrastinate's worker wakes threads up; a thread that
is awake takes further jobs by itself. `tests/integration/test_engine_database.py` fails when a new release changes them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import procrastinate
import psycopg
from procrastinate import job_context, manager
from procrastinate import jobs as theirs
from procrastinate.worker import Worker
from psycopg_pool import AsyncConnectionPool

from lading.delivery import DeliveryId
from lading.engine.database import Connection, conninfo

QUEUE = "lading"
TASK = "lading.step"
BEAT_S = 2.0
"""Between two heartbeats of a worker."""
_POLL_S = 0.25
# Procrastinate 3.10 forgets a NOTIFY that comes while it asks for jobs in vain: the poll bounds what that costs.
_PRUNING_OFF_S = 10 * 365 * 24 * 3600.0
# Procrastinate would delete workers it takes for dead, and orphan their jobs; only our reaper may bury them.
_PRESENCE = 0x1AD2


@dataclass(frozen=True, slots=True)
class Job:
    """A step to be done, as it was queued."""

    delivery: DeliveryId
    epoch: int
    step: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A job in the hands of a worker. `id` is Procrastinate's."""

    id: int
    job: Job


@dataclass(frozen=True, slots=True)
class StalledJob:
    """A job whose worker's heart stopped. `id` is Procrastinate's, `worker` None when nobody knows who had it."""

    id: int
    worker: int | None
    job: Job


def deferring(priority: str = "%(priority)s", args: str = "%(args)s", at: str = "%(at)s") -> str:
    """The SQL that queues a job inside a statement of ours; its values are expressions, else those of `deferral`."""
    return (
        f"procrastinate_defer_jobs_v1(ARRAY[ROW('{QUEUE}', '{TASK}', {priority}, NULL, NULL, {args}, {at})]"
        "::procrastinate_job_to_defer_v1[])"
    )


def deferral(job: Job | None, *, priority: int = 0, at: datetime | None = None) -> dict[str, object]:
    """The values of `deferring`; `args` is None without a job."""
    args = json.dumps({"delivery": job.delivery, "epoch": job.epoch, "step": job.step}) if job else None
    return {"priority": priority, "args": args, "at": at}


def queue(connection: Connection, job: Job, *, priority: int = 0, at: datetime | None = None) -> None:
    """Queue the job as part of the caller's transaction; not before `at`."""
    connection.execute(f"SELECT {deferring()}", deferral(job, priority=priority, at=at))


def app(run: Callable[[Taken], None]) -> procrastinate.App:
    """A Procrastinate application whose only task hands jobs to `run`, in a thread. Open it with `open_pool`.

    `run` ends its job itself (`end`, `end_and_take`).
    """
    made = procrastinate.App(connector=procrastinate.PsycopgConnector())
    made.job_manager = _Jobs(made.connector)

    @made.task(name=TASK, queue=QUEUE, pass_context=True)
    def step(context: job_context.JobContext, delivery: str, epoch: int, step: str) -> None:
        run(Taken(context.job.id or 0, Job(DeliveryId(delivery), epoch, step)))

    return made


class _Jobs(manager.JobManager):
    """Leaves alone what `run` has ended."""

    async def finish_job(self, job: theirs.Job, status: theirs.Status, delete_job: bool) -> None:  # noqa: FBT001 - theirs
        if job.task_name != TASK or status is not theirs.Status.SUCCEEDED:
            await super().finish_job(job, status, delete_job)


def hasten(connection: Connection, far_off: timedelta) -> None:
    """Let jobs be done now that were put off by more than `far_off`: by a clock that was wrong."""
    connection.execute(
        "UPDATE procrastinate_jobs SET scheduled_at = NULL"
        " WHERE status = 'todo' AND task_name = %s AND scheduled_at > now() + %s",
        (TASK, far_off),
    )


def end(connection: Connection, taken: Taken) -> None:
    """The job is over; no matter if the reaper has buried it meanwhile."""
    connection.execute("DELETE FROM procrastinate_jobs WHERE id = %s AND status = 'doing'", (taken.id,))


def end_and_take(connection: Connection, taken: Taken, worker_id: int) -> Taken | None:
    """The job is over, and the worker has the next one that is due; None when there is none."""
    row = connection.execute(_END_AND_TAKE, (taken.id, [QUEUE], worker_id)).fetchone()
    if row is None or row[0] is None:
        return None
    job_id, args = row
    return Taken(int(job_id), _job(args))


_END_AND_TAKE = """
WITH ended AS (DELETE FROM procrastinate_jobs WHERE id = %s AND status = 'doing')
SELECT id, args FROM procrastinate_fetch_job_v2(%s::varchar[], %s)
"""


def _job(args: Mapping[str, str | int]) -> Job:
    return Job(DeliveryId(str(args["delivery"])), int(args["epoch"]), str(args["step"]))


def open_pool(dsn: str) -> AsyncConnectionPool:
    """Procrastinate's own connections.

    Without the check before every use and the transaction around every statement that its own pool makes: they tripled
    the cost of a job. A connection that died ends the worker, which is what we want.
    """
    return AsyncConnectionPool(
        conninfo(dsn, "lading jobs"), min_size=1, max_size=4, open=False, configure=_commit_at_once
    )


async def _commit_at_once(connection: psycopg.AsyncConnection) -> None:
    # Not through the pool's kwargs: Procrastinate listens on a connection made with the same, plus this.
    await connection.set_autocommit(True)


def worker(application: procrastinate.App, concurrency: int) -> Worker:
    """A worker on the application that wakes on NOTIFY, and looks by itself for jobs that were put off."""
    return Worker(
        application,
        queues=[QUEUE],
        name=None,
        concurrency=concurrency,
        fetch_job_polling_interval=_POLL_S,
        abort_job_polling_interval=3600.0,
        delete_jobs="always",
        install_signal_handlers=False,
        update_heartbeat_interval=BEAT_S,
        stalled_worker_timeout=_PRUNING_OFF_S,
    )


def announce(connection: Connection, worker_id: int) -> None:
    """Hold the worker's presence for as long as the connection lives: it ends with the process, however that ends."""
    connection.execute("SELECT pg_advisory_lock(%s, %s)", (_PRESENCE, worker_id))


def stalled(connection: Connection, silent_for: timedelta) -> list[StalledJob]:
    """Jobs of workers that are gone: no heartbeat for `silent_for` *and* nobody holds their presence.

    A worker that is merely frozen still holds it. So does a live one; one whose connection broke ends itself.
    """
    rows = connection.execute(
        "SELECT j.id, j.worker_id, j.args"
        " FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id"
        " WHERE j.status = 'doing' AND j.task_name = %s AND (w.id IS NULL OR w.last_heartbeat < now() - %s)"
        " ORDER BY j.id",
        (TASK, silent_for),
    ).fetchall()
    present: dict[int | None, bool] = {None: False}
    for _, worker_id, _ in rows:
        if worker_id not in present:
            present[worker_id] = _is_present(connection, worker_id)
    return [StalledJob(id_, worker_id, _job(args)) for id_, worker_id, args in rows if not present[worker_id]]


def frozen(connection: Connection, silent_for: timedelta) -> list[int]:
    """Workers that still hold their presence, but have been silent for so long: stopped, or stuck in the kernel."""
    rows = connection.execute(
        "SELECT id FROM procrastinate_workers WHERE last_heartbeat < now() - %s ORDER BY id", (silent_for,)
    ).fetchall()
    return [worker_id for (worker_id,) in rows if _is_present(connection, worker_id)]


def bury(connection: Connection, stalled_job: StalledJob) -> bool:
    """Remove the job of a dead worker, as part of the caller's transaction. False when it was no longer there."""
    found = connection.execute(
        "DELETE FROM procrastinate_jobs WHERE id = %s AND status = 'doing' RETURNING id", (stalled_job.id,)
    ).fetchone()
    return found is not None


def forget_workers(connection: Connection, silent_for: timedelta) -> None:
    """Remove the rows of dead workers that have no job left."""
    rows = connection.execute(
        "SELECT id FROM procrastinate_workers w WHERE last_heartbeat < now() - %s"
        " AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.worker_id = w.id)",
        (silent_for,),
    ).fetchall()
    for (worker_id,) in rows:
        if not _is_present(connection, worker_id):
            connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", (worker_id,))


def _is_present(connection: Connection, worker_id: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_PRESENCE, worker_id)).fetchone()
    if row is not None and row[0]:
        connection.execute("SELECT pg_advisory_unlock(%s, %s)", (_PRESENCE, worker_id))
        return False
    return True
