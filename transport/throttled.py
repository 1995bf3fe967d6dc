"""Keeps to a number of bytes per second that may depend on the time of day: a transport around a transport."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Self

import attrs

from lading.config import structure
from lading.errors import ConfigError
from lading.hours import Hours
from lading.ports import Clock, Settings, Transport
from transport.pacing import Pacable
from transport.wrapping import Wrapped

_BURST_S = 0.25  # so much of a second may leave at once; less makes many tiny sleeps, more is felt by others
_LONGEST_NAP_S = 1.0


@attrs.frozen(kw_only=True)
class WindowConfig:
    """From `start` to `end` ("HH:MM", local time; over midnight when end <= start) `mb_per_s` is allowed; 0 is "not now"."""

    start: str
    end: str
    mb_per_s: float


@attrs.frozen(kw_only=True)
class ThrottleConfig:
    """`mb_per_s`: 10^6 bytes per second outside all windows; 0 is no limit. The first window that fits the hour wins."""

    mb_per_s: float = 0.0
    windows: tuple[WindowConfig, ...] = ()


class Schedule:
    """A pace by the clock. One object shared by several transports is one limit for all of them."""

    def __init__(
        self, config: ThrottleConfig, *, clock: Clock = time.time, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if config.mb_per_s < 0 or any(window.mb_per_s < 0 for window in config.windows):
            raise ConfigError("throttle.mb_per_s is negative")
        self._usual = config.mb_per_s * 1e6 or None
        self._windows = [
            (Hours.between(w.start, w.end, where="throttle.windows"), w.mb_per_s * 1e6) for w in config.windows
        ]
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._credit = 0.0
        self._counted_at = clock()

    def rate(self) -> float | None:
        """Bytes per second allowed now; None is no limit, 0 is "not now"."""
        now = datetime.fromtimestamp(self._clock())  # noqa: DTZ006 - people say "from 8 to 18" by the clock on the wall
        return next((rate for hours, rate in self._windows if hours.hold(now)), self._usual)

    def spend(self, count: int) -> None:
        """Block until `count` more bytes may leave."""
        while (pause := self._pause_before(count)) > 0:
            self._sleep(min(pause, _LONGEST_NAP_S))

    def _pause_before(self, count: int) -> float:
        with self._lock:
            rate = self.rate()
            now = self._clock()
            if rate is None:
                self._counted_at = now
                return 0.0
            if rate == 0:
                return _LONGEST_NAP_S
            # A clock that was set back must not stop the line.
            self._credit = min(self._credit + max(0.0, now - self._counted_at) * rate, _BURST_S * rate)
            self._counted_at = now
            if self._credit <= 0 and count:
                return -self._credit / rate + 0.001
            self._credit -= count
            return 0.0


class Throttled(Wrapped):
    """The transport `inner`, kept to `schedule`. Receipts are small and not throttled by every transport."""

    def __init__(self, inner: Transport, schedule: Schedule) -> None:
        if not isinstance(inner, Pacable):
            raise ConfigError(f"{inner!r} cannot be throttled", next_command="lading doctor")
        paced = inner.paced(schedule)
        assert isinstance(paced, Transport)  # noqa: S101 - `paced` returns its own kind
        super().__init__(paced)
        self._schedule = schedule

    def rests(self) -> bool:
        """Whether this is a window of `mb_per_s = 0`."""
        return self._schedule.rate() == 0

    @classmethod
    def from_settings(cls, inner: Transport, settings: Settings) -> Self:
        """Made from a table `throttle` of a route's transport. Raises ConfigError."""
        return cls(inner, Schedule(structure(settings, ThrottleConfig, where="transport.throttle")))
