"""OME-Zarr folders: each is one fileset, however many chunks it has, recognised by its own metadata files.

Bio-Formats is not asked: its package has no Zarr reader (OMERO servers add one), and 20,000 chunks are 20,000 questions.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.findings import Finding, error, warning
from lading.listing.names import printable
from omero_importer.bounded import TooLargeError, read_bounded

READER = "loci.formats.in.ZarrReader"
REQUIRED_DIRS = 1  # what that reader answers
_GROUP_MARKERS = (".zattrs", ".zgroup", "zarr.json")
_MARKERS = frozenset((*_GROUP_MARKERS, ".zarray"))
_OME_KEYS = ("multiscales", "plate", "well", "bioformats2raw.layout")
_MAX_ATTRIBUTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ZarrFolder:
    """A Zarr hierarchy at `root` (relative POSIX, no slash at the end); `entry` is the file to open first, "" when none is fit."""

    root: str
    entry: str

    def holds(self, path: str) -> bool:
        """Whether `path` lies in it."""
        return not self.root or path.startswith(self.root + "/")


def zarr_folders(paths: Iterable[str]) -> list[ZarrFolder]:
    """The outermost Zarr folders among `paths` (any order), sorted. A folder called `x.zarr` counts from there, marked or not."""
    marked: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in _MARKERS:
            root = _named_ancestor(folder) or folder
            markers = marked.setdefault(root, set())
            if root == folder:
                markers.add(name)
    roots = [root for root in marked if not any(above in marked for above in _above(root))]
    return [ZarrFolder(root, _entry(root, marked[root])) for root in sorted(roots)]


def zarr_findings(base: Path, folder: ZarrFolder) -> Iterator[Finding]:
    """What is wrong with a Zarr folder below `base`.

    Errors: zarr-incomplete (no metadata at its root), zarr-name (OMERO's reader goes by ".zarr" in the folder's name),
    zarr-not-ome (no images by the OME-Zarr specification). Warning: zarr-v3 (needs a recent reader on the server).
    """
    shown = printable(folder.root) or "the session folder"
    name = folder.root.rpartition("/")[2]
    if not folder.entry:
        yield error(
            "zarr-incomplete",
            f"the Zarr folder {shown} has no .zattrs, .zgroup or zarr.json at its top",
            path=folder.root,
            hint="copy it again, with its hidden files",
        )
        return
    if ".zarr" not in name:
        yield error(
            "zarr-name",
            f"the Zarr folder {shown} is not called NAME.zarr; OMERO's reader recognises it by that name only",
            path=folder.root,
            hint=f"rename it to {name or 'NAME'}.ome.zarr",
        )
    try:
        attributes = _attributes(base, folder)
    except (ValueError, TooLargeError, OSError, RecursionError) as exc:
        yield error("zarr-incomplete", f"the attributes of {shown} cannot be read: {exc}", path=folder.entry)
        return
    if not any(key in attributes for key in _OME_KEYS):
        yield error(
            "zarr-not-ome",
            f"the Zarr folder {shown} says nothing about images (no multiscales, plate or bioformats2raw.layout)",
            path=folder.entry,
            hint="name it in leave_out of the route's import.files, or in a fileset rule",
        )
    if folder.entry.endswith("zarr.json"):
        yield warning(
            "zarr-v3",
            f"{shown} is Zarr version 3; only OMERO servers with a recent Zarr reader can read it",
            path=folder.entry,
        )


def _attributes(base: Path, folder: ZarrFolder) -> dict[str, object]:
    name = folder.entry.rpartition("/")[2]
    if name in (".zgroup", ".zarray"):
        return {}
    content = json.loads(read_bounded(base, folder.entry, _MAX_ATTRIBUTES))
    for key in ("attributes", "ome") if name == "zarr.json" else ():
        content = content.get(key, {}) if isinstance(content, dict) else {}
    return content if isinstance(content, dict) else {}


def _entry(root: str, markers: set[str]) -> str:
    return next((f"{root}/{name}" if root else name for name in _GROUP_MARKERS if name in markers), "")


def _named_ancestor(folder: str) -> str:
    parts = folder.split("/")
    for depth, part in enumerate(parts, 1):
        if ".zarr" in part:
            return "/".join(parts[:depth])
    return ""


def _above(folder: str) -> Iterator[str]:
    while folder:
        folder = folder.rpartition("/")[0]
        yield folder
