"""Reads back what XNAT holds, file by file, after XNAT has read its own disk again.

Equal MD5 is proof for any file. DICOM that differs is judged by identifier and content, because anonymisation and the importers
may rewrite headers: the object must be there under its SOPInstanceUID with the same pixel data. A blank digest proves nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lading.delivery import FileOutcome, Outcome
from lading.manifest import Entry
from xnat_importer import copies
from xnat_importer.contents import DicomFile
from xnat_importer.dicom import Substance, substance
from xnat_importer.errand import Errand
from xnat_importer.resources import Place
from xnat_importer.scratch import scratch
from xnat_importer.target import Archived, Stored, with_md5

_READERS = 4


def companions(errand: Errand, archived: Archived, place: Place, entries: Sequence[Entry]) -> Iterator[FileOutcome]:
    """One outcome for each file that belongs into one resource."""
    listed = errand.repository.files(place.base(archived), place.resource, scan=place.scan)
    there = {file.path: file for file in listed}
    for entry in entries:
        stored = there.get(entry.path)
        if stored is None:
            yield _outcome(entry, Outcome.MISSING, "not listed")
        elif stored.size != entry.size:
            yield _outcome(entry, Outcome.MISMATCH, f"size {stored.size}, not {entry.size}", stored)
        else:
            yield _by_digest(errand, entry, stored)


def _by_digest(errand: Errand, entry: Entry, stored: Stored) -> FileOutcome:
    ours = md5_of(errand, entry) if stored.md5 else ""
    if ours:
        same = stored.md5 == ours
        return _outcome(entry, Outcome.VERIFIED if same else Outcome.MISMATCH, "md5", stored)
    if not stored.md5 and errand.route.blank_digest != "download":
        return _outcome(entry, Outcome.UNVERIFIED, "XNAT shows no digest", stored)
    with scratch(errand.state / "downloads", "", stored.size) as copy:
        digest = errand.repository.download(stored.uri, copy)
    if digest is None:
        return _outcome(entry, Outcome.MISSING, "listed, but not served")
    same = digest == entry.sha256
    return _outcome(entry, Outcome.VERIFIED if same else Outcome.MISMATCH, "sha256 of the download", stored)


def dicom(
    errand: Errand, files: Sequence[DicomFile], stored: Sequence[Stored], anonymised: Callable[[], bool]
) -> Iterator[FileOutcome]:
    """One outcome for each DICOM object; `anonymised` is asked only when some object differs."""
    by_md5 = with_md5(stored)
    rest: list[DicomFile] = []
    matched: set[str] = set()
    for file in files:
        same = by_md5.get(md5_of(errand, file.entry)) if by_md5 else None  # no digest of a stored file is ""
        if same:
            matched.add(same.uri)
            yield _outcome(file.entry, Outcome.VERIFIED, "md5", same)
        else:
            rest.append(file)
    if rest:
        yield from _Judge(errand, anonymised()).judge(rest, [s for s in stored if s.uri not in matched])


def proves_all(files: Sequence[DicomFile], stored: Sequence[Stored]) -> bool:
    """Whether each object is among `stored` with the MD5 that the manifest gives it."""
    by_md5 = with_md5(stored)
    return all(file.entry.digests.get("md5") in by_md5 for file in files)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A stored object as it was read back. `sha256` and `substance` are empty when its header alone was read."""

    stored: Stored
    sop: str
    sha256: str = ""
    substance: Substance | None = None


