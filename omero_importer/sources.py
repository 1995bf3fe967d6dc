"""The files to send: where they lie, and what the manifest says about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lading.listing.below import open_below
from lading.manifest import Entry


@dataclass(frozen=True, slots=True)
class Source:
    """A parcel's files. `entries` maps a relative POSIX path to its line of the manifest; `root` may lie in the folder `inbox`."""

    root: Path
    entries: Mapping[str, Entry]
    inbox: Path | None = None

    def opened(self, name: str) -> BufferedReader:
        """The file, for reading. Senders share the inbox with us: no link is followed, in no folder on the way.

        Raises OSError, ValueError when it is no regular file.
        """
        return open_below(self.root, name, within=self.inbox)

    def path(self, name: str) -> Path:
        """Where the file lies."""
        return self.root.joinpath(*name.split("/"))
