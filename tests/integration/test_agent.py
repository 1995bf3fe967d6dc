"""The agent with the real local transport and a real inbox; the server's answers are written by the test."""

import contextlib
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.agent import loop, receipts, sending
from lading.agent.carrier import RESEND
from lading.agent.locks import FileLock
from lading.agent.outbox import Outbox
from lading.agent.parts import AgentParts
from lading.delivery import DeliveryId, Labels, Receipt, Stage
from lading.doctor import pulse
from lading.errors import ConfigError, EngineError, Rejected
from lading.findings import error, note
from lading.testing.instrument import (
    FILES,
    KEY,
    AnsweringServer,
    Instrument,
    delivered,
    delivered_but_unanswered,
    hashes,
    wait_until,
)


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


@pytest.fixture
def server(instrument: Instrument) -> AnsweringServer:
    return AnsweringServer(instrument.inbox)


def test_a_session_travels_to_the_inbox_and_its_receipt_comes_back(
    instrument: Instrument, server: AnsweringServer
) -> None:
    instrument.write("P1/sub-001/s1", {**FILES, "Thumbs.db": b"junk"})

    instrument.turn()
    item = instrument.only()
    assert item.stage is Stage.ARRIVED
    filtered = list(server.inbox.accept(item.id).manifest.filtered())
    server.serve()
    instrument.later(1)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED
    assert [(f.path, f.reason) for f in filtered] == [("Thumbs.db", "junk: Windows thumbnail cache")]
    assert set(hashes(instrument.inbox_root)) == {f"P1/sub-001/s1/{name}" for name in FILES}
    assert instrument.left("P1/sub-001/s1") == {**FILES, "Thumbs.db": b"junk"}
    stages = [event.stage for event in instrument.outbox.events(item.id)]
    assert stages == [Stage.FOUND, Stage.READY, Stage.SENDING, Stage.ARRIVED, Stage.VERIFIED]


@pytest.mark.parametrize("kind", ["local", "rsync"])
def test_one_round_waits_for_the_quiet_period_and_carries(instrument: Instrument, kind: str) -> None:
    key = {"local": "path", "rsync": "target"}[kind]
    instrument.configure(watch="quiet = 1", transport=f'{{ kind = "{kind}", {key} = "{instrument.inbox_root}" }}')
    instrument.write("P1/sub-001/s1", FILES)

    began = time.monotonic()
    loop.run(instrument.config, instrument.parts, instrument.outbox, stop=threading.Event(), once=True)

    assert 1 <= time.monotonic() - began < 60
    assert list(instrument.inbox.arrivals()) == [instrument.only().id]
    assert instrument.inbox.accept(instrument.only().id).delivery.digest == instrument.only().delivery.digest


def test_a_session_is_taken_once_however_often_it_is_looked_at(instrument: Instrument, server: AnsweringServer) -> None:
    delivered(instrument, server)

    for _ in range(3):
        instrument.later(100)
        instrument.turn()

    assert len(instrument.outbox.deliveries()) == 1
    assert server.taken == ["P1/sub-001/s1"]


def test_a_refusal_is_shown_and_a_later_release_is_honoured(instrument: Instrument, server: AnsweringServer) -> None:
    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id, Stage.REJECTED, findings=(error("label-invalid", "the participant 'x' is unknown"),))
    instrument.later(1)
    instrument.turn()
    assert instrument.only().stage is Stage.REJECTED
    assert instrument.codes(item.id) == ["label-invalid"]

    server.answer(item.id, Stage.VERIFIED, after=60)
    instrument.later(700)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED


@pytest.mark.parametrize("kind", ["local", "rsync"])
def test_files_of_strange_times_are_carried_and_accepted(
    instrument: Instrument, server: AnsweringServer, kind: str
) -> None:
    key = {"local": "path", "rsync": "target"}[kind]
    instrument.configure(transport=f'{{ kind = "{kind}", {key} = "{instrument.inbox_root}" }}')
    root = instrument.write("P1/sub-001/s1", FILES)
    for name, year in (("a.dcm", 2300), ("b.dcm", 1960)):
        time_ns = int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
        os.utime(root / name, ns=(time_ns, time_ns))
    instrument.turn()
    server.serve()
    instrument.later(1)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED


