"""Processor seconds of this process and everything that it started: what a busy machine leaves of a measurement."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """From now on, descendants whose parent has ended are our children, and count."""
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def spent() -> float:
    """Processor seconds of this process and of its descendants, those that ended included."""
    stats = dict(_stats())
    of_parent: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        of_parent.setdefault(parent, []).append(pid)
    ticks, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        ticks += stats[pid][1]
        waiting += of_parent.get(pid, [])
    return ticks / _TICKS


def metered(work: Callable[[], None], told: Callable[[float], None]) -> Callable[[], None]:
    """`work`, which also tells the processor seconds that it took."""

    def run() -> None:
        before = spent()
        work()
        told(spent() - before)

    return run


def _stats() -> Iterator[tuple[int, tuple[int, int]]]:
    """Of every process: its parent, and the ticks of itself and of the children that it has waited for."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                # The name, in brackets, may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), (int(fields[1]), sum(map(int, fields[11:15])))
