"""Nothing that comes later goes unnoticed: files that appear while their session is being listed, carried, or held."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lading.agent import sending
from lading.agent.taking import scan
from lading.delivery import Cargo, DeliveryId, Labels, Slot, Stage
from lading.errors import SourceAway
from lading.ports import Journal, Progress, Transport, TransportTraits
from lading.testing.instrument import FILES, CutOff, Instrument, PartsWith

SESSION = "P1/sub-001/s1"


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


class Meanwhile(CutOff):
    """A transport during whose first carry something happens: `before` the files go, or after the last of them (`after`)."""

    def __init__(
        self, real: Transport, *, lists: bool, before: Callable[[], object], after: Callable[[], object]
    ) -> None:
        super().__init__(real)
        self._lists, self._before, self._after = lists, before, after

    @property
    def traits(self) -> TransportTraits:
        """As the real one, or listing before it carries."""
        return self.real.traits if self._lists else super().traits

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """Something happens before, and after."""
        self._before()
        self.real.carry(cargo, slot, journal, progress)
        self._after()


def nothing() -> None:
    """Nothing happens."""


def looked_at(instrument: Instrument) -> None:
    """The scan of another thread."""
    for watch, source in instrument.parts.sources():
        scan(instrument.outbox, instrument.parts, watch, source)


def late_one(instrument: Instrument) -> list[str]:
    """What the second delivery is about; the first is on its way."""
    return [
        finding.message
        for item in instrument.outbox.deliveries(Stage.HELD)
        for finding in instrument.outbox.findings(item.id)
        if finding.code == "late-files"
    ]


@pytest.mark.parametrize("lists", [True, False], ids=["listed on the way", "listed before"])
def test_a_file_that_comes_while_its_session_is_carried_is_noticed(instrument: Instrument, lists: bool) -> None:
    instrument.write(SESSION, FILES)

    def comes() -> None:
        instrument.write(SESSION, {"late.dcm": b"the last image"})
        looked_at(instrument)

    before, after = (nothing, comes) if lists else (comes, nothing)
    transport = Meanwhile(instrument.parts.transport("mri"), lists=lists, before=before, after=after)
    instrument.turn(PartsWith(instrument.parts, transport))
    instrument.later(1)
    instrument.turn()

    assert len(late_one(instrument)) == 1
    assert "late.dcm" in late_one(instrument)[0]


def test_a_file_that_comes_while_a_listed_session_is_held_is_noticed(instrument: Instrument) -> None:
    instrument.write(SESSION, FILES)
    cut = CutOff(instrument.parts.transport("mri"))
    instrument.turn(PartsWith(instrument.parts, cut))
    instrument.outbox.pause(instrument.only().id)
    instrument.write(SESSION, {"late.dcm": b"the last image"})
    instrument.turn()

    instrument.outbox.resume(instrument.only().id)
    instrument.later(60)
    instrument.turn()
    instrument.later(1)
    instrument.turn()

    assert len(late_one(instrument)) == 1


def test_sent_again_by_hand_while_it_is_carried_it_is_compared_at_the_end(
    instrument: Instrument, tmp_path: Path
) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    (root / "a.dcm").write_bytes(b"image one")

    def send() -> DeliveryId:
        labels = Labels("P1", "sub-002", "s1")
        return sending.enqueue(instrument.outbox, instrument.config, instrument.parts, root, "mri", labels)

    def again() -> None:
        (root / "late.dcm").write_bytes(b"the last image")
        assert send() == first

    first = send()
    transport = Meanwhile(instrument.parts.transport("mri"), lists=True, before=nothing, after=again)
    instrument.turn(PartsWith(instrument.parts, transport))

    assert instrument.outbox.get(first).stage is Stage.ARRIVED
    assert len(late_one(instrument)) == 1, "nobody looks at this folder by himself: now or never"


def test_a_source_that_went_away_is_no_source_that_came_to_rest(instrument: Instrument) -> None:
    root = instrument.write(SESSION, FILES)
    cut = CutOff(instrument.parts.transport("mri"))
    cut.fail = lambda *_: (root / "a.dcm").write_bytes(b"another image one")  # type: ignore[method-assign,assignment]
    instrument.turn(PartsWith(instrument.parts, cut))
    assert instrument.only().stage is Stage.FOUND
    away = root.rename(instrument.base / "away")

    for _ in range(3):
        instrument.later(600)
        instrument.turn(PartsWith(instrument.parts, cut))
    assert instrument.only().stage is Stage.FOUND, "twice nothing is not twice the same"
    assert instrument.only().error_code == SourceAway.code

    away.rename(root)
    for _ in range(3):
        instrument.later(600)
        instrument.turn(PartsWith(instrument.parts, cut))
    assert instrument.only().stage is Stage.ARRIVED


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "never listed"])
def test_what_comes_into_a_folder_whose_delivery_was_cancelled_waits_for_a_person(
    instrument: Instrument, listed: bool
) -> None:
    # Seen: it was left out for ever, and nothing said so.
    instrument.write(SESSION, FILES)
    looked_at(instrument)
    item = instrument.only()
    if listed:
        instrument.turn(PartsWith(instrument.parts, CutOff(instrument.parts.transport("mri"))))
    instrument.outbox.cancel(item.id)
    looked_at(instrument)
    assert instrument.only().stage is Stage.CANCELLED

    instrument.write(SESSION, {"late.dcm": b"the last image"})
    looked_at(instrument)
    looked_at(instrument)

    (held,) = instrument.outbox.deliveries(Stage.HELD)
    (said,) = late_one(instrument)
    assert f"{item.id} was taken, which is cancelled" in said
    assert ("late.dcm" in said) is listed
    instrument.outbox.cancel(held.id)
    looked_at(instrument)
    assert not instrument.outbox.deliveries(Stage.HELD)
    instrument.write(SESSION, {"later.dcm": b"the very last image"})
    looked_at(instrument)
    (again,) = instrument.outbox.deliveries(Stage.HELD)
    instrument.outbox.retry(again.id)
    instrument.turn()
    assert instrument.outbox.get(again.id).stage is Stage.ARRIVED
