"""Which repositories are left alone for a while, and why: one small file each below the programs' home.

An importer writes it (`valves/NAME.json`); whoever wants to know reads it. A repository without a file is open.
"""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = "valves"
OPEN, CLOSED, AJAR = "open", "closed", "ajar"


@dataclass(frozen=True, slots=True)
class ValveState:
    """What is known about a server.

    `until`: closed before that (seconds since the epoch), 0 when it is open; `calm`: how many imports must still go well before
    it is fully open. `pause`: how long it was closed last. `usual`: the database's usual latency in seconds, 0 when unknown.
    `slow`: how many slow answers came in a row. `reason`, `since`: why and when it closed last.
    """

    repository: str = ""
    until: float = 0.0
    pause: float = 0.0
    calm: int = 0
    usual: float = 0.0
    slow: int = 0
    reason: str = ""
    since: float = 0.0

    def position(self, now: float) -> str:
        """open, closed or ajar."""
        if now < self.until:
            return CLOSED
        return AJAR if self.calm > 0 else OPEN


def read_state(file: Path) -> ValveState | None:
    """What one file says; None when there is none, or it cannot be read."""
    try:
        return ValveState(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def told(home: Path, now: float) -> list[dict[str, str | float]]:
    """The valves of this machine: repository, position, reason, since, until (seconds since the epoch), and the figures.

    `paused_s`: how long it was closed last; `imports_to_go`: how many must still go well before it is fully open; `database_s`:
    how long the server's database usually takes to answer, 0 when nobody measured.
    """
    found: list[dict[str, str | float]] = []
    for file in sorted((home / FOLDER).glob("*.json")):
        state = read_state(file)
        if state is not None:
            position = state.position(now)
            found.append(
                {
                    "repository": state.repository,
                    "position": position,
                    "reason": "" if position == OPEN else state.reason,
                    "since": state.since,
                    "until": state.until,
                    "paused_s": state.pause,
                    "imports_to_go": state.calm,
                    "database_s": state.usual,
                }
            )
    return found
