"""Takes sealed deliveries out of a waypoint: a place shaped like an inbox that nobody serves, such as a bucket or a shared folder.

Agents carry into it as into any inbox. What is sealed there is brought with its own papers into the inbox here, every file
compared with the sender's list while it is read; receipts go back, so that the agent finds them where it looks. What has no seal
yet is not looked at.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lading.delivery import DeliveryId, Slot, Stage, delivery_id
from lading.errors import Corrupted, EngineError, LadingError, Rejected, SourceChanged, Unreachable
from lading.findings import error
from lading.inbox import receipt_json
from lading.manifest import Entry, Manifest
from lading.ports import Progress
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, Seal, read_seal
from transport.bodies import FileBody, Folder, SmallBody
from transport.fetch_asking import Asking
from transport.fetch_files import Bringing, hash_here, look_again
from transport.fetch_foreign import still_answers
from transport.fetch_ledger import Ledger, Progressing, Remembered, changed
from transport.fetch_look import HostileName, folders_in, refused
from transport.fetching import Fetching
from transport.foreign import TARGET, translating
from transport.landing import Landing
from transport.pacing import Unpaced
from transport.placing import read_sentinel, small_file
from transport.remote import CopiesTrees, RemoteFile
from transport.stalling import Watched

_INCOMING = ".lading/incoming"
_RECEIPTS = ".lading/receipts"


class WaypointRound:
    """One round over a waypoint."""

    def __init__(
        self, setting: Fetching, ledger: Ledger, files: Watched, progress: Progress, clock: Callable[[], float]
    ) -> None:
        self._setting, self._ledger, self._files, self._progress = setting, ledger, files, progress
        self._clock = clock
        self._asking = Asking(setting.state / "fetch" / f"{setting.route}-asking", setting.source, files, clock)

    def run(self, only: str = "") -> list[Remembered]:
        """Bring what is sealed (or `only` that delivery), write receipts back. What was looked at."""
        limits = read_sentinel(self._files, self._setting.place.name).limits
        self._asking.tell()  # what an earlier round noted, and could not say any more
        seen = [
            found for path in self._slots(only) if (found := self._one(path, limits.max_list_bytes, asked=bool(only)))
        ]
        return [self._with_receipt(found) for found in seen]

    def _slots(self, only: str) -> Iterator[str]:
        for path in sorted(folders_in(self._files, _INCOMING)):
            name = path.rpartition("/")[2]
            if not only or only.rstrip("/").endswith(name):
                yield name

    def _one(self, name: str, max_list_bytes: int, *, asked: bool) -> Remembered | None:
        """The delivery in the slot `name` after this round; None when there is none, or not yet. `asked`: somebody named it."""
        try:
            delivery = delivery_id(name)
        except ValueError:
            return None  # no agent makes such a folder
        known = self._ledger.get(name) or Remembered(name, delivery=name, first_seen=self._clock())
        seal: bytes | None = None
        try:
            seal = small_file(self._files, f"{Slot(delivery).path}/{SEAL_NAME}", MAX_SEAL_BYTES)
            if seal is None:
                return None
            digest = hashlib.sha256(seal).hexdigest()
            if known.fingerprint == digest and self._is_settled(known, delivery, asked=asked):
                return known
            known = changed(known, fingerprint=digest, state=Progressing.FETCHING, findings=(), note="being fetched")
            known = self._brought(self._ledger.put(known), delivery, seal, max_list_bytes)
        except HostileName as exc:
            known = changed(known, state=Progressing.HELD, findings=(refused(exc),), note=str(exc))
        except SourceChanged as exc:  # gone, or not of the listed size
            return self._held(known, Corrupted(exc.message, paths=[name]), seal)
        except (Rejected, Corrupted) as exc:
            return self._held(known, exc, seal)
        except EngineError:
            raise
        except LadingError as exc:
            # One delivery that cannot be brought now says nothing about the others, unless the connection broke.
            if isinstance(exc, Unreachable) and not still_answers(self._files, Slot(delivery).path):
                raise
            known = changed(known, note=exc.message)
        return self._ledger.put(known)

    def _is_settled(self, known: Remembered, delivery: DeliveryId, *, asked: bool) -> bool:
        """Whether that seal was dealt with. What is held is judged anew for whoever names it."""
        if known.state is Progressing.FETCHED:
            return not self._was_given_back(delivery)
        return known.state is Progressing.HELD and not asked

    def _held(self, known: Remembered, exc: Rejected | Corrupted, seal: bytes | None) -> Remembered:
        """Something is wrong with what the sender sealed. A damaged file is the sender's to carry again."""
        if isinstance(exc, Corrupted) and exc.paths and seal is not None:
            # As an inbox does: without its seal the slot is the sender's, who compares and mends.
            self._asking.note(seal, exc, self._setting.route)
            self._asking.tell()
            return self._ledger.put(changed(known, state=Progressing.WAITING, fingerprint="", note=exc.message))
        findings = exc.findings if isinstance(exc, Rejected) else ()
        hint = f"lading fetch {self._setting.route} {known.path} looks at it again"
        found = findings or (error("waypoint-unusable", exc.message, hint=hint),)
        return self._ledger.put(changed(known, state=Progressing.HELD, findings=found, note=exc.message))

    def _brought(self, known: Remembered, delivery: DeliveryId, seal: bytes, max_list_bytes: int) -> Remembered:
        setting = self._setting
        with tempfile.TemporaryDirectory(dir=setting.state, prefix="papers-") as folder:
            papers = Path(folder)
            (papers / SEAL_NAME).write_bytes(seal)
            sealed = read_seal(papers)
            if sealed.delivery != delivery:
                raise Rejected(f"the seal in {delivery} is that of {sealed.delivery}")
            manifest = self._papers(papers, sealed, max_list_bytes)
            summary = manifest.summary
            known = self._ledger.put(changed(known, files=summary.files, bytes=summary.bytes, digest=summary.digest))
            if not self._is_here(sealed, seal):
                slot = setting.inbox.reserve(delivery, manifest.summary.bytes)
                self._bring_files(delivery, manifest, slot)
                self._hand_over(papers, slot)
        self._ledger.drop_files(delivery)
        return self._ledger.put(changed(known, state=Progressing.FETCHED, note=""))

    def _papers(self, papers: Path, sealed: Seal, limit: int) -> Manifest:
        """The sender's papers, here; read once from end to end and equal to what the seal says."""
        for name in PAPERS[:-1]:
            remote = f"{Slot(sealed.delivery).path}/{name}"
            found = self._files.look(remote)
            if found is None or found.size < 0 or found.folder:
                raise Rejected(f"{sealed.delivery} is sealed, but has no {name}")
            if found.size > limit:
                raise Rejected(f"{name} of {sealed.delivery} has {found.size:,} bytes, {limit:,} are allowed")
            with translating(f"cannot write {papers / name}", TARGET), (papers / name).open("wb") as out:
                for block in self._files.read(remote):
                    out.write(block)
                    if out.tell() > limit:
                        raise Rejected(f"{name} of {sealed.delivery} is larger than {limit:,} bytes")
        manifest = Manifest.open(papers)
        theirs, ours = sealed.summary, manifest.summary
        if (theirs.digest, theirs.list_digest) != (ours.digest, ours.list_digest):
            raise Rejected(f"the seal of {sealed.delivery} does not fit its lists")
        return manifest

    def _bring_files(self, delivery: DeliveryId, manifest: Manifest, slot: Path) -> None:
        setting = self._setting
        self._ledger.list_files(delivery, (_expected(entry) for entry in manifest))
        with translating(f"cannot open {slot}", TARGET):
            landing = Landing(slot / "data")
        with landing:
            look_again(landing, self._ledger, delivery)
            if isinstance(setting.place, CopiesTrees):
                self._copy_tree(setting.place, delivery, manifest.summary.algorithms, slot / "data", landing)
            else:
                self._bring_each(delivery, manifest.summary.algorithms, landing)
            with translating(f"cannot finish {slot}", TARGET):
                landing.keep_only(entry.path for entry in manifest)
                landing.make_durable()

    def _bring_each(self, delivery: DeliveryId, algorithms: tuple[str, ...], landing: Landing) -> None:
        setting = self._setting
        Bringing(
            setting.place,
            Slot(delivery).data,
            landing,
            self._ledger,
            delivery,
            algorithms=algorithms,
            pace=setting.pace,
            progress=self._progress,
            boot=setting.boot,
            mtime_ns=lambda row: int(row.version),
        ).bring()

    def _copy_tree(
        self, place: CopiesTrees, delivery: DeliveryId, algorithms: tuple[str, ...], data: Path, landing: Landing
    ) -> None:
        for again in (True, False):
            missing = (row.path for row in self._ledger.files(delivery, missing=True))
            place.copy_tree(Slot(delivery).data, missing, data, self._setting.pace, self._progress)
            try:
                hash_here(data, self._ledger, delivery, algorithms)
            except Corrupted:
                if not again:
                    raise
                # What an earlier attempt left may have the right size and time: what is not proven is copied once more before
                # the sender is asked.
                with translating(f"cannot remove what is damaged in {data}", TARGET):
                    landing.keep_only(row.path for row in self._ledger.files(delivery) if row.digests)
            else:
                return

    def _hand_over(self, papers: Path, slot: Path) -> None:
        with translating(f"cannot write the papers into {slot}", TARGET), Landing(slot) as landing:
            for name in PAPERS:
                if name == SEAL_NAME:
                    landing.make_durable()
                arriving = landing.begin(name)
                try:
                    with (papers / name).open("rb") as source:
                        while block := source.read(1 << 20):
                            arriving.write(block)
                except BaseException:
                    arriving.abandon()
                    raise
                arriving.finish()
            landing.make_durable()

    def _is_here(self, sealed: Seal, seal: bytes) -> bool:
        """Whether the inbox has this very delivery already, sealed, in its own hands, or withdrawn since the repository has it.

        Raises Rejected for another of its id: a receipt about that one must not clear this one away.
        """
        delivery = sealed.delivery
        slot = self._setting.inbox.root / Slot(delivery).path
        with translating(f"cannot look at {slot}", TARGET):
            is_sealed = (slot / SEAL_NAME).exists()
            if is_sealed and (slot / SEAL_NAME).read_bytes() == seal:
                return True
        if not is_sealed:
            receipt = self._setting.inbox.read_receipt(delivery)
            if receipt is None or receipt.stage is not Stage.VERIFIED:
                return False
            if (receipt.digest, receipt.files) == (sealed.summary.digest, sealed.summary.files):
                return True
        found = error(
            "delivery-id-taken",
            f"the inbox has a delivery {delivery} already, of another content",
            hint="its sender must send it under an id of its own; nothing was removed",
        )
        raise Rejected(found.message, findings=[found])

    def _was_given_back(self, delivery: DeliveryId) -> bool:
        slot = self._setting.inbox.root / Slot(delivery).path
        return (slot / "data").is_dir() and not (slot / SEAL_NAME).exists()

    # -- the way back ------------------------------------------------------------------------------------------------

    def _with_receipt(self, known: Remembered) -> Remembered:
        """The inbox's receipt, list first, where the agent looks for it; then the data may go."""
        if known.state is not Progressing.FETCHED:
            return known
        delivery = delivery_id(known.delivery)
        try:
            receipt = self._setting.inbox.read_receipt(delivery)
        except Corrupted as exc:  # of this delivery; the others wait for theirs
            return self._ledger.put(changed(known, note=exc.message))
        if receipt is None:
            return known
        content = receipt_json(receipt).encode("ascii")
        digest = hashlib.sha256(content).hexdigest()
        if digest != known.receipt:
            self._files.make_folders(_RECEIPTS)
            self._place_outcomes(delivery)
            self._files.place(f"{_RECEIPTS}/{delivery}.json", SmallBody(content, self._clock()))
            known = self._ledger.put(changed(known, receipt=digest))
        digest_here = known.digest or receipt.digest  # older versions did not note it
        about_this = (receipt.delivery, receipt.files, receipt.digest) == (delivery, known.files, digest_here)
        if self._setting.config.clear and receipt.proves_all and about_this and not known.cleared:
            # The seal stays: it tells the agent that nothing is left to carry.
            self._files.remove(Slot(delivery).data)
            known = self._ledger.put(changed(known, cleared=True))
        return known

    def _place_outcomes(self, delivery: DeliveryId) -> None:
        folder = self._setting.inbox.root / _RECEIPTS
        name = f"{delivery}.files.jsonl"
        with translating(f"cannot read {folder / name}", TARGET):
            try:
                info = (folder / name).lstat()
            except FileNotFoundError:
                return
        source = Folder(folder)
        try:
            entry = Entry(name, info.st_size, info.st_mtime_ns, {})
            with FileBody(folder, entry, source.open, pace=Unpaced()) as body:
                self._files.place(f"{_RECEIPTS}/{name}", body)
        finally:
            source.close()


def _expected(entry: Entry) -> RemoteFile:
    """What the list says must be there, as if the server had said so: every file is compared while it is read."""
    return RemoteFile(entry.path, entry.size, entry.mtime_ns / 1e9, digests=entry.digests, version=str(entry.mtime_ns))
