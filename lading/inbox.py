"""The staging area: reserve → seal → accept → publish → receipt. The only code that knows an inbox's folders.

    INBOX/
      .lading/inbox.json                 the sentinel: whoever does not find it is in the wrong place
      .lading/incoming/<delivery>/       being written by a transport: data/, then the papers, the seal last
      .lading/…                          see `lading.staging.slots`
      PROJECT/participant/SESSION/       published by rename

Everything here may be called again after a crash at any line: the second run finds its work done. Several processes may
work on one inbox; the engine keeps them off the same delivery, and nothing is destroyed when it fails to.
`docs/reference/inbox.md` is the protocol for those who write another sender.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from lading.delivery import Delivery, DeliveryId, FileOutcome, Labels, Parcel, Receipt
from lading.disk import FEW_FILES, flush_ahead, is_real_folder, move, room, sync_tree, translated
from lading.errors import (
    Corrupted,
    LadingError,
    NotVerified,
    OutOfSpace,
    Rejected,
    SourceChanged,
    TransportError,
    UnexpectedFault,
    Unreachable,
)
from lading.filters import FileRules
from lading.findings import Finding, error, note
from lading.manifest import Manifest, NameLimits, Progress
from lading.seal import PAPERS, SEAL_NAME, Seal, is_sealed, label_findings, read_seal, seal
from lading.staging import receipts, sentinel
from lading.staging.acceptance import DATA, Bounds, Damaged, Leftovers, prove
from lading.staging.bare import BareFolder, BareWatch, finish, is_adoption, list_or_refuse, move_filtered_aside, take_in
from lading.staging.publishing import Publisher
from lading.staging.receipts import parse_receipt, receipt_json, sign, signature_is_valid
from lading.staging.sentinel import SENTINEL, InboxLimits
from lading.staging.slots import (
    FINDINGS,
    LABELS,
    PUBLISHED,
    SHARED,
    VERIFIED,
    Slots,
    labels_given,
    read_note,
    unknown,
    write_note,
)

__all__ = [
    "PAPERS",
    "SEAL_NAME",
    "SENTINEL",
    "BareFolder",
    "Inbox",
    "InboxLimits",
    "Seal",
    "is_sealed",
    "parse_receipt",
    "read_seal",
    "receipt_json",
    "seal",
    "sign",
    "signature_is_valid",
]

_MUCH_BYTES = 32 << 20
_ROUNDS = 1000  # of moving remains aside, each of many files


class Inbox:
    """One inbox at `root`; `id` tells it from every other. Make one with `create` or `open`."""

    def __init__(self, root: Path, inbox_id: str, limits: InboxLimits) -> None:
        self.root = root
        self.id = inbox_id
        self.limits = limits
        self._slots = Slots(root)
        self._watch = BareWatch(root, self._slots)
        self._publisher = Publisher(root, self._slots)

    def __repr__(self) -> str:
        return f"Inbox({str(self.root)!r}, id={self.id!r})"

    @classmethod
    def create(cls, root: Path, *, limits: InboxLimits | None = None) -> "Inbox":
        """Make the folders and the sentinel; an inbox that is there keeps its id and gets `limits`, if given.

        Raises ConfigError for a foreign format, AccessDenied, OutOfSpace, Unreachable.
        """
        with translated("making an inbox", root):
            if not root.exists():
                root.mkdir(parents=True)
                root.chmod(SHARED)
            Slots(root).make()
        found = sentinel.write(root, limits)
        return cls(root, found.id, found.limits)

    @classmethod
    def open(cls, root: Path) -> "Inbox":
        """The inbox at `root`. Raises Unreachable when there is no sentinel, ConfigError when it is a foreign one."""
        found = sentinel.read(root)
        return cls(root, found.id, found.limits)

    def room(self) -> tuple[int, int]:
        """Free and total bytes of the inbox's disk; (0, 0) when it cannot be told."""
        return room(self.root)

    # -- the sender's half -------------------------------------------------------------------------------------------

    def reserve(self, delivery: DeliveryId, needed_bytes: int = 0) -> Path:
        """The sender's slot, made with its `data` folder; the same one when asked again.

        Raises OutOfSpace when `needed_bytes` would eat into what the inbox keeps free; AccessDenied, Unreachable.
        """
        with translated(f"reserving a slot for {delivery}", self.root):
            free, total = self.room()
            if total and free < needed_bytes + self.limits.keep_free_bytes:
                raise OutOfSpace(
                    f"delivery {delivery} needs {needed_bytes} bytes in the inbox {self.root}; {free} are free, "
                    f"of which {self.limits.keep_free_bytes} are kept free",
                    safe="nothing was sent",
                )
            return self._slots.reserve(delivery)

    # -- the server's half -------------------------------------------------------------------------------------------

    def arrivals(self) -> Iterator[DeliveryId]:
        """Deliveries that are sealed and not published yet, whoever has seen them before; oldest id first."""
        with translated("looking for arrivals", self.root):
            yield from self._slots.sealed()

    def bare(self, *, quiet_s: float, marker: str | None = None, now: float) -> Iterator[BareFolder]:
        """Folders dropped as PROJECT/participant/SESSION that are complete and not ours: to be `adopt`ed.

        Complete: nothing in it moved for `quiet_s` seconds of `now` (any clock that only goes forward), and the file
        `marker`, if given, is in it too. Quiet is counted by this object, so it takes at least two calls.
        """
        with translated("looking for bare deliveries", self.root):
            yield from self._watch.complete(quiet_s=quiet_s, marker=marker, now=now)

    @property
    def bare_waiting(self) -> Mapping[Path, str]:
        """Bare folders that the last look found incomplete, and why."""
        return self._watch.waiting

    def adopt(
        self,
        bare: BareFolder,
        delivery: Delivery,
        *,
        rules: FileRules | None = None,
        algorithms: Sequence[str] = (),
        limits: NameLimits = NameLimits.POSIX,
    ) -> None:
        """Make a bare folder a sealed delivery: moved out of reach, listed here (origin "arrival"), sealed.

        What `rules` leave out is kept beside it. Checksum files that came along are honoured. After a crash: again with
        the same delivery, or the next `bare` finishes it. Content that is refused (links, checksum-file-mismatch …) is
        an arrival too: `accept` raises Rejected for it. Raises SourceChanged, AccessDenied, OutOfSpace, Unreachable.
        """
        with translated(f"taking in {bare.path}", self.root):
            if not bare.path.is_relative_to(self.root):
                raise UnexpectedFault(f"{bare.path} is not in the inbox {self.root}")
            if self._slots.held(delivery.id) == self._slots.accepted / delivery.id:
                return
            take_in(self._slots, bare, delivery, rules=rules or FileRules(), algorithms=algorithms, limits=limits)
            list_or_refuse(self._slots, self._slots.accepting / delivery.id)

    def filed(self) -> Iterator[DeliveryId]:
        """Deliveries whose papers lie in `accepted`: published once, whether or not they were withdrawn since."""
        with translated("looking for published deliveries", self.root):
            yield from self._slots.filed()

    def accept(self, delivery: DeliveryId, *, workers: int | None = None, progress: Progress | None = None) -> Parcel:
        """Take the slot from its sender, read every byte once, and say that it is what the seal declares.

        A delivery accepted before is not read again. On return the data and that verdict survive a power cut.
        Raises Rejected (hostile, malformed, unlisted, too large; `quarantine` it), Corrupted (`paths` are missing or
        differ: the slot is the sender's again, without its seal), AccessDenied, Unreachable, OutOfSpace.
        """
        with translated(f"accepting {delivery}", self.root):
            if self._slots.held(delivery) != self._slots.accepted / delivery:
                slot = self._slots.take(delivery)
                if slot is None:
                    raise _no_seal(delivery)
                if not self._is_verified(delivery):
                    with self._alone(delivery, verified=False):
                        self._prepare(delivery, slot)
                        self._verify(delivery, slot, workers, progress)
            return self.parcel(delivery)

    def publish(self, parcel: Parcel) -> Parcel:
        """Let the data appear as PROJECT/participant/SESSION, at once and durably; the papers go to `accepted`.

        When that folder exists with the very same content, the delivery counts as delivered already (`notes` says so)
        and the parcel of that folder is returned. Raises Rejected (session-exists: other content, both are kept).
        """
        delivery = parcel.delivery.id
        with translated(f"publishing {delivery}", self.root):
            slot = self._slots.held(delivery)
            if slot is None:
                raise unknown(delivery, "published")
            if slot.parent == self._slots.accepted:
                return self.parcel(delivery)
            with self._alone(delivery, verified=True):
                touched = self._publisher.was_touched(slot)
            if touched:
                (slot / VERIFIED).unlink()
                self.accept(delivery)  # every byte is read again
            with self._alone(delivery, verified=True):
                self._publisher.publish(delivery, slot)
            return self.parcel(delivery)

    def parcel(self, delivery: DeliveryId) -> Parcel:
        """The parcel of an accepted or published delivery; no data is read. Raises UnexpectedFault for any other."""
        return self._publisher.parcel(delivery)

    def awaits_acceptance(self, delivery: DeliveryId) -> bool:
        """Whether nothing is proven of it (any more) and nobody has decided about it: it is its sender's, or lies unverified."""
        decided = (self._slots.accepted, self._slots.quarantine)
        return not self._is_verified(delivery) and not any(os.path.lexists(place / delivery) for place in decided)

    def notes(self, delivery: DeliveryId) -> tuple[Finding, ...]:
        """For the record of a delivery that went well: was its list made here, was its content there already."""
        slot = self._slots.held(delivery)
        if slot is None:
            return ()
        found = []
        sealed = read_seal(slot)
        if sealed.origin == "arrival":
            found.append(note("unverified-at-source", sealed.note or "the list was made on arrival"))
        if (read_note(slot / PUBLISHED) or {}).get("already_delivered"):
            found.append(note("already-delivered", "the session folder was there with the very same content"))
        return tuple(found)

    def is_untouched(self, parcel: Parcel) -> bool:
        """Whether no file of the parcel was added, removed or written since its bytes were verified (stats only)."""
        with translated(f"looking at {parcel.delivery.id}", self.root):
            return self._publisher.is_untouched(parcel)

    def quarantine(self, delivery: DeliveryId, findings: Iterable[Finding]) -> None:
        """Move the delivery aside with its findings; nothing is deleted. Again: the findings are written anew.

        A published one is unpublished first. Raises UnexpectedFault when there is no such delivery.
        """
        with translated(f"moving {delivery} to quarantine", self.root):
            if self._slots.held(delivery) == self._slots.accepted / delivery:
                self._publisher.unpublish(delivery)
            aside = self._slots.put_aside(delivery)
            if aside is None:
                raise unknown(delivery, "put into quarantine")
            write_note(aside / FINDINGS, {"delivery": delivery, "findings": [f.as_dict() for f in findings]})

    def release(self, delivery: DeliveryId, labels: Labels | None = None) -> None:
        """Out of quarantine, ready to be accepted again; under other labels if given. The sender's seal stays as it is.

        Raises Rejected when the labels cannot name folders, UnexpectedFault when there is no such delivery.
        """
        if labels and (found := label_findings(labels)):
            raise Rejected(f"{labels} cannot be used: {found[0].message}", findings=found)
        with translated(f"releasing {delivery}", self.root):
            slot = self._slots.bring_back(delivery)
            if slot is None:
                raise unknown(delivery, "released")
            with suppress(FileNotFoundError):
                move(slot / FINDINGS, slot / f"findings-{time.time_ns()}.json")
            if labels:
                write_note(slot / LABELS, dict(labels.as_dict()))

    def write_receipt(self, receipt: Receipt, outcomes: Iterable[FileOutcome], key: bytes) -> Receipt:
        """Write the list of outcomes, then the receipt, durably, over an earlier one; returns it signed with `key`."""
        with translated(f"writing the receipt of {receipt.delivery}", self.root):
            return receipts.write(self._slots.receipts, receipt, outcomes, key)

    def read_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """The receipt as it is now, or None. The signature is not checked. Raises Corrupted."""
        with translated(f"reading the receipt of {delivery}", self.root):
            return receipts.read(self._slots.receipts, delivery)

    def read_outcomes(self, delivery: DeliveryId) -> Iterator[FileOutcome]:
        """The receipt's lines, one per file, streamed. Raises Corrupted."""
        with translated(f"reading the outcomes of {delivery}", self.root):
            yield from receipts.read_outcomes(self._slots.receipts, delivery)

    def withdraw(self, delivery: DeliveryId, *, key: bytes | None = None) -> None:
        """Remove the published copy of a delivery that the repository holds, every file of it.

        Raises NotVerified, and removes nothing, without a receipt that proves all (with `key`: signed by it), and when the
        folder no longer holds exactly the delivery. Papers and receipt stay.
        """
        with translated(f"withdrawing {delivery}", self.root):
            parcel = self.parcel(delivery)
            if not parcel.published:
                raise unknown(delivery, "withdrawn")
            self._demand_proof(parcel, key)
            self._publisher.withdraw(parcel)

    def sweep(self, *, older_than_s: float) -> tuple[str, ...]:
        """Remove what nobody needs any more and is older: temporaries of killed processes, stubs and second copies of
        deliveries that were withdrawn. Never a delivery. Returns what was removed, relative to the inbox.
        """
        with translated("sweeping", self.root):
            return tuple(str(p.relative_to(self.root)) for p in self._slots.sweep(time.time() - older_than_s))

    # -- how -------------------------------------------------------------------------------------------------------

    def _prepare(self, delivery: DeliveryId, slot: Path) -> None:
        if not is_real_folder(slot):
            raise _not_a_folder(delivery)
        if is_adoption(slot):
            finish(slot)
            move_filtered_aside(slot, Manifest.trusted(slot, read_seal(slot).summary))
        elif not os.path.lexists(slot / SEAL_NAME):
            raise self._reopened(delivery, slot, Damaged("it has no seal any more"))

    def _verify(self, delivery: DeliveryId, slot: Path, workers: int | None, progress: Progress | None) -> None:
        bounds = Bounds(self.limits.max_files, self.limits.max_bytes, self.limits.max_list_bytes)
        flushed = _flush_ahead(slot)
        for _ in range(_ROUNDS):
            try:
                proof = prove(slot, delivery, labels_given(slot), bounds, workers=workers, progress=progress)
                break
            except Leftovers as left:
                self._slots.set_aside(slot, "leftovers", left.paths)
            except Damaged as damaged:
                if self._is_verified(delivery):
                    return
                raise self._reopened(delivery, slot, damaged) from damaged
        else:
            raise self._reopened(delivery, slot, Damaged("it holds too many remains of interrupted copies"))
        manifest = Manifest.trusted(slot, proof.seal.summary)
        listed = (f"{DATA}/{entry.path}" for entry in manifest)
        if proof.seal.summary.files > FEW_FILES:  # few are flushed, and asked for their errors, one by one
            flushed()
        sync_tree(slot, chain(PAPERS, listed), proof.seal.summary.files)
        write_note(slot / VERIFIED, {"fingerprint": proof.fingerprint, "digest": proof.seal.summary.digest})

    def _is_verified(self, delivery: DeliveryId) -> bool:
        slot = self._slots.held(delivery)
        return slot is not None and read_note(slot / VERIFIED) is not None

    @contextmanager
    def _alone(self, delivery: DeliveryId, *, verified: bool) -> Iterator[None]:
        """Believe a refusal only while the slot is still where and (`verified` or not) what it was when we began.

        Else another process carried the delivery on meanwhile, under our eyes: that is no reason to refuse anything.
        """
        try:
            yield
        except (Rejected, UnexpectedFault) as exc:
            if os.path.lexists(self._slots.accepting / delivery) and self._is_verified(delivery) is verified:
                raise
            raise Unreachable(f"another process is working on {delivery}") from exc

    def _reopened(self, delivery: DeliveryId, slot: Path, damaged: Damaged) -> TransportError:
        if is_adoption(slot):
            (slot / SEAL_NAME).unlink(missing_ok=True)  # nobody can send it again: it is listed anew
            return SourceChanged(f"somebody still writes to {delivery}: {damaged.what}", safe="it is listed again")
        self._slots.give_back(delivery, damaged.paths)
        return Corrupted(
            f"delivery {delivery} arrived damaged: {damaged.what}",
            paths=damaged.paths,
            safe="the damaged files were moved aside; everything that arrived whole is kept",
        )

    def _demand_proof(self, parcel: Parcel, key: bytes | None) -> None:
        delivery = parcel.delivery
        receipt = self.read_receipt(delivery.id)
        missing = (
            "there is no receipt"
            if receipt is None
            else "its receipt does not prove every file"
            if not receipt.proves_all or (receipt.digest, receipt.files) != (delivery.digest, delivery.files)
            else "its receipt is not signed by this server"
            if key is not None and not signature_is_valid(receipt, key)
            else ""
        )
        if missing:
            raise NotVerified(
                f"{delivery.id} stays in the inbox: {missing}",
                safe="nothing was removed",
                next_command=f"lading verify {delivery.id}",
            )


def _not_a_folder(delivery: DeliveryId) -> Rejected:
    found = error("symlink", "the slot is a link, or no folder at all", hint="send the delivery again with lading")
    return Rejected(f"delivery {delivery} cannot be taken: {found.message}", findings=[found])


def _no_seal(delivery: DeliveryId) -> Unreachable:
    return Unreachable(f"there is no sealed delivery {delivery} in this inbox (yet)")


def _flush_ahead(slot: Path) -> Callable[[], None]:
    """Let the disk write what has just arrived while it is read back; not for little, which is soon written."""
    try:
        much = read_seal(slot).summary.bytes >= _MUCH_BYTES
    except (LadingError, OSError):  # what is wrong with it is told by whoever reads it in earnest
        much = False
    return flush_ahead(slot) if much else lambda: None
