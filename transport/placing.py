"""Makes a Transport of any RemotePlace: what SFTP, SMB, FTPS, S3 and WebDAV have in common is said here, once.

A protocol is one thin file:

    class SftpPlace:                                   # the role transport.remote.RemotePlace
        @classmethod
        def from_settings(cls, settings): ...          # attrs config, read with lading.config.structure

    class SftpTransport(PlacingTransport):             # its entry point in lading.transports: transport.sftp:SftpTransport
        \"\"\"A transport over SFTP.\"\"\"

        place_type = SftpPlace

and a class in tests/conformance that hands `transport.sftp:SftpTransport.from_settings` to the TransportSuite.

A file of the source is read once: the bytes that are hashed against the manifest are those that are sent. What an earlier
attempt placed is found by one listing; a delivery that came back is compared by content, with the server's own digests where
it computes them, else by reading back.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.deposit import Deposit
from lading.errors import Corrupted, LadingError, OutOfSpace, SourceChanged, UnexpectedFault, Unreachable
from lading.inbox import parse_receipt
from lading.manifest import LIST_NAME, SUMS_NAME, Entry, Filtered, Manifest, survey
from lading.ports import Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import MAX_SEAL_BYTES, PAPERS, SEAL_NAME, is_sealed, read_seal
from lading.staging import sentinel
from transport.bodies import FileBody, Folder, SmallBody, Told, is_body_of
from transport.crew import Crew
from transport.foreign import SOURCE, shown, translating
from transport.naming import refuse_names
from transport.pacing import Pace, Unpaced
from transport.remote import PART_PREFIX, Body, ConfiguredPlace, RemoteFiles, RemotePlace, part_path
from transport.stalling import Watch, Watched
from transport.there import Found, There, Wanted, files_below, tidied

# Journal keys; each value is the digest of a list.
_BEGUN = "placing-begun"  # a carry of that list has begun
_SEALED = "placing-sealed"  # that list was carried and sealed
_BATCH_FILES = 64
_BATCH_BYTES = 8 << 20
_SMALL = 1 << 20  # a file up to this size may share the line with others
_TRIES = 3  # of one file that arrives damaged
_MAX_RECEIPT = 64 << 20
_SAMPLE = 20
_IDLE_S = 30.0  # how long an unused connection is kept; the agent asks for receipts more often
_MADE_MANY = 10_000

Answer = TypeVar("Answer")


class PlacingTransport:
    """A transport to `place`. One object may carry several deliveries at a time. A protocol gives `place_type`."""

    place_type: ClassVar[type[ConfiguredPlace]]

    def __init__(self, place: RemotePlace, *, pace: Pace | None = None) -> None:
        self._place, self._pace = place, pace or Unpaced()
        self._spare: _Kept | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:  # noqa: ARG003 - the journal is all the state there is
        """Made from the route's transport table. Raises ConfigError."""
        return cls(cls.place_type.from_settings(settings))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.name!r})"

    @property
    def traits(self) -> TransportTraits:
        """Those of the protocol."""
        own = self._place.traits
        return TransportTraits(resumes=own.resumes, keeps_mtime=own.keeps_mtime, names=own.names)

    def paced(self, pace: Pace) -> Self:
        """The same place, slower."""
        return type(self)(self._place, pace=pace)

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role. Room means what is free above the inbox's reserve, where the server says what is free."""
        self._asked(lambda files: self._probe(files, needed_bytes))

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. Files in the slot are judged by their size here; carry compares content where there is doubt."""
        if not is_sealed(cargo.papers):
            return _plan_of_survey(cargo, self)
        manifest = _manifest(cargo)
        return self._asked(lambda files: self._plan(files, manifest, cargo, slot))

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. Needs a sealed cargo. What is there with the size and time of the list is believed only when the
        journal says that this very list was being carried, and that the inbox has not sent it back."""
        if not is_sealed(cargo.papers):
            raise UnexpectedFault(f"{slot.delivery} has no sealed papers: {self!r} carries what a manifest lists")
        manifest = _manifest(cargo)
        refuse_names(manifest, self.traits.names, self._place.name)
        digest = manifest.summary.list_digest
        with Watch(self._place.traits.stall_s) as watch:
            files = watch.over(self._place.connect())
            self._probe(files, 0)
            state = self._state_of(files, cargo.papers, slot)
            if state.taken:
                return
            begun, was_sealed = journal.recall(_BEGUN), journal.recall(_SEALED)
            if state.sealed and not state.same_seal:
                files.remove(f"{slot.path}/{SEAL_NAME}")  # it must not stand while the files change under it
            journal.note(_BEGUN, digest)
            trusting = begun == digest and (was_sealed != digest or state.same_seal)
            carrying = _Carrying(self._place, watch, cargo.root, slot, pace=self._pace, progress=progress)
            carrying.bring(files, manifest, fresh=not state.exists, trusting=trusting)
            if not state.same_seal:  # else the papers were there before it, and the inbox may take the slot any moment
                self._hand_over(files, cargo.papers, manifest, slot)
            journal.note(_SEALED, digest)

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
                next_command="lading inbox",
            )

    def _plan(self, files: RemoteFiles, manifest: Manifest, cargo: Cargo, slot: Slot) -> Plan:
        state = self._state_of(files, cargo.papers, slot)
        if state.taken:
            return Plan(0, 0, manifest.summary.files)
        there = There(manifest.summary.files, with_times=False)
        for found in files_below(files, slot.data) if state.exists else ():
            if not found.folder:
                there.add(found)
        moving = total = 0
        sample: list[str] = []
        for entry in manifest:
            if there.of(entry) is not Found.ABSENT:
                continue
            moving += 1
            total += entry.size
            if len(sample) < _SAMPLE:
                sample.append(entry.path)
        return Plan(moving, total, manifest.summary.files - moving, tuple(sample))

    def _state_of(self, files: RemoteFiles, papers: Path, slot: Slot) -> "_SlotState":
        data = files.look(slot.data)
        there = small_file(files, f"{slot.path}/{SEAL_NAME}", MAX_SEAL_BYTES)
        same = there is not None and there == (papers / SEAL_NAME).read_bytes()
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
                    _placed(files, f"{slot.path}/{name}", body)
        finally:
            source.close()
        with translating(f"cannot read {papers / SEAL_NAME}", SOURCE):
            seal = (papers / SEAL_NAME).read_bytes()
        _placed(files, f"{slot.path}/{SEAL_NAME}", SmallBody(seal, time.time()))

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
        kept = _Kept(files)
        with self._lock:
            one_waits = self._spare is not None
            if not one_waits:
                self._spare = kept
        if one_waits:
            files.close()
            return
        over = threading.Timer(_IDLE_S, self._drop, (kept,))
        over.daemon = True
        over.start()

    def _drop(self, kept: "_Kept") -> None:
        """Nobody has asked for long: an old connection is more likely broken than useful."""
        with self._lock:
            if self._spare is not kept:
                return  # it was used meanwhile
            self._spare = None
        kept.files.close()


