"""How fast, how far, how long yet."""

from lading.cli.gauge import Gauge, Meter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_remaining_time_come_from_what_was_seen_lately() -> None:
    clock = Clock()
    gauge = Gauge(clock)
    assert gauge.reached(0, 0, 40, 4_000_000).rate is None
    clock.now = 2
    far = gauge.reached(10, 1_000_000, 40, 4_000_000)
    assert (far.rate, far.remaining_s) == (500_000, 6)
    assert far.words() == "10 of 40 files  1.0 MB of 4.0 MB  500 kB/s  6 s left"
    assert far.as_dict() == {
        "files_done": 10,
        "files": 40,
        "bytes_done": 1_000_000,
        "bytes": 4_000_000,
        "bytes_per_second": 500_000,
        "remaining_s": 6,
    }


def test_a_line_that_stands_still_is_seen_to() -> None:
    clock = Clock()
    gauge = Gauge(clock)
    for second in range(60):
        clock.now = second
        far = gauge.reached(0, min(second, 10) * 1000, 0, 100_000)
    assert far.rate == 0
    assert far.remaining_s is None
    assert far.words() == "0 files  10 kB of 100 kB  0 B/s"


def test_a_slow_look_every_hour_still_has_a_rate() -> None:
    clock = Clock()
    gauge = Gauge(clock)
    for hour in range(4):
        clock.now = hour * 3600
        far = gauge.reached(0, hour * 3_600_000, 0, 0)
    assert far.rate == 1000


def test_a_new_attempt_is_measured_anew() -> None:
    clock = Clock()
    gauge = Gauge(clock)
    gauge.reached(5, 5_000, 10, 10_000)
    clock.now = 5
    assert gauge.reached(0, 0, 10, 10_000).rate is None
    clock.now = 7
    assert gauge.reached(1, 1_000, 10, 10_000).rate == 500


def test_a_meter_adds_up() -> None:
    meter = Meter()
    meter.advance(bytes=5)
    meter.advance(files=1, bytes=5)
    assert meter.taken() == (1, 10)
