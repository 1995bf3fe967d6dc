"""What is shown while remote folders are fetched: the folder that is on its way, how far, how fast, how long yet."""

import contextlib
import threading
from typing import Self

from rich.live import Live
from rich.text import Text

from lading.cli import output
from lading.cli.gauge import Gauge, Meter, Reached
from lading.errors import LadingError
from transport.fetch_ledger import Progressing, Remembered
from transport.fetching import Fetcher

_EVERY_S = 0.5


class FetchDisplay:
    """Looks from a thread of its own, since a round returns only at its end. Entered and left around the rounds.

    `meter` is to be given to the rounds. `as_lines`: a line of JSON ("progress") at most every half second, when something
    moved; else a line on the terminal that is drawn anew, and nothing where there is none.
    """

    def __init__(self, fetcher: Fetcher, *, as_lines: bool, quiet: bool = False) -> None:
        self.meter = Meter()
        self._fetcher, self._as_lines = fetcher, as_lines
        self._live = Live(console=output.out, transient=True, auto_refresh=False)
        self._shows = as_lines or (output.out.is_terminal and not quiet)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fetch-display", daemon=True)
        self._folder, self._gauge = "", Gauge()
        self._base = self._said = (0, 0)

    def __enter__(self) -> Self:
        if self._shows:
            if not self._as_lines:
                self._live.start()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._shows:
            self._thread.join()
            self._look()
            if not self._as_lines:
                self._live.stop()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        taken = self.meter.taken()
        if taken == self._said:
            return
        self._said, before = taken, self._said
        known = self._under_way()
        path = known.path if known else self._folder
        if path != self._folder:
            self._folder, self._gauge, self._base = path, Gauge(), before
        files, size = taken[0] - self._base[0], taken[1] - self._base[1]
        self._show(path, self._gauge.reached(files, size, known.files if known else 0, known.bytes if known else 0))

    def _under_way(self) -> Remembered | None:
        with contextlib.suppress(LadingError):  # only a display: the round meets the same trouble, and tells it
            for one in self._fetcher.standings():
                if one.folder.state is Progressing.FETCHING:
                    return one.folder
        return None

    def _show(self, path: str, far: Reached) -> None:
        if self._as_lines:
            output.line("progress", {"folder": path, **far.as_dict()})
        else:
            name = Text(f"{output.printable(path)}  ", "bold")
            self._live.update(Text.assemble(name, (far.words(), "dim")), refresh=True)
