"""Makes a Transport of any RemotePlace: what SFTP, SMB, FTPS, S3 and WebDAV have in common is said here, once.

A protocol is one thin file:

    class SftpPlace:                                   # the role transport.remote.RemotePlace
        @classmethod
        def from_settings(cls, settings): ...          # attrs config, read with lading.config.structure

    class SftpTransport(PlacingTransport):             # its entry point in lading.transports: transport.sftp:SftpTransport
        \"\"\"A transport over SFTP.\"\"\"

        place_type = SftpPlace

and a class in tests/conformance that hands `transport.sftp:SftpTransport.from_settings` to the TransportSuite.

A file of the source is read once: the bytes that are hashed are those that are sent. Where there is no manifest yet it is made from
that read (transport.on_the_way), else the bytes are compared with it. What an earlier attempt placed is found by one listing;
a delivery that came back is compared by content, with the server's own digests where it computes them, else by reading back.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from lading.config import BASE
from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.deposit import Deposit
from lading.errors import Corrupted, OutOfSpace, SourceChanged, UnexpectedFault, Unreachable
from lading.inbox import parse_receipt
from lading.manifest import LIST_NAME, SUMS_NAME, Entry, Manifest, NameLimits, make
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, is_sealed, read_seal, seal
from lading.staging import sentinel
from transport.bodies import FileBody, Folder, SmallBody
from transport.bringing import placed
from transport.carrying import Carrying
from transport.foreign import SOURCE, shown, translating
from transport.hands import Recipe
from transport.naming import refuse_names
from transport.on_the_way import SHAPE, Listing, Load, listing_of, unread
from transport.pacing import Pace, Unpaced
from transport.remote import PART_PREFIX, ConfiguredPlace, RemoteFiles, RemotePlace
from transport.stalling import Watch, Watched
from transport.there import Found, There, files_below

# Journal keys; each value is the digest of a list.
_BEGUN = "placing-begun"  # a carry of that list has begun, and all that lies there was brought for it
_SEALED = "placing-sealed"  # that list was carried and sealed
_DOUBTED = "doubted "  # before the digest: what lay there before is still being compared by content
_MAX_RECEIPT = 64 << 20
_SAMPLE = 20
_IDLE_S = 30.0  # how long an unused connection is kept; the agent asks for receipts more often

Answer = TypeVar("Answer")


class PlacingTransport:
    """A transport to `place`. One object may carry several deliveries at a time. A protocol gives `place_type`."""

    place_type: ClassVar[type[ConfiguredPlace]]

    def __init__(self, place: RemotePlace, *, pace: Pace | None = None, recipe: Recipe | None = None) -> None:
        """`recipe`: how another process makes the place."""
        self._place, self._pace, self._recipe = place, pace or Unpaced(), recipe
        self._spare: _Kept | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:  # noqa: ARG003 - the journal is all the state there is
        """Made from the route's transport table. Raises ConfigError."""
        place = cls.place_type.from_settings(settings)
        return cls(place, recipe=cls.recipe(settings) if place.traits.two_handed else None)

    @classmethod
    def recipe(cls, settings: Settings) -> Recipe:
        """How another process makes the place."""
        return Recipe(f"{cls.place_type.__module__}:{cls.place_type.__qualname__}", settings, BASE.get())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.name!r})"

    @property
    def traits(self) -> TransportTraits:
        """Those of the protocol."""
        own = self._place.traits
        return TransportTraits(
            resumes=own.resumes,
            keeps_mtime=own.keeps_mtime,
            lists_on_the_way=own.lists_on_the_way,
            names=own.names,
        )

    def paced(self, pace: Pace) -> Self:
        """The same place, slower."""
        return type(self)(self._place, pace=pace)

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role. Room means what is free above the inbox's reserve, where the server says what is free."""
        self._asked(lambda files: self._probe(files, needed_bytes))

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by their size here; carry compares content where there is doubt."""
        return self._asked(lambda files: self._plan(files, cargo, slot))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. An unsealed cargo is listed from the read that sends it, and sealed here.

        What is there with the size and time of the list is believed only when the journal says that all of it was brought for
        this very list (or from a folder of this very shape), and that the inbox has not sent it back. A folder that has another
        shape than the one that an earlier attempt began to carry is SourceChanged, once: it may not have come to rest yet.
        """
        listing = self._listed(cargo, journal)
        with Watch(self._place.traits.stall_s) as watch:
            files = watch.over(self._place.connect())
            self._probe(files, 0)
            state = self._state_of(files, cargo.papers, slot)
            if state.taken:
                return
            if listing and state.exists and (state.sealed or journal.recall(_BEGUN) != listing.shape):
                # What lies there is of another list: it is compared by content.
                self._seal(cargo)
                listing = None
            if state.sealed and not state.same_seal:
                files.remove(f"{slot.path}/{SEAL_NAME}")  # it must not stand while the files change under it
            carrying = Carrying(
                self._place,
                watch,
                cargo.root,
                slot,
                pace=self._pace,
                progress=progress,
                listing=listing,
                recipe=self._recipe,
            )
            load, mark, trusting = _to_bring(cargo, listing, state, journal)
            journal.note(_BEGUN, mark)
            carrying.bring(files, load, fresh=not state.exists, trusting=trusting)
            if mark.startswith(_DOUBTED):
                journal.note(_BEGUN, mark.removeprefix(_DOUBTED))
            if listing:
                made = listing.written()
                journal.note(_BEGUN, made.summary.list_digest)
                seal(cargo.papers, cargo.delivery, made)
            manifest = _manifest(cargo)
            if not state.same_seal:  # else the papers were there before it, and the inbox may take the slot any moment
                self._hand_over(files, cargo.papers, manifest, slot)
            journal.note(_SEALED, manifest.summary.list_digest)

    def _listed(self, cargo: Cargo, journal: Journal) -> Listing | None:
        """What is to be listed on the way; None when the cargo is sealed, now or since long. Nothing has been sent yet."""
        names = self.traits.names
        listing = None
        if not is_sealed(cargo.papers):
            if not self.traits.lists_on_the_way:
                raise UnexpectedFault(
                    f"{cargo.delivery.id} has no sealed papers: {self!r} carries what a manifest lists"
                )
            listing = listing_of(cargo, names)
            begun = journal.recall(_BEGUN) or ""
            if begun.startswith(SHAPE) and (listing is None or listing.shape != begun):
                journal.note(_BEGUN, "")  # what is there belongs to no list: it will be compared by content
                raise SourceChanged(
                    f"{shown(cargo.root)} has other files, sizes or times than when it began to be carried",
                    safe="nothing of it is under its final name",
                )
            if listing is None:
                self._seal(cargo)
        refuse_names(listing.load.entries if listing else _manifest(cargo), names, self._place.name)
        return listing

    def _seal(self, cargo: Cargo) -> None:
        cargo.papers.mkdir(parents=True, exist_ok=True)
        manifest = make(
            cargo.root, cargo.papers, rules=cargo.rules, limits=self.traits.names, algorithms=cargo.algorithms
        )
        seal(cargo.papers, cargo.delivery, manifest)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        content = self._asked(lambda files: small_file(files, f".lading/receipts/{delivery}.json", _MAX_RECEIPT))
        return None if content is None else parse_receipt(content)

    def deposit(self, folder: str) -> Deposit:
        """See lading.deposit."""
        from transport.deposit_files import FilesDeposit  # noqa: PLC0415 - it is made of this module

        return FilesDeposit(self._place, folder, self._pace)

    def _probe(self, files: RemoteFiles, needed_bytes: int) -> None:
        limits = read_sentinel(files, self._place.name).limits
        if not needed_bytes:
            return
        free = files.free_bytes()
        if free is not None and needed_bytes > free - limits.keep_free_bytes:
            spare = max(free - limits.keep_free_bytes, 0)
            raise OutOfSpace(
                f"the inbox {self._place.name} has room for {spare:,} bytes, the delivery needs {needed_bytes:,}: "
                f"{needed_bytes - spare:,} bytes are missing",
                next_command="lading inbox list",
            )

    def _plan(self, files: RemoteFiles, cargo: Cargo, slot: Slot) -> Plan:
        state = self._state_of(files, cargo.papers, slot)
        if state.taken:
            return Plan(0, 0, _manifest(cargo).summary.files)
        there = There(_manifest(cargo).summary.files if is_sealed(cargo.papers) else 0, with_times=False)
        for found in files_below(files, slot.data) if state.exists else ():
            if not found.folder:
                there.add(found)
        moving = total = there_already = 0
        sample: list[str] = []
        for entry in _entries(cargo, self.traits.names):
            if there.of(entry) is not Found.ABSENT:
                there_already += 1
                continue
            moving += 1
            total += entry.size
            if len(sample) < _SAMPLE:
                sample.append(entry.path)
        return Plan(moving, total, there_already, tuple(sample))

    def _state_of(self, files: RemoteFiles, papers: Path, slot: Slot) -> "_SlotState":
        data = files.look(slot.data)
        there = small_file(files, f"{slot.path}/{SEAL_NAME}", MAX_SEAL_BYTES)
        same = there is not None and is_sealed(papers) and there == (papers / SEAL_NAME).read_bytes()
        return _SlotState(exists=data is not None, sealed=there is not None, same_seal=same)

    def _hand_over(self, files: Watched, papers: Path, manifest: Manifest, slot: Slot) -> None:
        """The papers, the seal last."""
        for found in list(files.listed(slot.path)):
            if not found.folder and found.path.rpartition("/")[2].startswith(PART_PREFIX):
                files.remove(found.path)
        known = {LIST_NAME: manifest.summary.list_digest, SUMS_NAME: manifest.summary.digest}
        source = Folder(papers)
        try:
            for name in PAPERS[:-1]:
                entry = _paper(papers, name, known.get(name) or "")
                with FileBody(papers, entry, source.open, pace=self._pace) as body:
                    placed(files, f"{slot.path}/{name}", body)
        finally:
            source.close()
        with translating(f"cannot read {papers / SEAL_NAME}", SOURCE):
            content = (papers / SEAL_NAME).read_bytes()
        placed(files, f"{slot.path}/{SEAL_NAME}", SmallBody(content, time.time()))

    def _asked(self, question: Callable[[RemoteFiles], Answer]) -> Answer:
        """The answer over a connection that is kept for the next question: receipts are asked for all day long."""
        spare = self._spare_connection()
        if spare is not None:
            try:
                return self._asked_over(spare, question)
            except Unreachable:
                pass  # it was broken meanwhile; a fresh one tells
        return self._asked_over(self._place.connect(), question)

    def _asked_over(self, files: RemoteFiles, question: Callable[[RemoteFiles], Answer]) -> Answer:
        watch = Watch(self._place.traits.stall_s)
        try:
            with watch.lent(files) as watched:
                answer = question(watched)
        except BaseException:
            files.close()
            raise
        self._keep(files)
        return answer

    def _spare_connection(self) -> RemoteFiles | None:
        with self._lock:
            kept, self._spare = self._spare, None
        return kept.files if kept else None

    def _keep(self, files: RemoteFiles) -> None:
        with self._lock:
            one_waits = self._spare is not None
            if not one_waits:
                self._spare = _Kept(files)
                self._end_in(_IDLE_S)
        if one_waits:
            files.close()

    def _end_in(self, seconds: float) -> None:
        """With the lock. One timer for all questions: hundreds of receipts may be asked for before its time is over."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._drop)
            self._timer.daemon = True
            self._timer.start()

    def _drop(self) -> None:
        """Nobody has asked for long: an old connection is more likely broken than useful."""
        with self._lock:
            self._timer = None
            kept = self._spare
            if kept is None:
                return  # it is being used
            left = kept.since + _IDLE_S - time.monotonic()
            if left > 0:  # it was used meanwhile
                self._end_in(left)
                return
            self._spare = None
        kept.files.close()


class _Kept:
    """A connection that waits for the next question, and since when."""

    def __init__(self, files: RemoteFiles) -> None:
        self.files, self.since = files, time.monotonic()


class _SlotState:
    """What a look at the slot says."""

    def __init__(self, *, exists: bool, sealed: bool, same_seal: bool) -> None:
        self.exists, self.sealed, self.same_seal = exists, sealed, same_seal

    @property
    def taken(self) -> bool:
        """Whether the inbox has this very delivery in its own hands: our seal is there, but no data."""
        return self.same_seal and not self.exists


def small_file(files: RemoteFiles, path: str, limit: int) -> bytes | None:
    """The content of a small file, or None when there is none. Raises Corrupted when it is over `limit` bytes."""
    found = files.look(path)
    if found is None or found.folder or found.size < 0:
        return None
    content = bytearray()
    for block in files.read(path):
        content += block
        if len(content) > limit:
            raise Corrupted(f"{shown(path)} is larger than {limit:,} bytes")
    return bytes(content)


def read_sentinel(files: RemoteFiles, name: str) -> sentinel.Sentinel:
    """The inbox's sentinel. Raises Unreachable when there is none, ConfigError when it is a foreign one."""
    content = small_file(files, sentinel.SENTINEL, MAX_SEAL_BYTES)
    if content is None:
        raise Unreachable(
            f"{name} has no sentinel ({sentinel.SENTINEL}): is the share mounted there, is the path right?",
            safe="nothing was written",
            next_command="lading doctor",
        )
    return sentinel.parse(content, name)