def test_what_is_cancelled_on_the_server_is_told_and_what_is_taken_up_again_there_is_followed(
    instrument: Instrument, server: AnsweringServer
) -> None:
    # Seen: such a delivery was ARRIVED at the instrument for ever.
    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id, Stage.CANCELLED, findings=(note("cancelled", "cancelled by the operator"),))
    instrument.later(1)
    instrument.turn()
    cancelled = instrument.only()
    assert cancelled.stage is Stage.CANCELLED
    assert "cancelled on the server" in cancelled.error
    assert cancelled.next_command.startswith(f"lading send {cancelled.root} --route mri --project ")
    assert instrument.codes(item.id) == ["cancelled"]
    assert [d.text for d in pulse(instrument.config) if d.area == "cancelled"] == [
        f"{item.id} ({item.delivery.labels}): {cancelled.error}"
    ]
    instrument.later(700)
    instrument.turn()
    assert instrument.only().error == cancelled.error

    server.answer(item.id, Stage.VERIFIED, after=60)
    instrument.later(700)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED
    assert instrument.only().error == ""
    assert not [d for d in pulse(instrument.config) if d.area == "cancelled"]


def test_an_answer_of_cancelled_that_was_read_and_passed_over_is_heard_after_all(
    instrument: Instrument, server: AnsweringServer
) -> None:
    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id, Stage.CANCELLED)
    instrument.later(1)
    instrument.turn()
    instrument.outbox.take_up(item.id, "as the version before left it")
    instrument.later(700)
    instrument.turn()

    assert instrument.only().stage is Stage.CANCELLED


def test_a_receipt_about_other_content_proves_nothing(instrument: Instrument, server: AnsweringServer) -> None:
    item = delivered_but_unanswered(instrument, server)
    server.answer(item.id, digest="0" * 64)
    instrument.later(1)
    instrument.turn()

    assert instrument.only().stage is Stage.ARRIVED
    assert instrument.codes(item.id) == ["receipt-for-other-content"]


def test_files_damaged_on_the_way_are_sent_again_once_per_answer(
    instrument: Instrument, server: AnsweringServer
) -> None:
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()
    item = instrument.only()
    damaged = instrument.inbox_root / ".lading/incoming" / item.id / "data/b.dcm"
    times = damaged.stat()
    damaged.write_bytes(b"imAge two")
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    with contextlib.suppress(Exception):
        server.inbox.accept(item.id)
    answer = Receipt(
        item.id, "mri", item.delivery.labels, Stage.SENDING, item.delivery.digest, 3, item.delivery.bytes, {}, {},
        (error("corrupted", "b.dcm arrived damaged", path="b.dcm"),), "", datetime.now(UTC),
    )  # fmt: skip
    server.inbox.write_receipt(answer, (), KEY)

    instrument.later(1)
    instrument.turn()
    instrument.turn()
    instrument.later(1)
    instrument.turn()
    assert instrument.only().stage is Stage.ARRIVED
    notes = [event.note for event in instrument.outbox.events(item.id)]
    assert sum("arrived damaged" in note for note in notes) == 1
    assert not instrument.outbox.journal(item.id).recall(RESEND)
    server.inbox.publish(server.inbox.accept(item.id))

    assert (instrument.inbox_root / "P1/sub-001/s1/b.dcm").read_bytes() == b"image two"


def send(instrument: Instrument, path: Path, labels: Labels | None = None) -> DeliveryId:
    return sending.enqueue(instrument.outbox, instrument.config, instrument.parts, path, "mri", labels)


