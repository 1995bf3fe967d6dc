"""What an SFTP session is spoken over: an SSH connection, as bytes in both directions, whoever makes it."""

from collections.abc import Sequence
from typing import Protocol

from lading.errors import LadingError

Piece = bytes | memoryview


class LineError(Exception):
    """The line is of no more use: what that is for us, and why."""

    def __init__(self, kind: type[LadingError], meaning: str) -> None:
        super().__init__(meaning)
        self.kind, self.meaning = kind, meaning

    def error(self, doing: str) -> LadingError:
        """The error of ours; `doing` says what we were doing, to what."""
        return self.kind(f"{doing}: {self.meaning}", next_command="" if self.kind.retried else "lading doctor")


class Line(Protocol):
    """What an SFTP session is spoken over. For one thread; `close` for any."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be said."""

    def send(self, pieces: Sequence[Piece]) -> None:
        """Say `pieces`, one after the other; may wait until the other side takes them. Raises LineError."""

    def receive(self) -> bytes:
        """What the other side said; waits for it. Never empty. Raises LineError."""

    def close(self) -> None:
        """Cut it; whoever waits is told LineError. Never raises."""
