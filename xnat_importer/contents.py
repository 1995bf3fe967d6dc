"""Sorts the files of a parcel: what is a DICOM object, what is a companion of it, what stays out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.delivery import Parcel
from lading.manifest import Entry
from xnat_importer.dicom import Identity, identity


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file of the parcel that is a DICOM object."""

    entry: Entry
    identity: Identity


@dataclass(frozen=True, slots=True)
class Contents:
    """A parcel, sorted. `skipped` pairs a file with the reason why a check left it out."""

    dicom: tuple[DicomFile, ...]
    companions: tuple[Entry, ...]
    skipped: tuple[tuple[Entry, str], ...]

    @property
    def studies(self) -> tuple[str, ...]:
        """The StudyInstanceUIDs, each once."""
        return tuple(dict.fromkeys(file.identity.study for file in self.dicom))

    @property
    def skips_dicom(self) -> bool:
        """Whether something stays out that XNAT would take in if it read the whole folder."""
        return bool(self.skipped)


def sort(parcel: Parcel, skips: Mapping[str, str]) -> Contents:
    """Reads the header of every file once. Raises OSError."""
    dicom: list[DicomFile] = []
    companions: list[Entry] = []
    skipped: list[tuple[Entry, str]] = []
    for entry in parcel.manifest:
        reason = skips.get(entry.path)
        if reason is not None:
            skipped.append((entry, reason))
            continue
        found = identity(local_path(parcel.root, entry)) if entry.size else None
        if found:
            dicom.append(DicomFile(entry, found))
        else:
            companions.append(entry)
    return Contents(tuple(dicom), tuple(companions), tuple(skipped))


def unsorted(parcel: Parcel, skips: Mapping[str, str]) -> Contents:
    """Without a look at the files: none of them is known to be DICOM."""
    skipped = [(entry, skips[entry.path]) for entry in parcel.manifest if entry.path in skips]
    return Contents((), tuple(entry for entry in parcel.manifest if entry.path not in skips), tuple(skipped))


def local_path(root: Path, entry: Entry) -> Path:
    """Where the file of an entry lies."""
    return root.joinpath(*entry.path.split("/"))
