"""Carries deliveries between two Globus collections: we list and steer, the bytes go from endpoint to endpoint.

The instrument's files are seen in `source.collection`; the inbox lies in `inbox.collection`. Every file is handed to Globus
with its SHA-256 of the manifest (external_checksum), so that Globus itself proves it on both sides. Globus lets a file grow
under its final name, so the files grow in another folder of the slot, which is renamed to `data` when every one of them has
succeeded; the papers follow, and the seal is renamed into place last.
"""

import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Self

from lading.config import structure
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.errors import (
    Corrupted,
    OutOfSpace,
    Rejected,
    SourceChanged,
    TransportError,
    UnexpectedFault,
    Unreachable,
)
from lading.inbox import parse_receipt
from lading.listing.reading import Verdict
from lading.manifest import Entry, Filtered, Manifest, rehash, survey, unchanged
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, is_sealed, read_seal
from lading.staging.sentinel import SENTINEL
from transport.foreign import SOURCE, shown, translating
from transport.globus_collections import Collections, GlobusConfig
from transport.globus_fetch import GlobusSource
from transport.globus_login import Account, token_store
from transport.globus_service import MOST_PATHS, NAMES
from transport.globus_tasks import Data, Note, Told, forget, noted
from transport.naming import refuse_names
from transport.remote import PART_PREFIX, RemoteFile
from transport.there import Found, There, Wanted

_SEALED = "globus-sealed"  # journal key: the digest of the list that was carried and sealed
_GROWING = f"{PART_PREFIX}data"
_SEAL_PART = f"{PART_PREFIX}{SEAL_NAME}"
_MAX_RECEIPT = 64 << 20
_NAMED = 5
_SAMPLE = 20


