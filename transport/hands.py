"""A second pair of hands: one more process that helps a carry of many small files.

With files that small one interpreter is what everybody waits for: its threads take turns. The other process
(`transport.hands_worker`) gets to the place by itself, over connections that are taken from the number that the place allows, and
does with the files of a batch what the carry does (transport.bringing). It is told what through its standard input, the settings
of the place too; it ends when that ends. It may come late or not at all: then the carry goes on alone. When it is lost in the midst
of its work that is as if a connection was lost: Unreachable, and the next attempt, which finds something there, carries alone.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lading import __version__
from lading.errors import UnexpectedFault, Unreachable
from lading.manifest import Entry
from lading.ports import Progress
from transport.bringing import SMALL, Hears
from transport.folders import Folders
from transport.foreign import shown
from transport.frames import MESSAGE, FrameError, parsed, read_frame, write_frame, write_message
from transport.hands_errors import error_of
from transport.on_the_way import Load
from transport.remote import RemotePlace

BEAT_S = 2.0
"""The other process says something at least so often."""
THIS_CODE = (__version__, os.fspath(Path(__file__).parent))
"""What both processes must be running: another installation may be what a new process finds."""
_SILENT_S = 60.0  # after that it is given up
_READY_S = 30.0  # so long connections wait for it
_STEP_S = 0.5
_LOOK_S = 0.2
_STOP_S = 5.0  # for what it is at, when the carry has failed
_KEPT = "what arrived is kept for the next attempt"
_ONE = threading.BoundedSemaphore(1)
"""One such process at a time, however many deliveries are carried: there are few processors."""


@dataclass(frozen=True)
class Recipe:
    """How another process makes the place: its type as "module:name", and the settings, whose paths are relative to `base`.

    It is worth it from `files` on, if they are small. `wait_s`: for it to start.
    """

    place: str
    settings: Mapping[str, object] = field(repr=False)
    base: Path | None = None
    files: int = 500
    wait_s: float = 0.0

    def suits(self, load: Load) -> bool:
        """Whether carrying `load` is worth another process."""
        return load.files >= self.files and load.bytes <= load.files * SMALL and _processors() > 1


@dataclass(frozen=True)
class Work:
    """What a carry is about: files of `root` go below `data`; see transport.bringing.Bringing."""

    root: Path
    data: str
    folders: Folders
    progress: Progress
    listing: Hears | None


class Hands:
    """The other process. Its hands are for one thread each."""

    def __init__(self, process: "subprocess.Popen[bytes]", place: RemotePlace, work: Work, beginning: bytes) -> None:
        self._process, self._name, self.work = process, place.name, work
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._answers: list[queue.SimpleQueue[dict[str, object] | None]] = []
        self._most = place.streams // 2
        self._given_back = 0
        self._heard = self._busy = False
        self._ready = threading.Event()
        self._lost = self._told_to_stop = False
        self._refusal: BaseException | None = None
        self._listener = threading.Thread(target=self._listen, args=(beginning,), name="lading-hands", daemon=True)
        self._listener.start()
        threading.Thread(target=self._look, name="lading-hands-watchdog", daemon=True).start()

    @classmethod
    def engaged(cls, recipe: Recipe, place: RemotePlace, work: Work) -> Self | None:
        """A process that starts now. None when there is none to be had."""
        # A frozen application would start itself.
        startable = sys.executable and not getattr(sys, "frozen", False)
        if place.streams < 2 or not startable or not _ONE.acquire(blocking=False):
            return None
        try:
            beginning = _beginning(recipe, work)
            hands = cls(_started(), place, work, beginning)
        except (OSError, ValueError, TypeError, RuntimeError):
            _ONE.release()
            return None
        hands._ready.wait(recipe.wait_s)
        return hands

    def end(self) -> None:
        """End the process: from now on it does nothing more, and nothing more is told of it. To be called once."""
        try:
            self._kill()
            self._listener.join(_STOP_S)
            if self._listener.is_alive():
                return  # it cannot even be killed yet (its source hangs); whoever waits for a pipe must not have it closed
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError, ValueError):
                    if pipe:
                        pipe.close()
        finally:
            _ONE.release()

    # -- for the crew ------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many of the place's connections are for this process."""
        with self._lock:
            return (len(self._answers) if self._lost else self._most) - self._given_back

    def another(self) -> "Hand | None":
        """One more hand; None while it is not ready, and when there are enough."""
        with self._lock:
            if not self._ready.is_set() or self._lost or len(self._answers) >= self._most:
                return None
            self._answers.append(queue.SimpleQueue())
            return Hand(self, len(self._answers) - 1)

    # -- for its hands -----------------------------------------------------------------------------------------------

    def asked(self, number: int, goes_on: Callable[[], bool], **request: object) -> dict[str, object]:
        """What hand `number` answers. Raises its error; Unreachable when the process is gone, or the carry does not go on."""
        self._send({**request, "hand": number})
        left = _STOP_S
        while True:
            try:
                answer = self._answers[number].get(timeout=_LOOK_S)
            except queue.Empty:
                if goes_on() and self._process.poll() is None:
                    continue
                self._stop()
                left -= _LOOK_S
                if left <= 0:
                    self._kill()
                    raise self._gone() from None
                continue
            if answer is None:
                raise self._gone()
            if "error" in answer:
                raise error_of(answer["error"])
            return answer

    def gave_back(self, number: int, goes_on: Callable[[], bool]) -> None:
        """Hand `number` is not wanted any more: its connection is closed when this returns."""
        self.asked(number, goes_on, do="leave")
        with self._lock:
            self._given_back += 1

    # -- within ------------------------------------------------------------------------------------------------------

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin  # noqa: S101 - a pipe
        try:
            with self._sending:
                write_message(self._process.stdin, message)  # type: ignore[arg-type]
        except (OSError, ValueError) as exc:
            raise self._gone() from exc

    def _stop(self) -> None:
        if not self._told_to_stop:
            self._told_to_stop = True
            with suppress(Unreachable):
                self._send({"do": "stop"})

    def _listen(self, beginning: bytes) -> None:
        """Say what it is about, and hand on what the process says, until it is gone."""
        assert self._process.stdin  # noqa: S101 - a pipe
        assert self._process.stdout  # noqa: S101 - a pipe
        try:
            write_frame(self._process.stdin, MESSAGE, beginning)  # type: ignore[arg-type]
            while True:
                _, payload = read_frame(self._process.stdout)  # type: ignore[arg-type]
                self._heard = self._busy = True
                self._take(parsed(payload))
                self._busy = False
        except (FrameError, OSError, ValueError, LookupError, TypeError, RecursionError):
            pass  # it is gone, or says what nobody understands
        finally:
            self._lose()

    def _lose(self) -> None:
        self._kill()
        with self._lock:
            self._lost = True
            answers = list(self._answers)
        self._ready.set()
        for answer in answers:
            answer.put(None)

    def _take(self, message: dict[str, object]) -> None:
        told = message.get("told")
        if isinstance(told, list):
            files, count = map(int, told)
            if files or count:
                self._advance(files, count)
        if "hand" in message:
            self._answers[int(str(message["hand"]))].put(message)
        elif "ready" in message:
            if message["ready"] != list(THIS_CODE):
                raise FrameError("it is another program")
            self._ready.set()

    def _advance(self, files: int, count: int) -> None:
        try:
            self.work.progress.advance(files=files, bytes=count)
        except BaseException as exc:
            self._refusal = exc  # the carry fails with it, as when one of its own threads is told so
            raise FrameError("nobody wants to hear of it") from exc

    def _look(self) -> None:
        """A process that says nothing any more is ended, and one that does not get ready.

        In steps: a carry that was itself stopped for an hour has heard nothing either.
        """
        silent = starting = 0.0
        while not self._lost and self._process.poll() is None:
            time.sleep(_STEP_S)
            starting += 0.0 if self._ready.is_set() else _STEP_S
            silent = 0.0 if self._heard or self._busy else silent + _STEP_S
            self._heard = False
            if silent >= _SILENT_S or starting >= _READY_S:
                self._lose()
                return

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(OSError):
                self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)

    def _gone(self) -> BaseException:
        return self._refusal or Unreachable(
            f"carrying to {shown(self._name)}: the process that helped with it has ended", safe=_KEPT
        )


