"""Live mode, turn by turn: files that cannot be read, a target that is away or full, and a person who says wait."""

import os
from pathlib import Path

import pytest

from lading.agent.live_view import views
from lading.delivery import Stage
from lading.inbox import Inbox, InboxLimits
from lading.testing.live_spying import Refusing
from lading.testing.live_turns import MOVIES
from lading.testing.live_turns import TurnedSite as Instrument
from lading.testing.site import small_disk


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


def test_a_file_that_cannot_be_read_keeps_it_from_closing_until_that_is_mended(instrument: Instrument) -> None:
    instrument.write({"good.mrc": b"good", "locked.mrc": b"locked", "done": b""})
    refusing = Refusing(instrument.parts, "locked.mrc")

    instrument.turn(refusing)
    held = instrument.only()
    instrument.outbox.retry(held.id)
    instrument.turn()

    assert held.stage is Stage.HELD
    assert "locked.mrc" in held.error
    assert instrument.status()["state"] == "closed"
    assert instrument.there()["locked.mrc"] == b"locked"


def test_paused_it_stands_still_and_goes_on_noting(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    item = instrument.only()
    instrument.outbox.pause(item.id)
    instrument.write({"m3.mrc": b"three"})
    instrument.turn()
    paused, (view,) = instrument.there(), views(instrument.outbox)
    instrument.outbox.resume(item.id)

    instrument.turn()

    assert "m3.mrc" not in paused
    assert (view.state, view.figures.waiting) == ("paused", 1)
    assert instrument.there() == MOVIES | {"m3.mrc": b"three"}


def test_an_absent_target_is_waited_for_and_files_are_noted_meanwhile(instrument: Instrument) -> None:
    away = instrument.target.with_name("away")
    instrument.target.rename(away)
    instrument.target.mkdir()
    instrument.write(MOVIES)
    instrument.turn()
    (down,) = views(instrument.outbox)
    item = instrument.only()
    made = list(instrument.target.iterdir())
    instrument.target.rmdir()
    away.rename(instrument.target)
    instrument.outbox.retry(item.id)

    instrument.turn()

    assert made == []  # nothing is written under an unmounted share
    assert (str(down.live.link), down.figures.waiting, item.stage, item.error_code) == (
        "down",
        3,
        Stage.SENDING,
        "unreachable",
    )
    assert instrument.there() == MOVIES
    assert instrument.only().error == ""
    assert "the link is back" in instrument.notes(item.id)


@pytest.mark.root
def test_a_full_disk_pauses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "target-disk", "3m") as disk:
        (tmp_path / "base").mkdir()
        instrument = Instrument(tmp_path / "base")
        instrument.target = disk
        Inbox.create(disk, limits=InboxLimits(keep_free_bytes=0))
        instrument.configure()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 << 20))
        instrument.write({"small.mrc": b"small"})
        instrument.turn()
        instrument.write({"big.mrc": os.urandom(1_500_000)})
        instrument.turn()
        (full,) = views(instrument.outbox)
        held = instrument.only()
        visible = set(instrument.there())
        ballast.unlink()
        instrument.outbox.retry(held.id)
        instrument.turn()

        assert (str(full.live.link), held.stage, held.error_code) == ("full", Stage.HELD, "out-of-space")
        assert held.not_before > 0  # tried again by itself
        assert visible == {"small.mrc"}
        assert set(instrument.there()) == {"small.mrc", "big.mrc"}
        assert instrument.only().stage is Stage.SENDING