class GlobusTransport:
    """Globus: between two collections, past this machine. One object may carry several deliveries at a time."""

    place_type = GlobusSource

    def __init__(self, config: GlobusConfig, *, state: Path) -> None:
        self._config = config
        self._account = Account(config.account, token_store(state, config.account))
        self._ends = Collections(config, self._account)

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, GlobusConfig, where="transport"), state=state)

    def __repr__(self) -> str:
        return f"GlobusTransport({self._config.inbox.collection!r}, {self._config.inbox.path!r})"

    @property
    def traits(self) -> TransportTraits:
        """Files go from endpoint to endpoint; one that was cut is sent again."""
        return TransportTraits(third_party=True, names=NAMES)

    def login(self, paste: Callable[[str], str], *, consent: bool = False) -> None:
        """A person's log-in; with `consent`, once more for the two collections. Raises what Account.login raises."""
        self._account.login(paste)
        if consent:
            self._account.login(paste, self._ends.ids)

    def probe(self, needed_bytes: int = 0) -> None:  # noqa: ARG002 - Globus does not say what is free
        """See the role. Whether there is room, Globus only says when it is used up."""
        folder, _, name = SENTINEL.rpartition("/")
        if not self._ends.entries(self._ends.inbox, self._ends.there(folder), name):
            raise Unreachable(
                f"{self._ends.named} has no sentinel ({SENTINEL}): is the path right?",
                safe="nothing was written",
                next_command="lading doctor",
            )

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by their size here; carry compares content."""
        if not is_sealed(cargo.papers):
            return _plan(
                (
                    (one.path, one.size)
                    for one in survey(cargo.root, rules=cargo.rules, limits=NAMES)
                    if not isinstance(one, Filtered)
                ),
                0,
            )
        manifest = _manifest(cargo)
        found = self._ends.slot(slot)
        if SEAL_NAME in found and "data" not in found:
            return Plan(0, 0, manifest.summary.files)
        there = There(manifest.summary.files, with_times=False)
        growing = "data" if "data" in found else _GROWING
        for one in self._ends.below(f"{self._ends.there(slot.path)}/{growing}") if growing in found else ():
            if not one.folder:
                there.add(one)
        missing = [(one.path, one.size) for one in manifest if there.of(one) is Found.ABSENT]
        return _plan(missing, manifest.summary.files - len(missing))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. Needs a sealed cargo. What Globus was asked before a crash is asked about, not asked again."""
        if not is_sealed(cargo.papers):
            raise UnexpectedFault(f"{slot.delivery} has no sealed papers: {self!r} carries what a manifest lists")
        manifest = _manifest(cargo)
        if not manifest.summary.files:
            raise Rejected(f"{slot.delivery} has no files: there is nothing to carry", safe="nothing was sent")
        refuse_names(manifest, NAMES, self._ends.named)
        self.probe()
        _Carrying(self._ends, cargo, slot, manifest, journal, progress).bring()

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role. A small transfer into the spool brings it."""
        content = self._ends.small_file(f".lading/receipts/{delivery}.json", _MAX_RECEIPT)
        return None if content is None else parse_receipt(content)


class _Carrying:
    """One carry."""

    def __init__(  # noqa: PLR0917 - what it works on
        self,
        ends: Collections,
        cargo: Cargo,
        slot: Slot,
        manifest: Manifest,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._to, self._cargo, self._slot, self._manifest = ends, cargo, slot, manifest
        self._journal, self._digest = journal, manifest.summary.list_digest
        self._told = Told(progress, manifest.summary.files, manifest.summary.bytes)

    def bring(self) -> None:
        """Make the slot hold the files and the papers, the seal last."""
        found = self._to.slot(self._slot)
        if SEAL_NAME in found and self._same_seal():
            self._journal.note(_SEALED, self._digest)
            forget(self._journal)
            return
        self._demand_unchanged()
        came_back = self._journal.recall(_SEALED) == self._digest or self._was_sealed_unnoted(found)
        note = self._with_its_files(self._current(came_back=came_back), found)
        if came_back:
            self._demand_content((one.path for one in self._manifest), "the inbox sent it back, and")
        if SEAL_NAME in found:
            self._to.remove([self._to.there(f"{self._slot.path}/{SEAL_NAME}")])
        if note is None or note.step != "papers":
            self._bring_files(found, note)
        elif "data" not in found:
            self._show_data()
        self._bring_papers(note)
        self._journal.note(_SEALED, self._digest)
        forget(self._journal)
        self._told.all()

    def _was_sealed_unnoted(self, found: dict[str, RemoteFile]) -> bool:
        """Whether our papers arrived, and neither they nor the seal wait any more: we were ended before we noted the seal."""
        note = noted(self._journal)
        if note is None or note.list != self._digest or note.step != "papers" or not note.task:
            return False
        return _SEAL_PART not in found and not self._to.tasks().is_active(note.task)

    def _current(self, *, came_back: bool) -> Note | None:
        """What is under way for this very list; what was for another ends."""
        note = noted(self._journal)
        if note is None or (note.list == self._digest and not came_back):
            return note
        if note.task:
            self._to.tasks().cancel(note.task)
        forget(self._journal)
        return None

    def _with_its_files(self, note: Note | None, found: dict[str, RemoteFile]) -> Note | None:
        """`note`, unless the slot was emptied behind it: what Globus once brought is not there any more, and is asked for anew."""
        if note is None or not note.task or _GROWING in found or "data" in found:
            return note
        if self._to.tasks().is_active(note.task):
            if note.step == "0":  # it has only begun
                return note
            self._to.tasks().cancel(note.task)
        elif not self._to.slot(self._slot).keys().isdisjoint((_GROWING, "data")):  # it ended since we looked
            return note
        forget(self._journal)
        return None

    def _bring_files(self, found: dict[str, RemoteFile], note: Note | None) -> None:
        if "data" in found:
            stale = [name for name in (_GROWING,) if name in found]
            self._to.remove([self._to.there(f"{self._slot.path}/{name}") for name in stale])
            if found["data"].folder:
                self._to.rename(self._slot.data, f"{self._slot.path}/{_GROWING}")
            else:
                self._to.remove([self._to.there(self._slot.data)])
        if note is None and found:
            self._tidy(found)
        first = int(note.step) if note else 0
        for number, batch in enumerate(_batches(self._manifest)):
            if number >= first:
                again = note if note and number == first else Note(self._digest, str(number), "")
                self._bring_batch(batch, again)
            self._told.batch(len(batch), sum(one.size for one in batch))
        self._demand_unchanged()
        self._show_data()

    def _bring_batch(self, batch: list[Entry], note: Note) -> None:
        what = f"carry {len(batch):,} files of {self._slot.delivery}"
        try:
            self._to.tasks().once(self._journal, note, lambda: self._files(batch), what, self._told.look)
        except Corrupted:
            self._demand_content((one.path for one in batch), f"cannot {what}:")
            raise
        except OutOfSpace as exc:
            size = self._manifest.summary.bytes
            raise OutOfSpace(
                f"{exc.message}; the delivery has {size:,} bytes", safe=exc.safe, next_command=exc.next_command
            ) from None
        except TransportError:
            self._demand_unchanged()
            raise

    def _files(self, batch: list[Entry]) -> Data:
        source = self._to.here(self._cargo.root).rstrip("/")
        target = self._to.there(f"{self._slot.path}/{_GROWING}")
        data = self._to.data(self._to.source, self._to.inbox, self._slot.delivery)
        for one in batch:
            data.add_item(
                f"{source}/{one.path}",
                f"{target}/{one.path}",
                external_checksum=one.digests["sha256"],
                checksum_algorithm="SHA256",
            )
        return data

    def _show_data(self) -> None:
        """Every file has succeeded: all of them appear."""
        self._to.rename(f"{self._slot.path}/{_GROWING}", self._slot.data)

    def _bring_papers(self, note: Note | None) -> None:
        spool = self._to.spool / self._slot.delivery
        with translating(f"cannot write the papers to {spool}", SOURCE):
            spool.mkdir(parents=True, exist_ok=True)
            for name in PAPERS:
                shutil.copy2(self._cargo.papers / name, spool / name)

        def papers() -> Data:
            data = self._to.data(self._to.source, self._to.inbox, f"{self._slot.delivery} papers")
            for name in PAPERS:
                as_ = _SEAL_PART if name == SEAL_NAME else name
                data.add_item(f"{self._to.here(spool)}/{name}", self._to.there(f"{self._slot.path}/{as_}"))
            return data

        again = note if note and note.step == "papers" else Note(self._digest, "papers", "")
        self._to.tasks().once(
            self._journal, again, papers, f"carry the papers of {self._slot.delivery}", lambda *_: None
        )
        self._to.rename(f"{self._slot.path}/{_SEAL_PART}", f"{self._slot.path}/{SEAL_NAME}")
        shutil.rmtree(spool, ignore_errors=True)

    def _tidy(self, found: dict[str, RemoteFile]) -> None:
        """Nothing stays in the slot that is not of this list."""
        wanted = Wanted(self._manifest.summary.files)
        for entry in self._manifest:
            wanted.add(entry.path)
        slot = self._to.there(self._slot.path)
        surplus = [f"{slot}/{name}" for name in found if name not in (*PAPERS, "data", _GROWING)]
        growing = f"{slot}/{_GROWING}"
        surplus += [
            f"{growing}/{one.path}" for one in self._to.below(growing, lambda one: one in wanted) if one not in wanted
        ]
        if surplus:
            self._to.remove(surplus)

    def _same_seal(self) -> bool:
        with translating(f"cannot read {self._cargo.papers / SEAL_NAME}", SOURCE):
            ours = (self._cargo.papers / SEAL_NAME).read_bytes()
        return self._to.small_file(f"{self._slot.path}/{SEAL_NAME}", MAX_SEAL_BYTES) == ours

    def _demand_unchanged(self) -> None:
        if changed := unchanged(self._cargo.root, self._manifest):
            raise SourceChanged(f"{self._cargo.root}: {_some(changed)} changed since the manifest was made")

    def _demand_content(self, paths: Iterator[str], why: str) -> None:
        """Read the source again where Globus, or the inbox, doubts it. Raises SourceChanged."""
        doubted = set(paths)
        entries = (one for one in self._manifest if one.path in doubted)
        changed = [one.path for one, verdict in rehash(self._cargo.root, entries) if verdict is not Verdict.MATCHES]
        if changed:
            raise SourceChanged(f"{why} {_some(changed)} below {self._cargo.root} is not what the manifest says")


def _batches(entries: Manifest) -> Iterator[list[Entry]]:
    every = iter(entries)
    while batch := list(islice(every, MOST_PATHS)):
        yield batch


def _plan(files: "Iterator[tuple[str, int]] | list[tuple[str, int]]", there: int) -> Plan:
    count = total = 0
    sample: list[str] = []
    for path, size in files:
        count, total = count + 1, total + size
        if len(sample) < _SAMPLE:
            sample.append(path)
    return Plan(count, total, there, tuple(sample))


def _manifest(cargo: Cargo) -> Manifest:
    return Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(shown(path) for path in paths[:_NAMED]) + more
