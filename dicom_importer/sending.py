"""Stores images over several associations at once. The bytes of a data set go from the file to the node as they are."""

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom.dsutils import split_dataset

from dicom_importer.contents import Contents, Image, local_path, opened
from dicom_importer.errors import SAFE, Kind, kind_of, translated
from dicom_importer.ledger import Ledger
from dicom_importer.node import Node
from dicom_importer.shared import Shared
from lading.disk import translated as reading
from lading.errors import Corrupted, LadingError, Refused, TargetUnavailable, UnexpectedFault, Unreachable
from transport import dicom_commands as dimse
from transport import dicom_files
from transport import dicom_wire as wire
from transport.dicom_commands import Broken, WireError
from transport.dicom_wire import Association, Proposal

_NAMED = 5
_REMEMBERED = 100
_OUT_OF_RESOURCES_IN_A_ROW = 3
"""A node that refuses one image for want of resources may take the next; after so many it is left alone."""
_WORTH_AN_ASSOCIATION = 8


@dataclass
class Tally:
    """What came of a sending.

    `warned`, `refused` and `later` hold (path, words) of the first hundred; `broken` says what ended associations.
    """

    sent: int = 0
    refusals: int = 0
    postponed: int = 0
    warned: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    later: list[tuple[str, str]] = field(default_factory=list)
    broken: list[LadingError] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)

    def check(self, node: Node, delivery: str) -> None:
        """Raises what the sending came to: TargetUnavailable where later is better, Refused where a person must look."""
        if self.broken:
            first = self.broken[0]
            if not self.sent and isinstance(first, TargetUnavailable):
                raise TargetUnavailable(
                    f"{first.message}; it has taken nothing: does it allow AE title {node.settings.calling!r} to store?",
                    safe=first.safe,
                    next_command=first.next_command,
                ) from first
            raise first
        if self.postponed:
            path, words = self.later[0]
            raise TargetUnavailable(
                f"storing {path} at {node}: {words}; {self.postponed} images wait for that, {self.sent} were stored now",
                safe=SAFE,
                next_command="lading retry",
            )
        if self.refusals:
            named = ", ".join(f"{path}: {words}" for path, words in self.refused[:_NAMED])
            raise Refused(
                f"storing at {node}: it refuses {self.refusals} images; {named}",
                safe=f"{SAFE} All others were stored.",
                next_command=f"lading show {delivery}",
            )


