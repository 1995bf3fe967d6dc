"""What rsync itself says of the files that it sends, compared with the manifest: a second witness, for nothing.

rsync makes the xxh128 of every file while it sends it, and can say it (`--out-format=%C`). Where the route's `digests` name xxh128,
the manifest has it from its own read. A file that was another one when rsync read it, whatever its size and times, is then found
before the delivery is sealed, not by the inbox. Needs rsync 3.2 on both sides, with xxhash; where one is older, rsync is not asked.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from lading.errors import SourceChanged
from lading.manifest import Entry
from transport.foreign import shown
from transport.rsync_run import Ended, Told, unescaped

DIGEST = "xxh128"
MOST_FILES = 100_000
"""So many are kept in memory until the manifest is there to be compared with; with more, rsync is not asked."""
_SAID = re.compile(rb"[<>]f\S{9} ([0-9a-f]{32}) (.*)", re.DOTALL)
_NOT_KNOWN = re.compile(r"checksum", re.IGNORECASE)
_REFUSED = (1, 2, 4, 12)


class Witness:
    """Hears one carry. `wanted`: whether there is something to compare with."""

    def __init__(self, *, wanted: bool) -> None:
        self._asks = wanted
        self._said: dict[str, bytes] = {}

    @property
    def options(self) -> list[str]:
        """For the rsync that sends the files."""
        return [f"--checksum-choice={DIGEST}", "--out-format=%i %C %n"] if self._asks else ["--out-format=%i"]

    def line(self, line: bytes) -> None:
        """A line of its output."""
        match = _SAID.fullmatch(line) if self._asks else None
        if match:
            self._said[unescaped(match[2])] = bytes.fromhex(match[1].decode("ascii"))

    def is_refused(self, ended: Ended) -> bool:
        """Whether rsync, here or there, knows nothing of that checksum: it has sent nothing, and is not asked again."""
        refused = self._asks and ended.code in _REFUSED and bool(_NOT_KNOWN.search(ended.stderr)) and not self._said
        self._asks = self._asks and not refused
        return refused

    def refuse_other(self, root: Path, entries: Iterable[Entry]) -> None:
        """Raises SourceChanged unless every file that rsync spoke of is the one of the manifest."""
        for entry in entries if self._said else ():
            said, ours = self._said.get(entry.path), entry.digests.get(DIGEST)
            if said and ours and said.hex() != ours:
                raise SourceChanged(
                    f"{shown(root / entry.path)} was another file when it was sent than when it was listed: "
                    f"{DIGEST} {said.hex()}, listed {ours}"
                )


def heard(told: Told, witness: Witness, line: bytes) -> None:
    """A line of rsync's output is for both."""
    told.line(line)
    witness.line(line)
