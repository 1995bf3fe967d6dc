"""Files of a delivery that are no images: file annotations on its dataset or screen, each with OMERO's own checksum.

Annotation, link and file record are saved in one go and the content follows: whatever was begun can be seen, and is finished
by the next run.
"""

import hashlib
import mimetypes
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lading.delivery import DeliveryId
from lading.manifest import Entry
from lading.ports import Progress
from omero_importer import uploads
from omero_importer.client_paths import client_path
from omero_importer.filesets import Place
from omero_importer.hashes import ALGORITHMS
from omero_importer.ice import ParametersI, model, plain, rlist, rlong, rstring, unloaded
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings, RouteSettings
from omero_importer.sources import Source

NS_ATTACHMENT = "lading/attachment"


@dataclass(frozen=True, slots=True)
class StoredAttachment:
    """An attachment as OMERO's database describes it. `path` is the client path; `checksum` is "" where it shows none."""

    path: str
    file: int
    size: int
    checksum: str
    hasher: str


_OF_A_FILE = " join a.file f left outer join f.hasher h where a.ns = :ns and a.description in (:ours)"


def stored(connection: Connection, place: Place, deliveries: Sequence[str]) -> dict[str, StoredAttachment]:
    """The attachments of those deliveries on the place, by client path; of several, the oldest."""
    query = (
        f"select a.id, f.id, f.size, f.hash, h.value, f.path, f.name from {place.kind}AnnotationLink l"  # noqa: S608
        f" join l.child a{_OF_A_FILE} and l.parent.id = :place"
    )
    found = _oldest(connection, query, deliveries, place.id)
    return {path: one for path, (_, one) in found.items()}


def put_back(connection: Connection, place: Place, deliveries: Sequence[str], wanted: Iterable[str]) -> None:
    """Attach to the place what hangs there no more, though OMERO has it. `wanted`: client paths."""
    lacking = set(wanted) - stored(connection, place, deliveries).keys()
    if not lacking:
        return
    query = f"select a.id, f.id, f.size, f.hash, h.value, f.path, f.name from FileAnnotation a{_OF_A_FILE}"  # noqa: S608
    links = []
    for path, (annotation, _) in _oldest(connection, query, deliveries).items():
        if path in lacking:
            link = getattr(model, f"{place.kind}AnnotationLinkI")()
            link.parent, link.child = unloaded(place.kind, place.id), unloaded("FileAnnotation", annotation)
            links.append(link)
    if links:
        connection.updates.saveArray(links)


def _oldest(
    connection: Connection, query: str, deliveries: Sequence[str], place: int = -1
) -> dict[str, tuple[int, StoredAttachment]]:
    """By client path: the annotation and its file; of several, those with the oldest file."""
    parameters = ParametersI()
    parameters.add("ns", rstring(NS_ATTACHMENT))
    parameters.add("ours", rlist([rstring(description(one)) for one in deliveries]))
    if place >= 0:
        parameters.add("place", rlong(place))
    found: dict[str, tuple[int, StoredAttachment]] = {}
    if not deliveries:
        return found
    for annotation, file, size, checksum, hasher, path, name in plain(connection.queries.projection(query, parameters)):
        one = StoredAttachment(f"{path or ''}{name}", file, size or 0, checksum or "", hasher or "")
        if one.path not in found or found[one.path][1].file > file:
            found[one.path] = (annotation, one)
    return found


def are_there(connection: Connection, delivery: str) -> bool:
    """Whether any attachment of that delivery exists, wherever it is linked."""
    parameters = ParametersI()
    parameters.add("ns", rstring(NS_ATTACHMENT))
    parameters.add("said", rstring(description(delivery)))
    query = "select a.id from FileAnnotation a where a.ns = :ns and a.description = :said"
    return bool(connection.queries.projection(query, parameters))


