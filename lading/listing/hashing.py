"""Has many files read at once, by threads or by helper processes, and gives the answers in order.

Files travel in batches, so that a million tiny ones do not drown in bookkeeping, and through a bounded window, so that
memory does not grow with their number.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from lading.listing.entries import Entry
from lading.listing.helpers import Helpers
from lading.listing.reading import Listed, Progress, Reader, Sink, Stopped, Verdict
from lading.listing.survey import Run

Task = TypeVar("Task")
Result = TypeVar("Result")

_BATCH_FILES = 256
_BATCH_BYTES = 4 << 20
_WINDOW_PER_WORKER = 4

# From so many files of at most this mean size on, reading costs the interpreter more than the disk and the digests, and
# helper processes beat threads (measured 2.5 times); below it, starting them is not worth a tenth of a second.
MANY_FILES = 20_000
_TINY_BYTES = 32 << 10


def list_files(
    root: Path,
    runs: Iterable[Run],
    *,
    algorithms: Sequence[str],
    workers: int,
    tiny: bool = False,
    sink: Sink | None = None,
    progress: Progress | None = None,
) -> Generator[Listed, None, None]:
    """The lines of all files of `runs`, in order, by reading each file once. `tiny`: see `many_tiny`.

    Raises SourceChanged when a file is not, before and after reading, what the survey saw; AccessDenied, Unreachable;
    and what the sink raises.
    """
    batches = _batches_of_runs(runs)
    if workers > 1 and not sink and tiny:
        with Helpers.start(root, algorithms, workers) as helpers:
            if helpers:
                yield from in_order(batches, lambda batch: helpers.list_runs(batch, progress), workers=workers)
                return
    with _readers(root, algorithms, follow_root=True) as (reader, stop):
        yield from in_order(
            batches,
            lambda batch: Listed.sum(reader().list_run(run, sink=sink, progress=progress) for run in batch),
            workers=workers,
            stop=stop,
        )


def rehash(
    root: Path,
    entries: Iterable[Entry],
    *,
    algorithms: Sequence[str] = ("sha256",),
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Entry, Verdict]]:
    """Read every file below `root` again and say how it compares with its entry; in order, streaming, on all cores.

    Compares the size and those of `algorithms` that the entry has. No link is followed, not even `root`: hostile
    content is a verdict, never an exception. Raises AccessDenied when this account may not read, Unreachable for a
    failing disk, SourceChanged when `root` itself is no folder.
    """
    threads = default_workers() if workers is None else workers
    entries = iter(entries)
    first = list(islice(entries, MANY_FILES))
    batches = _batches(chain(first, entries))
    if threads > 1 and many_tiny(len(first), sum(entry.size for entry in first)):
        with Helpers.start(root, algorithms, threads, follow_root=False) as helpers:
            if helpers:
                yield from chain.from_iterable(
                    in_order(batches, lambda batch: helpers.compare(batch, progress), workers=threads)
                )
                return
    with _readers(root, algorithms, follow_root=False) as (reader, stop):

        def compare(batch: Sequence[Entry]) -> list[tuple[Entry, Verdict]]:
            mine = reader()
            return [(entry, mine.compare(entry, progress)) for entry in batch]

        yield from chain.from_iterable(in_order(batches, compare, workers=threads, stop=stop))


def many_tiny(files: int, bytes: int) -> bool:  # noqa: A002 - the unit is the name
    """Whether helper processes will read these files faster than threads."""
    return files >= MANY_FILES and bytes <= _TINY_BYTES * files


def default_workers() -> int:
    """As many threads as this process may use cores. Ask for 1 where seeking is slow (rotating or removable disks)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    tasks: Iterator[Task],
    work: Callable[[Task], Result],
    *,
    workers: int,
    stop: threading.Event | None = None,
) -> Generator[Result, None, None]:
    """`work` done on every task by `workers` threads, the results in the order of the tasks, a bounded number ahead.

    The first error of any task ends it all: `stop` is set, running tasks are waited for, and the error is raised.
    """
    stop = stop or threading.Event()
    ahead = list(islice(tasks, 2))
    if len(ahead) < 2 or workers <= 1:
        # One task, or one worker: threads would only cost.
        for task in chain(ahead, tasks):
            yield work(task)
        return

    def guarded(task: Task) -> Result:
        if stop.is_set():
            raise Stopped
        try:
            return work(task)
        except BaseException:
            stop.set()
            raise

    window: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lading-read")
    try:
        for task in chain(ahead, tasks):
            window.append(pool.submit(guarded, task))
            if len(window) > workers * _WINDOW_PER_WORKER:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    except Stopped:
        raise _real_error(window) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _real_error(window: Iterable[Future[Result]]) -> BaseException:
    errors = (future.exception() for future in window)
    return next(exc for exc in errors if exc is not None and not isinstance(exc, Stopped))


@contextmanager
def _readers(
    root: Path, algorithms: Sequence[str], *, follow_root: bool
) -> Iterator[tuple[Callable[[], Reader], threading.Event]]:
    """A function that gives each thread its own Reader, made once; and what stops them all."""
    stop = threading.Event()
    mine = threading.local()
    made: list[Reader] = []

    def reader() -> Reader:
        if not hasattr(mine, "reader"):
            mine.reader = Reader(root, algorithms, stop=stop, follow_root=follow_root)
            made.append(mine.reader)
        own: Reader = mine.reader
        return own

    try:
        yield reader, stop
    finally:
        stop.set()
        for each in made:
            each.close()


def _batches_of_runs(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """The runs, cut and put together so that each batch is about the same work."""
    batch: list[Run] = []
    files = total = 0
    for folder, rows in runs:
        start = 0
        for index, row in enumerate(rows, start=1):
            files += 1
            total += row[1]
            if total >= _BATCH_BYTES or files >= _BATCH_FILES:
                batch.append(Run(folder, rows[start:index]))
                yield batch
                batch, files, total, start = [], 0, 0, index
        if start < len(rows):
            batch.append(Run(folder, rows[start:]))
    if batch:
        yield batch


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    total = 0
    for entry in entries:
        batch.append(entry)
        total += entry.size
        if total >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
