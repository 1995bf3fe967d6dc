"""Fetches on the server, route by route, every so often; says in time what the source will not keep much longer."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog

from lading.errors import LadingError
from transport.fetch_deadlines import DAY_S
from transport.fetch_ledger import Progressing, Remembered
from transport.fetching import Fetcher

_log = structlog.get_logger("lading.fetch")


@contextmanager
def scheduled(fetchers: Mapping[str, tuple[Callable[[], Fetcher], float]]) -> Iterator[None]:
    """While the block runs, each route's fetcher makes a round every so many seconds (0: never), in a thread of its own.

    What is cut off at the end is gone on with by the next round, in this program or another.
    """
    stop = threading.Event()
    for route, (make, every) in fetchers.items():
        if every > 0:
            rounds = Rounds(route, make)
            threading.Thread(
                target=_repeat, args=(rounds.once, every, stop), name=f"lading-fetch-{route}", daemon=True
            ).start()
    try:
        yield
    finally:
        stop.set()


class Rounds:
    """The rounds of one route, and what was said about them: nothing is said twice."""

    def __init__(self, route: str, make: Callable[[], Fetcher]) -> None:
        self._route, self._make = route, make
        self._said: dict[str, str] = {}
        self._warned: dict[str, float] = {}

    def once(self) -> None:
        """One round. Errors are logged, not raised: the next round tries again."""
        try:
            fetcher = self._make()
            try:
                for folder in fetcher.round():
                    self._tell(folder)
            finally:
                self._warn(fetcher)
            self._say("", "")
        except LadingError as exc:
            if self._say("", exc.message):
                _log.warning(
                    "fetching failed", route=self._route, code=exc.code, error=exc.message, next=exc.next_command
                )

    def _tell(self, folder: Remembered) -> None:
        unfinished = folder.note if folder.state is Progressing.FETCHING else ""
        if not self._say(folder.path, f"{folder.state} {len(folder.findings)} {folder.delivery} {unfinished}"):
            return
        if unfinished:
            _log.warning(
                "not fetched", delivery=folder.delivery, route=self._route, folder=folder.path, error=unfinished
            )
        if folder.state is Progressing.FETCHED:
            _log.info("fetched", delivery=folder.delivery, route=self._route, folder=folder.path, files=folder.files)
        if folder.findings or folder.state in (Progressing.HELD, Progressing.CHANGED):
            codes = sorted({finding.code for finding in folder.findings})
            _log.warning(
                "look at this folder", route=self._route, folder=folder.path, state=str(folder.state), findings=codes
            )

    def _warn(self, fetcher: Fetcher) -> None:
        """Once a day for each folder whose time is running out."""
        now = time.time()
        for standing in fetcher.standings():
            path = standing.folder.path
            if not standing.urgent or standing.due is None or now - self._warned.get(path, 0.0) < DAY_S:
                continue
            self._warned[path] = now
            _log.warning(
                "the source keeps this folder not much longer",
                route=self._route,
                folder=path,
                state=str(standing.folder.state),
                until=datetime.fromtimestamp(standing.due, UTC).isoformat(timespec="minutes"),
            )

    def _say(self, about: str, what: str) -> bool:
        if self._said.get(about) == what:
            return False
        self._said[about] = what
        return bool(what)


def _repeat(act: Callable[[], None], every: float, stop: threading.Event) -> None:
    while True:
        try:
            act()
        except Exception:  # noqa: BLE001 - the thread must not end with it
            # A full disk, a server that answers nonsense, a bug: nobody would start another thread.
            _log.exception("a round of fetching met an error nobody foresaw")
        if stop.wait(every):
            return
