"""What is wrong with one thing does not stop the others: a reporter with a bug, an inbox that is away, a clock that is set back."""

import threading
from pathlib import Path

import pytest

from lading.agent import taking
from lading.agent.loop import Agent
from lading.agent.receipts import RECEIPT_NAME
from lading.assembly import open_desk
from lading.delivery import DeliveryId, Receipt, Stage
from lading.errors import LadingError, Unreachable
from lading.testing.instrument import (
    FILES,
    AnsweringServer,
    CutOff,
    Instrument,
    delivered,
    delivered_but_unanswered,
    wait_until,
)


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


class Office:
    """Tells nobody, for a reason that nobody foresaw."""

    rounds = 0

    def round(self, conditions: object) -> None:
        """Meets a bug."""
        self.rounds += 1
        raise UnicodeEncodeError("ascii", "pässword", 1, 2, "ordinal not in range(128)")


def test_a_reporter_with_a_bug_does_not_stop_the_agent(instrument: Instrument) -> None:
    instrument.write("P1/sub-001/s1", FILES)
    stop, office = threading.Event(), Office()
    agent = Agent(instrument.config.agent, instrument.parts, instrument.outbox, stop, office)  # type: ignore[arg-type]  # enough of one
    thread = threading.Thread(target=agent.work)
    thread.start()
    try:
        wait_until(lambda: office.rounds > 0)
        wait_until(lambda: len(list(instrument.inbox.arrivals())) == 1)
        assert not stop.is_set()
    finally:
        stop.set()
        thread.join(60)
    assert not agent.failure


class Away(CutOff):
    """An inbox that takes its time to say nothing."""

    asked = 0

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """In vain."""
        self.asked += 1
        raise Unreachable("no answer for a minute")


def test_an_inbox_that_is_away_is_asked_once_and_not_for_every_delivery(instrument: Instrument) -> None:
    for number in range(5):
        instrument.write(f"P1/sub-{number:03}/s1", FILES)
    instrument.turn()
    instrument.later(700)
    away = Away(instrument.parts.transport("mri"))

    class Parts:
        def __getattr__(self, name: str) -> object:
            return getattr(instrument.parts, name)

        def transport(self, route: str) -> Away:
            return away

    Agent(instrument.config.agent, Parts(), instrument.outbox, threading.Event()).ask_and_clean()  # type: ignore[arg-type]  # all of them

    assert away.asked == 1


def test_a_folder_that_cannot_be_taken_holds_back_no_other(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in ("s1", "s2"):
        instrument.write(f"P1/sub-001/{session}", FILES)
    real = taking.taken_root

    def stale(path: Path) -> Path:
        if path.name == "s1":
            raise OSError(116, "Stale file handle", str(path))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(taking, "taken_root", stale)
        instrument.turn()

    assert [item.root.name for item in instrument.outbox.deliveries()] == ["s2"]
    (report,) = instrument.outbox.watches()
    assert "Stale file handle" in report.findings[0].message


def test_a_clock_that_was_set_back_keeps_no_receipt_waiting(instrument: Instrument) -> None:
    server = AnsweringServer(instrument.inbox)
    instrument.later(10 * 365 * 86_400)
    item = delivered_but_unanswered(instrument, server)
    instrument.turn()
    instrument.later(-10 * 365 * 86_400)
    server.answer(item.id)

    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""], ids=["cut off", "no text", "empty"])
def test_a_kept_receipt_that_cannot_be_read_hides_no_delivery(instrument: Instrument, content: bytes) -> None:
    item = delivered(instrument, AnsweringServer(instrument.inbox))
    (instrument.outbox.papers(item.id) / RECEIPT_NAME).write_bytes(content)

    with open_desk(instrument.config) as desk:
        assert desk.account(item.id).stage is Stage.VERIFIED


def test_what_lies_in_the_inbox_is_not_said_to_be_cancelled_from_the_instrument(instrument: Instrument) -> None:
    # Seen: "cancelled; its files stay where they are", and nothing was.
    item = delivered_but_unanswered(instrument, AnsweringServer(instrument.inbox))

    with open_desk(instrument.config) as desk, pytest.raises(LadingError, match="only the server"):
        desk.cancel(item.id)

    assert instrument.only().stage is Stage.ARRIVED
