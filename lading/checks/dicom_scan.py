"""Reads the headers of many files in order, with as many hands as the work turns out to need."""

import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lading.checks.dicom_headers import Companion, DicomUnreadable, Problem, Scanned, read_header

# Reading is computing (some 10,000 files a second) or waiting (a network share). Helper processes take a while to start,
# so they come only when a second of work did not suffice: never much worse than twice the best choice.
_PATIENCE = 1.0
_CHUNK = 128
_THREADS = 16


def scan(root: str | Path, paths: Iterable[str], workers: int | None = None) -> Iterator[Scanned]:
    """What every file of `paths` (relative POSIX, below `root`) is, in order. Streams.

    `workers`: 1 stays in this thread, more are helper processes from the start, None begins here and brings in threads
    or helpers when that pays. Raises what `read_header` raises; DicomUnreadable becomes a Problem.
    """
    base = os.fspath(root)
    rest = iter(paths)
    waiting = False
    if workers is None:
        spent, computed = 0.0, 0.0
        while spent < _PATIENCE and (chunk := list(itertools.islice(rest, _CHUNK))):
            wall, cpu = time.perf_counter(), time.thread_time()
            found = read_chunk(base, chunk)
            spent += time.perf_counter() - wall
            computed += time.thread_time() - cpu
            yield from found
        waiting = computed < spent / 2
        workers = _THREADS if waiting else _cores()
    chunks = iter(lambda: list(itertools.islice(rest, _CHUNK)), [])
    first = next(chunks, [])
    if not first:
        return
    chunks = itertools.chain([first], chunks)
    if waiting:
        yield from _spread(lambda chunk: read_chunk(base, chunk), chunks, workers)
    elif workers > 1:
        with _Helpers(base) as helpers:
            yield from _spread(helpers.read_chunk, chunks, workers)
    else:
        for chunk in chunks:
            yield from read_chunk(base, chunk)


def read_chunk(root: str, paths: list[str]) -> list[Scanned]:
    """What these few files are."""
    return [_read_one(root, path) for path in paths]


def _read_one(root: str, path: str) -> Scanned:
    try:
        return read_header(f"{root}/{path}", name=path) or Companion(path)
    except DicomUnreadable as exc:
        return Problem(path, str(exc))


def _spread(read: Callable[[list[str]], list[Scanned]], chunks: Iterable[list[str]], threads: int) -> Iterator[Scanned]:
    """In order, at most two chunks ahead per thread, so that a million files need no more memory than ten thousand."""
    queue: deque[Future[list[Scanned]]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="lading-dicom")
    try:
        for chunk in chunks:
            queue.append(executor.submit(read, chunk))
            if len(queue) >= 2 * threads:
                yield from queue.popleft().result()
        while queue:
            yield from queue.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class _Helpers:
    """One helper process per calling thread, each fed through its pipes.

    Not multiprocessing: its spawn runs the caller's main script again, its fork copies the caller's threads, and its
    workers outlive a killed parent. These see their input end, and leave.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._own = threading.local()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "_Helpers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def read_chunk(self, paths: list[str]) -> list[Scanned]:
        """The same as the function, in this thread's helper; here, when the helper has died (out of memory?)."""
        try:
            process = self._process()
            pickle.dump((self._root, paths), process.stdin)
            process.stdin.flush()
            answer: list[Scanned] | BaseException = pickle.load(process.stdout)  # noqa: S301 - our own child wrote it
        except (OSError, EOFError, pickle.UnpicklingError):
            return read_chunk(self._root, paths)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _process(self) -> "_Pipes":
        found: _Pipes | None = getattr(self._own, "process", None)
        if found is None:
            command = [sys.executable, "-P", "-m", "lading.checks.dicom_helper"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._started.append(process)
            found = self._own.process = _Pipes(process)
        return found


class _Pipes:
    """The two pipes of a helper, known to be there."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        if process.stdin is None or process.stdout is None:
            raise EOFError
        self.stdin, self.stdout = process.stdin, process.stdout


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