@dataclass(frozen=True)
class _Judge:
    """Decides about objects whose bytes are not simply equal."""

    errand: Errand
    anonymised: bool

    def judge(self, files: Sequence[DicomFile], stored: Sequence[Stored]) -> Iterator[FileOutcome]:
        with ThreadPoolExecutor(_READERS) as readers:
            seen = [found for found in readers.map(self._read, stored) if found]
        wanted = {file.identity.sop for file in files}
        by_sop = {found.sop: found for found in seen if found.sop in wanted}
        others = [found for found in seen if found.sop not in wanted]
        lost = [file for file in files if file.identity.sop not in by_sop]
        shown: dict[str, str] = {}
        for file in files:
            there = by_sop.get(file.identity.sop)
            if there is None:
                continue
            # One object is no proof of two files that only call themselves by the same name: XNAT keeps one of them.
            if shown.setdefault(there.stored.uri, file.entry.sha256) == file.entry.sha256:
                yield self._same_identifier(file, there)
            else:
                how = "another file of the delivery has the same SOPInstanceUID and other content; XNAT keeps one"
                yield _outcome(file.entry, Outcome.UNVERIFIED, how, there.stored)
        yield from self._renamed(lost, others) if self.anonymised and others else map(_lost, lost)

    def _read(self, stored: Stored) -> _Seen | None:
        """None when the file is listed and not served, or no DICOM."""
        repository = self.errand.repository
        if self._identifier_suffices or self._has_no_digest(stored):
            found = repository.identity(stored.uri)
            return _Seen(stored, found.sop) if found else None
        with scratch(self.errand.state / "downloads", ".dcm", stored.size) as copy:
            digest = repository.download(stored.uri, copy)
            content = substance(copy) if digest else None
        # What cannot be read any more still counts as one of the objects that are there.
        return _Seen(stored, content.sop if content else "", digest, content) if digest else None

    @property
    def _identifier_suffices(self) -> bool:
        return self.anonymised and self.errand.route.anonymised == "uid"

    def _has_no_digest(self, stored: Stored) -> bool:
        # In the prearchive there never is one; there the download is the way.
        blank = not stored.md5 and "/prearchive/" not in stored.uri
        return blank and not self.anonymised and self.errand.route.blank_digest != "download"

    def _same_identifier(self, file: DicomFile, seen: _Seen) -> FileOutcome:
        if self._identifier_suffices:
            return _outcome(file.entry, Outcome.VERIFIED, "sop-instance-uid", seen.stored)
        if not seen.sha256:
            return _outcome(
                file.entry, Outcome.UNVERIFIED, "there by SOPInstanceUID; XNAT shows no digest", seen.stored
            )
        if seen.sha256 == file.entry.sha256:
            return _outcome(file.entry, Outcome.VERIFIED, "sha256 of the download", seen.stored)
        ours, theirs = self._own(file), seen.substance
        if ours is None:
            return _outcome(
                file.entry, Outcome.UNVERIFIED, "other bytes, and no copy of ours to compare with", seen.stored
            )
        if theirs is None:
            return _outcome(file.entry, Outcome.MISMATCH, "not readable as DICOM when read back", seen.stored)
        outcome, how = self._compared(ours, theirs)
        return _outcome(file.entry, outcome, how, seen.stored)

    def _compared(self, ours: Substance, theirs: Substance) -> tuple[Outcome, str]:
        same_pixels = ours.pixels == theirs.pixels
        if same_pixels and ours.header == theirs.header:
            # Only the file's wrapping differs: an importer may write preamble and file meta anew.
            return Outcome.VERIFIED, "sop-instance-uid, header and pixel data"
        if same_pixels and self.anonymised:
            return Outcome.VERIFIED, f"sop-instance-uid {'and pixel data' if ours.pixels else '(no pixel data)'}"
        if not same_pixels and ours.transfer_syntax != theirs.transfer_syntax:
            return Outcome.UNVERIFIED, "stored in another transfer syntax"
        return Outcome.MISMATCH, "same SOPInstanceUID, other content"

    def _renamed(self, files: Sequence[DicomFile], others: Sequence[_Seen]) -> Iterator[FileOutcome]:
        """Anonymisation replaced the identifiers: what is left is told apart by its pixels."""
        by_pixels: dict[str, list[Stored]] = {}
        for seen in others:
            if seen.substance and seen.substance.pixels:
                by_pixels.setdefault(seen.substance.pixels, []).append(seen.stored)
        for file in files:
            ours = self._own(file)
            same = by_pixels.get(ours.pixels) if ours and ours.pixels else None
            if same:
                yield _outcome(file.entry, Outcome.VERIFIED, "pixel data (identifiers replaced)", same.pop())
            elif len(files) <= len(others):
                yield _outcome(file.entry, Outcome.UNVERIFIED, "identifiers replaced by anonymisation")
            else:
                yield _lost(file)

    def _own(self, file: DicomFile) -> Substance | None:
        return copies.content(self.errand.root, file.entry, inbox=self.errand.inbox)


def md5_of(errand: Errand, entry: Entry) -> str:
    """The MD5 of the file that the manifest is about: as it says, else of our copy; "" when that is not this file any more."""
    return entry.digests.get("md5") or copies.md5(errand.root, entry, inbox=errand.inbox)


def verified(entry: Entry, how: str, stored: Stored) -> FileOutcome:
    """The outcome of a file that was found equal."""
    return _outcome(entry, Outcome.VERIFIED, how, stored)


def missing(entry: Entry, how: str) -> FileOutcome:
    """The outcome of a file that is nowhere."""
    return _outcome(entry, Outcome.MISSING, how)


def filtered(entry: Entry, reason: str) -> FileOutcome:
    """The outcome of a file that a check left out."""
    return _outcome(entry, Outcome.FILTERED, reason)


def _lost(file: DicomFile) -> FileOutcome:
    return _outcome(file.entry, Outcome.MISSING, "its SOPInstanceUID is not in the session")


def _outcome(entry: Entry, outcome: Outcome, how: str, stored: Stored | None = None) -> FileOutcome:
    return FileOutcome(entry.path, entry.size, entry.sha256, outcome, how, stored.uri if stored else "")
