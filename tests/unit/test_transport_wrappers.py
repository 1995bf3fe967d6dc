"""Retrying, throttled, rehearsed, logged: what the suite cannot see."""

import itertools
from datetime import datetime

import pytest
import structlog
from structlog.testing import capture_logs

from lading.delivery import Slot
from lading.errors import AccessDenied, ConfigError, LadingError, SourceChanged, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import Plan, TransportTraits
from lading.testing import trees
from lading.testing.carrying import Errand
from transport.logged import Logged
from transport.rehearsed import Rehearsed
from transport.retrying import Retrying
from transport.throttled import Schedule, ThrottleConfig, Throttled, WindowConfig


class Failing:
    """A transport whose carry fails as told, then works; it tells of one file each time."""

    traits = TransportTraits()

    def __init__(self, *failures):
        self.failures = list(failures)
        self.carried = 0

    def probe(self, needed_bytes=0):
        pass

    def plan(self, cargo, slot):
        return Plan(1, 2)

    def carry(self, cargo, slot, journal, progress):
        self.carried += 1
        progress.advance(files=1, bytes=10)
        if self.failures:
            raise self.failures.pop(0)

    def fetch_receipt(self, delivery):
        if self.failures:
            raise self.failures.pop(0)


class Told:
    def __init__(self):
        self.files = self.bytes = 0

    def advance(self, *, files=0, bytes=0):  # noqa: A002 - the role's word
        self.files += files
        self.bytes += bytes


def test_what_passes_is_tried_again_with_growing_pauses():
    inner, pauses, told = Failing(*[Unreachable("gone")] * 4), [], Told()

    Retrying(inner, attempts=5, base=2, longest=10, sleep=pauses.append, draw=lambda: 1.0).carry(
        None, Slot("x" * 8), None, told
    )

    assert inner.carried == 5
    assert pauses == [2, 4, 8, 10]
    assert (told.files, told.bytes) == (1, 10)


def test_pauses_differ_between_agents():
    pauses = []

    for draw in (0.0, 0.5, 1.0):
        Retrying(Failing(Unreachable("gone")), base=2, sleep=pauses.append, draw=lambda draw=draw: draw).fetch_receipt(
            "x"
        )

    assert pauses == [1, 1.5, 2]


@pytest.mark.parametrize("error", [AccessDenied("no"), SourceChanged("new"), ConfigError("bad")])
def test_what_does_not_pass_is_not_tried_again(error):
    inner = Failing(error)

    with pytest.raises(type(error)):
        Retrying(inner, sleep=lambda _: pytest.fail("slept")).carry(None, Slot("x" * 8), None, Told())

    assert inner.carried == 1


def test_the_last_failure_is_the_one_that_is_raised():
    with pytest.raises(Unreachable, match="third"):
        Retrying(
            Failing(Unreachable("first"), Unreachable("second"), Unreachable("third")), attempts=3, sleep=lambda _: None
        ).carry(None, Slot("x" * 8), None, Told())


def test_the_rate_follows_the_clock_on_the_wall():
    hour = 0
    config = ThrottleConfig(
        mb_per_s=100,
        windows=(
            WindowConfig(start="08:00", end="18:00", mb_per_s=10),
            WindowConfig(start="22:00", end="02:00", mb_per_s=0),
        ),
    )
    schedule = Schedule(config, clock=lambda: datetime(2026, 5, 4, hour, 30).timestamp())  # noqa: DTZ001 - the wall

    rates = {}
    for hour in (1, 7, 8, 17, 18, 22, 23):
        rates[hour] = schedule.rate()

    assert rates == {1: 0, 7: 1e8, 8: 1e7, 17: 1e7, 18: 1e8, 22: 0, 23: 0}


def test_spending_keeps_to_the_rate():
    now = 1_000_000.0

    def sleep(seconds):
        nonlocal now
        now += seconds

    schedule = Schedule(ThrottleConfig(mb_per_s=1), clock=lambda: now, sleep=sleep)
    for _ in range(100):
        schedule.spend(100_000)

    assert 9.0 < now - 1_000_000 < 11.0


def test_a_pause_ends_when_the_window_ends():
    now = datetime(2026, 5, 4, 17, 59, 58).timestamp()  # noqa: DTZ001 - the wall
    start = now

    def sleep(seconds):
        nonlocal now
        now += seconds

    config = ThrottleConfig(windows=(WindowConfig(start="08:00", end="18:00", mb_per_s=0),))
    Schedule(config, clock=lambda: now, sleep=sleep).spend(1)

    assert 2 <= now - start <= 4


def test_what_cannot_be_throttled_is_refused_not_ignored():
    with pytest.raises(ConfigError, match="throttled"):
        Throttled.from_settings(Failing(), {"mb_per_s": 1.0})


def test_a_rehearsal_shows_the_plan_and_leaves_no_trace(tmp_path):
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    source = trees.plain_tree(tmp_path / "source")
    errand = Errand(
        "transport.local:LocalTransport.from_settings",
        {"path": str(inbox.root)},
        str(source),
        str(tmp_path / "papers"),
        str(tmp_path),
        "rehearsed-1",
    )
    shown = []
    before = trees.look(tmp_path)

    Rehearsed(errand.transport(), show=shown.append).carry(errand.cargo(), errand.slot, errand.journal, Told())

    assert trees.look(tmp_path) == before
    assert [plan.files for plan in shown] == [12]


@pytest.fixture
def every_line():
    """The log as it is before any program of ours, run by another test in this process, chose what is worth a line."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("every_line")
def test_a_carry_is_logged_with_what_it_sent_and_what_stopped_it(tmp_path):
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    source = trees.plain_tree(tmp_path / "source")
    errand = Errand(
        "transport.local:LocalTransport.from_settings",
        {"path": str(inbox.root)},
        str(source),
        str(tmp_path / "papers"),
        str(tmp_path),
        "logged-1",
    )
    told, ticks = Told(), itertools.count(step=2)

    with capture_logs() as lines:
        Logged(errand.transport(), route="mri", clock=lambda: float(next(ticks))).carry(
            errand.cargo(), errand.slot, errand.journal, told
        )
        with pytest.raises(LadingError):
            Logged(Failing(Unreachable("the share is away")), route="mri").carry(
                errand.cargo(), errand.slot, errand.journal, told
            )

    carried, failed = [line for line in lines if line["event"] in ("carried", "carry failed")]
    assert (carried["delivery"], carried["route"], carried["files"], carried["bytes"]) == (
        errand.slot.delivery,
        "mri",
        told.files - 1,
        told.bytes - 10,
    )
    assert carried["files"] == 12
    assert (carried["seconds"], carried["mb_per_s"]) == ("2.0", f"{carried['bytes'] / 2e6:.1f}")
    assert (failed["event"], failed["code"], failed["bytes"]) == ("carry failed", "unreachable", 10)
