"""What a node has acknowledged of one delivery, noted image by image: the memory for nodes that cannot be asked.

One line per note, added with one write: it survives the end of this process, and a power cut costs a few images sent twice.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lading.delivery import DeliveryId
from lading.disk import make_folder

_TAKEN, _LACKING = "+", "-"
_PORTION = 1000
_CLOSED = -1


class Ledger:
    """The notes about one delivery and one node, below `state`. Safe to share between threads."""

    def __init__(self, state: Path, delivery: DeliveryId, node: str) -> None:
        """`node` names whom the notes are about: notes about another are of no use, and are dropped."""
        self._file = state / "dicom-sent" / f"{delivery}.txt"
        self._node = node.replace("\n", " ")
        self._handle = _CLOSED

    def taken(self, sop: str) -> None:
        """The node said that it has taken this image."""
        self._add(f"{_TAKEN}{sop}\n")

    def lacking(self, sops: Iterable[str]) -> None:
        """Whatever the node says it has, these it could not give back: they are to be sent again."""
        rest = iter(sops)
        while portion := list(islice(rest, _PORTION)):
            self._add("".join(f"{_LACKING}{sop}\n" for sop in portion))

    def notes(self) -> Iterator[tuple[str, bool]]:
        """SOPInstanceUID and whether it was taken, in the order of noting: the last note about an image counts."""
        try:
            with self._file.open(encoding="ascii", errors="replace") as lines:
                if next(lines, "").rstrip("\n") != self._node:
                    return
                for line in lines:
                    if line.endswith("\n"):
                        yield line[1:-1], line[0] == _TAKEN
        except FileNotFoundError:
            return

    def forget(self) -> None:
        """Everything is proven: nothing needs to be remembered."""
        self._file.unlink(missing_ok=True)

    def begin(self) -> None:
        """Make the file, for this node, and keep it open until `close`. Raises OSError."""
        self._file.parent.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self._file.parent, 0o700)
        if not self._is_ours():
            self._file.write_text(f"{self._node}\n", encoding="ascii", errors="replace")
        self._handle = self._open()

    def close(self) -> None:
        """Nothing more is noted for now."""
        if self._handle != _CLOSED:
            os.close(self._handle)
            self._handle = _CLOSED

    def _is_ours(self) -> bool:
        try:
            with self._file.open(encoding="ascii", errors="replace") as lines:
                return next(lines, "").rstrip("\n") == self._node
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        return os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _add(self, text: str) -> None:
        # Workers of several processes may note: an append of one write is never torn apart.
        raw = text.encode("ascii", "replace")
        if self._handle != _CLOSED:
            os.write(self._handle, raw)
            return
        handle = self._open()
        try:
            os.write(handle, raw)
        finally:
            os.close(handle)
