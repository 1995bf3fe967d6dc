"""What a failure means for a delivery: wait and try again, repair, or hold it for the operator. Pure rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from lading.delivery import Stage
from lading.engine.deliveries import Change, Row
from lading.errors import LadingError, NotVerified, TargetUnavailable, Unreachable

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 15 * 60.0
"""After a night's outage everything moves again within a quarter of an hour."""
FAR_OFF = timedelta(seconds=LONGEST_WAIT_S + 60)
"""Nobody is told to wait for so long: a time that lies further ahead was written while a clock was wrong, and binds nobody."""
PATIENCE = timedelta(hours=24)
"""So long a place that does not answer costs no attempt: one night, or one weekend day, of maintenance."""
REPAIRS = 3
"""Imports repeated because reading back disagreed; a fourth would hide a fault that a person should see."""
_ABSENT = (TargetUnavailable, Unreachable)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the delivery goes, what its row remembers, and a note when it is worth an event."""

    to: Stage
    change: Change
    note: str = ""


def wait_s(failures: int) -> float:
    """Seconds to wait after the so-many-th failure in a row (1, 2, …): doubling from 5 s up to 15 min."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(max(failures, 1) - 1, 20))


def judge(failure: LadingError, row: Row, now: datetime, *, attempts: int) -> Verdict:
    """What becomes of `row` after `failure` at its present stage. `attempts`: the route's bound."""
    stage = Stage(row.stage)
    again = Stage.QUEUED if stage is Stage.IMPORTING else stage
    error = failure.as_dict()
    if isinstance(failure, NotVerified) and stage is Stage.IMPORTED and row.repairs < REPAIRS:
        return Verdict(
            Stage.QUEUED,
            Change(
                repairs=row.repairs + 1, error=error, not_before=now + timedelta(seconds=wait_s(row.repairs + 1) / 5)
            ),
            f"repair {row.repairs + 1} of {REPAIRS}: {failure.message}",
        )
    if failure.retried:
        since = row.failing_since or now
        free = isinstance(failure, _ABSENT) and now - since < PATIENCE
        attempt = row.attempt if free else row.attempt + 1
        if attempt < attempts:
            wait = wait_s(attempt) if not free else patient_wait_s(now - since)
            return Verdict(
                again,
                Change(attempt=attempt, failing_since=since, not_before=now + timedelta(seconds=wait), error=error),
                f"waiting: {failure.message}" if row.failing_since is None or not free else "",
            )
    if isinstance(failure, NotVerified):
        again = Stage.QUEUED  # reading back once more would say the same: `retry` sends what is missing
    return Verdict(Stage.HELD, Change(attempt=row.attempt, held_from=again, error=error), failure.message)


def patient_wait_s(failing_for: timedelta) -> float:
    """As long again as it has been failing: the same doubling, without counting."""
    return max(FIRST_WAIT_S, min(LONGEST_WAIT_S, failing_for.total_seconds()))
