"""Live mode: every session folder counts as soon as it holds a file; the agent judges the files one by one."""

from pathlib import Path

from lading.ports import Acquisition
from transport.sources.quiet_folder import QuietFolderSource
from transport.sources.writers import open_files


class LiveFolderSource(QuietFolderSource):
    """Watches one folder by looking at it. See lading.agent.live_watch for when a file is settled."""

    def ready(self) -> list[Acquisition]:
        """Every session folder, complete or not; those that fit no template come back with findings and without labels."""
        self._waiting = []
        found: list[Acquisition] = []
        started = [
            Acquisition(folder, labels, sender=self._template.sender(folder.relative_to(self._watch.path).as_posix()))
            for folder, labels in self._sessions(found)
        ]
        return [*found, *started]

    def being_written(self, root: Path) -> frozenset[str]:
        """The files below `root` (relative POSIX) that a process of this machine holds open for writing, as far as we may see."""
        return frozenset(open_files(root))
