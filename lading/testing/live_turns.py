"""An instrument with a live route that is turned by hand, look by look."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from lading.agent.loop import Agent
from lading.agent.outbox import Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.assembly import agent_parts
from lading.config import load
from lading.delivery import DeliveryId
from lading.testing.live import LiveSite

MOVIES = {"m1.mrc": b"one" * 500, "Images/m2.mrc": b"two" * 900, "Images/m2.mdoc": b"[T = SerialEM]\n"}
"""What a microscope writes."""


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    """What the list at the target says of these files."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


class TurnedSite(LiveSite):
    """The same, turned by hand: files that were there before need no time to settle."""

    def __init__(self, base: Path) -> None:
        self.parts: AgentParts | None = None
        super().__init__(base)

    def configure(self, **settings: object) -> None:
        """The settings, and the agent made from them."""
        super().configure(**{"settle": 0.0, "status_every": 60.0, **settings})  # type: ignore[arg-type]  # passed on
        self.config = load(self.file)
        self.outbox = Outbox(self.config.home)
        self.parts = agent_parts(self.config)

    def write(self, files: Mapping[str, bytes], labels: str = "EM/grid-1/s1") -> Path:
        """Files of a session; its folder."""
        for name, content in files.items():
            path = self.session(labels) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.session(labels)

    def turn(self, parts: AgentParts | None = None) -> None:
        """One turn of the agent."""
        chosen = parts or self.parts
        assert chosen is not None
        Agent(self.config.agent, chosen, self.outbox, threading.Event()).once()

    def only(self) -> Outgoing:
        """The one delivery."""
        (item,) = self.outbox.deliveries()
        return item

    def notes(self, delivery: DeliveryId) -> str:
        """What happened to a delivery, line by line."""
        return "\n".join(event.note for event in self.outbox.events(delivery))

    def there(self, labels: str = "EM/grid-1/s1") -> dict[str, bytes]:
        """The files of the deposit, without what Lading writes beside them."""
        root = self.deposit(labels)
        found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        return {path: content for path, content in found.items() if path not in ("STATUS.json", "manifest-sha256.txt")}

    def listed(self, labels: str = "EM/grid-1/s1") -> dict[str, str]:
        """The list at the target: digest by name."""
        lines = (self.deposit(labels) / "manifest-sha256.txt").read_text().splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