class _Kept:
    """A connection that waits for the next question; a new object every time."""

    def __init__(self, files: RemoteFiles) -> None:
        self.files = files


class _SlotState:
    """What a look at the slot says."""

    def __init__(self, *, exists: bool, sealed: bool, same_seal: bool) -> None:
        self.exists, self.sealed, self.same_seal = exists, sealed, same_seal

    @property
    def taken(self) -> bool:
        """Whether the inbox has this very delivery in its own hands: our seal is there, but no data."""
        return self.same_seal and not self.exists


class _Carrying:
    """One carry: brings what a manifest lists below `slot.data`."""

    def __init__(
        self, place: RemotePlace, watch: Watch, root: Path, slot: Slot, *, pace: Pace, progress: Progress
    ) -> None:
        self._place, self._watch, self._root, self._slot = place, watch, root, slot
        self._pace, self._progress = pace, progress
        self._there: There | None = None
        self._trusting = False
        self._made: set[str] = set()
        self._mine = threading.local()
        self._sources: list[Folder] = []
        self._goes_on: Callable[[], bool] = lambda: True

    def bring(self, files: Watched, manifest: Manifest, *, fresh: bool, trusting: bool) -> None:
        """Make the slot hold every file of `manifest`, and none besides."""
        self._trusting = trusting
        if not fresh:
            self._there = self._tidied(files, manifest)
        files.make_folders(self._slot.data)
        try:
            with Crew(self._place, self._watch, self._bring_batch, first=files) as crew:
                self._goes_on = crew.goes_on
                for batch in _batches(manifest):
                    crew.submit(batch)
                crew.finish()
        except OutOfSpace as exc:
            raise self._with_figures(files, exc, manifest) from None  # it says all that the first one said
        finally:
            for source in self._sources:
                source.close()

    def _tidied(self, files: Watched, manifest: Manifest) -> There:
        wanted = Wanted(manifest.summary.files)
        for entry in manifest:
            wanted.add(entry.path, part_path(entry.path, self._body(entry, None)))
        return tidied(
            files,
            self._slot.data,
            wanted,
            There(manifest.summary.files, with_times=self._place.traits.keeps_mtime),
        )

    def _bring_batch(self, files: Watched, entries: list[Entry]) -> None:
        small: list[tuple[Entry, FileBody, Told]] = []
        try:
            for entry in entries:
                told = Told(self._progress, entry.size)
                if self._is_there(files, entry):
                    told.done()
                    continue
                self._make_folder(files, entry.path)
                if entry.size <= _SMALL and files.places_many:
                    small.append((entry, self._body(entry, told), told))
                    continue
                with self._body(entry, told) as body:
                    self._place_one(files, entry, body)
                told.done()
            if small:
                self._place_small(files, small)
        finally:
            for _, body, _ in small:
                body.close()

    def _place_small(self, files: Watched, small: list[tuple[Entry, FileBody, Told]]) -> None:
        try:
            files.place_many((self._target(entry), body) for entry, body, _ in small)
        except Corrupted:
            for entry, body, _ in small:
                self._place_one(files, entry, body)
        for _, body, told in small:
            body.prove()
            told.done()

    def _place_one(self, files: Watched, entry: Entry, body: FileBody) -> None:
        target = self._target(entry)
        try:
            _placed(files, target, body)
            body.prove()
        except SourceChanged:
            # What was sent of it is not of the listed content: it must neither be continued nor stay.
            with suppress(LadingError):
                files.remove(part_path(target, body))
                if body.was_read:
                    files.remove(target)
            raise

    def _is_there(self, files: Watched, entry: Entry) -> bool:
        found = self._there.of(entry) if self._there else Found.ABSENT
        if found is Found.ABSENT:
            return False
        enough = Found.TIME if self._place.traits.keeps_mtime else Found.SIZE
        if self._trusting and found is enough:
            return True
        return _has_content(files, self._target(entry), self._body(entry, None))

    def _make_folder(self, files: Watched, path: str) -> None:
        folder = path.rpartition("/")[0]
        if not folder or folder in self._made:
            return
        files.make_folders(f"{self._slot.data}/{folder}")
        if len(self._made) > _MADE_MANY:
            self._made = set()  # another thread may still look into the old one
        self._made.add(folder)

    def _target(self, entry: Entry) -> str:
        return f"{self._slot.data}/{entry.path}"

    def _body(self, entry: Entry, told: Told | None) -> FileBody:
        return FileBody(self._root, entry, self._open, pace=self._pace, told=told, goes_on=self._goes_on)

    def _open(self, path: str) -> int:
        source: Folder | None = getattr(self._mine, "source", None)
        if source is None:
            source = self._mine.source = Folder(self._root)
            self._sources.append(source)
        return source.open(path)

    def _with_figures(self, files: Watched, exc: OutOfSpace, manifest: Manifest) -> OutOfSpace:
        free = None
        with suppress(LadingError):
            free = files.free_bytes()
        told = "" if free is None else f", {free:,} are free there"
        return OutOfSpace(
            f"{exc.message}; the delivery has {manifest.summary.bytes:,} bytes{told}",
            safe=exc.safe or "what arrived is kept for the next attempt",
            next_command=exc.next_command or "lading inbox",
        )


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


