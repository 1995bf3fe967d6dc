"""`lading pause all` and `lading pause ROUTE` on an instrument: nothing is carried or cleaned, whenever it was found."""

from pathlib import Path

import pytest

from lading.agent.taking import scan
from lading.assembly import open_desk
from lading.delivery import Stage
from lading.doctor import pulse
from lading.errors import ConfigError, OutOfSpace
from lading.testing.instrument import FILES, AnsweringServer, Instrument, delivered

DAY = 86_400.0


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    made.configure(watch="quiet = 0\nclean = true\ngrace_days = 7")
    return made


def wish(instrument: Instrument, what: str, target: str) -> None:
    with open_desk(instrument.config) as desk:
        getattr(desk, what)(target)


def said(instrument: Instrument) -> list[str]:
    return [one.text for one in pulse(instrument.config) if "paused" in one.text]


@pytest.mark.parametrize("target", ["all", "mri"])
def test_what_is_found_during_a_pause_waits_for_its_end(instrument: Instrument, target: str) -> None:
    # Seen: the pause held for the deliveries that were there already, and the next session was carried.
    wish(instrument, "pause", target)
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()

    assert instrument.only().stage is Stage.PAUSED
    assert not list(instrument.inbox.arrivals())
    assert len(said(instrument)) == 1

    wish(instrument, "resume", target)
    instrument.turn()

    assert instrument.only().stage is Stage.ARRIVED
    assert said(instrument) == []


def test_what_waits_for_room_and_what_is_retried_are_paused_too(instrument: Instrument) -> None:
    instrument.write("P1/sub-001/s1", FILES)
    for watch, source in instrument.parts.sources():
        scan(instrument.outbox, instrument.parts, watch, source)
    item = instrument.only()
    instrument.outbox.fail(item.id, Stage.HELD, OutOfSpace("the inbox is full"), again_in=60)
    wish(instrument, "pause", "all")
    instrument.later(100)
    instrument.turn()
    assert instrument.only().stage is Stage.PAUSED

    instrument.outbox.resume(item.id)
    instrument.turn()
    assert instrument.only().stage is Stage.READY
    assert not instrument.outbox.has_cargo()
    with pytest.raises(ConfigError, match="everything is paused"):
        wish(instrument, "resume", "mri")

    wish(instrument, "resume", "all")
    instrument.turn()
    assert instrument.only().stage is Stage.ARRIVED


def test_no_source_is_cleaned_during_a_pause(instrument: Instrument) -> None:
    delivered(instrument, AnsweringServer(instrument.inbox))
    wish(instrument, "pause", "all")
    instrument.later(8 * DAY)
    instrument.turn()
    assert instrument.left("P1/sub-001/s1") == FILES

    wish(instrument, "resume", "all")
    instrument.turn()
    assert instrument.only().stage is Stage.CLEANED
