"""Carries a delivery with rsync: over ssh, to a daemon (plain or inside TLS), or to a folder of this machine.

The slot's folder (or the lists, when they are made by then), the files, the lists, the seal: a call each. Something goes ahead of
the files because rsync makes one missing folder, not two: a slot can only begin below an existing `.lading/incoming`, never on the
bare mount point of an absent share. See transport.rsync_opening.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

from lading.config import structure
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.deposit import Deposit
from lading.errors import ConfigError, LadingError, OutOfSpace, SourceChanged, Unreachable
from lading.inbox import Inbox, parse_receipt
from lading.manifest import Manifest, NameLimits, make
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import PAPERS, SEAL_NAME, is_sealed, read_seal, seal
from transport.deposit_rsync import RsyncDeposit, RsyncWay
from transport.foreign import TARGET, shown, translating
from transport.landing import Landing
from transport.on_the_way import SHAPE, Load
from transport.pacing import Pace, Unpaced
from transport.rsync_beside import (
    ListedBeside,
    Look,
    look_at,
    refuse_changed,
    refuse_other_content,
    unread_load,
)
from transport.rsync_opening import Opening, Together
from transport.rsync_places import OverSsh, RsyncConfig, RsyncPlace, place_of, ssh_words
from transport.rsync_pull import RsyncSource
from transport.rsync_run import Ended, Rsync, Told, unescaped
from transport.rsync_surplus import surplus
from transport.rsync_witness import DIGEST, MOST_FILES, Witness, heard
from transport.ssh_sharing import NotSharedError, shared

PARTIAL = ".rsync-partial"
"""Where rsync keeps a part of a file, next to it, until the file is whole."""

# Journal keys; each value is the digest of a list.
_BEGUN = "rsync-begun"  # a carry of that list has begun; or of a folder of that shape
_SEALED = "rsync-sealed"  # that list was carried and sealed
_DOUBTED = "doubted"  # in place of a digest: what is there was brought from a source that changed
_LISTED = re.compile(rb"(.)\S{9}\s+[0-9.,]+ [0-9/]{10} [0-9:]{8} (.*)")
# The second form is rrsync's, which looks before rsync does.
_MISSING = re.compile(r"No such file or directory \(2\)|rrsync error: .*No such file or directory")
_MISSING_CODES = (3, 11, 12, 23)
_VANISHED = 24  # and nothing worse than that
_MAX_SMALL = 64 << 20
_SAMPLE = 20
_NEARLY_S = 0.05
"""A list that is made so soon goes ahead of the files: a call less."""
_NAMES = {"posix": NameLimits.POSIX, "windows": NameLimits.WINDOWS, "smb": NameLimits.SMB}


class RsyncTransport:
    """rsync: over ssh, to a daemon (inside TLS), or to a folder.

    One object may carry several deliveries at a time. `state`: a folder for passing files.
    """

    place_type = RsyncSource

    def __init__(
        self,
        config: RsyncConfig,
        *,
        state: Path,
        pace: Pace | None = None,
        place: RsyncPlace | None = None,
        together: Together | None = None,
    ) -> None:
        """`place`: how to reach the target, when that is not what `config` says alone; then `together` says how it may be used."""
        self._place = place or place_of(config)
        if config.names not in _NAMES:
            raise ConfigError(f"names = {config.names!r} is none of {', '.join(_NAMES)}")
        self._config, self._state, self._pace = config, state, pace or Unpaced()
        self._rsync = Rsync(config.program, environment=self._place.environment)
        self._together = together or Together(allowed=False)
        self._over_one = Together(allowed=True)

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, RsyncConfig, where="transport"), state=state)

    def __repr__(self) -> str:
        return f"RsyncTransport({self._config.target!r})"

    @property
    def traits(self) -> TransportTraits:
        """Over ssh, a part of a file that arrived is used by the next attempt; on one machine copying again is faster."""
        return TransportTraits(
            resumes=self._place.local is None, lists_on_the_way=True, names=_NAMES[self._config.names]
        )

    def paced(self, pace: Pace) -> Self:
        """The same place, slower: --bwlimit, and started anew when the allowed rate changes."""
        return type(self)(self._config, state=self._state, pace=pace)

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role. Over ssh the room cannot be asked for (rsync has no way); a full disk shows as OutOfSpace in carry."""
        with self._fetched(".lading/inbox.json", f"cannot look into the inbox {self._config.target}") as found:
            if found is None:
                raise Unreachable(
                    f"{self._config.target} has no sentinel (.lading/inbox.json): is the share mounted there?",
                    next_command="lading doctor",
                )
            _check_sentinel(found, self._config.target)
        local = self._place.local
        if local is not None:
            with translating(f"cannot look at the disk of {local}", TARGET):
                free = shutil.disk_usage(local).free
            if needed_bytes > free:
                raise OutOfSpace(
                    f"the inbox {local} has room for {free:,} bytes, the delivery needs {needed_bytes:,}: "
                    f"{needed_bytes - free:,} bytes are missing",
                    next_command="lading inbox list",
                )

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by what rsync's quick check says of them."""
        load = Load.of(_manifest(cargo)) if is_sealed(cargo.papers) else unread_load(cargo, self.traits.names)
        moving: list[tuple[int, str]] = []
        files = total = 0

        def on_line(line: bytes) -> None:
            nonlocal files, total
            change, _, rest = line.partition(b" ")
            if change[:2] in (b"<f", b">f"):
                size, _, name = rest.partition(b" ")
                files += 1
                total += int(size)
                if len(moving) < _SAMPLE:
                    moving.append((int(size), unescaped(name)))

        ended = self._move(["--dry-run", "--out-format=%i %l %n"], slot.data, cargo.root, load, on_line)
        if ended.code and not _MISSING.search(ended.stderr):
            raise ended.error(f"cannot plan what to carry from {cargo.root} to {self._config.target}")
        if ended.code:
            return Plan(load.files, load.bytes, 0, tuple(entry.path for entry in islice(load.entries, _SAMPLE)))
        return Plan(files, total, load.files - files, tuple(name for _, name in moving))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. What rsync's quick check trusts (same size and time) is proven by the inbox.

        A delivery that was sealed before and came back is compared by content, on both sides; so is one whose source changed
        while it was carried and listed at the same time. See transport.on_the_way for a cargo that has no list yet.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        doing = f"cannot carry {cargo.root} to {self._config.target}"
        sealed = is_sealed(cargo.papers)
        look = None if sealed else self._look(cargo, journal)
        if look is None:
            with self._over_one_connection(doing) as line:
                line.bring(cargo, slot, journal, progress, just_listed=not sealed)
            return
        with ListedBeside(cargo, self.traits.names, look) as listed, self._over_one_connection(doing) as line:
            line.bring_beside(cargo, slot, journal, progress, look=look, listed=listed)

    def _look(self, cargo: Cargo, journal: Journal) -> Look | None:
        """What is to be listed while it is carried; None when the cargo is sealed now. Nothing has been sent yet."""
        names = self.traits.names
        look = look_at(cargo, names)
        begun = journal.recall(_BEGUN)
        if begun and begun.startswith(SHAPE) and (look is None or look.shape != begun):
            journal.note(_BEGUN, _DOUBTED)
            raise SourceChanged(
                f"{shown(cargo.root)} has other files, sizes or times than when it began to be carried",
                safe="nothing of it is under its final name",
            )
        if look is not None and begun in (None, look.shape):
            return look
        cargo.papers.mkdir(parents=True, exist_ok=True)
        manifest = make(cargo.root, cargo.papers, rules=cargo.rules, limits=names, algorithms=cargo.algorithms)
        seal(cargo.papers, cargo.delivery, manifest)
        return None

    def bring(
        self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress, *, just_listed: bool = False
    ) -> None:
        """As carry of a sealed cargo, over the connection that there is. `just_listed`: its digests are new."""
        manifest = _manifest(cargo)
        digest = manifest.summary.list_digest
        begun, sealed = journal.recall(_BEGUN), journal.recall(_SEALED)
        if sealed == digest and self._was_taken(slot):
            return
        if begun not in (None, digest):
            self._remove([f"{slot.delivery}/{SEAL_NAME}"], ".lading/incoming")
        doubted = (begun or "").startswith((SHAPE, _DOUBTED))
        journal.note(_BEGUN, _DOUBTED if doubted else digest)
        refuse_changed(cargo.root, manifest)
        opening = Opening(lambda: self._send(cargo.papers, PAPERS[:-1], slot.path))
        by_content = doubted or sealed is not None
        if by_content and not just_listed:
            refuse_other_content(cargo.root, manifest)
        load = Load.of(manifest)
        witness = _witness(cargo, load)
        self._send_files(cargo.root, load, slot, progress, witness, opening=opening, by_content=by_content)
        refuse_changed(cargo.root, manifest)
        try:
            witness.refuse_other(cargo.root, manifest)
        except SourceChanged:
            journal.note(_BEGUN, _DOUBTED)
            raise
        if doubted:
            journal.note(_BEGUN, digest)
        self._hand_over(cargo.papers, manifest, slot, journal, again=begun is not None)

    def bring_beside(
        self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress, *, look: Look, listed: ListedBeside
    ) -> None:
        """As carry of a cargo that is being listed, over the connection that there is."""
        witness = _witness(cargo, look.load)
        begun = journal.recall(_BEGUN)
        journal.note(_BEGUN, look.shape)
        if begun is not None:
            listed.hurry()  # what is there is not sent, and not heard of
        try:
            with listed.explaining():
                lists = Opening(partial(self._send, cargo.papers, PAPERS[:-1], slot.path))
                opening = Opening(lambda: lists.make() if listed.is_made(_NEARLY_S) else self._begin(slot))
                told = listed.heard(progress)
                self._send_files(cargo.root, look.load, slot, told, witness, opening=opening, by_content=False)
            manifest = listed.manifest()
            look.refuse_changed(manifest)
            witness.refuse_other(cargo.root, manifest)
        except SourceChanged:
            journal.note(_BEGUN, _DOUBTED)
            raise
        journal.note(_BEGUN, manifest.summary.list_digest)
        seal(cargo.papers, cargo.delivery, manifest)
        lists.make()
        self._hand_over(cargo.papers, manifest, slot, journal, again=begun is not None)

    def _begin(self, slot: Slot) -> None:
        """The folder of the slot. rsync sends the folder "./" with all files in it: an empty one."""
        with tempfile.TemporaryDirectory(dir=self._state, prefix="nothing-") as empty:
            self._send(Path(empty), ("",), slot.path)

    def _hand_over(self, papers: Path, manifest: Manifest, slot: Slot, journal: Journal, *, again: bool) -> None:
        """The seal, when all the rest is there and nothing else."""
        if again:
            self._remove_leftovers(manifest, slot)
        self._make_durable(slot)
        self._send(papers, (SEAL_NAME,), slot.path)
        journal.note(_SEALED, manifest.summary.list_digest)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        doing = f"cannot fetch the receipt of {delivery} from {self._config.target}"
        with self._fetched(f".lading/receipts/{delivery}.json", doing) as found:
            return None if found is None else parse_receipt(found.read_bytes())

    @contextmanager
    def _over_one_connection(self, doing: str) -> Iterator["RsyncTransport"]:
        """A transport to the same place whose runs of rsync share one log-in, where that can be had."""
        if not isinstance(self._place, OverSsh):
            yield self
            return
        ssh, host = ssh_words(self._config), self._place.host.replace("[", "").replace("]", "")
        try:
            with shared(ssh, host, seconds=self._config.connect_timeout) as options:
                place = self._place.through(options)
                together = self._over_one if options else None
                yield RsyncTransport(self._config, state=self._state, pace=self._pace, place=place, together=together)
        except NotSharedError as exc:
            raise Ended(255, str(exc)).error(doing) from None

    def deposit(self, folder: str) -> Deposit:
        """See lading.deposit."""
        way = RsyncWay(
            self._rsync, self._place, tuple(self._sending()), tuple(self._common()), self._config.patience,
            self.traits.names, self._state, self._failed, self._fetched, self._remove, self.probe,
        )  # fmt: skip
        return RsyncDeposit(way, folder, self._pace)

    def _was_taken(self, slot: Slot) -> bool:
        """Whether the inbox has the delivery in its own hands: the seal is in the slot, but no data."""
        listed = self._listed(slot.path, "--dirs")
        names = {path for _, path in listed or ()}
        return SEAL_NAME in names and "data" not in names

    def _send_files(
        self,
        root: Path,
        load: Load,
        slot: Slot,
        progress: Progress,
        witness: Witness,
        *,
        opening: Opening,
        by_content: bool,
    ) -> None:
        """`opening` makes the slot's folder. `by_content`: sizes and times prove nothing about what is there."""
        told = Told(load.files, load.bytes, progress)
        listen = partial(heard, told, witness)
        while True:
            if not self._together.allowed:
                opening.make()
            opened = opening.made
            options = [*witness.options, "--info=progress2", *(["--checksum"] if by_content else [])]
            self._pace.spend(0)
            told.start()
            # To compare content, the other side reads whole files in silence.
            patience = None if by_content else self._config.patience
            sent = opening.before(load)
            ended = self._move(options, slot.data, root, sent, listen, pace=self._pace, patience=patience)
            if ended.stopped or witness.is_refused(ended):
                continue
            if opened or told.moved or (ended.code and ended.silent_s) or (opening.made and not ended.code):
                break
            self._together.allowed = False
        if ended.code:
            if ended.code in (3, 23, 24):
                refuse_changed(root, load.entries)
            raise self._with_figures(ended.error(f"cannot carry {root} to {self._config.target}"), load)
        told.finish()

    def _move(
        self,
        options: list[str],
        folder: str,
        root: Path,
        load: Load,
        on_line: Callable[[bytes], None],
        *,
        pace: Pace | None = None,
        patience: float | None = None,
    ) -> Ended:
        """One rsync of the files of `load` from `root` into `folder` of the inbox."""
        return self._rsync.run(
            [*self._sending(), *options, *self._from_to(folder)],
            cwd=root,
            names=(entry.path for entry in load.entries),
            on_line=on_line,
            pace=pace,
            patience=patience,
        )

    def _send(self, papers: Path, names: Iterable[str], to: str) -> None:
        """Papers are always compared by content: they are what everything else is compared with."""
        ended = self._rsync.run(
            [*self._sending(), "--checksum", *self._from_to(to)],
            cwd=papers,
            names=names,
            patience=self._config.patience,
        )
        if ended.code:
            raise self._failed(ended, f"cannot write into {to} of {self._config.target}")

    def _failed(self, ended: Ended, doing: str) -> LadingError:
        if _MISSING.search(ended.stderr) and ended.code in _MISSING_CODES:
            return Unreachable(
                f"{doing}: the folder is not there; is the share mounted? (rsync exit code {ended.code})",
                next_command="lading doctor",
            )
        return ended.error(doing)

    def _with_figures(self, error: LadingError, load: Load) -> LadingError:
        if isinstance(error, OutOfSpace):
            local = self._place.local
            free = f", {shutil.disk_usage(local).free:,} are free there" if local is not None else ""
            error.message += f"; the delivery has {load.bytes:,} bytes{free}"
            error.args = (error.message,)
        return error

    def _make_durable(self, slot: Slot) -> None:
        local = self._place.local
        if local is None:
            return  # `fsync` did it, or the inbox will: nothing is believed there before it was read back
        with (
            translating(f"cannot finish {slot.path} in {local}", TARGET),
            Landing(local / slot.path) as place,
        ):
            place.make_durable()

    def _remove_leftovers(self, manifest: Manifest, slot: Slot) -> None:
        """What interrupted attempts left in the slot: temporary files, parts, files that are no longer listed."""
        listed = self._listed(slot.data, "--recursive") or []
        left = surplus(listed, manifest)
        if left:
            self._remove(left, slot.data)

    def _listed(self, folder: str, how: str) -> list[tuple[bool, str]] | None:
        """What is below `folder` of the inbox: whether it is a folder, and its path. None when there is no such folder."""
        listed: list[tuple[bool, str]] = []

        def on_line(line: bytes) -> None:
            match = _LISTED.fullmatch(line)
            if match and match[2] != b".":
                listed.append((match[1] == b"d", unescaped(match[2])))

        ended = self._rsync.run(
            [how, "--list-only", *self._common(), self._place.address(folder + "/")], cwd=self._state, on_line=on_line
        )
        if ended.code in _MISSING_CODES and _MISSING.search(ended.stderr):
            return None
        # What vanishes while we look is not there. It happens: the inbox takes the slot, or the rsync of an attempt that was
        # killed goes on and renames its files. Nobody's source has changed.
        if ended.code not in (0, _VANISHED):
            raise self._failed(ended, f"cannot list {folder} of {self._config.target}")
        return listed

    def _remove(self, paths: Iterable[str], below: str) -> None:
        """Remove files and whole folders: what is named but missing in an otherwise equal, empty tree goes."""
        with tempfile.TemporaryDirectory(dir=self._state, prefix="nothing-") as empty:
            paths = list(paths)
            for path in paths:
                Path(empty, path).parent.mkdir(parents=True, exist_ok=True)
            ended = self._rsync.run(
                [
                    *("--recursive", "--delete-missing-args", "--force", "--files-from=-", "--from0"),
                    *self._common(),
                    *self._from_to(below),
                ],
                cwd=Path(empty),
                names=paths,
            )
        if ended.code:
            raise self._failed(ended, f"cannot remove leftovers from {below} of {self._config.target}")

    @contextmanager
    def _fetched(self, path: str, doing: str) -> Iterator[Path | None]:
        """A copy of a small file of the inbox, or None when it is not there."""
        self._state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._state, prefix="fetch-") as folder:
            ended = self._rsync.run(
                [f"--max-size={_MAX_SMALL}", *self._common(), self._place.address(path), "./"], cwd=Path(folder)
            )
            missing = ended.code in _MISSING_CODES and _MISSING.search(ended.stderr)
            if ended.code and not missing:
                raise ended.error(doing)
            copy = Path(folder, path.rsplit("/", 1)[-1])
            yield copy if copy.is_file() and not copy.is_symlink() else None

    def _sending(self) -> list[str]:
        return [*self._what(), *self._common()]

    def _what(self) -> list[str]:
        """How files are written, wherever the rsync that writes them is started."""
        return [
            "--times",
            "--omit-dir-times",
            # Whatever the source's permissions and the other side's umask are: the server's group takes the slot over.
            "--perms",
            f"--chmod={self._config.chmod}",
            f"--partial-dir={PARTIAL}",
            "--files-from=-",
            "--from0",
            *(["--fsync"] if self._config.fsync else []),
            *(["--compress"] if self._config.compress else []),
        ]

    def _common(self) -> list[str]:
        return ["--outbuf=L", f"--timeout={self._config.timeout}", *self._place.options()]

    def _from_to(self, folder: str) -> list[str]:
        # The source is "./" of the child's folder: its own name may hold a colon, and on Windows always does.
        return ["./", self._place.address(folder + "/")]


def _witness(cargo: Cargo, load: Load) -> Witness:
    return Witness(wanted=DIGEST in cargo.algorithms and load.files <= MOST_FILES)


def _manifest(cargo: Cargo) -> Manifest:
    return Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)


def _check_sentinel(found: Path, target: str) -> None:
    """Let the inbox judge: its sentinel in a folder of its own is an inbox as far as opening goes."""
    with tempfile.TemporaryDirectory(dir=found.parent) as folder:
        place = Path(folder, ".lading")
        place.mkdir()
        shutil.copy(found, place / "inbox.json")
        try:
            Inbox.open(Path(folder))
        except LadingError as exc:
            raise type(exc)(exc.message.replace(folder, target), next_command=exc.next_command) from exc
