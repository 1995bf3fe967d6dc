"""One job: take the delivery's lock, do its step, and commit what came of it together with the next job.

The lock is held by the connection that commits, and the commit names the epoch the job was queued under. A worker that
was frozen and wakes up still holds the lock; one that lost it lost its connection too, and cannot commit.
"""

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event

import structlog

from lading import pipeline
from lading.delivery import Stage
from lading.engine import admission, deliveries, jobs
from lading.engine.database import Connection, Pool, recording
from lading.engine.deliveries import REFUSED_NOTE, Change, Ready, Row, Superseded, TableJournal, Told, storable
from lading.engine.errands import ERRANDS
from lading.engine.judge import PATIENCE, judge, patient_wait_s
from lading.engine.parts import Parts
from lading.engine.serving import Onlooker
from lading.errors import ConfigError, Corrupted, EngineError, LadingError, NotVerified, Rejected, TargetUnavailable
from lading.findings import Finding
from lading.inbox import Inbox
from lading.pipeline import LINE, Step, Work
from lading.ports import Check, Importer

_BUSY_WAIT_S = 2.0
"""Between two attempts at a delivery that another worker, perhaps a frozen one, still holds."""
_ERRAND_WAIT_S = 10.0
_log = structlog.get_logger("lading.engine")


@dataclass(frozen=True, slots=True)
class Desk:
    """Where one worker process does its jobs. Once `stopping` is set, a delivery's next step is left to others."""

    pool: Pool
    parts: Parts
    stopping: Event = field(default_factory=Event)
    onlooker: Onlooker | None = None

    def do(self, job: jobs.Job) -> None:
        """Do the job, or find that it is no longer ours to do. Raises EngineError when it cannot be recorded.

        While a delivery's next step follows at once, this goes on with it under the same lock: each step is committed by
        itself, and the job, which stands for "this delivery, from where it is", outlives all but the last.
        """
        with (
            recording(f"{job.step} of {job.delivery}"),
            self.pool.connection() as connection,
            deliveries.held(connection, job.delivery) as got,
        ):
            if not got:
                jobs.queue(connection, job, at=datetime.now(UTC) + timedelta(seconds=_BUSY_WAIT_S))
            following: jobs.Job | None = job if got else None
            while following is not None:
                following = _do(connection, self, following)


def hold(desk: Desk, job: jobs.Job, fault: LadingError) -> None:
    """Hold the delivery for the operator: the step ended in something that no table translates."""
    with recording(f"holding {job.delivery}"), desk.pool.connection() as connection:
        row = deliveries.load(connection, job.delivery)
        if row is not None and row.epoch == job.epoch:
            _record_failure(connection, desk.parts, row, job, fault)


def _do(connection: Connection, desk: Desk, job: jobs.Job) -> jobs.Job | None:
    """Do one step and commit it; the step to go on with, if that is ours to do."""
    ready = deliveries.ready(connection, job.delivery)
    if ready is None or ready.row.epoch != job.epoch:
        _log.info("superseded", delivery=job.delivery, step=job.step, epoch=job.epoch)
        return None
    row = ready.row
    if job.step not in ERRANDS:
        if step_at(Stage(row.stage)) != job.step:
            return None  # It was done already: the worker died between its commit and the job's end.
        if ready.halted:
            _give_up_slot(connection, row)
            return None
    try:
        try:
            begun = time.monotonic()
            work = _work(connection, desk, row)
            step = ERRANDS[job.step](work) if job.step in ERRANDS else _on_the_line(work, ready.refused)
            return _record(connection, desk, ready, job, replace(step, seconds=time.monotonic() - begun))
        except LadingError as failure:
            _record_failure(connection, desk.parts, row, job, failure)
    except Superseded:
        _log.warning("fenced out", delivery=row.id, step=job.step, epoch=row.epoch)
    return None


def step_at(stage: Stage) -> str | None:
    """The name of the step that a delivery at `stage` waits for; None where the line ends, pauses or queues."""
    return LINE[stage][0] if stage in LINE else None


def _on_the_line(work: Work, refused: str | None) -> Step:
    """The step of the delivery's stage, with what a refusal or a damaged file does to the slot."""
    if refused:
        # Died while setting the slot aside: what was found then counts, the slot itself may be gone.
        return pipeline.refuse(work, [Finding.from_dict(f) for f in json.loads(refused)])
    _, step = LINE[work.delivery.stage]
    try:
        return step(work)
    except Corrupted as damage:
        if work.delivery.stage is not Stage.ARRIVED:
            raise
        return pipeline.ask_again(work, damage)
    except Rejected as refusal:
        work.journal.note(REFUSED_NOTE, json.dumps([f.as_dict() for f in refusal.findings]))
        return pipeline.refuse(work, refusal.findings)


