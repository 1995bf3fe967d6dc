"""Decides without Bio-Formats, and only what is certain: formats that always are one file, and TIFFs that say so themselves."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from omero_importer import formats
from omero_importer.bounded import TooLargeError, read_bounded
from omero_importer.tiff_head import ome_companion, ome_files, tiff_head

_MAX_COMPANION = 64 << 20
_PATTERNED = formats.TIFF | {".png", ".jpg", ".jpeg", ".bmp"}
_OME = re.compile(r"<(?:\w{1,20}:)?OME\b")


@dataclass(frozen=True, slots=True)
class Together:
    """These files (relative POSIX, entry point first) are one fileset."""

    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Undecided:
    """It takes Bio-Formats, or a rule. `why`: a sentence's end; `missing`: a file that should be there, or ""."""

    why: str
    missing: str = ""


class SelfContained:
    """Decides about the files of one delivery: `paths` are all of them, below `base`."""

    def __init__(self, base: Path, paths: AbstractSet[str]) -> None:
        self._base = base
        self._paths = paths
        # Where an index lies, the images of the folder and below may be parts of a plate or a series.
        self._indexed = {
            path.rpartition("/")[0]
            for path in paths
            if formats.suffix(path) in formats.INDEXES
            or formats.suffix(path) in formats.MEMBERS
            or path.rpartition("/")[2].lower() == "metadata.txt"
        }

    def decide(self, path: str) -> Together | Undecided:
        """What is certain about the file at `path`. Raises OSError when it cannot be read."""
        kind = formats.suffix(path)
        if kind in formats.TIFF:
            return self._tiff(path)
        if kind == ".companion.ome":
            return self._companion(path)
        if kind == ".czi":
            return self._czi(path)
        if kind in formats.SELF_CONTAINED:
            return self._alone(path)
        return Undecided(f"files called *{kind} are not known to be one image each" if kind else "it has no extension")

    def _alone(self, path: str) -> Together | Undecided:
        if formats.suffix(path) in _PATTERNED and self._below_an_index(path):
            return Undecided("beside or above it lies the index of a multi-file format")
        return Together((path,))

    def _czi(self, path: str) -> Together | Undecided:
        first = formats.czi_whole(path) or path
        folder = path.rpartition("/")[0]
        parts = sorted(p for p in self._paths if p.rpartition("/")[0] == folder and formats.czi_whole(p) == first)
        if first not in self._paths:
            return Undecided("it is a later part of a CZI", missing=first)
        return Together((first, *parts))

    def _tiff(self, path: str) -> Together | Undecided:
        head = tiff_head(self._base, path)
        if head is None:
            return Undecided("it is called TIFF but is not one")
        if not _OME.search(head.description[:4096]):
            return self._alone(path)
        companion = ome_companion(head.description)
        if companion:
            where = _beside(path, companion)
            if where not in self._paths:
                return Undecided("its OME-XML is in a companion file", missing=where)
            return self._companion(where)
        return self._set(path, ome_files(head.description))

    def _companion(self, path: str) -> Together | Undecided:
        try:
            xml = read_bounded(self._base, path, _MAX_COMPANION).decode("utf-8", "replace")
        except TooLargeError as exc:
            return Undecided(f"its companion is too large: {exc}")
        names = ome_files(xml)
        if not names:
            return Undecided("the OME-XML names no files")
        found = self._set(path, names)
        return Together((path, *found.files)) if isinstance(found, Together) else found

    def _set(self, path: str, names: AbstractSet[str]) -> Together | Undecided:
        own = formats.suffix(path) != ".companion.ome"
        if own and names <= {path.rpartition("/")[2]}:
            return Together((path,))
        members = sorted(_beside(path, name) for name in names)
        for member in members:
            if member not in self._paths:
                return Undecided("its OME-XML names a file that is not there", missing=member)
        # A renamed member still belongs to the set that its OME-XML describes only if the set names it.
        if own and path not in members:
            return Undecided("its OME-XML describes other files only; was it renamed?")
        return Together(tuple(members))

    def _below_an_index(self, path: str) -> bool:
        folder = path.rpartition("/")[0]
        while folder not in self._indexed:
            if not folder:
                return False
            folder = folder.rpartition("/")[0]
        return True


def _beside(path: str, name: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder + slash + name
