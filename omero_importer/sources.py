"""The files to send: where they lie, and what the manifest says about each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from lading.listing.below import open_below, opening_below
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

    @contextmanager
    def way(self) -> Iterator[Callable[[str], BufferedReader]]:
        """Opens files as `opened` does, for one thread: folders that it went through are not gone through again."""
        with ExitStack() as held:
            known: list[Callable[[str], BufferedReader]] = []

            def opened(name: str) -> BufferedReader:
                if not known:  # the folder may be gone: that is said of a file
                    known.append(held.enter_context(opening_below(self.root, within=self.inbox)))
                return known[0](name)

            yield opened

    def path(self, name: str) -> Path:
        """Where the file lies."""
        return self.root.joinpath(*name.split("/"))
