"""Copies a delivery into an inbox on this machine, or on a share that is mounted here.

The source is read once: what is hashed is what is written. A file that an earlier attempt left in the slot is believed
only after its content was compared.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import attrs

from lading.config import structure
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.deposit import Deposit
from lading.disk import read_small, write_durably
from lading.errors import AccessDenied, ConfigError, OutOfSpace
from lading.inbox import Inbox
from lading.manifest import Filtered, Manifest, NameLimits, make, survey
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, is_sealed, read_seal, seal
from transport.copying import Carrier, Copier
from transport.deposit_local import LocalDeposit
from transport.foreign import TARGET, translating
from transport.landing import Landing
from transport.pacing import Pace, Unpaced

_BLOCK = 1 << 20
_SAMPLE = 20
_NAMES = {"posix": NameLimits.POSIX, "windows": NameLimits.WINDOWS, "smb": NameLimits.SMB}


@attrs.frozen(kw_only=True)
class LocalConfig:
    """`path`: the inbox as this machine sees it. `names`: what its file system refuses ("posix", "windows", "smb").

    `workers`: files copied at a time; 0 is one per core, 1 is right for a single spinning disk.
    """

    path: Path
    names: str = "posix"
    workers: int = 0


class LocalTransport:
    """Copies into a folder: of this machine, or of a mounted share.

    One object may carry several deliveries at a time.
    """

    def __init__(self, config: LocalConfig, *, pace: Pace | None = None) -> None:
        if config.names not in _NAMES:
            raise ConfigError(f"names = {config.names!r} is none of {', '.join(_NAMES)}")
        self._config = config
        self._pace = pace or Unpaced()
        self._workers = config.workers or min(8, os.cpu_count() or 1)

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:  # noqa: ARG003 - local keeps no state
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, LocalConfig, where="transport"))

    def __repr__(self) -> str:
        return f"LocalTransport({str(self._config.path)!r})"

    @property
    def traits(self) -> TransportTraits:
        """Whole files only: reading a part again costs what copying it costs."""
        return TransportTraits(lists_on_the_way=True, names=_NAMES[self._config.names])

    def paced(self, pace: Pace) -> Self:
        """The same place, slower."""
        return type(self)(self._config, pace=pace)

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role. Room means what is free above the inbox's reserve."""
        inbox = self._inbox()
        with translating(f"cannot look into the inbox {self._config.path}", TARGET):
            free, _ = inbox.room()
            writable = os.access(self._config.path / ".lading" / "incoming", os.W_OK | os.X_OK)
        if not writable:
            raise AccessDenied(f"this account may not write into the inbox {self._config.path}")
        spare = free - inbox.limits.keep_free_bytes
        if needed_bytes > spare:
            raise OutOfSpace(
                f"the inbox {self._config.path} has room for {max(spare, 0):,} bytes, the delivery needs {needed_bytes:,}: "
                f"{needed_bytes - spare:,} bytes are missing",
                next_command="lading inbox list",
            )

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by their size here; carry compares content."""
        files = total = there = 0
        sample: list[str] = []
        for path, size in _cargo_list(cargo, self.traits.names):
            if self._size_in(slot, path) == size:
                there += 1
                continue
            files += 1
            total += size
            if len(sample) < _SAMPLE:
                sample.append(path)
        return Plan(files, total, there, tuple(sample))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:  # noqa: ARG002 - nothing to note
        """See the role. An unsealed cargo is listed from the read that copies it, and sealed here."""
        inbox = self._inbox()
        sealed = is_sealed(cargo.papers)
        if sealed and self._was_taken(slot, cargo.papers):
            return
        with translating(f"cannot reserve {slot.path} in the inbox {self._config.path}", TARGET):
            place = inbox.reserve(slot.delivery)
            landing = Landing(place / "data")
        with landing, _nothing_believed_that_was_lost(landing):
            self._retract_other_seal(place, cargo.papers if sealed else None)
            fresh = landing.is_empty()
            if sealed:
                manifest = Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)
                self._copy_sealed(manifest, cargo.root, landing, progress)
            else:
                manifest = self._copy_and_list(cargo, landing, progress, fresh=fresh)
                seal(cargo.papers, cargo.delivery, manifest)
            with translating(f"cannot finish {place}", TARGET):
                if not fresh:
                    landing.keep_only(entry.path for entry in manifest)
            self._hand_over(cargo.papers, place, landing)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        inbox = self._inbox()
        with translating(f"cannot read the receipt of {delivery} in {self._config.path}", TARGET):
            return inbox.read_receipt(delivery)

    def deposit(self, folder: str) -> Deposit:
        """See lading.deposit."""
        return LocalDeposit(self._config.path, folder, self._inbox, self.traits.names, self._pace)

    def _inbox(self) -> Inbox:
        with translating(f"cannot open the inbox {self._config.path}", TARGET):
            return Inbox.open(self._config.path)

    def _size_in(self, slot: Slot, path: str) -> int | None:
        try:
            info = os.lstat(self._config.path / slot.data / path)
        except OSError:
            return None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def _was_taken(self, slot: Slot, papers: Path) -> bool:
        """Whether the inbox has this very delivery in its own hands: our seal is there, but no data."""
        place = self._config.path / slot.path
        with translating(f"cannot look at {place}", TARGET):
            return not (place / "data").exists() and _same_file(place / SEAL_NAME, papers / SEAL_NAME)

    def _retract_other_seal(self, place: Path, papers: Path | None) -> None:
        """A seal for another list must not stand while the files change under it."""
        there = place / SEAL_NAME
        with translating(f"cannot look at {there}", TARGET):
            if os.path.lexists(there) and (papers is None or not _same_file(there, papers / SEAL_NAME)):
                there.unlink()

    def _copy_and_list(self, cargo: Cargo, landing: Landing, progress: Progress, *, fresh: bool) -> Manifest:
        cargo.papers.mkdir(parents=True, exist_ok=True)
        copier = Copier(landing, self._pace, self._config.path, fresh=fresh)
        return make(
            cargo.root,
            cargo.papers,
            rules=cargo.rules,
            limits=self.traits.names,
            algorithms=cargo.algorithms,
            workers=self._workers,
            sink=copier,
            progress=progress,
        )

    def _copy_sealed(self, manifest: Manifest, root: Path, landing: Landing, progress: Progress) -> None:
        with Carrier(root, landing, self._pace, self._config.path, progress) as carrier:
            carrier.bring_all(manifest, workers=self._workers)

    def _hand_over(self, papers: Path, place: Path, files: Landing) -> None:
        """The papers, the seal last: everything else, the `files` too, is on the disk before it is written."""
        with translating(f"cannot write the papers into {place}", TARGET), Landing(place) as landing:
            for name in PAPERS[:-1]:
                arriving = landing.begin(name)
                try:
                    with open(papers / name, "rb") as source:
                        while block := source.read(_BLOCK):
                            arriving.write(block)
                except BaseException:
                    arriving.abandon()
                    raise
                arriving.finish()
            files.make_durable(place)
            write_durably(place / SEAL_NAME, (papers / SEAL_NAME).read_bytes())


@contextmanager
def _nothing_believed_that_was_lost(landing: Landing) -> Iterator[None]:
    """Where the disk could not write, all that lies there goes: the next attempt would find it equal in the system's memory."""
    try:
        yield
    except BaseException:
        if landing.lost_something():
            with suppress(OSError):
                landing.keep_only(())
        raise


def _cargo_list(cargo: Cargo, names: NameLimits) -> Iterator[tuple[str, int]]:
    if is_sealed(cargo.papers):
        for entry in Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary):
            yield entry.path, entry.size
        return
    for seen in survey(cargo.root, rules=cargo.rules, limits=names):
        if not isinstance(seen, Filtered):
            yield seen.path, seen.size


def _same_file(there: Path, ours: Path) -> bool:
    try:
        return read_small(there, MAX_SEAL_BYTES) == ours.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
