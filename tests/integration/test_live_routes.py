"""Live mode and routes: the one that follows, one that became live, and settings that cannot work."""

import threading
import time
from pathlib import Path

import pytest

from lading.agent.live_view import reopen
from lading.agent.loop import Agent
from lading.agent.outbox import Outbox
from lading.agent.sending import enqueue
from lading.assembly import agent_parts
from lading.config import load
from lading.delivery import Stage
from lading.errors import ConfigError
from lading.testing.live import LiveSite
from lading.testing.live_turns import MOVIES
from lading.testing.live_turns import TurnedSite as Instrument


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


def close_before_the_next_route(instrument: Instrument) -> None:
    """A session that is closed, and whose route says which one it goes on by."""
    files = f'[routes.files]\ntransport = {{ kind = "local", path = "{instrument.target}" }}'
    instrument.configure(live='marker = "done"\nthen = "files"', more=f"quiet = 0\n{files}")
    instrument.write(MOVIES | {"done": b""})


def test_a_closed_session_goes_on_by_the_route_that_follows(instrument: Instrument) -> None:
    close_before_the_next_route(instrument)

    instrument.turn()
    instrument.turn()

    sent, pushed = instrument.outbox.deliveries()
    assert (pushed.delivery.route, pushed.stage) == ("cryo", Stage.VERIFIED)
    assert (sent.delivery.route, sent.stage) == ("files", Stage.ARRIVED)
    assert list(instrument.inbox.arrivals()) == [sent.id]
    assert f"goes on as {sent.id}" in instrument.notes(pushed.id)


def test_what_came_late_goes_on_as_well_once_it_is_closed_again(instrument: Instrument) -> None:
    close_before_the_next_route(instrument)
    instrument.turn()
    instrument.turn()
    sent, pushed = instrument.outbox.deliveries()
    instrument.write({"late.mrc": b"late"})
    instrument.turn()
    before = instrument.outbox.deliveries()

    reopen(instrument.outbox, pushed.id)
    for _ in range(3):
        instrument.turn()

    late, *others = instrument.outbox.deliveries()
    assert [item.id for item in before] == [item.id for item in others] == [sent.id, pushed.id]
    assert (late.delivery.route, late.stage, late.error_code) == ("files", Stage.HELD, "late-files")
    assert "late.mrc" in instrument.outbox.findings(late.id)[0].message
    assert instrument.status()["state"] == "closed"


def test_what_came_late_goes_on_as_well_when_the_clock_was_set_back_meanwhile(instrument: Instrument) -> None:
    # Seen: it was closed before the first delivery was made, going by the clock, and what came late never went on.
    close_before_the_next_route(instrument)
    instrument.turn()
    instrument.turn()
    _, pushed = instrument.outbox.deliveries()
    instrument.outbox.clock = lambda: time.time() - 3600
    instrument.write({"late.mrc": b"late"})

    reopen(instrument.outbox, pushed.id)
    for _ in range(3):
        instrument.turn()

    (late,) = instrument.outbox.deliveries(Stage.HELD)
    assert (late.delivery.route, late.error_code) == ("files", "late-files")
    for _ in range(3):
        instrument.turn()
    assert len(instrument.outbox.deliveries()) == 3


def test_a_route_that_became_live_leaves_what_went_as_a_whole_alone(instrument: Instrument) -> None:
    live = instrument.file.read_text()
    instrument.file.write_text(live.replace("[routes.cryo.live]", "[routes.cryo.checks.layout]").replace("settle", "#").replace(
        "status_every", "#").replace("marker", "#") + "quiet = 0\n")  # fmt: skip
    config = load(instrument.file)
    instrument.write(MOVIES)
    Agent(config.agent, agent_parts(config), instrument.outbox, threading.Event()).once()
    whole = instrument.only()
    instrument.file.write_text(live)

    instrument.turn()

    assert (whole.stage, instrument.only().stage) == (Stage.ARRIVED, Stage.ARRIVED)
    assert not instrument.deposit().exists()


def test_a_live_route_is_not_sent_by_hand(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)

    with pytest.raises(ConfigError, match="is live"):
        enqueue(instrument.outbox, instrument.config, instrument.parts, root, "cryo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transport": '{ kind = "robocopy", path = "inbox" }'},
            "cannot put single files into a folder that others read",
        ),
        ({"transport": '{ kind = "disk", path = "usb", volume = "usb" }'}, "it is to be unplugged"),
        ({"more": "clean = true"}, "clean = true needs a receipt"),
        ({"more": 'marker = "done"'}, "routes.cryo.live"),
        ({"live": 'then = "nowhere"'}, "is not defined"),
        ({"live": 'then = "cryo"'}, "is live itself"),
        ({"live": 'folder = "../elsewhere"'}, "plain name of one folder"),
        ({"live": 'marke = "done"'}, "did you mean 'marker'"),
        ({"live": "close_after = -1"}, "close_after"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    site = LiveSite(tmp_path)
    site.configure(**changes)  # type: ignore[arg-type]  # one of its texts

    with pytest.raises(ConfigError, match=message):  # noqa: PT012 - either may find it
        config = load(site.file)
        Agent(config.agent, agent_parts(config), Outbox(config.home), threading.Event()).once()
