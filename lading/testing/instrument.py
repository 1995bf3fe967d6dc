"""An instrument with an agent on it, and a server that only answers: what tests of the agent need around it."""

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lading.agent.loop import Agent
from lading.agent.outbox import Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.assembly import agent_parts
from lading.config import Config, WatchConfig, load
from lading.delivery import Cargo, DeliveryId, FileOutcome, Outcome, Receipt, Slot, Stage
from lading.errors import Unreachable
from lading.filters import FileRules
from lading.findings import Finding
from lading.inbox import Inbox
from lading.ports import Journal, Plan, Progress, Source, Transport, TransportTraits

KEY = b"k" * 32

RUN_AGENT = """
import signal, sys, threading
from pathlib import Path
from lading.agent import loop
from lading.agent.outbox import Outbox
from lading.assembly import agent_parts
from lading.config import load
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
config = load(Path(sys.argv[1]))
loop.run(config, agent_parts(config), Outbox(config.home), stop=stop)
"""


FILES = {"a.dcm": b"image one", "b.dcm": b"image two", "scans/c.dcm": b"image three"}


class Instrument:
    """An instrument computer: a watched folder, an agent's home, and the inbox it sends to."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.now = time.time()
        self.data = base / "instrument"
        self.inbox_root = base / "inbox"
        self.data.mkdir(parents=True)
        self.inbox_root.mkdir()
        self.configure()

    def configure(self, *, watch: str = "quiet = 0", agent: str = "", transport: str = "", route: str = "") -> None:
        self.file = self.base / "lading.toml"
        transport = transport or f'{{ kind = "local", path = "{self.inbox_root}" }}'
        self.file.write_text(
            f'home = "home"\n[routes.mri]\ntransport = {transport}\n{route}\n'
            f"[agent]\nscan_every = 0.5\nreceipts_every = 0.1\n{agent}\n"
            f'[[agent.watch]]\npath = "{self.data}"\nroute = "mri"\n{watch}\n'
        )
        self.config: Config = load(self.file)
        self.parts: AgentParts = agent_parts(self.config)
        self.outbox = Outbox(self.config.home, clock=lambda: self.now)

    @property
    def inbox(self) -> Inbox:
        return Inbox.create(self.inbox_root)

    def write(self, session: str, files: Mapping[str, bytes]) -> Path:
        for name, content in files.items():
            path = self.data / session / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.data / session

    def turn(self, parts: AgentParts | None = None) -> None:
        """One turn of the agent."""
        Agent(self.config.agent, parts or self.parts, self.outbox, threading.Event()).once()

    def later(self, seconds: float) -> None:
        self.now += seconds

    def only(self) -> Outgoing:
        (item,) = self.outbox.deliveries()
        return item

    def codes(self, delivery: DeliveryId) -> list[str]:
        return sorted(finding.code for finding in self.outbox.findings(delivery))

    def left(self, session: str) -> dict[str, bytes]:
        root = self.data / session
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


class AnsweringServer:
    """Takes in what arrived, and answers. Counts how often each session was taken in."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.taken: list[str] = []

    def serve(self) -> None:
        for delivery in list(self.inbox.arrivals()):
            parcel = self.inbox.publish(self.inbox.accept(delivery))
            self.taken.append(str(parcel.delivery.labels))
            self.answer(delivery)

    def answer(
        self,
        delivery: DeliveryId,
        stage: Stage = Stage.VERIFIED,
        *,
        missing: int = 0,
        findings: tuple[Finding, ...] = (),
        after: float = 0.0,
        digest: str = "",
    ) -> None:
        parcel = self.inbox.parcel(delivery)
        entries = list(parcel.manifest)
        outcomes = [
            FileOutcome(e.path, e.size, e.sha256, Outcome.MISSING if n < missing else Outcome.VERIFIED, "md5")
            for n, e in enumerate(entries)
        ]
        d = parcel.delivery
        at = datetime.fromtimestamp(time.time() + after, UTC)
        receipt = Receipt(
            delivery,
            d.route,
            d.labels,
            stage,
            digest or d.digest,
            len(entries),
            d.bytes,
            {},
            {"kind": "test"},
            findings,
            "",
            at,
        )
        self.inbox.write_receipt(receipt, outcomes, KEY)


class CutOff:
    """A transport that lists before it carries, and whose first carry does not come through."""

    def __init__(self, real: Transport) -> None:
        self.real = real
        self.carries = 0

    @property
    def traits(self) -> TransportTraits:
        """Those of the real one, but for the listing."""
        return replace(self.real.traits, lists_on_the_way=False)

    def probe(self, needed_bytes: int = 0) -> None:
        """As the real one."""
        self.real.probe(needed_bytes)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """As the real one."""
        return self.real.plan(cargo, slot)

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """The first time `fail`, then as the real one."""
        self.carries += 1
        if self.carries == 1:
            self.fail(cargo, slot, journal, progress)
        self.real.carry(cargo, slot, journal, progress)

    def fail(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:  # noqa: ARG002 - for others
        """How the first carry ends."""
        raise Unreachable("the line went dead")

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """As the real one."""
        return self.real.fetch_receipt(delivery)


class PartsWith:
    """The real parts with one transport in place of another."""

    def __init__(self, real: AgentParts, transport: Transport) -> None:
        self._real = real
        self._transport = transport

    def transport(self, route: str) -> Transport:  # noqa: ARG002
        """The other one, on every route."""
        return self._transport

    def rules(self, route: str) -> FileRules:
        """As the real ones."""
        return self._real.rules(route)

    def algorithms(self, route: str) -> tuple[str, ...]:
        """As the real ones."""
        return self._real.algorithms(route)

    def sources(self) -> Sequence[tuple[WatchConfig, Source]]:
        """As the real ones."""
        return self._real.sources()


def delivered(instrument: Instrument, server: AnsweringServer, session: str = "P1/sub-001/s1") -> Outgoing:
    """A session on its whole way, until its receipt has come."""
    instrument.write(session, FILES)
    instrument.turn()
    server.serve()
    instrument.later(1)
    instrument.turn()
    return instrument.only()


def delivered_but_unanswered(instrument: Instrument, server: AnsweringServer) -> Outgoing:
    """A session that lies published in the inbox; the server has said nothing yet."""
    instrument.write("P1/sub-001/s1", FILES)
    instrument.turn()
    (delivery,) = server.inbox.arrivals()
    server.inbox.publish(server.inbox.accept(delivery))
    return instrument.only()


def hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, by relative path; the inbox's own files apart."""
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file() and ".lading" not in p.parts
    }


def wait_until(holds: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Wait for something to become true. Raises AssertionError."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def agent_process(instrument: Instrument) -> Iterator["subprocess.Popen[bytes]"]:
    """The agent as a process of its own; killed at the end of the block if it still runs. Its words are in `agent.log`."""
    command = [sys.executable, "-c", RUN_AGENT, str(instrument.file)]
    log = (instrument.base / "agent.log").open("ab")
    process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()
