"""Carries deliveries on a removable disk: onto it at the instrument, off it at the staging host.

The disk is a waypoint (see `lading fetch`) that somebody carries in a bag. It has an identity, so that another disk at the same
mount point is refused; a delivery counts as carried only after everything was flushed, the caches dropped, and every byte read
back from the disk. Where the disk is pulled meanwhile, the carry is Unreachable, and goes on when the same disk is back.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Self

import attrs

from lading.config import structure
from lading.delivery import Cargo, Slot
from lading.deposit import Deposit
from lading.errors import ConfigError, Corrupted
from lading.manifest import Manifest, NameLimits
from lading.ports import Journal, Progress
from lading.seal import SEAL_NAME, read_seal
from transport.disk_files import DiskFiles
from transport.disk_proof import damaged, flush
from transport.foreign import shown
from transport.placing import PlacingTransport
from transport.remote import RemoteFiles, RemoteTraits
from transport.volumes import expect, mount_of, needs_windows_names

_NAMES = {"windows": NameLimits.WINDOWS, "posix": NameLimits.POSIX}
_PROVEN = "disk-proven"  # journal: the list, and the seal on the disk, that were read back
_MAX_NAMED = 1000


@attrs.frozen(kw_only=True)
class DiskConfig:
    """`path`: the disk's folder, where it is mounted here. `volume`: its id, as `lading disk prepare` said; "any" takes whatever
    disk is there (for fetching from disks that people bring).

    `names`: what may lie on it: "windows" (exFAT, NTFS, FAT32; a disk travels), or "posix" where only Linux will read it.
    `streams`: files at a time; 1 is right for a spinning disk, which would only seek.
    """

    path: Path
    volume: str
    names: str = "windows"
    streams: int = 1


class DiskPlace:
    """A folder of a removable disk. See transport.remote.RemotePlace."""

    def __init__(self, config: DiskConfig) -> None:
        if config.names not in _NAMES:
            raise ConfigError(f"names = {config.names!r} is none of {', '.join(_NAMES)}")
        if not config.volume:
            raise ConfigError("volume is empty; `lading disk prepare PATH` tells the id of a disk")
        if config.streams < 1:
            raise ConfigError(f"streams = {config.streams} must be 1 or more")
        self._config = config

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """Made from a transport or fetch table. Raises ConfigError."""
        return cls(structure(settings, DiskConfig, where="transport"))

    @property
    def path(self) -> Path:
        """Where the disk is mounted."""
        return self._config.path

    @property
    def name(self) -> str:
        """See the role."""
        return f"the disk {self._config.volume} at {shown(self._config.path)}"

    @property
    def streams(self) -> int:
        """See the role."""
        return self._config.streams

    @property
    def traits(self) -> RemoteTraits:
        """No stall watch: nothing that this process can do ends a call that waits for a disk; the system itself gives it up."""
        return RemoteTraits(names=_NAMES[self._config.names], stall_s=None)

    def connect(self) -> RemoteFiles:
        """See the role. Raises Unreachable: no disk, another disk; ConfigError: its names are not those of the settings."""
        expect(self._config.path, self._config.volume)
        if self._config.names == "posix" and needs_windows_names(mount := mount_of(self._config.path)):
            kind = mount.kind if mount else ""
            raise ConfigError(
                f'the disk at {shown(self._config.path)} is {kind}; names = "posix" is for Linux file systems',
                next_command='names = "windows" in the settings',
            )
        return DiskFiles(self._config.path)


class DiskTransport(PlacingTransport):
    """A removable disk, read back before it may be unplugged.

    It returns when the disk is safe to unplug, as far as this delivery goes.
    """

    place_type = DiskPlace

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. Raises Corrupted (`paths`) when the disk gives back something else than was written."""
        super().carry(cargo, slot, journal, progress)
        place = self._place
        assert isinstance(place, DiskPlace)  # noqa: S101 - place_type says so
        files = place.connect()
        try:
            seal = files.look(f"{slot.path}/{SEAL_NAME}")
            if seal is None or files.look(slot.data) is None:
                return  # the other side has taken it already
            manifest = Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)
            proof = f"{manifest.summary.list_digest} {seal.mtime}"
            if journal.recall(_PROVEN) == proof:
                return
            flush(place.path, slot.path)
            bad = list(islice(damaged(place.path, slot.data, manifest), _MAX_NAMED))
            if bad:
                self._take_back(files, slot, bad)
            place.connect().close()  # still the same disk: else we have flushed something that is gone
            journal.note(_PROVEN, proof)
        finally:
            files.close()

    def deposit(self, folder: str) -> Deposit:
        """Refused with ConfigError: a disk that somebody reads along from is never safe to unplug."""
        raise ConfigError(
            f"{self!r} cannot be pushed to while an acquisition goes on ({folder}): it is to be unplugged",
            next_command="lading transports",
        )

    def _take_back(self, files: RemoteFiles, slot: Slot, bad: list[str]) -> None:
        """Nobody may take what is damaged for a delivery; the next attempt writes those files anew."""
        files.remove(f"{slot.path}/{SEAL_NAME}")
        for path in bad:
            files.remove(f"{slot.data}/{path}")
        raise Corrupted(
            f"{len(bad)} files read back from {self._place.name} differ from what was written, first {shown(bad[0])}: "
            "the disk is failing, or lies about its size",
            paths=bad,
            safe="the source is untouched; the files are written again",
            next_command="lading disk check PATH; replace the disk when it happens again",
        )

    def _keep(self, files: RemoteFiles) -> None:
        """No connection is kept: an open folder would keep people from ejecting the disk."""
        files.close()
