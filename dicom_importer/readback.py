"""Reads images back by C-GET and compares them with our files, piece by piece while they come."""

import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import pydicom
from pydicom import config as pydicom_config
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from dicom_importer.contents import Contents, Image, local_path, opened
from dicom_importer.errors import translated
from dicom_importer.node import PLAIN_SYNTAXES, STUDY_ROOT_GET, Node, NotOffered, encoded, read_dataset
from dicom_importer.sending import dataset_start
from dicom_importer.shared import Shared
from lading.delivery import Outcome
from lading.disk import translated as reading
from lading.errors import LadingError, UnexpectedFault
from transport import dicom_commands as dimse
from transport import dicom_wire as wire
from transport.dicom_commands import Broken, Message, WireError
from transport.dicom_wire import Association, Proposal

if TYPE_CHECKING:
    from hashlib import _Hash

BYTES, CONTENT = "read-back", "read-back, all elements and pixel data"
REPLACED = "our copy in the inbox is not what its manifest says any more"
IN_ONE_REQUEST = 64
_PENDING = 0xFF00
_SOME_FAILED = 0xB000
_NOT_OFFERED = (0x0112, 0x0122, 0x0124, 0x0211)
_NAMED = 5
_IN_MEMORY = 1 << 20
_MOST_TIMES = 4
"""A node may write an image in another form, but not without an end: that would fill our disk."""
_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that came back, and how it compares."""

    image: Image
    outcome: Outcome
    how: str


@dataclass(frozen=True, slots=True)
class Request:
    """Images of one series in one transfer syntax, to be read back together."""

    study: str
    series: str
    syntax: str
    images: tuple[Image, ...]


@dataclass(frozen=True)
class ReadBack:
    """Reading `contents` back from `node`, once. Images that the node does not give back are seen by nobody."""

    node: Node
    root: Path
    contents: Contents
    scratch: Path
    inbox: Path | None = None

    def seen(self, together: int) -> Iterator[Seen]:
        """Each unproven image that comes back, asked for so many `together`. Over several associations; order free.

        Raises TargetUnavailable, AccessDenied, and NotOffered when the node agreed to C-GET and does not do it.
        """
        work = Shared(self._requests(together))
        useful = min(self.node.settings.associations, self.contents.unproven_count // together + 1)
        readers = [_Reader(self, work) for _ in range(useful)]
        found: queue.Queue[Seen | None] = queue.Queue(_AHEAD)
        stop = threading.Event()
        threads = [
            threading.Thread(target=reader.run, args=(found, stop), name="dicom-read-back", daemon=True)
            for reader in readers
        ]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                one = found.get()
                if one is None:
                    running -= 1
                else:
                    yield one
        finally:
            stop.set()
        _check(readers, is_done=work.is_exhausted)

    def _requests(self, together: int) -> Iterator[Request]:
        # One transfer syntax in an association: the node then has no choice in which to give an image back.
        for syntax in sorted({one[1] for one in self.contents.contexts()}):
            for study, series in self.contents.series(syntax=syntax):
                images = self.contents.unproven(study, series, syntax)
                for start in range(0, len(images), together):
                    yield Request(study, series, syntax, tuple(images[start : start + together]))


def _check(readers: "Sequence[_Reader]", *, is_done: bool) -> None:
    """A node with room for fewer associations than we asked for has done nothing wrong."""
    failed = [reader for reader in readers if reader.failure]
    for reader in failed:
        if reader.failure and (reader.established or not is_done or len(failed) == len(readers)):
            raise reader.failure


class _Reader:
    """One association at a time, for requests in one transfer syntax each."""

    def __init__(self, back: ReadBack, work: Shared[Request]) -> None:
        self._back, self._work = back, work
        self.established = False
        self.failure: LadingError | NotOffered | None = None

    def run(self, found: "queue.Queue[Seen | None]", stop: threading.Event) -> None:
        """Put what comes back into `found`, then None. Never raises: `failure` says why it ended early."""
        try:
            self._read(found, stop)
        except (NotOffered, LadingError) as exc:
            self.failure = exc
        except (OSError, WireError) as exc:
            self.failure = translated(exc, doing="reading images back", node=str(self._back.node))
        except Exception as exc:  # noqa: BLE001 - a bug in a thread must not pass for the end of the work
            self.failure = UnexpectedFault(
                f"reading images back from {self._back.node}: {type(exc).__name__}", next_command="lading doctor"
            )
            self.failure.__cause__ = exc
        finally:
            _put(found, None, stop)

    def _read(self, found: "queue.Queue[Seen | None]", stop: threading.Event) -> None:
        line: Association | None = None
        agreed: tuple[str, frozenset[str]] = ("", frozenset())
        try:
            for request in self._work:
                if stop.is_set():
                    break
                wanted = (request.syntax, frozenset(image.sop_class for image in request.images))
                if line is None or wanted[0] != agreed[0] or not wanted[1] <= agreed[1]:
                    if line:
                        line.release()
                    line, agreed = self._open(*wanted), wanted
                for seen in _get(line, request, self._back):
                    _put(found, seen, stop)
            if line:
                line.release()
        except BaseException:
            if line:
                line.abort()
            raise

    def _open(self, syntax: str, classes: frozenset[str]) -> Association:
        stores = [Proposal(one, (syntax,), peer_stores=True) for one in sorted(classes)[: wire.MOST_CONTEXTS - 1]]
        line = self._back.node.open([Proposal(STUDY_ROOT_GET, PLAIN_SYNTAXES), *stores])
        self.established = True
        if line.context_of(STUDY_ROOT_GET) is None:
            line.release()
            raise NotOffered
        return line


def _put(found: "queue.Queue[Seen | None]", one: Seen | None, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(queue.Full):
            found.put(one, timeout=0.2)
            return


def _get(line: Association, request: Request, back: ReadBack) -> Iterator[Seen]:
    """One C-GET: the node stores to us over the same association, and says at last how it went."""
    context = line.context_of(STUDY_ROOT_GET)
    if context is None:
        raise NotOffered
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "IMAGE"
    wanted.StudyInstanceUID, wanted.SeriesInstanceUID = request.study, request.series
    wanted.SOPInstanceUID = [image.sop for image in request.images]
    fields: dict[int, int | str] = {dimse.AFFECTED_CLASS: STUDY_ROOT_GET, dimse.PRIORITY: dimse.MEDIUM}
    command = dimse.request(dimse.C_GET_RQ, 1, fields, has_data=True)
    line.send(context.id, command, encoded(wanted, context))
    images = {image.sop: image for image in request.images}
    while True:
        message = line.receive()
        if message.field == dimse.C_STORE_RQ:
            image = images.pop(message.text(dimse.AFFECTED_INSTANCE), None)
            seen = _compared(line, message, image, back)
            line.send(message.context, dimse.answer(message, 0))
            if seen:
                yield seen
            continue
        if message.has_data:
            read_dataset(line, context)
        if message.field != dimse.C_GET_RSP:
            raise Broken(f"an answer to something else ({message.field:#06x})")
        if message.status in _NOT_OFFERED:
            raise NotOffered
        if message.status != _PENDING:
            break
    # 0xAnnn and 0xCnnn: none of these could be given back. Whoever asked sees that they are missing.
    if message.status == 0xFE00:
        raise Broken("it stopped giving images back")


def _compared(line: Association, message: Message, image: Image | None, back: ReadBack) -> Seen | None:
    if image is None:  # asked for by nobody: a node that widens the question
        for _ in line.data():
            pass
        return None
    context = line.contexts.get(message.context)
    path = local_path(back.root, image.path)
    with reading("comparing an image", path), opened(back.root, image.path, inbox=back.inbox) as file:
        start = dataset_start(path, file)
        file.seek(0)
        witness = hashlib.sha256(_exactly(file, start))
        theirs = _differing(line, file, start, back.scratch, witness)
        if theirs is None:
            same = witness.hexdigest() == image.sha256
            return Seen(image, Outcome.VERIFIED, BYTES) if same else Seen(image, Outcome.UNVERIFIED, REPLACED)
        with theirs:
            if not is_ours(image, file):
                return Seen(image, Outcome.UNVERIFIED, REPLACED)
            if context is None or context.syntax != image.syntax:
                return Seen(image, Outcome.UNVERIFIED, "given back in another transfer syntax")
            theirs.seek(0)
            outcome, how = judged(path, theirs, back.node.settings.may_change)
            return Seen(image, outcome, how)


def is_ours(image: Image, copy: FileIO) -> bool:
    """Whether the copy is what the manifest is about still; senders share the published folders with us."""
    copy.seek(0)
    return hashlib.file_digest(copy, "sha256").hexdigest() == image.sha256


def _differing(line: Association, ours: BinaryIO, start: int, scratch: Path, witness: "_Hash") -> "IO[bytes] | None":
    """The data set that comes, as a file with our own head, if it differs from the rest of `ours`; None if it is the same.

    What is equal goes into `witness`. Raises Broken when it does not end.
    """
    position, theirs = start, None
    left = _MOST_TIMES * os.fstat(ours.fileno()).st_size + _IN_MEMORY
    for piece in line.data():
        left -= len(piece)
        if left < 0:
            raise Broken("it gives back far more than we have of an image")
        if theirs is None:
            theirs_now = bytes(piece)
            own = _exactly(ours, len(piece))
            if own == theirs_now:
                witness.update(own)
                position += len(own)
                continue
            theirs = _beginning(ours, position, scratch)
        theirs.write(piece)
    if theirs is None and ours.read(1):
        theirs = _beginning(ours, position, scratch)
    return theirs


def _exactly(file: BinaryIO, count: int) -> bytes:
    """The next `count` bytes of an unbuffered file, fewer at its end."""
    found = file.read(count)
    while len(found) < count:
        more = file.read(count - len(found))
        if not more:
            break
        found += more
    return found


def _beginning(ours: BinaryIO, count: int, scratch: Path) -> "IO[bytes]":
    """A temporary file with the first `count` bytes of ours, which are equal: only where something differs is a copy made."""
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    made: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(scratch))  # noqa: SIM115 - closed by the caller
    ours.seek(0)
    while count:
        piece = ours.read(min(count, _IN_MEMORY))
        if not piece:
            break
        made.write(piece)
        count -= len(piece)
    return made


def judged(path: Path, theirs: "IO[bytes]", may_change: Sequence[str]) -> tuple[Outcome, str]:
    """How an image that came back with other bytes compares, element by element. A node may write lengths in another form."""
    try:
        with pydicom_config.disable_value_validation():
            changed = _changed(pydicom.dcmread(path), pydicom.dcmread(theirs), frozenset(may_change))
    except Exception as exc:  # noqa: BLE001 - what pydicom raises for strangers' bytes is not a closed list
        return Outcome.MISMATCH, f"not readable as DICOM when read back ({type(exc).__name__})"
    if not changed:
        return Outcome.VERIFIED, CONTENT
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    return Outcome.MISMATCH, f"the node holds it with other {', '.join(changed[:_NAMED])}{more}"


def _changed(ours: Dataset, theirs: Dataset, may_change: frozenset[str]) -> list[str]:
    """The elements that differ, by keyword or tag; never their values, which are about people."""
    found = []
    for tag in sorted({*ours.keys(), *theirs.keys()}):
        if tag.element == 0 or tag == 0xFFFCFFFC:  # lengths of groups, and padding: neither says anything
            continue
        name = keyword_for_tag(tag) or str(tag)
        if name in may_change:
            continue
        if tag not in ours or tag not in theirs or ours[tag] != theirs[tag]:
            found.append(name)
    return found
