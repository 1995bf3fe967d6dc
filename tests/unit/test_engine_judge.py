"""What a failure means for a delivery."""

from datetime import UTC, datetime, timedelta

import pytest

from lading.delivery import Stage
from lading.engine.deliveries import Row
from lading.engine.judge import LONGEST_WAIT_S, PATIENCE, judge, wait_s
from lading.errors import (
    AccessDenied,
    LadingError,
    NotVerified,
    Refused,
    SourceChanged,
    TargetMissing,
    TargetUnavailable,
    UnexpectedFault,
    Unreachable,
)

NOW = datetime(2026, 5, 4, 2, 0, tzinfo=UTC)


def a_row(stage: Stage, *, attempt: int = 0, repairs: int = 0, failing_since: datetime | None = None) -> Row:
    return Row(
        id="20260504-020000-abc",
        inbox="main",
        route="mri",
        repository="repo",
        project="P",
        participant="sub-001",
        session="S1",
        sender="scanner@lab",
        priority=0,
        stage=str(stage),
        epoch=1,
        paused=False,
        files=1,
        bytes=1,
        digest="",
        attempt=attempt,
        repairs=repairs,
        failing_since=failing_since,
        not_before=None,
        held_from=None,
        error=None,
        created_at=NOW,
        arrived_at=NOW,
        queued_at=None,
        updated_at=NOW,
    )


@pytest.mark.parametrize("absent", [TargetUnavailable("down"), Unreachable("no sentinel")])
def test_a_night_without_an_answer_costs_no_attempt(absent: LadingError) -> None:
    row = a_row(Stage.IMPORTING, attempt=1, failing_since=NOW - timedelta(hours=9))

    verdict = judge(absent, row, NOW, attempts=2)

    assert (verdict.to, verdict.change.attempt, verdict.note) == (Stage.QUEUED, 1, "")
    assert verdict.change.not_before == NOW + timedelta(seconds=LONGEST_WAIT_S)


def test_the_first_failure_is_told_and_soon_tried_again() -> None:
    verdict = judge(TargetUnavailable("502"), a_row(Stage.IMPORTING), NOW, attempts=8)

    assert verdict.note == "waiting: 502"
    assert verdict.change.failing_since == NOW
    assert verdict.change.not_before == NOW + timedelta(seconds=5)


def test_patience_ends() -> None:
    row = a_row(Stage.IMPORTING, attempt=7, failing_since=NOW - PATIENCE)

    verdict = judge(TargetUnavailable("down"), row, NOW, attempts=8)

    assert (verdict.to, verdict.change.held_from) == (Stage.HELD, Stage.QUEUED)


def test_other_failures_that_may_pass_are_counted_and_held_in_the_end() -> None:
    first = judge(SourceChanged("changed"), a_row(Stage.ACCEPTED), NOW, attempts=3)
    last = judge(SourceChanged("changed"), a_row(Stage.ACCEPTED, attempt=2), NOW, attempts=3)

    assert (first.to, first.change.attempt) == (Stage.ACCEPTED, 1)
    assert (last.to, last.change.held_from) == (Stage.HELD, Stage.ACCEPTED)


@pytest.mark.parametrize("final", [AccessDenied("no"), Refused("no"), TargetMissing("no"), UnexpectedFault("bug")])
def test_what_needs_the_operator_is_held_at_once_with_its_error(final: LadingError) -> None:
    verdict = judge(final, a_row(Stage.IMPORTING), NOW, attempts=8)

    assert (verdict.to, verdict.change.held_from, verdict.note) == (Stage.HELD, Stage.QUEUED, final.message)
    assert verdict.change.error == final.as_dict()


def test_what_reading_back_disproves_is_repaired_three_times_and_then_held() -> None:
    verdicts = [judge(NotVerified("2 missing"), a_row(Stage.IMPORTED, repairs=n), NOW, attempts=8) for n in range(4)]

    assert [verdict.to for verdict in verdicts] == [Stage.QUEUED] * 3 + [Stage.HELD]
    assert [verdict.change.repairs for verdict in verdicts[:3]] == [1, 2, 3]
    assert verdicts[3].change.held_from == Stage.QUEUED


def test_a_verified_delivery_that_is_lost_later_is_not_repaired_behind_anybodys_back() -> None:
    verdict = judge(NotVerified("3 missing"), a_row(Stage.VERIFIED), NOW, attempts=8)

    assert verdict.to is Stage.HELD


def test_waits_double_up_to_a_quarter_of_an_hour() -> None:
    assert [wait_s(n) for n in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert wait_s(9) == wait_s(10**6) == LONGEST_WAIT_S
