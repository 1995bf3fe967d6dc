"""Live mode when the source goes away: what was not carried yet is waited for, and nothing is called closed without it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from lading.agent.live_book import LiveBook, LiveState
from lading.agent.live_push import Push
from lading.agent.live_view import ask_to_close
from lading.delivery import Stage
from lading.deposit import Deposit, Settled, Told
from lading.errors import AccessDenied
from lading.testing.live_turns import TurnedSite as Instrument
from transport.deposit_local import LocalDeposit

MOVIES = {"m1.mrc": b"one" * 500, "Images/m2.mrc": b"two" * 900}


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


def state(instrument: Instrument) -> LiveState:
    return LiveBook(instrument.outbox).get(instrument.only().id).state


def now(instrument: Instrument) -> None:
    instrument.outbox.amend(instrument.only().id, not_before=0.0)


def closing_without_a_target(instrument: Instrument) -> Path:
    """The acquisition is over, and its files wait: the target is away. Where the target is meanwhile."""
    instrument.write({"m0.mrc": b"zero" * 100})
    instrument.turn()
    away = instrument.target.rename(instrument.base / "inbox-away")
    instrument.write({**MOVIES, "done": b""})
    instrument.turn()
    assert state(instrument) is LiveState.CLOSING
    return away


@pytest.mark.parametrize("what", ["the session", "the watched folder"])
def test_it_is_not_closed_without_the_files_of_a_source_that_is_away(instrument: Instrument, what: str) -> None:
    # Seen: files that were not to be found were forgotten, and "closed" was written a moment later without them.
    target = closing_without_a_target(instrument)
    source = instrument.session("EM/grid-1/s1") if what == "the session" else instrument.data
    source_away = source.rename(instrument.base / "source-away")
    if what == "the watched folder":
        source.mkdir()  # an empty mount point
    target.rename(instrument.target)
    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.only().stage is Stage.SENDING
    assert instrument.status()["state"] != "closed"

    if what == "the watched folder":
        source.rmdir()
    source_away.rename(source)
    for _ in range(3):
        now(instrument)
        instrument.turn()

    assert instrument.status()["state"] == "closed"
    assert set(instrument.there()) == {"m0.mrc", *MOVIES, "done"}


def test_an_unmounted_share_is_no_session_that_left(instrument: Instrument) -> None:
    target = closing_without_a_target(instrument)
    LiveBook(instrument.outbox).put(instrument.only().id, state=LiveState.ACQUIRING)
    ask_to_close(instrument.outbox, instrument.only().id)
    source_away = instrument.data.rename(instrument.base / "source-away")
    instrument.data.mkdir()
    target.rename(instrument.target)
    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.status()["state"] != "closed"

    instrument.data.rmdir()
    source_away.rename(instrument.data)
    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.status()["state"] == "closed"
    assert set(instrument.there()) == {"m0.mrc", *MOVIES, "done"}


def test_a_file_of_a_share_that_breaks_has_not_left(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    # Seen: it was closed without the file, and nobody ever spoke of it again.
    instrument.write({"m0.mrc": b"zero" * 100, "m1.mrc": b"one" * 500, "done": b""})
    away = instrument.base / "source-away"
    carried = LocalDeposit.bring

    def bring(self: LocalDeposit, root: Path, files: Sequence[Settled], told: Told) -> None:
        carried(self, root, [file for file in files if file.path != "m1.mrc"], told)
        for file in files:
            if file.path == "m1.mrc":
                told(file, AccessDenied(f"cannot read {root / file.path}: Input/output error"))
                instrument.data.rename(away)
                instrument.data.mkdir()

    with monkeypatch.context() as patched:
        patched.setattr(LocalDeposit, "bring", bring)
        instrument.turn()
    assert instrument.status()["state"] != "closed"
    assert instrument.only().stage is Stage.SENDING

    instrument.data.rmdir()
    away.rename(instrument.data)
    LiveBook(instrument.outbox).try_refused(instrument.only().id)  # as if a minute later
    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.status()["state"] == "closed"
    assert set(instrument.there()) == {"m0.mrc", "m1.mrc", "done"}


def test_a_session_that_left_with_files_that_never_went_is_closed_on_request(instrument: Instrument) -> None:
    target = closing_without_a_target(instrument)
    shutil.rmtree(instrument.session("EM/grid-1/s1"))
    target.rename(instrument.target)
    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.status()["state"] != "closed", "nobody asked"
    ask_to_close(instrument.outbox, instrument.only().id)
    for _ in range(3):
        now(instrument)
        instrument.turn()

    assert instrument.status()["state"] == "closed"
    assert set(instrument.there()) == {"m0.mrc"}
    assert "left the source before they went" in instrument.notes(instrument.only().id)


def test_a_file_that_changes_at_the_last_moment_is_looked_at_again_before_it_is_closed(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = closing_without_a_target(instrument)
    target.rename(instrument.target)
    carried = Push.visit

    def visit(self: Push, deposit: Deposit, *, until_idle: bool = False) -> None:
        instrument.write({"m1.mrc": b"another one" * 700})
        carried(self, deposit, until_idle=until_idle)

    now(instrument)
    with monkeypatch.context() as patched:
        patched.setattr(Push, "visit", visit)
        instrument.turn()
    assert instrument.status()["state"] != "closed"

    for _ in range(3):
        now(instrument)
        instrument.turn()
    assert instrument.status()["state"] == "closed"
    assert instrument.there()["m1.mrc"] == b"another one" * 700