@dataclass(frozen=True, slots=True)
class Attaching:
    """Attaches files of one delivery to one place."""

    connection: Connection
    source: Source
    settings: RepositorySettings
    route: RouteSettings
    place: Place
    delivery: DeliveryId

    def fill(self, names: Sequence[str], known: Sequence[str], progress: Progress) -> int:
        """Send what is missing or incomplete of `names`; how many that were. `known`: deliveries whose files count as ours."""
        there = stored(self.connection, self.place, known)
        with ThreadPoolExecutor(self.route.uploads, "omero-attachment") as files:
            sending = [files.submit(self._ensure, name, there.get(self.name(name)), progress) for name in names]
            try:
                return sum(one.result() for one in sending)
            finally:
                for one in sending:
                    one.cancel()

    def _ensure(self, name: str, found: StoredAttachment | None, progress: Progress) -> bool:
        """Send the file unless it is there, whole; whether it was sent."""
        entry = self.source.entries[name]
        if found is not None and (self._is_whole(found, entry) or not self.source.root.is_dir()):
            return False  # or withdrawn: there is nothing to send, and reading back says what is the matter
        if found is not None and found.checksum:
            uploads.demand_unchanged(partial(self.source.opened, name), entry)
        self._send(found.file if found is not None else self._announce(name, entry), name, entry, progress)
        return True

    def _is_whole(self, found: StoredAttachment, entry: Entry) -> bool:
        """Whether OMERO says that it has these bytes, and has them, where the route does not trust the database."""
        if found.size != entry.size or (entry.size and not found.checksum):
            return False
        if found.checksum and found.checksum != (uploads.checksum_known(entry, found.hasher) or found.checksum):
            return False
        if not self.route.reread:
            return True
        if not exists(self.connection, found.file, found.size):
            return False
        digest = hashlib.sha256()
        for block in content(self.connection, found.file, found.size, self.route.block_kb << 10):
            digest.update(block)
        return digest.hexdigest() == entry.sha256

    def name(self, path: str) -> str:
        """The attachment's client path."""
        return client_path(self.place.prefix + path)

    def _announce(self, path: str, entry: Entry) -> int:
        folder, _, name = self.name(path).rpartition("/")
        file = model.OriginalFileI()
        file.name, file.path, file.size = rstring(name), rstring(folder + "/"), rlong(entry.size)
        file.mimetype = rstring(mimetypes.guess_type(name)[0] or "application/octet-stream")
        # No checksum: the server's own, of what it stored, is the proof.
        file.hasher = model.ChecksumAlgorithmI()
        file.hasher.value = rstring(self._algorithm(entry))
        annotation = model.FileAnnotationI()
        annotation.ns, annotation.description = rstring(NS_ATTACHMENT), rstring(description(self.delivery))
        annotation.file = file
        link = getattr(model, f"{self.place.kind}AnnotationLinkI")()
        link.parent = unloaded(self.place.kind, self.place.id)
        link.child = annotation
        return int(self.connection.updates.saveAndReturnObject(link).child.file.id.val)

    def _send(self, file: int, name: str, entry: Entry, progress: Progress) -> None:
        store = self.connection.factory.createRawFileStore()
        store.setFileId(file)
        outgoing = uploads.Outgoing(
            partial(self.source.opened, name),
            entry,
            algorithm=self._algorithm(entry),
            block=self.route.block_kb << 10,
            timeout=self.settings.read_timeout,
            save=True,
        )
        uploads.send_file(store, outgoing, lambda count: progress.advance(bytes=count))

    def _algorithm(self, entry: Entry) -> str:
        return next((name for name in ALGORITHMS if uploads.checksum_known(entry, name)), "SHA1-160")


def exists(connection: Connection, file: int, size: int) -> bool:
    """Whether the server has the content of an OriginalFile of `size` bytes on its disk."""
    store = connection.factory.createRawFileStore()
    try:
        store.setFileId(file)
        return bool(store.exists()) and (not size or store.size() > 0)
    finally:
        store.close()


def content(connection: Connection, file: int, size: int, block: int) -> Iterator[bytes]:
    """The content of an OriginalFile of `size` bytes, block by block."""
    store = connection.factory.createRawFileStore()
    try:
        store.setFileId(file)
        for offset in range(0, size, block):
            yield store.read(offset, min(block, size - offset))
    finally:
        store.close()


def description(delivery: str) -> str:
    """What an attachment says about where it comes from."""
    return f"delivery {delivery}"