def _placed(files: RemoteFiles, target: str, body: Body) -> None:
    """Place one file; once more when it arrived damaged."""
    for attempt in range(1, _TRIES + 1):
        try:
            files.place(target, body)
        except Corrupted:
            if attempt == _TRIES:
                raise
            continue
        return


def _has_content(files: RemoteFiles, path: str, body: Body) -> bool:
    computed: Mapping[str, str] = files.digests(path, tuple(body.digests))
    for name in ("sha256", "sha1", "md5"):
        if name in computed and name in body.digests:
            return computed[name].lower() == body.digests[name]
    try:
        return is_body_of(body, files.read(path))
    except Corrupted:
        return False  # the server's own checksum says that what it keeps is not what it got


def _manifest(cargo: Cargo) -> Manifest:
    return Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)


def _paper(papers: Path, name: str, sha256: str) -> Entry:
    with translating(f"cannot read {papers / name}", SOURCE):
        info = (papers / name).stat()
    return Entry(name, info.st_size, info.st_mtime_ns, {"sha256": sha256} if sha256 else {})


def _plan_of_survey(cargo: Cargo, transport: PlacingTransport) -> Plan:
    """What a cargo without papers would move: nothing of it can be there yet."""
    files = total = 0
    sample: list[str] = []
    for seen in survey(cargo.root, rules=cargo.rules, limits=transport.traits.names):
        if isinstance(seen, Filtered):
            continue
        files += 1
        total += seen.size
        if len(sample) < _SAMPLE:
            sample.append(seen.path)
    return Plan(files, total, 0, tuple(sample))


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Small files share one task; a large one has its own."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if entry.size > _SMALL:
            yield [entry]
            continue
        batch.append(entry)
        size += entry.size
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
