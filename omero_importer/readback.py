"""Reads back what OMERO holds, file by file, over a login of its own.

A file of a Fileset is proven when OMERO's checksum of what it stored equals ours, an image with pixels was made of the Fileset, at
its place, and no other Fileset of the delivery holds it too. With `import.reread` the server reads its disk again; else its word of
the upload counts.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lading.delivery import DeliveryId, FileOutcome, Outcome
from lading.manifest import Entry
from omero_importer import annotations, attachments, doubles, holdings
from omero_importer.attachments import StoredAttachment
from omero_importer.doubles import Copy
from omero_importer.filesets import FilesetPlan, FilesetsDecision, Place
from omero_importer.hashes import ALGORITHMS, MANIFEST_NAMES, NO_PROOF
from omero_importer.holdings import ClientName, HeldFileset, Matching, StoredFile
from omero_importer.ice import Ice, omero
from omero_importer.session import Connection
from omero_importer.settings import RouteSettings
from omero_importer.sources import Source

_READ_AT_ONCE = 50
"""So many files one request lets the server read again: it answers when it has read them all."""
_FILES_AT_ONCE = 50_000
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Proof:
    """What is compared: the parcel's files and the decision about them, and where in OMERO they should be."""

    connection: Connection
    source: Source
    decision: FilesetsDecision
    place: Place
    delivery: DeliveryId
    marks: tuple[int, ...]
    deliveries: tuple[str, ...]
    route: RouteSettings

    def outcomes(self) -> Iterator[FileOutcome]:
        """One for each file of the parcel."""
        for name, reason in self.decision.left_out.items():
            yield _outcome(self.source.entries[name], Outcome.FILTERED, reason)
        yield from self._filesets()
        yield from self._attachments()

    def may_be(self, entry: Entry, stored: StoredFile) -> bool:
        """Whether nothing that OMERO says of its file speaks against its being ours."""
        verdict = self._compared(entry, stored.checksum, stored.hasher, stored.size, stored.id)
        return verdict.outcome in (Outcome.VERIFIED, Outcome.UNVERIFIED)

    def _filesets(self) -> Iterator[FileOutcome]:
        held = self._held()
        for batch in _batched(plan for plan in self.decision.filesets if held[plan.key]):
            copies = {plan.key: doubles.in_one_group(self.connection, held[plan.key]) for plan in batch}
            files: dict[int, dict[str, StoredFile]] = {found.id: {} for some in copies.values() for found in some}
            for stored in holdings.stored_files(self.connection, sorted(files)):
                files[stored.fileset][stored.client_path] = stored
            broken = self._broken([stored for one in files.values() for stored in one.values()])
            for plan in batch:
                found, *more = (
                    Copy(one, tuple(self._judged(one, plan, files[one.id], broken))) for one in copies[plan.key]
                )
                yield from doubles.together([found, *more], self.delivery) if more else found.verdicts
        for plan in self.decision.filesets:
            if not held[plan.key]:
                for path in plan.files:
                    yield _outcome(self.source.entries[path], Outcome.MISSING, "OMERO has no Fileset of it")

    def _held(self) -> dict[str, list[HeldFileset]]:
        """For the key of each plan, what OMERO has of it, oldest first: nothing, one Fileset, or more than one."""
        matching = Matching(self.decision.filesets, ClientName(self.place.prefix))
        held: dict[str, list[HeldFileset]] = {plan.key: [] for plan in self.decision.filesets}
        for found in holdings.held(self.connection, self.marks, self.place):
            plan = matching.plan(found)
            if plan is not None:
                found.paths = frozenset()  # they may be a million; the plan has them
                held[plan.key].append(found)
        return held

    def _judged(
        self, found: HeldFileset, plan: FilesetPlan, files: Mapping[str, StoredFile], broken: Mapping[int, Outcome]
    ) -> Iterator[FileOutcome]:
        name = ClientName(self.place.prefix)
        doubt = self._doubt(found)
        for path in plan.files:
            entry, stored = self.source.entries[path], files.get(name(path))
            if stored is None:
                yield _outcome(entry, Outcome.MISSING, "not in its Fileset")
                continue
            where = f"OriginalFile:{stored.id}"
            if not found.images:
                yield _outcome(entry, Outcome.MISSING, "OMERO has made no image of it", where)
            elif stored.id in broken:
                how = "gone from" if broken[stored.id] is Outcome.MISSING else "read again from"
                yield _outcome(entry, broken[stored.id], f"{how} the server's disk", where)
            else:
                verdict = self._compared(entry, stored.checksum, stored.hasher, stored.size, stored.id)
                if doubt and verdict.outcome is Outcome.VERIFIED:
                    verdict = _outcome(entry, Outcome.UNVERIFIED, doubt, where)
                yield verdict

    def _doubt(self, found: HeldFileset) -> str:
        if found.images - found.with_pixels:
            return f"image {min(found.images - found.with_pixels)} has no pixels"
        if found.images - found.linked:
            return f"image {min(found.images - found.linked)} is not in {self.place.kind} {self.place.id}"
        return ""

    def _attachments(self) -> Iterator[FileOutcome]:
        if not self.decision.attachments:
            return
        name = ClientName(self.place.prefix)
        there = attachments.stored(self.connection, self.place, self.deliveries)
        for path in self.decision.attachments:
            entry, stored = self.source.entries[path], there.get(name(path))
            if stored is None:
                yield _outcome(entry, Outcome.MISSING, f"not attached to {self.place.kind} {self.place.id}")
            elif self.route.reread and stored.checksum:
                yield self._downloaded(entry, stored)
            else:
                yield self._compared(entry, stored.checksum, stored.hasher, stored.size, stored.file)

    def _compared(self, entry: Entry, checksum: str, hasher: str, size: int, file: int) -> FileOutcome:
        where = f"OriginalFile:{file}"
        if size != entry.size:
            return _outcome(entry, Outcome.MISMATCH, f"size {size}, not {entry.size}", where)
        if not checksum or hasher not in ALGORITHMS or hasher in NO_PROOF:
            if not size:
                return _outcome(entry, Outcome.VERIFIED, "empty", where)
            if self.route.blank_digest == "download":
                return self._downloaded(entry, StoredAttachment(entry.path, file, size, checksum, hasher))
            return _outcome(entry, Outcome.UNVERIFIED, "OMERO shows no checksum that proves anything", where)
        ours = entry.digests.get(MANIFEST_NAMES.get(hasher, "")) or self._of_our_copy(entry, hasher)
        if not ours:
            return self._downloaded(entry, StoredAttachment(entry.path, file, size, checksum, hasher))
        return _outcome(entry, Outcome.VERIFIED if checksum == ours else Outcome.MISMATCH, hasher, where)

    def _of_our_copy(self, entry: Entry, hasher: str) -> str:
        """The checksum that the manifest has not, read now; "" when our copy is gone, or is another delivery's by now."""
        digest, witness = ALGORITHMS[hasher](), hashlib.sha256()
        try:
            with self.source.opened(entry.path) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    witness.update(block)
        except (OSError, ValueError):
            return ""
        return digest.hexdigest() if witness.hexdigest() == entry.sha256 else ""

    def _downloaded(self, entry: Entry, stored: StoredAttachment) -> FileOutcome:
        where = f"OriginalFile:{stored.file}"
        if not attachments.exists(self.connection, stored.file, entry.size):
            return _outcome(entry, Outcome.MISSING, "gone from the server's disk", where)
        digest = hashlib.sha256()
        for block in attachments.content(self.connection, stored.file, stored.size, self.route.block_kb << 10):
            digest.update(block)
        same = digest.hexdigest() == entry.sha256
        return _outcome(entry, Outcome.VERIFIED if same else Outcome.MISMATCH, "sha256 of the download", where)

    def _broken(self, files: Sequence[StoredFile]) -> dict[int, Outcome]:
        """The files that the server does not find any more, or finds changed, when it reads its disk again."""
        broken: dict[int, Outcome] = {}
        if self.route.reread:
            known = {file.id: file for file in files if file.checksum}
            for batch in annotations.batches(sorted(known), _READ_AT_ONCE):
                broken |= self._read_again(batch, known)
        return broken

    def _read_again(self, ids: list[int], known: Mapping[int, StoredFile]) -> dict[int, Outcome]:
        repository = self.connection.repository()
        try:
            return dict.fromkeys(repository.verifyChecksums(ids), Outcome.MISMATCH)
        except (omero.ServerError, Ice.UnknownException):
            # One file that is not there spoils the answer for all of them.
            if len(ids) > 1:
                half = len(ids) // 2
                return self._read_again(ids[:half], known) | self._read_again(ids[half:], known)
            if not repository.fileExists(known[ids[0]].path):
                return {ids[0]: Outcome.MISSING}
            raise


def _batched(plans: Iterable[FilesetPlan]) -> Iterator[list[FilesetPlan]]:
    batch: list[FilesetPlan] = []
    for one in plans:
        batch.append(one)
        if len(batch) == _READ_AT_ONCE or sum(len(each.files) for each in batch) > _FILES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _outcome(entry: Entry, outcome: Outcome, how: str, where: str = "") -> FileOutcome:
    return FileOutcome(entry.path, entry.size, entry.sha256, outcome, how, where)
