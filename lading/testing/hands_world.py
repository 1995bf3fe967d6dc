"""What tests of carrying with two processes share: an inbox in a folder, and who did what in it."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from lading.errors import LadingError
from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.carrying import Errand

SECRET = "a word that nobody else may see"  # noqa: S105 - it is looked for
SOON_S = 30.0


class World:
    """An inbox in a folder, a source, and notes of who did what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.source = trees.plain_tree(folder / "source", files=60, size=2000)
        self._count = 0

    def errand(self, factory: str = "lading.testing.two_handed:Folder.from_settings", **settings: object) -> Errand:
        """Another delivery of the same source."""
        self._count += 1
        usual = {"folder": str(self.inbox.root), "notes": str(self.notes), "owner": os.getpid(), "secret": SECRET}
        name = f"test-delivery-{self._count}"
        papers = self.folder / name
        return Errand(factory, usual | settings, str(self.source), str(papers), str(self.folder), name)

    def helpers(self) -> list[int]:
        """The numbers of the processes that helped."""
        return [int(note.name.removeprefix("helper-")) for note in self.notes.glob("helper-*")]

    def said(self, who: str, what: str) -> list[str]:
        """The paths with which `who` did `what`."""
        lines = [line for note in self.notes.glob(f"{who}-*") for line in note.read_text().splitlines()]
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]

    def placed(self) -> int:
        """How many files the helpers placed."""
        return len(self.said("helper", "placed"))

    def most_connections(self) -> int:
        """That there were at a time, of both."""
        most = now = 0
        for sign in (self.notes / "connections").read_text():
            now += {"+": 1, "-": -1}[sign]
            most = max(most, now)
        return most


def until(true: Callable[[], object], what: str) -> None:
    """Wait for it; else it is `what`."""
    deadline = time.monotonic() + SOON_S
    while not true():
        if time.monotonic() >= deadline:
            raise AssertionError(what)
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Carry(threading.Thread):
    """A carry in a thread, and how it ended."""

    def __init__(self, errand: Errand, *, done: Callable[[], None] | None = None) -> None:
        """`done`: does it, where the errand alone is not enough."""
        super().__init__(daemon=True)
        self.errand, self.error, self._do = errand, cast("LadingError | None", None), done or errand.carry
        self.start()

    def run(self) -> None:
        """See Thread."""
        try:
            self._do()
        except LadingError as exc:
            self.error = exc

    def ended(self) -> LadingError | None:
        """Wait until it has; with what error."""
        self.join(SOON_S)
        if self.is_alive():
            raise AssertionError("the carry goes on")
        return self.error


def is_at_work(pid: int) -> bool:
    """Whether it lives; whoever waits for orphans here may not have come to it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
