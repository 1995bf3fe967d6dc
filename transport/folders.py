"""The folders that one carry makes: each once, its parent first, however many connections ask for it at a time.

Two connections that make one folder at the same moment are answered by some servers with an error (WsgiDAV: 500, "File exists"),
which nobody can tell from a server in trouble.
"""

import threading
from collections.abc import Callable

_MADE_MANY = 10_000
_STRIPES = 64


class Folders:
    """What has been made below `root`. For any number of threads."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._made: set[str] = set()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def make(self, path: str, make: Callable[[str], None]) -> None:
        """Have `make` make the folder `path`, relative to the root, unless it was made. What `make` raises comes through."""
        if not path or path in self._made:
            return
        self.make(path.rpartition("/")[0], make)
        with self._locks[hash(path) % _STRIPES]:
            if path in self._made:
                return
            make(f"{self._root}/{path}")
            if len(self._made) > _MADE_MANY:
                self._made = set()  # another thread may still look into the old one
            self._made.add(path)
