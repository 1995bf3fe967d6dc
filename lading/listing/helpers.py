"""Helper processes that read files: for very many tiny ones, several interpreters are faster than several threads.

A helper is this Python running this module; it is asked over its standard input and answers over its standard output,
in frames of `marshal` (both ends are the same program). It ends when its input ends, so it cannot outlive who started
it.
"""

import marshal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Literal, Self, cast

from lading.errors import AccessDenied, LadingError, SourceChanged, UnexpectedFault, Unreachable
from lading.listing.entries import Entry
from lading.listing.reading import Listed, Progress, Reader, Verdict
from lading.listing.survey import Run

_LENGTH = 8  # bytes before every frame, big-endian
_ERRORS: dict[str, type[LadingError]] = {kind.code: kind for kind in (AccessDenied, SourceChanged, Unreachable)}

Frame = tuple[object, ...]


class Helpers:
    """Some helpers for one root; any thread may ask, each question goes to an idle helper. False when none could
    start."""

    def __init__(self, processes: Sequence["subprocess.Popen[bytes]"]) -> None:
        self._processes = processes
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in processes:
            self._idle.put(process)

    @classmethod
    def start(cls, root: Path, algorithms: Sequence[str], count: int, *, follow_root: bool = True) -> Self:
        """`count` helpers, ready to be asked; none where this program cannot be started again (a frozen
        application)."""
        task = str(root.absolute()), tuple(algorithms), follow_root
        started: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count if sys.executable and not getattr(sys, "frozen", False) else 0):
                # -P: no module is taken from the current folder, which may be the instrument's.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "lading.listing.helpers"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # no black window on an instrument
                )
                started.append(process)
                _send(_pipe(process.stdin), task)
            ready = all(_receive(_pipe(process.stdout)) == ("ready",) for process in started)
        except OSError:
            ready = False
        if not ready:
            cls(started).close()
            started = []
        return cls(started)

    def list_runs(self, runs: Sequence[Run], progress: Progress | None) -> Listed:
        """The lines of the files of `runs`; errors as `Reader.list_run`."""
        answer = self._ask(("list", [tuple(run) for run in runs]))
        listed = Listed(*cast("tuple[bytes, bytes, int, int]", answer))
        if progress:
            progress.advance(files=listed.files, bytes=listed.bytes)
        return listed

    def compare(self, entries: Sequence[Entry], progress: Progress | None) -> list[tuple[Entry, Verdict]]:
        """How the files compare; errors as `Reader.compare`."""
        question = [(entry.path, entry.size, entry.mtime_ns, dict(entry.digests)) for entry in entries]
        answer = cast("tuple[str, ...]", self._ask(("compare", question)))
        if progress:
            progress.advance(files=len(entries), bytes=sum(entry.size for entry in entries))
        return [(entry, Verdict(verdict)) for entry, verdict in zip(entries, answer, strict=True)]

    def close(self) -> None:
        """Ask them to end, and wait."""
        for process in self._processes:
            with suppress(OSError):  # it has ended before us, with a question still unread
                _pipe(process.stdin).close()
        for process in self._processes:
            _pipe(process.stdout).close()
            process.wait()

    def __bool__(self) -> bool:
        return bool(self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _ask(self, question: Frame) -> Frame:
        process = self._idle.get()
        try:
            _send(_pipe(process.stdin), question)
            kind, *rest = _receive(_pipe(process.stdout))
        except (OSError, EOFError) as exc:
            raise UnexpectedFault(f"a helper that reads files ended with status {process.poll()}") from exc
        finally:
            self._idle.put(process)
        if kind == "ok":
            return tuple(rest)
        code, message, safe = cast("list[str]", rest)
        raise _ERRORS.get(code, UnexpectedFault)(message, safe=safe)


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer questions until there are no more: what runs in the helper."""
    try:
        root, algorithms, follow_root = cast("tuple[str, tuple[str, ...], bool]", _receive(questions))
        reader = Reader(Path(root), algorithms, stop=threading.Event(), follow_root=follow_root)
        _send(answers, ("ready",))
        while True:
            kind, items = cast("tuple[Literal['list', 'compare'], list[object]]", _receive(questions))
            try:
                answer = _listed(reader, items) if kind == "list" else _verdicts(reader, items)
            except LadingError as exc:
                answer = ("error", exc.code, exc.message, exc.safe)
            _send(answers, answer)
    except (EOFError, BrokenPipeError):
        return


def _listed(reader: Reader, runs: list[object]) -> Frame:
    return ("ok", *Listed.sum(reader.list_run(Run(*cast("Run", run))) for run in runs))


def _verdicts(reader: Reader, entries: list[object]) -> Frame:
    made = (Entry(*cast("tuple[str, int, int, dict[str, str]]", entry)) for entry in entries)
    return ("ok", *(str(reader.compare(entry)) for entry in made))


def _send(pipe: IO[bytes], frame: Frame) -> None:
    data = marshal.dumps(frame)  # type: ignore[arg-type]  # frames hold only plain values
    pipe.write(len(data).to_bytes(_LENGTH, "big") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Frame:
    length = pipe.read(_LENGTH)
    if len(length) < _LENGTH:
        raise EOFError("the other end has closed")
    data = pipe.read(int.from_bytes(length, "big"))
    return cast("Frame", marshal.loads(data))  # noqa: S302 - both ends are this program


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise UnexpectedFault("a helper process has no pipe")
    return pipe


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
