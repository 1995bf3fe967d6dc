"""One worker process: `python -m lading.engine.worker --config lading.toml`. It ends when it can no longer record.

It also ends, after the jobs in hand, on SIGTERM or when its supervisor is gone: standard input is a pipe from it.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import psycopg
import structlog
from procrastinate.worker import Worker

from lading import log
from lading.config import Config, load
from lading.engine import database, jobs, postgres
from lading.engine.parts import FACTORY, factory
from lading.engine.serving import Onlooker
from lading.engine.steps import Desk, hold
from lading.errors import EngineError, LadingError, UnexpectedFault

EXIT_NO_DATABASE = 75
"""EX_TEMPFAIL: start me again a little later."""
_log = structlog.get_logger("lading.engine")


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True)
@click.option("--parts", "factory_path", default=FACTORY)
@click.option("--supervised", is_flag=True, help="End when standard input ends.")
def main(config_path: Path, factory_path: str, *, supervised: bool) -> None:
    """Work until told to stop."""
    log.set_up()
    try:
        config = load(config_path)
        work(config, postgres.dsn_of(config), factory_path, supervised=supervised)
    except LadingError as exc:
        _log.error(exc.code, note=exc.message, worker=os.getpid())
        sys.exit(EXIT_NO_DATABASE if isinstance(exc, EngineError) else exc.exit_code)


def work(config: Config, dsn: str, factory_path: str, *, supervised: bool) -> None:
    """Do jobs until SIGTERM, or until the supervisor is gone. Raises EngineError when the database is not there."""
    concurrency = config.server.concurrency
    onlooker = Onlooker(database.identity(dsn))
    desk = Desk(database.pool(dsn, concurrency + 1), factory(factory_path)(config), onlooker=onlooker)
    with database.recording("starting a worker"):
        asyncio.run(_serve(desk, dsn, concurrency, supervised=supervised))
    desk.pool.close()


async def _serve(desk: Desk, dsn: str, concurrency: int, *, supervised: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(concurrency + 2))
    application = jobs.app(lambda taken: _do_all(desk, worker, taken))
    async with jobs.open_pool(dsn) as pool, application.open_async(pool):
        worker = jobs.worker(application, concurrency)

        def stop() -> None:
            desk.stopping.set()
            worker.stop()  # type: ignore[no-untyped-call]  # procrastinate leaves it untyped

        loop.add_signal_handler(signal.SIGTERM, stop)
        # Ctrl-C reaches the supervisor too, which then stops its workers in order.
        loop.add_signal_handler(signal.SIGINT, (lambda: None) if supervised else stop)
        if supervised:
            _start(_stop_with_supervisor, stop)
        _start(_hold_presence, worker, dsn)
        await worker.run()  # type: ignore[no-untyped-call]  # procrastinate leaves it untyped
    if not desk.stopping.is_set():
        raise EngineError("the queue's worker ended by itself", safe="its jobs are taken up again")


def _do_all(desk: Desk, worker: Worker, first: jobs.Taken) -> None:
    """The job, and whatever else is due: going through Procrastinate's worker again would cost more than a small step."""
    taken: jobs.Taken | None = first
    while taken is not None:
        _guarded(desk, taken.job)
        taken = _next(desk, worker, taken)


def _next(desk: Desk, worker: Worker, done: jobs.Taken) -> jobs.Taken | None:
    try:
        with database.recording(f"ending {done.job.step} of {done.job.delivery}"), desk.pool.connection() as connection:
            if worker.worker_id is not None and not desk.stopping.is_set():
                return jobs.end_and_take(connection, done, worker.worker_id)
            jobs.end(connection, done)
    except EngineError as exc:
        _leave(exc.message)
    return None


def _guarded(desk: Desk, job: jobs.Job) -> None:
    """A job's edge: expected failures were recorded below; what is left is a bug, or the end of this worker."""
    try:
        desk.do(job)
    except EngineError as exc:
        # Words that no database takes would end the next worker too, and the one after it.
        if not isinstance(exc.__cause__, psycopg.DataError):
            _leave(exc.message)
            return
        _hold(desk, job, exc)
    except Exception as exc:  # noqa: BLE001 - the one place: whatever no table translates is held, with its cause
        _hold(desk, job, exc)


def _hold(desk: Desk, job: jobs.Job, exc: Exception) -> None:
    _log.exception("unexpected", delivery=job.delivery, step=job.step)
    fault = UnexpectedFault(
        f"{job.step} of {job.delivery} met a fault that nobody foresaw: {type(exc).__name__}: {exc}",
        safe="the files are in the inbox, and at the source",
        next_command=f"lading retry {job.delivery}",
    )
    try:
        hold(desk, job, fault)
    except LadingError as lost:
        _leave(lost.message)


def _hold_presence(worker: Worker, dsn: str) -> None:
    """Keep a connection that proves that we live; without it nobody may work here.

    The delivery's locks are gone with the database, so a step in hand must not go on: another worker may begin it.
    """
    try:
        with database.connect(dsn, "lading presence") as connection:
            while worker.worker_id is None:
                time.sleep(0.01)
            jobs.announce(connection, worker.worker_id)
            while True:
                connection.execute("SELECT 1")
                time.sleep(jobs.BEAT_S / 2)
    except (psycopg.Error, EngineError) as exc:
        _leave(str(exc))


def _stop_with_supervisor(stop: Callable[[], None]) -> None:
    while os.read(0, 1):
        pass
    stop()


def _leave(why: str) -> None:
    _log.error("worker ends", worker=os.getpid(), note=why.strip().split("\n")[0])
    sys.stderr.flush()
    # Not sys.exit: threads in the middle of an import would be waited for. Being killed is what everything here survives.
    os._exit(EXIT_NO_DATABASE)


def _start(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


if __name__ == "__main__":
    main()
