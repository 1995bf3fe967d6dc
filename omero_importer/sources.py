"""The files to send: where they lie, and what the manifest says about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.manifest import Entry


@dataclass(frozen=True, slots=True)
class Source:
    """A parcel's files. `entries` maps a relative POSIX path to its line of the manifest."""

    root: Path
    entries: Mapping[str, Entry]

    def path(self, name: str) -> Path:
        """Where the file lies."""
        return self.root.joinpath(*name.split("/"))
