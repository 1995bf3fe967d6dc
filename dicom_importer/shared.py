"""One stream of work for several threads."""

import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """An iterator that several threads draw from. Fetches no more than is asked for."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()
        self._stopped = False
        self.is_exhausted = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            if self._stopped:
                raise StopIteration
            try:
                return next(self._items)
            except StopIteration:
                self.is_exhausted = self._stopped = True
                raise

    def stop(self) -> None:
        """Nobody gets another one."""
        with self._lock:
            self._stopped = True