def _record(connection: Connection, desk: Desk, ready: Ready, job: jobs.Job, step: Step) -> jobs.Job | None:
    """The stage, the event, the findings and what comes next: one transaction. Returns the step to go on with."""
    row = ready.row
    if step.to is Stage.QUEUED:
        row = deliveries.assign(connection, row, desk.parts.route(row.route).repository)
    following = _job_at(row, step.to)
    ours = not desk.stopping.is_set()
    told = Told(step.note, step.seconds, job.step, None if ours else following)
    with connection.transaction() if _is_more_than_a_move(ready, step) else nullcontext():
        if step.delivery is not None:
            deliveries.describe(connection, row, step.delivery)
        if step.to is Stage.ARRIVED:
            deliveries.forget_findings(connection, row.id)
            TableJournal(connection, row.id).forget(REFUSED_NOTE)
        paused = deliveries.advance(connection, row, step.to, told=told)
        for key, value in step.notes.items():
            TableJournal(connection, row.id).note(key, value)
        deliveries.add_findings(connection, row.id, job.step, step.findings)
        if ready.repository_down and row.stage in {Stage.IMPORTING, Stage.IMPORTED}:
            admission.has_answered(connection, row.repository)
        if _concerns_admission(row, step.to):
            admission.admit(connection, row.repository)
    _log.info(str(step.to).lower(), delivery=row.id, note=step.note)
    return following if ours and not paused else None


def _is_more_than_a_move(ready: Ready, step: Step) -> bool:
    # Moving a row, with its event and job, is one statement, and needs no transaction around it.
    return bool(step.findings or step.notes or step.delivery or ready.repository_down or step.to is Stage.ARRIVED) or (
        _concerns_admission(ready.row, step.to)
    )


def _record_failure(connection: Connection, parts: Parts, row: Row, job: jobs.Job, failure: LadingError) -> None:
    """What the failure means for the delivery: one transaction. EngineError is not for the delivery; it goes on up."""
    if isinstance(failure, EngineError):
        raise failure
    now = datetime.now(UTC)
    if job.step in ERRANDS and not isinstance(failure, NotVerified):
        _record_failed_errand(connection, row, job, failure)
        return
    verdict = judge(failure, row, now, attempts=_attempts(parts, row))
    told = Told(verdict.note or None, None, "verify", _job_at(row, verdict.to), verdict.change.not_before)
    with connection.transaction():
        if isinstance(failure, TargetUnavailable):
            admission.has_failed(connection, row.repository, now, failure.message)
        deliveries.advance(connection, row, verdict.to, verdict.change, told)
        if isinstance(failure, pipeline.Unproven):
            deliveries.add_findings(connection, row.id, "verify", failure.findings)
        if _concerns_admission(row, verdict.to):
            admission.admit(connection, row.repository)
    _log.warning(failure.code, delivery=row.id, stage=str(verdict.to), note=failure.message)


def _record_failed_errand(connection: Connection, row: Row, job: jobs.Job, failure: LadingError) -> None:
    now = datetime.now(UTC)
    since = row.failing_since or now
    patient = failure.retried and now - since < PATIENCE
    again = now + timedelta(seconds=max(_ERRAND_WAIT_S, patient_wait_s(now - since)))
    # The same words at every attempt of a night would be all that there is to read about the delivery.
    known = (row.error or {}).get("message") == storable(failure.message) and patient
    told = Told(None if known else f"{job.step}: {failure.message}", then=job if patient else None, at=again)
    change = Change(error=failure.as_dict(), held_from=row.held_from, failing_since=since if patient else None)
    deliveries.advance(connection, row, Stage(row.stage), change, told)
    _log.warning(failure.code, delivery=row.id, step=job.step, note=failure.message)


def _job_at(row: Row, stage: Stage) -> jobs.Job | None:
    step = step_at(stage)
    return jobs.Job(row.delivery.id, row.epoch, step) if step else None


def _concerns_admission(row: Row, to: Stage) -> bool:
    return to is Stage.QUEUED or row.stage == Stage.IMPORTING


def _give_up_slot(connection: Connection, row: Row) -> None:
    # Resuming queues the step again.
    if row.stage == Stage.IMPORTING:
        with connection.transaction():
            deliveries.advance(connection, row, Stage.QUEUED)
            admission.admit(connection, row.repository)


def _attempts(parts: Parts, row: Row) -> int:
    try:
        return parts.route(row.route).attempts
    except ConfigError:
        return 1


@dataclass(frozen=True, slots=True)
class _LazyRoute:
    """The parts of a route, made when a step needs them: reading a slot needs none, even for a route nobody knows."""

    parts: Parts
    name: str

    @property
    def checks(self) -> tuple[Check, ...]:
        return self.parts.route(self.name).checks

    @property
    def importer(self) -> Importer:
        return self.parts.route(self.name).importer


def _work(connection: Connection, desk: Desk, row: Row) -> Work:
    parts = desk.parts
    inbox = _inbox(parts, row)
    if desk.onlooker is not None:
        desk.onlooker.demand_ours(row.inbox, inbox)
    return Work(
        delivery=row.delivery,
        inbox=inbox,
        route=_LazyRoute(parts, row.route),
        journal=TableJournal(connection, row.id),
        receipt_key=parts.receipt_key,
        known=lambda: deliveries.findings_of(connection, row.id),
    )


def _inbox(parts: Parts, row: Row) -> Inbox:
    try:
        return parts.inboxes[row.inbox]
    except KeyError:
        raise ConfigError(
            f"{row.id} lies in inbox {row.inbox!r}, which the settings do not name, or which is not mounted",
            next_command="lading doctor",
        ) from None