@dataclass
class Sending:
    """The images of `contents` that are not known to be at `node`, on their way to it."""

    node: Node
    root: Path
    contents: Contents
    ledger: Ledger
    inbox: Path | None = None
    tally: Tally = field(default_factory=Tally)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def all(self) -> Tally:
        """Store them all. What was in flight when an association broke is not known to be there, and counted nowhere."""
        contexts = [(one[0], one[1]) for one in self.contents.contexts(missing_only=True)]
        for start in range(0, len(contexts), wire.MOST_CONTEXTS):
            self._store(contexts[start : start + wire.MOST_CONTEXTS])
            if self.tally.broken:
                break
        return self.tally

    def _store(self, contexts: list[tuple[str, str]]) -> None:
        """Over as many associations as the settings say and the node takes. A node with room for one only takes one."""
        images = Shared(image for one in contexts for image in self.contents.images(*one))
        proposals = [Proposal(sop_class, (syntax,)) for sop_class, syntax in contexts]
        useful = min(self.node.settings.associations, self.contents.missing // _WORTH_AN_ASSOCIATION + 1)
        lines = [_Line(self, images, proposals) for _ in range(useful)]
        threads = [threading.Thread(target=line.run, name="dicom-store", daemon=True) for line in lines[1:]]
        for thread in threads:
            thread.start()
        lines[0].run()
        for thread in threads:
            thread.join()
        if any(line.established for line in lines):
            # The node has room for fewer associations than we asked for: the others did the work.
            lines = [line for line in lines if line.established]
        self.tally.broken += [line.failure for line in lines if line.failure]

    def note(self, image: Image, kind: Kind, words: str) -> None:
        """The node's answer about one image."""
        if kind in (Kind.TAKEN, Kind.TAKEN_WITH_WARNING):
            self.ledger.taken(image.sop)
        with self._lock:
            tally = self.tally
            if kind is Kind.REFUSED:
                tally.refusals += 1
                _remember(tally.refused, image, words)
            elif kind is Kind.LATER:
                tally.postponed += 1
                _remember(tally.later, image, words)
            else:
                tally.sent += 1
                if kind is Kind.TAKEN_WITH_WARNING:
                    tally.warnings[words] += 1
                    _remember(tally.warned, image, words)


def _remember(where: list[tuple[str, str]], image: Image, words: str) -> None:
    if len(where) < _REMEMBERED:
        where.append((image.path, words))


class _Line:
    """One association's work."""

    def __init__(self, sending: Sending, images: Shared[Image], proposals: list[Proposal]) -> None:
        self._sending, self._images, self._proposals = sending, images, proposals
        self.established = False
        self.failure: LadingError | None = None

    def run(self) -> None:
        """Store images until there are none. Never raises: `failure` says why it ended early."""
        node = self._sending.node
        self._doing = "opening an association to store images"
        try:
            line = node.open(self._proposals)
            self.established = True
            try:
                self._store(line)
            except BaseException:
                line.abort()
                raise
            line.release()
        except (LadingError, OSError, WireError) as exc:
            self.failure = translated(exc, doing=self._doing, node=str(node))
            if isinstance(exc, LadingError):
                self._images.stop()
        except EOFError as exc:
            self.failure = Unreachable(f"{self._doing} at {node}: {exc}", next_command="lading retry")
            self.failure.__cause__ = exc
            self._images.stop()
        except Exception as exc:  # noqa: BLE001 - a bug in a thread must not pass for the end of the work
            self.failure = UnexpectedFault(
                f"{self._doing} at {node}: {type(exc).__name__}", next_command="lading doctor"
            )
            self.failure.__cause__ = exc
            self._images.stop()

    def _store(self, line: Association) -> None:
        number = row = 0
        for image in self._images:
            self._doing = f"storing {image.path}"
            context = line.context(image.sop_class, image.syntax)
            if context is None:
                self._sending.note(image, Kind.REFUSED, f"it does not take {names(image.sop_class, image.syntax)}")
                continue
            number = number % 0xFFFF + 1
            kind, words = self._one(line, context, image, number)
            self._sending.note(image, kind, words)
            row = row + 1 if kind is Kind.LATER else 0
            if row == _OUT_OF_RESOURCES_IN_A_ROW:
                self._images.stop()

    def _one(self, line: Association, context: int, image: Image, number: int) -> tuple[Kind, str]:
        command = dimse.request(
            dimse.C_STORE_RQ,
            number,
            {dimse.AFFECTED_CLASS: image.sop_class, dimse.AFFECTED_INSTANCE: image.sop, dimse.PRIORITY: dimse.MEDIUM},
            has_data=True,
        )
        root, inbox = self._sending.root, self._sending.inbox
        path = local_path(root, image.path)
        with reading("storing an image", path), opened(root, image.path, inbox=inbox) as file:
            size = os.fstat(file.fileno()).st_size
            if size != image.size:
                raise Corrupted(
                    f"storing {image.path}: the file is not as long as its manifest says", paths=[image.path]
                )
            line.send_file(context, command, file, dataset_start(path, file), size)
        answer = line.receive()
        if answer.field != dimse.C_STORE_RSP or answer.number(dimse.ANSWERED_ID) != number:
            raise Broken(f"an answer to something else ({answer.field:#06x})")
        if answer.has_data:
            for _ in line.data():
                pass
        kind, words = kind_of(answer.status)
        comment = answer.text(dimse.COMMENT)
        return kind, f"{words}: {comment[:64]}" if comment and kind is not Kind.TAKEN else words


def dataset_start(path: Path, file: BinaryIO) -> int:
    """Where the data set begins in a DICOM file. Raises Unreachable, Corrupted."""
    try:
        return dicom_files.dataset_start(file)
    except ValueError:
        try:
            return split_dataset(path)[1]
        except (InvalidDicomError, ValueError, AttributeError, KeyError, EOFError) as exc:
            raise Corrupted(f"reading {path}: no DICOM any more ({type(exc).__name__})", paths=[str(path)]) from exc


def names(sop_class: str, syntax: str) -> str:
    """Both in words where the standard has some."""
    return f"{UID(sop_class).name} in {UID(syntax).name}"
