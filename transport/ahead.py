"""Reads the next blocks of a large file while one is being sent: reading, hashing and sending then use two processors."""

import queue
import threading
from collections.abc import Iterator
from typing import Self

_MOST = 3  # blocks that wait


class Ahead(Iterator[bytes]):
    """`blocks`, taken by a thread of its own before they are asked for. What they raise is raised where they end."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._ready: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=_MOST)
        self._stopped = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="lading-read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        found = self._ready.get()
        if isinstance(found, bytes):
            return found
        self._over = True
        self._thread.join()
        raise found or StopIteration

    def close(self) -> None:
        """Take no more of them. On return the thread has ended."""
        self._over = True
        self._stopped.set()
        # The thread may be waiting for room; there is enough for the one block that it has in hand.
        while not self._ready.empty():
            self._ready.get()
        self._thread.join()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for block in self._blocks:
                if self._stopped.is_set():
                    return
                self._ready.put(block)
        except BaseException as exc:  # noqa: BLE001 - handed over to the thread that asks
            end = exc
        if not self._stopped.is_set():
            self._ready.put(end)
