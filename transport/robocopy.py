r"""Copies a delivery with robocopy.exe, on Windows: to a drive, or to a share (`\\server\share\inbox`).

Robocopy shows a file under its final name while it still writes it. So it fills a folder beside (`.in.robocopy`); every file is
read back there and compared with the manifest, and only then the folder becomes the slot's data. What robocopy cannot say is not
asked of it: which files belong to the delivery says the manifest, whether they arrived says the reading.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Self

import attrs

from lading.config import structure
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.disk import appearing, read_small, sync_folder
from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, OutOfSpace, SourceChanged, UnexpectedFault
from lading.inbox import Inbox
from lading.manifest import Entry, Filtered, Manifest, NameLimits, survey
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, is_sealed, read_seal
from transport.bodies import Folder
from transport.foreign import SOURCE, TARGET, shown, translating
from transport.landing import Landing
from transport.naming import refuse_names
from transport.remote import BLOCK, PART_PREFIX
from transport.robocopy_run import Call, Robocopy, Switches, command, extended, in_calls, judge, run

HOLDING = f"{PART_PREFIX}robocopy"
_ROUNDS = 2  # of files that arrive damaged
_MAX_NAMED = 1000
_SAMPLE = 20
_TIME_S = 2.0  # FAT keeps times so coarsely


@attrs.frozen(kw_only=True)
class RobocopyConfig:
    """`path`: the inbox, as Windows sees it: `D:/inbox`, or `//server/share/inbox`.

    `retries`, `wait`: how often, and after how many seconds, a locked file or a lost line is tried again before the carry gives up
    and says which files they are. `restartable` (`/Z`), `unbuffered` (`/J`): see robocopy. `program`: another robocopy.
    """

    path: Path
    retries: int = 5
    wait: int = 10
    restartable: bool = True
    unbuffered: bool = True
    program: str = "robocopy.exe"


class RobocopyTransport:
    """Copies with robocopy.exe, on Windows: to a drive or a share.

    One object may carry several deliveries at a time.
    """

    def __init__(self, config: RobocopyConfig, state: Path, *, robocopy: Robocopy = run) -> None:
        if config.retries < 0 or config.wait < 0:
            raise ConfigError("retries and wait must not be negative")
        self._config, self._robocopy = config, robocopy
        self._path = _long(config.path)
        self._logs = state / "robocopy"
        self._switches = Switches(config.retries, config.wait, config.restartable, config.unbuffered)

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:
        """Made from the route's transport table; logs of failed calls lie below `state`. Raises ConfigError."""
        return cls(structure(settings, RobocopyConfig, where="transport"), state)

    def __repr__(self) -> str:
        return f"RobocopyTransport({str(self._config.path)!r})"

    @property
    def traits(self) -> TransportTraits:
        """What a killed robocopy left of a file is continued only by `/Z`, which nobody here could try."""
        return TransportTraits(names=NameLimits.WINDOWS)

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role. Room means what is free above the inbox's reserve."""
        self._refuse_no_program()
        inbox = self._inbox()
        with translating(f"cannot look into the inbox {self._config.path}", TARGET):
            free, _ = inbox.room()
            writable = os.access(self._path / ".lading" / "incoming", os.W_OK)
        if not writable:
            raise AccessDenied(f"this account may not write into the inbox {self._config.path}")
        spare = free - inbox.limits.keep_free_bytes
        if needed_bytes > spare:
            raise OutOfSpace(
                f"the inbox {self._config.path} has room for {max(spare, 0):,} bytes, the delivery needs {needed_bytes:,}",
                next_command="lading inbox list",
            )

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by their size here; carry reads them."""
        files = total = there = 0
        sample: list[str] = []
        for path, size in _cargo_list(cargo):
            if self._size_in(slot, path) == size:
                there += 1
                continue
            files += 1
            total += size
            if len(sample) < _SAMPLE:
                sample.append(path)
        return Plan(files, total, there, tuple(sample))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:  # noqa: ARG002 - nothing to note
        """See the role. Needs a sealed cargo. Files that another program holds are SourceChanged, by name, after all retries."""
        if not is_sealed(cargo.papers):
            raise UnexpectedFault(f"{slot.delivery} has no sealed papers: {self!r} carries what a manifest lists")
        manifest = Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)
        refuse_names(manifest, self.traits.names, f"the inbox {self._config.path}")
        inbox = self._inbox()
        self._refuse_no_program()
        with translating(f"cannot reserve {slot.path} in the inbox {self._config.path}", TARGET):
            same_seal = _same_file(self._path / slot.path / SEAL_NAME, cargo.papers / SEAL_NAME)
            if same_seal and not (self._path / slot.data).exists():
                return  # the inbox has it in its own hands
            place = inbox.reserve(slot.delivery)
            if same_seal and not any(_damaged(place / "data", manifest)):
                progress.advance(files=manifest.summary.files, bytes=manifest.summary.bytes)
                return
            (place / SEAL_NAME).unlink(missing_ok=True)  # it must not stand while the files change under it
            holding = _held(place)
        _Copying(self, cargo.root, holding, self._logs / f"{slot.delivery}.log").bring(manifest, progress)
        with translating(f"cannot finish {place}", TARGET):
            _show(holding, place / "data")
            _hand_over(cargo.papers, place)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        inbox = self._inbox()
        with translating(f"cannot read the receipt of {delivery} in {self._config.path}", TARGET):
            return inbox.read_receipt(delivery)

    def copy(self, call: Call) -> None:
        """One call of robocopy. Raises what `judge` raises; a full disk with figures."""
        call.log.unlink(missing_ok=True)
        argv = command(self._config.program, call, self._switches)
        try:
            code = self._robocopy(argv)
        except OSError as exc:
            raise ConfigError(f"cannot run {argv[0]}: {exc.strerror or exc}", next_command="lading doctor") from exc
        try:
            judge(code, call)
        except OutOfSpace as exc:
            free, total = self._inbox().room()
            raise OutOfSpace(
                f"{exc.message}; {free:,} of {total:,} bytes are free", safe=exc.safe, next_command="lading inbox list"
            ) from None
        with suppress(OSError):
            call.log.unlink(missing_ok=True)  # the log of a failed call stays, for people

    def _inbox(self) -> Inbox:
        with translating(f"cannot open the inbox {self._config.path}", TARGET):
            return Inbox.open(self._path)

    def _refuse_no_program(self) -> None:
        if self._robocopy is run and not shutil.which(self._config.program):
            raise ConfigError(f"there is no {self._config.program} here; robocopy is a program of Windows")

    def _size_in(self, slot: Slot, path: str) -> int | None:
        for folder in (slot.data, f"{slot.path}/{HOLDING}"):
            with suppress(OSError):
                info = (self._path / folder / path).lstat()
                if stat.S_ISREG(info.st_mode):
                    return info.st_size
        return None


class _Copying:
    """One carry: fills the folder `holding` with what a manifest lists, and with nothing else."""

    def __init__(self, transport: RobocopyTransport, root: Path, holding: Path, log: Path) -> None:
        self._transport, self._root, self._holding, self._log = transport, _long(root), holding, log

    def bring(self, manifest: Manifest, progress: Progress) -> None:
        """Copy, read back, copy what came damaged once more."""
        with translating(f"cannot write {self._log}", SOURCE):
            self._log.parent.mkdir(parents=True, exist_ok=True)
        with translating(f"cannot tidy {self._holding}", TARGET), Landing(self._holding) as landing:
            landing.keep_only(entry.path for entry in manifest)  # links too: nothing is written through one
        self._copy(entry for entry in manifest if not self._seems_there(entry))
        for attempt in range(_ROUNDS):
            with translating(f"cannot read back {self._holding}", TARGET):
                bad = {entry.path: entry for entry in _damaged(self._holding, manifest)}
            if not bad:
                break
            self._refuse_changed(bad)
            if attempt + 1 == _ROUNDS:
                raise _corrupted(bad)
            for path in bad:
                with translating(f"cannot remove {shown(path)}", TARGET):
                    (self._holding / path).unlink(missing_ok=True)
            self._copy(bad.values())
        progress.advance(files=manifest.summary.files, bytes=manifest.summary.bytes)
        with translating(f"cannot flush {self._holding}", TARGET), Landing(self._holding) as landing:
            landing.make_durable()

    def _copy(self, entries: Iterable[Entry]) -> None:
        """Folder by folder, as the manifest goes."""
        for folder, inner in groupby(entries, lambda entry: entry.path.rpartition("/")[0]):
            for names in in_calls(entry.path.rpartition("/")[2] for entry in inner):
                call = Call(_below(self._root, folder), _below(self._holding, folder), names, self._log)
                with translating(f"cannot make the folder {shown(folder)}", TARGET):
                    call.target.mkdir(parents=True, exist_ok=True)
                self._transport.copy(call)

    def _seems_there(self, entry: Entry) -> bool:
        """By size and time; the reading tells. Whatever else has that name is removed."""
        place = _below(self._holding, entry.path)
        with translating(f"cannot look at {shown(entry.path)}", TARGET):
            try:
                info = place.lstat()
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(info.st_mode):
                place.unlink()
                return False
            return info.st_size == entry.size and abs(info.st_mtime - entry.mtime_ns / 1e9) <= _TIME_S

    def _refuse_changed(self, bad: dict[str, Entry]) -> None:
        """Raises SourceChanged when what came is damaged because the source is no longer what was listed."""
        with translating(f"cannot read {shown(self._root)}", SOURCE):
            changed = [entry.path for entry in _damaged(self._root, bad.values(), by_time=True)]
        if changed:
            raise SourceChanged(
                f"{len(changed)} files of {shown(self._root)} changed after they were listed, first {shown(changed[0])}"
            )


def _damaged(root: Path, entries: Iterable[Entry], *, by_time: bool = False) -> Iterator[Entry]:
    """Those of `entries` that are not there, or whose content differs (`by_time`: or whose time does). Reads everything."""
    below = Folder(root)
    try:
        for entry in entries:
            if not _is_intact(below, entry, by_time=by_time):
                yield entry
    finally:
        below.close()


def _is_intact(below: Folder, entry: Entry, *, by_time: bool) -> bool:
    try:
        fd = below.open(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # a link
            return False
        raise
    with os.fdopen(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != entry.size:
            return False
        if by_time and info.st_mtime_ns != entry.mtime_ns:
            return False
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == entry.sha256


def _corrupted(bad: dict[str, Entry]) -> LadingError:
    first = next(iter(bad))
    return Corrupted(
        f"{len(bad)} files arrived damaged {_ROUNDS} times, first {shown(first)}",
        paths=list(bad)[:_MAX_NAMED],
        safe="the source is untouched",
    )


def _held(place: Path) -> Path:
    """The folder to fill: what an earlier attempt left there, or what the inbox gave back."""
    data, holding = place / "data", place / HOLDING
    if any(data.iterdir()):
        if holding.exists():
            shutil.rmtree(holding)
        data.rename(holding)
    holding.mkdir(mode=0o770, exist_ok=True)
    return holding


def _show(holding: Path, data: Path) -> None:
    """The files appear in the slot, all at once."""
    with suppress(FileNotFoundError):
        data.rmdir()  # the empty one that came with the slot
    if os.name == "posix":
        holding.chmod(0o2770)  # the server takes the slot over
    holding.rename(data)
    sync_folder(data.parent)


def _hand_over(papers: Path, place: Path) -> None:
    """The papers, the seal last."""
    for name in PAPERS:
        with open(papers / name, "rb") as source, appearing(place / name, mode=0o660) as handle:
            while block := source.read(BLOCK):
                view = memoryview(block)
                while view:
                    view = view[os.write(handle, view) :]


def _cargo_list(cargo: Cargo) -> Iterator[tuple[str, int]]:
    if is_sealed(cargo.papers):
        for entry in Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary):
            yield entry.path, entry.size
        return
    for seen in survey(cargo.root, rules=cargo.rules, limits=NameLimits.WINDOWS):
        if not isinstance(seen, Filtered):
            yield seen.path, seen.size


def _same_file(there: Path, ours: Path) -> bool:
    try:
        return read_small(there, MAX_SEAL_BYTES) == ours.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _below(root: Path, path: str) -> Path:
    return root.joinpath(*path.split("/")) if path else root


def _long(path: Path) -> Path:
    """On Windows, the form that may be longer than 259 characters."""
    return Path(extended(str(path.absolute()))) if os.name == "nt" else path
