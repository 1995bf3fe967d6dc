"""Hours of the day, as people write them: "19:00-07:00"."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from lading.errors import ConfigError

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


@dataclass(frozen=True, slots=True)
class Hours:
    """From `start` to `end`, in minutes since midnight by the clock on the wall; over midnight when end <= start."""

    start: int
    end: int

    @classmethod
    def between(cls, start: str, end: str, *, where: str) -> Self:
        """From two times like 08:30. Raises ConfigError naming the setting `where`."""
        return cls(_minute(start, where), _minute(end, where))

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """From "19:00-07:00". Raises ConfigError naming the setting `where`."""
        start, dash, end = text.partition("-")
        if not dash:
            raise ConfigError(f"{where}: {text!r} is not like 19:00-07:00")
        return cls.between(start.strip(), end.strip(), where=where)

    def hold(self, moment: datetime) -> bool:
        """Whether `moment` (local time) lies within."""
        minute = moment.hour * 60 + moment.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def _minute(text: str, where: str) -> int:
    if not _TIME.fullmatch(text):
        raise ConfigError(f"{where}: {text!r} is not a time like 08:30")
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)
