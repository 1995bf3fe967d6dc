"""The agent as a process of its own, in real time: growing files, other programs, kills."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.agent import loop
from lading.delivery import Stage
from lading.testing.instrument import (
    FILES,
    AnsweringServer,
    Instrument,
    agent_process,
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


def test_nothing_leaves_while_a_file_grows_and_the_marker_alone_starts_nothing(instrument: Instrument) -> None:
    instrument.configure(watch='quiet = 1.5\nmarker = "done"')
    root = instrument.write("P1/sub-001/s1", {"a.dcm": b"0"})
    with agent_process(instrument) as agent:
        for n in range(8):
            time.sleep(0.5)
            with (root / "a.dcm").open("ab") as file:
                file.write(b"more")
            if n == 5:
                (root / "done").touch()
            assert instrument.outbox.deliveries() == []
            assert list(instrument.inbox.arrivals()) == []
        last_write = time.time()
        wait_until(lambda: len(list(instrument.inbox.arrivals())) == 1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(15) == 0

    assert instrument.only().arrived_at - last_write >= 1.4


def test_several_programs_use_one_outbox_at_the_same_time(instrument: Instrument) -> None:
    """Four programs send ten folders each, two of them the same ten, while the agent finds all of them by itself."""
    script = """
import sys; from pathlib import Path
from lading.agent import sending; from lading.agent.outbox import Outbox
from lading.assembly import agent_parts; from lading.config import load
config = load(Path(sys.argv[1])); outbox = Outbox(config.home)
for path in sys.argv[2:]:
    sending.enqueue(outbox, config, agent_parts(config), Path(path), "mri")
"""
    folders = [instrument.write(f"P1/sub-{n:03}/s1", FILES) for n in range(30)]
    shares = [folders[:10], folders[:10], folders[10:20], folders[20:]]
    with agent_process(instrument):
        senders = [
            subprocess.Popen([sys.executable, "-c", script, str(instrument.file), *map(str, share)]) for share in shares
        ]
        try:
            assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
            wait_until(lambda: len(list(instrument.inbox.arrivals())) >= 30 and not instrument.outbox.has_cargo())
        finally:
            for sender in senders:
                sender.kill()

    assert len(instrument.outbox.deliveries()) == 30
    assert {str(i.delivery.labels) for i in instrument.outbox.deliveries()} == {f"P1/sub-{n:03}/s1" for n in range(30)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), [("local", "path"), ("rsync", "target")])
def test_an_agent_killed_at_random_moments_delivers_everything_once(
    instrument: Instrument, server: AnsweringServer, kind: str, key: str
) -> None:
    slowly = f'{{ kind = "{kind}", {key} = "{instrument.inbox_root}", throttle = {{ mb_per_s = 1 }} }}'
    watch = "quiet = 0.2\nclean = true\ngrace_days = 0"
    instrument.configure(watch=watch, agent="carriers = 3", transport=slowly)
    sessions = {f"P1/sub-{n:03}/s1": {f"{k}.dcm": random.randbytes(30_000 + n) for k in range(12)} for n in range(44)}
    expected: dict[str, str] = {}
    waiting = list(sessions)
    kills = 0
    dice = random.Random(4711)

    def finished() -> bool:
        items = instrument.outbox.deliveries()
        return not waiting and len(items) == len(sessions) and all(i.stage is Stage.CLEANED for i in items)

    until = time.monotonic() + 240
    while not finished():
        assert time.monotonic() < until, {i.id: (i.stage, i.error) for i in instrument.outbox.deliveries()}
        for session in [waiting.pop() for _ in range(min(2, len(waiting)))]:
            root = instrument.write(session, sessions[session])
            expected |= {f"{session}/{name}": digest for name, digest in hashes(root).items()}
        with agent_process(instrument) as agent:
            wait_until(lambda: loop.agent_lock(instrument.config.home).holder() == agent.pid)
            doomed = time.monotonic() + (dice.random() * 1.5 if kills < 25 else 60)
            while time.monotonic() < doomed and not finished():
                server.serve()
                time.sleep(0.02)
            agent.kill()
            agent.wait()
            kills += 1

    notes = [event.note for item in instrument.outbox.deliveries() for event in instrument.outbox.events(item.id)]
    assert kills >= 22
    assert notes.count("attempt 2") > 5, "the kills missed the carries"
    assert hashes(instrument.inbox_root) == expected
    assert sorted(server.taken) == sorted(sessions)
    assert hashes(instrument.data) == {}
    assert len(list((instrument.config.home / "cleaned").glob("*.jsonl"))) == len(sessions)