def test_the_same_folder_sent_twice_is_one_delivery(instrument: Instrument) -> None:
    root = instrument.write("P1/sub-001/s1", FILES)

    first, second = send(instrument, root), send(instrument, root)
    instrument.turn()

    assert first == second
    assert instrument.only().id == first
    assert instrument.only().delivery.labels == Labels("P1", "sub-001", "s1")


def test_a_folder_outside_every_watch_needs_labels(instrument: Instrument, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    (root / "a.dcm").write_bytes(b"x")

    with pytest.raises(ConfigError, match="labels") as caught:
        send(instrument, root)
    assert "--project" in caught.value.next_command
    send(instrument, root, Labels("P9", "x", "y"))
    with pytest.raises(Rejected):
        send(instrument, root, Labels("P9", "x", "other"))
    with pytest.raises(Rejected):
        send(instrument, instrument.data, Labels("..", "x", "y"))


def test_a_dry_run_says_everything_and_does_nothing(instrument: Instrument) -> None:
    root = instrument.write("P1/sub-001/s1", {**FILES, "Thumbs.db": b"junk", "empty.dcm": b""})

    said = sending.dry_run(instrument.config, instrument.parts, root, "mri")

    assert (said.files, said.bytes) == (4, sum(map(len, FILES.values())))
    assert [(f.path, f.reason) for f in said.filtered] == [("Thumbs.db", "junk: Windows thumbnail cache")]
    assert [f.code for f in said.findings] == ["zero-byte"]
    assert said.plan is not None
    assert said.plan.files == 4
    assert instrument.outbox.deliveries() == []
    assert list((instrument.inbox_root / ".lading/incoming").iterdir()) == []


def test_a_background_carrier_carries_everything_and_then_ends(instrument: Instrument) -> None:
    sent = [send(instrument, instrument.write(f"P1/sub-{n:03}/s1", FILES)) for n in range(5)]

    sending.ensure_carrier(instrument.config)

    wait_until(lambda: not loop.has_carrier(instrument.config.home) and not instrument.outbox.has_cargo())
    assert sorted(instrument.inbox.arrivals()) == sorted(sent)


def test_waiting_for_a_delivery_needs_no_agent(instrument: Instrument, server: AnsweringServer) -> None:
    sent = send(instrument, instrument.write("P1/sub-001/s1", FILES))

    sending.carry_now(instrument.outbox, instrument.config, instrument.parts, sent)
    wait_until(lambda: bool(list(server.inbox.arrivals())))
    server.serve()

    wait_until(lambda: instrument.outbox.get(sent).stage is Stage.VERIFIED)
    wait_until(lambda: not loop.has_carrier(instrument.config.home))


def test_waiting_outlasts_a_busy_outbox_and_a_killed_carrier(
    instrument: Instrument, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen: whoever waited asked no more after one failure, and waited for nothing until the time was up.
    monkeypatch.setattr(sending, "_LOOK_FOR_CARRIER_S", 0.1)
    ask, failures = receipts.ask, iter([EngineError("the outbox is busy")])

    def busy_once(outbox: Outbox, parts: AgentParts, delivery: DeliveryId, *, every: float = 15.0) -> bool:
        for failure in failures:
            raise failure
        return ask(outbox, parts, delivery, every=every)

    monkeypatch.setattr(receipts, "ask", busy_once)
    away = instrument.inbox_root.rename(instrument.base / "away")
    sent = send(instrument, instrument.write("P1/sub-001/s1", FILES))
    sending.carry_now(instrument.outbox, instrument.config, instrument.parts, sent)
    lock = FileLock(instrument.config.home / "drain.lock")
    wait_until(lambda: bool(lock.holder()))
    carrier = lock.holder()
    assert carrier
    os.kill(carrier, signal.SIGKILL)
    away.rename(instrument.inbox_root)

    wait_until(lambda: bool(list(server.inbox.arrivals())))
    server.serve()
    wait_until(lambda: instrument.outbox.get(sent).stage is Stage.VERIFIED)
    wait_until(lambda: not loop.has_carrier(instrument.config.home))