class Hand:
    """One connection of the other process. For one thread."""

    def __init__(self, hands: Hands, number: int) -> None:
        self._hands, self._number = hands, number

    def takes(self, entries: list[Entry]) -> bool:
        """Whether it is for this hand: large files are not held up by us, and need much memory at some places."""
        return all(entry.size <= SMALL for entry in entries)

    def do(self, entries: list[Entry], goes_on: Callable[[], bool]) -> None:
        """Bring them."""
        work = self._hands.work

        def make(path: str) -> None:
            self._hands.asked(self._number, goes_on, do="folder", path=path)

        for entry in entries:
            work.folders.make(entry.path.rpartition("/")[0], make)
        files = [[entry.path, entry.size, entry.mtime_ns, dict(entry.digests)] for entry in entries]
        answer = self._hands.asked(self._number, goes_on, do="bring", files=files)
        if work.listing:
            for entry, digests in zip(entries, _digests(answer, len(entries), work.listing.algorithms), strict=True):
                work.listing.found(entry, digests)

    def leave(self, goes_on: Callable[[], bool]) -> None:
        """Let go of its connection. Raises Unreachable."""
        self._hands.gave_back(self._number, goes_on)


def _digests(answer: Mapping[str, object], files: int, algorithms: tuple[str, ...]) -> list[dict[str, str]]:
    """Those of every file, every one of them; a list that lacks one, or has that of another file, would never be noticed here."""
    found = answer.get("digests")
    if (
        not isinstance(found, list)
        or len(found) != files
        or not all(isinstance(one, dict) and one.keys() == set(algorithms) for one in found)
    ):
        raise UnexpectedFault("the process that helped does not say all digests", next_command="lading doctor")
    return found


def _beginning(recipe: Recipe, work: Work) -> bytes:
    """What it is told first. Raises TypeError, ValueError where the settings cannot be said."""
    message = {
        "place": recipe.place,
        "settings": dict(recipe.settings),
        "base": os.fspath(recipe.base) if recipe.base else None,
        "root": os.fspath(work.root),
        "data": work.data,
        "algorithms": list(work.listing.algorithms) if work.listing else None,
    }
    return json.dumps(message).encode()


def _started() -> "subprocess.Popen[bytes]":
    # Nothing of the settings is in its arguments or environment: they go through the pipe.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "transport.hands_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
