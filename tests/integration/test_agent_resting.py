"""A route that may not send at this hour (a throttle window of 0) waits by itself: the carriers are there for the others."""

import threading
from pathlib import Path

import pytest

from lading.agent.loop import Agent
from lading.agent.outbox import Outbox
from lading.assembly import agent_parts
from lading.config import load
from lading.delivery import Cargo, Labels, Slot, Stage
from lading.ports import Journal, Progress, Transport
from lading.testing.instrument import FILES, CutOff, Instrument, PartsWith, wait_until

LABELS = [Labels("P1", "sub-001", f"s{number}") for number in range(101)]
NEVER = 'throttle = { windows = [{ start = "00:00", end = "24:00", mb_per_s = 0 }] }'


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    """Everything goes by the route mri, and what is sent by hand by the route now."""
    made = Instrument(tmp_path)
    _ = made.inbox
    place = f'kind = "local", path = "{made.inbox_root}"'
    made.configure(transport=f"{{ {place}, {NEVER} }}", route=f"[routes.now]\ntransport = {{ {place} }}")
    return made


def stages(instrument: Instrument) -> dict[str, Stage]:
    return {item.delivery.route: item.stage for item in instrument.outbox.deliveries()}


def test_what_may_go_is_not_kept_waiting_and_a_single_turn_ends(instrument: Instrument) -> None:
    # Seen: two deliveries of such a route kept every other one waiting until the evening, and `agent run --once` with them.
    for number in range(101):  # more than are looked at in one go
        instrument.outbox.take(
            instrument.base / str(number), "mri", LABELS[number], fingerprint=f"{number}", priority=1
        )
    by_hand = instrument.base / "by hand"
    by_hand.mkdir()
    (by_hand / "a.dcm").write_bytes(b"image")
    instrument.outbox.take(by_hand, "now", LABELS[0], fingerprint="now")

    ended = threading.Thread(target=instrument.turn, daemon=True)
    ended.start()
    ended.join(60)

    assert not ended.is_alive()
    assert stages(instrument) == {"mri": Stage.READY, "now": Stage.ARRIVED}
    assert not any(item.attempt for item in instrument.outbox.deliveries(Stage.READY))


class Overtaken(CutOff):
    """A carry that the hour of rest overtakes: it waits, and so does its thread."""

    def __init__(self, real: Transport) -> None:
        super().__init__(real)
        self.begun, self.over = threading.Event(), threading.Event()

    def rests(self) -> bool:
        return self.begun.is_set() and not self.over.is_set()

    def fail(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        self.begun.set()
        self.over.wait(60)


class Parts(PartsWith):
    """The route now as it is."""

    def transport(self, route: str) -> Transport:
        return self._real.transport(route) if route == "now" else super().transport(route)


def test_a_carry_that_the_hours_of_rest_overtake_frees_its_place(instrument: Instrument) -> None:
    config = load(instrument.file)
    slow = Overtaken(agent_parts(config).transport("now"))
    stop = threading.Event()
    one_carrier = type(config.agent)(carriers=1, scan_every=0.2)
    agent = Agent(one_carrier, Parts(instrument.parts, slow), Outbox(config.home), stop)
    working = threading.Thread(target=agent.work, daemon=True)
    root = instrument.write("P1/sub-001/s1", FILES)
    instrument.outbox.take(root, "mri", LABELS[0], fingerprint="s1")
    working.start()
    try:
        assert slow.begun.wait(60)
        instrument.outbox.take(root, "now", LABELS[0], fingerprint="s1")
        wait_until(lambda: stages(instrument)["now"] is Stage.ARRIVED, seconds=60)
        assert stages(instrument)["mri"] is Stage.SENDING

        slow.over.set()
        wait_until(lambda: stages(instrument)["mri"] is Stage.ARRIVED, seconds=60)
    finally:
        slow.over.set()
        stop.set()
        working.join(60)
