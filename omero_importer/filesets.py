"""Which files of a delivery OMERO shall read together, and which go along as attachments: plain values, decided elsewhere.

A *fileset* is what OMERO imports in one go: the files that one image reader needs, the one it opens first in front.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lading.delivery import Parcel
from lading.findings import Finding
from lading.ports import Journal, Progress

KeyValues = tuple[tuple[str, str], ...]
"""Pairs in the order in which people shall see them; a key may come twice."""


@dataclass(frozen=True, slots=True)
class FilesetPlan:
    """One fileset to import.

    `files`: relative POSIX paths as in the manifest, the file that the reader opens first in front; the others keep their place
    relative to it. `reader`: the reader's full Java class name, "" when nobody asked. `required_dirs`: how many folders above
    a file the reader needs to keep, as Bio-Formats counts. `series`: how many images the reader saw, 0 when nobody looked.
    """

    files: tuple[str, ...]
    reader: str = ""
    required_dirs: int = 0
    series: int = 0

    @property
    def entry(self) -> str:
        """The file that is opened first."""
        return self.files[0]

    @property
    def key(self) -> str:
        """A short name for the fileset within its delivery: it depends on the names only, and not on their order."""
        digest = hashlib.sha256()
        for path in sorted(self.files):
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class FilesetsDecision:
    """What is to become of every file of a parcel. The same parcel and rules always give the same decision.

    `attachments` become file annotations; `left_out` maps a path to the reason why it is not sent. An error among `findings`
    refuses the delivery: nobody guesses. `session_values` are key-value pairs for the whole session, `file_values` for one file.
    """

    filesets: tuple[FilesetPlan, ...]
    attachments: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    session_values: KeyValues = ()
    file_values: Mapping[str, KeyValues] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delivery's images go in OMERO, made before the first of them is sent.

    `kind` is "Dataset" or "Screen", `id` its id. `mark` is the id of the map annotation that says which delivery it is: every
    Fileset of the delivery is linked to it. `prefix` goes in front of every client path: PROJECT/participant/SESSION/.
    """

    kind: str
    id: int
    mark: int
    prefix: str


@dataclass(frozen=True, slots=True)
class FilesetRecord:
    """What OMERO made of a fileset."""

    fileset_id: int
    image_ids: tuple[int, ...]
    plate_ids: tuple[int, ...] = ()


class Engine(Protocol):
    """A way of getting filesets into OMERO. The caller has looked: they are not there."""

    def import_filesets(
        self, plans: Iterable[FilesetPlan], place: Place, journal: Journal, progress: Progress
    ) -> Iterator[tuple[FilesetPlan, FilesetRecord]]:
        """Import them all, linked to the place and its mark, and tell `progress` of the bytes as they are sent.

        What OMERO cannot read does not stop the others, and is raised at the end (Refused). Raises TargetUnavailable (look, then
        try again), Corrupted (the parcel's files are not what its manifest says). Nothing without images is left behind, as far
        as the server lets us; what is left of an upload that was cut off is found by the mark.
        """


class Decide(Protocol):
    """Decides about the files of a parcel."""

    def __call__(self, parcel: Parcel, skips: Mapping[str, str]) -> FilesetsDecision:
        """`skips`: files that a check leaves out (path → reason). Reads the parcel only. Never raises for bad data."""


_SELF_CONTAINED = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".czi", ".lif", ".nd2", ".svs", ".lsm", ".oib", ".dv")


def one_by_one(parcel: Parcel, skips: Mapping[str, str]) -> FilesetsDecision:
    """Every file with an image's extension is a fileset of its own, everything else an attachment. For tests."""
    images, others, left_out = [], [], {}
    for entry in parcel.manifest:
        if entry.path in skips:
            left_out[entry.path] = skips[entry.path]
        elif entry.path.lower().endswith(_SELF_CONTAINED):
            images.append(FilesetPlan((entry.path,)))
        else:
            others.append(entry.path)
    return FilesetsDecision(tuple(images), tuple(others), left_out=left_out)
