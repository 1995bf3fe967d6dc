"""Hours of the day, as settings name them."""

from datetime import datetime

import pytest

from lading.config import RepositoryConfig
from lading.errors import ConfigError
from lading.hours import Hours


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-05-04T{text}")


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("19:00-07:00", ["19:00", "23:59", "00:00", "06:59"], ["07:00", "12:00", "18:59"]),
        ("08:30-18:00", ["08:30", "17:59"], ["08:29", "18:00", "00:00"]),
        ("00:00-24:00", ["00:00", "12:00", "23:59"], []),
        ("12:00-12:00", ["11:59", "12:00", "12:01"], []),
    ],
)
def test_what_lies_within(hours: str, inside: list[str], outside: list[str]) -> None:
    parsed = Hours.parse(hours, where="hours")

    assert all(parsed.hold(at(moment)) for moment in inside)
    assert not any(parsed.hold(at(moment)) for moment in outside)


@pytest.mark.parametrize("hours", ["", "19:00", "7:00-8:00", "19:00-25:00", "a-b", "19.00-20.00"])
def test_what_is_no_hours_is_named(hours: str) -> None:
    with pytest.raises(ConfigError, match="hours"):
        Hours.parse(hours, where="hours")


def test_a_repository_takes_nothing_outside_its_hours() -> None:
    night = RepositoryConfig(kind="xnat", imports=3, hours=("19:00-07:00", "12:00-13:00"))

    assert [night.imports_at(at(moment)) for moment in ("03:00", "12:30", "15:00")] == [3, 3, 0]
    assert RepositoryConfig(kind="xnat").imports_at(at("15:00")) == 2