def _manifest(cargo: Cargo) -> Manifest:
    return Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)


def _paper(papers: Path, name: str, sha256: str) -> Entry:
    with translating(f"cannot read {papers / name}", SOURCE):
        info = (papers / name).stat()
    return Entry(name, info.st_size, info.st_mtime_ns, {"sha256": sha256} if sha256 else {})


def _to_bring(cargo: Cargo, listing: Listing | None, state: _SlotState, journal: Journal) -> tuple[Load, str, bool]:
    """The load, what the journal calls it, and whether files that look like those of the load were brought from it."""
    if listing:
        return listing.load, listing.shape, True
    manifest = _manifest(cargo)
    digest = manifest.summary.list_digest
    not_sent_back = journal.recall(_SEALED) != digest or state.same_seal
    trusting = journal.recall(_BEGUN) == digest and not_sent_back
    # Else a carry that is cut would leave to the next one files of another list, as if they had been brought for this one.
    mark = digest if trusting or not state.exists else f"{_DOUBTED}{digest}"
    return Load.of(manifest), mark, trusting


def _entries(cargo: Cargo, names: NameLimits) -> Iterable[Entry]:
    """What a cargo would carry; without digests where it has no papers."""
    if is_sealed(cargo.papers):
        return _manifest(cargo)
    return unread(cargo, names)
