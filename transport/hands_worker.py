"""The process that helps a carry with many small files: `python -P -m transport.hands_worker`; see transport.hands.

It does what its standard input says, and ends with it, whatever it is at.
"""

import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, NoReturn

from lading.config import relative_to
from lading.manifest import Entry
from transport.bringing import Bringing
from transport.frames import parsed, read_frame, write_message
from transport.hands import BEAT_S, THIS_CODE
from transport.hands_errors import as_ours, told
from transport.pacing import Unpaced
from transport.remote import ConfiguredPlace, RemotePlace
from transport.stalling import Watch, Watched

_TELL_S = 0.5  # between two tellings of the progress


class Worker:
    """All hands of this process."""

    def __init__(self, place: RemotePlace, request: Mapping[str, object], say: "Saying") -> None:
        self._place, self._say = place, say
        self._watch = Watch(place.traits.stall_s)
        self._stopped = threading.Event()
        algorithms = request["algorithms"]
        self._digests = _Digests(tuple(map(str, algorithms))) if isinstance(algorithms, list) else None
        self._bringing = Bringing(
            Path(str(request["root"])),
            str(request["data"]),
            pace=Unpaced(),
            progress=say,
            listing=self._digests,
            folders=None,  # whoever asks for files has asked for their folders before: each is made once
        )
        self._bringing.goes_on = lambda: not self._stopped.is_set()
        # Whoever cannot even log in is no help: then nobody hears of it, and the carry goes on alone.
        self._first: Watched | None = self._watch.over(place.connect())
        self._lock = threading.Lock()
        self._hands: dict[int, queue.SimpleQueue[dict[str, object]]] = {}

    def hear(self, request: dict[str, object]) -> None:
        """Have it done."""
        if request["do"] == "stop":
            self._stopped.set()
            return
        number = int(str(request["hand"]))
        if number not in self._hands:
            self._hands[number] = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(number, self._hands[number]), daemon=True).start()
        self._hands[number].put(request)

    def _run(self, number: int, requests: "queue.SimpleQueue[dict[str, object]]") -> None:
        files: Watched | None = None
        while (request := requests.get())["do"] != "leave":
            try:
                files = files or self._connection()
                self._say({"hand": number, **self._done(files, request)})
            except BaseException as exc:  # noqa: BLE001 - every error is an answer; the carry decides
                self._say({"hand": number, "error": told(as_ours(exc, f"carrying to {self._place.name}"))})
        if files:
            files.close()
        self._say({"hand": number})

    def _connection(self) -> Watched:
        with self._lock:
            first, self._first = self._first, None
        return first or self._watch.over(self._place.connect())

    def _done(self, files: Watched, request: dict[str, object]) -> dict[str, object]:
        if request["do"] == "folder":
            files.make_folders(str(request["path"]))
            return {}
        listed = request["files"]
        assert isinstance(listed, list)  # noqa: S101 - we wrote it
        entries = [Entry(*one) for one in listed]
        self._bringing.batch(files, entries)
        return {"digests": [self._digests.taken(entry) for entry in entries]} if self._digests else {}


class _Digests:
    """Those of the files that were brought, until somebody takes them."""

    def __init__(self, algorithms: tuple[str, ...]) -> None:
        self.algorithms = algorithms
        self._found: dict[str, Mapping[str, str]] = {}

    def found(self, entry: Entry, digests: Mapping[str, str]) -> None:
        """See transport.bringing.Hears."""
        self._found[entry.path] = digests

    def taken(self, entry: Entry) -> dict[str, str]:
        """Those of `entry`."""
        return dict(self._found.pop(entry.path))


class Saying:
    """What this process says: answers, and now and then the progress, or only that it is there. For any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._files = self._bytes = 0
        self._silent_s = 0.0

    def __call__(self, message: Mapping[str, object]) -> None:
        """Say it, after the progress that there was before it."""
        with self._lock:
            self._silent_s = 0.0
            told_now = [self._files, self._bytes]
            self._files = self._bytes = 0
            try:
                write_message(self._out, {**message, "told": told_now})
            except (OSError, ValueError):
                os._exit(1)  # nobody listens

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """See lading.ports.Progress."""
        with self._lock:
            self._files += files
            self._bytes += bytes

    def keep_telling(self) -> NoReturn:
        """For a thread of its own."""
        wait, parent = threading.Event().wait, os.getppid()
        while True:
            wait(_TELL_S)
            if os.getppid() != parent:
                os._exit(1)  # somebody else holds its end of our pipes
            with self._lock:
                self._silent_s += _TELL_S
                due = self._files or self._bytes or self._silent_s >= BEAT_S
            if due:
                self({})


def main() -> NoReturn:
    """Help until there is nobody to be helped."""
    try:
        # Ctrl-C, and the end of a service, are for whoever is helped; we end with it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _help(_own_output())
    finally:
        os._exit(1)  # threads may be in the midst of a file


def _help(out: BinaryIO) -> None:
    """Until the other side is gone."""
    first = _next()
    module, _, name = str(first["place"]).partition(":")
    settings = first["settings"]
    assert isinstance(settings, dict)  # noqa: S101 - we wrote it
    say = Saying(out)
    threading.Thread(target=say.keep_telling, daemon=True).start()
    kind: type[ConfiguredPlace] = getattr(importlib.import_module(module), name)
    with relative_to(Path(str(first["base"]))) if first["base"] else nullcontext():
        place = kind.from_settings(settings)
    worker = Worker(place, first, say)
    say({"ready": THIS_CODE})
    while True:
        worker.hear(_next())


def _own_output() -> BinaryIO:
    """What we answer through. Whatever a library prints goes elsewhere: in between it would be no answer any more."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return out


def _next() -> dict[str, object]:
    return parsed(read_frame(sys.stdin.buffer)[1])


if __name__ == "__main__":
    main()
