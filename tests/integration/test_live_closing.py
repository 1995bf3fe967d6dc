"""Live mode, turn by turn: how an acquisition ends, what is read again then, and what comes late."""

import shutil
import threading
from pathlib import Path

import pytest

from lading.agent.live_view import ask_to_close, reopen, views
from lading.agent.loop import Agent
from lading.delivery import Stage
from lading.errors import ConfigError
from lading.testing.instrument import wait_until
from lading.testing.live import checked_sums
from lading.testing.live_spying import Spying
from lading.testing.live_turns import MOVIES
from lading.testing.live_turns import TurnedSite as Instrument
from lading.testing.site import flip_a_byte


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


def test_the_marker_closes_it_and_everything_is_read_again(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    instrument.write({"done": b""})

    instrument.turn()

    status, item = instrument.status(), instrument.only()
    assert status["state"] == "closed"
    assert status["verified"] == {"files": 4, "how": "read back, SHA-256", "at": status["verified"]["at"]}
    assert (item.stage, item.delivery.files) == (Stage.VERIFIED, 4)
    assert item.delivery.digest == status["manifest"]["sha256"]
    assert checked_sums(instrument.deposit()) == (0, "")
    assert views(instrument.outbox)[0].state == "closed"


def test_quiet_closes_it_when_that_is_how_it_ends(instrument: Instrument) -> None:
    instrument.configure(live="close_after = 0.5")
    instrument.write(MOVIES)
    stop = threading.Event()
    agent = Agent(instrument.config.agent, instrument.parts, instrument.outbox, stop)
    working = threading.Thread(target=agent.work)
    working.start()
    try:
        wait_until(lambda: instrument.status().get("state") == "closed")
    finally:
        stop.set()
        working.join()

    assert instrument.there() == MOVIES


def test_asked_to_close_it_closes(instrument: Instrument) -> None:
    instrument.configure(live="")
    instrument.write(MOVIES)
    instrument.turn()
    ask_to_close(instrument.outbox, instrument.only().id)

    instrument.turn()

    assert instrument.status()["state"] == "closed"
    with pytest.raises(ConfigError, match="VERIFIED"):
        ask_to_close(instrument.outbox, instrument.only().id)


def test_what_left_the_source_is_kept_and_noted(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    (root / "m1.mrc").unlink()
    instrument.write({"done": b""})

    instrument.turn()

    assert instrument.there() == MOVIES | {"done": b""}
    assert instrument.status()["left_the_source"] == 1
    assert "1 files left the source, m1.mrc among them; the target keeps them" in instrument.notes(instrument.only().id)


def test_a_file_damaged_at_the_target_is_found_and_carried_again(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    flip_a_byte(instrument.deposit() / "m1.mrc")
    (instrument.deposit() / "Images" / "m2.mrc").unlink()
    instrument.write({"done": b""})

    instrument.turn()

    assert instrument.status()["state"] == "closed"
    assert instrument.there() == MOVIES | {"done": b""}
    notes = instrument.notes(instrument.only().id)
    assert "m1.mrc at the target" in notes
    assert "Images/m2.mrc at the target: missing; it goes again" in notes


def test_a_session_that_left_the_instrument_is_closed_on_request(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    shutil.rmtree(root)
    instrument.turn()
    still = instrument.status()["state"]
    ask_to_close(instrument.outbox, instrument.only().id)

    instrument.turn()

    assert still == "acquiring"
    assert (instrument.status()["state"], instrument.status()["left_the_source"]) == ("closed", 3)
    assert instrument.there() == MOVIES


def test_after_the_last_word_it_is_not_taken_back(instrument: Instrument) -> None:
    """Killed between "closed" at the target and its own note of it."""
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    item = instrument.only()
    with instrument.outbox.writing() as db:
        db.execute("UPDATE deliveries SET stage = 'SENDING' WHERE id = ?", (item.id,))
        db.execute("UPDATE live SET state = 'closing'")
    written: list[str] = []
    parts = Spying(instrument.parts, on_status=written.append)

    instrument.turn(parts)

    assert written == ["closed"]
    assert instrument.only().stage is Stage.VERIFIED


def test_who_stops_the_reading_back_does_not_close_it(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    pausing = Spying(instrument.parts, on_read=lambda: instrument.outbox.pause(instrument.only().id))

    instrument.turn(pausing)
    paused, state = instrument.only(), instrument.status()["state"]
    instrument.outbox.resume(paused.id)
    instrument.turn()

    assert (paused.stage, state) == (Stage.PAUSED, "closing")
    assert instrument.status()["state"] == "closed"


def test_late_files_are_said_and_carried_only_when_a_person_reopens(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    item = instrument.only()
    instrument.write({"late.mrc": b"late"})

    instrument.turn()
    before = instrument.there()
    (finding,) = instrument.outbox.findings(item.id)
    reopen(instrument.outbox, item.id)
    instrument.turn()

    assert "late.mrc" not in before
    assert finding.code == "late-files"
    assert finding.hint == f"lading live reopen {item.id}"
    assert instrument.there() == MOVIES | {"done": b"", "late.mrc": b"late"}
    assert instrument.status()["state"] == "closed"
