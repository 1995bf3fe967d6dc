"""The slot's folder is made while the rsync of the files starts: two calls over one connection, at the same time.

An rsync makes one missing folder, not two, so something goes ahead of the files; but it is only needed when the names of the files
are handed out. Starting a program over there takes several round trips of the line. Where one call at a time is allowed (a key that
is restricted by rrsync, a server that allows one session), the second is refused, sends nothing, and is made again after the first.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from lading.errors import LadingError
from lading.manifest import Entry
from transport.on_the_way import Load


@dataclass(slots=True)
class Together:
    """Whether two calls may be under way to a place at a time. `allowed` until that was refused."""

    allowed: bool


class Opening:
    """`make` makes the slot's folder, and is called until it has succeeded once."""

    def __init__(self, make: Callable[[], None]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self.made = False

    def make(self) -> None:
        """Now, unless it is made. Raises what making it raises."""
        with self._lock:
            if not self.made:
                self._make()
                self.made = True

    def before(self, load: Load) -> Load:
        """The same load, whose list is empty as long as the folder cannot be made: ask `made` afterwards."""
        return load if self.made else replace(load, entries=_Opened(self, load.entries))


class _Opened:
    """Files that are named when the folder is there."""

    def __init__(self, opening: Opening, entries: Iterable[Entry]) -> None:
        self._opening, self._entries = opening, entries

    def __iter__(self) -> Iterator[Entry]:
        with suppress(LadingError):  # made again alone, it fails alone
            self._opening.make()
        if self._opening.made:
            yield from self._entries
