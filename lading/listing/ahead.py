"""Lets a survey run ahead of the reading, through a nameless file: memory never holds a million names.

The survey has a thread of its own, so that a refusal at the far end of a folder is known after minutes of looking, not after
hours of reading; and so that looking and reading overlap where both are mostly bookkeeping.
"""

import marshal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lading.listing.entries import Filtered
from lading.listing.survey import RUN_FILES, Run, Survey

_LENGTH = 8  # bytes before every frame, big-endian


class SurveyAhead:
    """Walks `look` in the background, spooling into `folder`; `on_filtered` hears, on that thread, what is left out."""

    def __init__(self, look: Survey, folder: Path, on_filtered: Callable[[Filtered], None]) -> None:
        self._look = look
        self._on_filtered = on_filtered
        self._spool = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed in __exit__
        self._changed = threading.Condition()
        self._written = 0
        self._finished = self._cancelled = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._walk, name="lading-survey", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._cancelled = True
        self._thread.join()
        self._spool.close()

    def wait(self, files: int | None = None) -> bool:
        """Wait until the survey is finished, or has seen so many files; whether it is finished. Raises what it raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or (files is not None and self._look.files >= files))
            if self._error:
                raise self._error
            return self._finished

    def runs(self) -> Iterator[Run]:
        """What the survey finds, from the beginning, waiting for it where it must. Raises what the survey raised."""
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._written > position)  # noqa: B023 - called at once
                if self._error:
                    raise self._error
                if self._written == position:
                    return
                frame = self._read(position)
            position += _LENGTH + len(frame)
            # marshal, six times as fast as JSON: this process wrote the frame a moment ago.
            for run in marshal.loads(frame):  # noqa: S302
                yield Run(*run)

    def _walk(self) -> None:
        try:
            for frame in self._frames():
                with self._changed:
                    self._spool.seek(self._written)
                    self._written += _write_all(self._spool, frame)
                    self._changed.notify_all()
                if self._cancelled:
                    break
        except BaseException as exc:  # noqa: BLE001 - carried over to the thread that waits
            self._error = exc
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _frames(self) -> Iterator[bytes]:
        runs: list[tuple[object, ...]] = []
        files = 0
        for run in self._look.runs():
            if isinstance(run, Filtered):
                self._on_filtered(run)
                continue
            runs.append(tuple(run))
            files += len(run.rows)
            if files >= RUN_FILES:
                yield _framed(runs)
                runs, files = [], 0
        if runs:
            yield _framed(runs)

    def _read(self, position: int) -> bytes:
        self._spool.seek(position)
        length = int.from_bytes(self._spool.read(_LENGTH), "big")
        frame = self._spool.read(length)
        while len(frame) < length:
            frame += self._spool.read(length - len(frame))
        return frame


def _framed(runs: list[tuple[object, ...]]) -> bytes:
    frame = marshal.dumps(runs)
    return len(frame).to_bytes(_LENGTH, "big") + frame


def _write_all(file: IO[bytes], data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)
