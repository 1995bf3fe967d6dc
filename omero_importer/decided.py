"""Remembers which files of a delivery became which fileset: reading back later must not depend on files that went, or rules that
changed.

A file per delivery below the server's home, written before anything is sent. Where there is none (an older delivery, or a
person who may not read the server's home) OMERO itself says how it holds the files.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import cast

import structlog

from lading.delivery import FileOutcome, Outcome, Parcel
from lading.disk import appearing, translated
from lading.manifest import Entry
from omero_importer import attachments, holdings
from omero_importer.annotations import Mark
from omero_importer.filesets import FilesetPlan, FilesetsDecision, Place
from omero_importer.holdings import ClientName
from omero_importer.session import Connection

FOLDER = "omero-filesets"
_FORMAT = 1
_FAST = 4
_LOOKED_AT = 3
_NOBODY_TOOK_IT = "neither in a Fileset of the delivery nor attached to it"
_log = structlog.get_logger("omero_importer")


class Decided:
    """The decisions of one importer about deliveries that it imported, below `home`. Safe to share between threads."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def keep(self, parcel: Parcel, decision: FilesetsDecision) -> None:
        """Durable on return; replaces what an earlier attempt decided. Raises OutOfSpace, AccessDenied, Unreachable."""
        with translated("noting which files form which fileset", self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (
                appearing(self._file(parcel)) as handle,
                open(handle, "wb", closefd=False) as raw,
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_FAST) as packed,
            ):
                for line in _lines(parcel, decision):
                    packed.write(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")

    def recall(self, parcel: Parcel, paths: Set[str]) -> FilesetsDecision | None:
        """What was decided about exactly these files, the parcel's `paths`; None when that is not known here."""
        path = self._file(parcel)
        try:
            with gzip.open(path, "rt", encoding="ascii") as lines:
                return _understood(lines, parcel, paths)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            _log.warning("a kept decision cannot be read", delivery=parcel.delivery.id, path=str(path), error=str(exc))
            return None

    def _file(self, parcel: Parcel) -> Path:
        return self._folder / f"{parcel.delivery.id}.jsonl.gz"


def as_held(
    connection: Connection, marks: Sequence[Mark], place: Place, parcel: Parcel, skips: Mapping[str, str]
) -> FilesetsDecision:
    """The decision as OMERO shows it: files under one Fileset belong together. What it does not hold, `unheld` names."""
    name = ClientName(place.prefix)
    free = {name(entry.path): entry.path for entry in parcel.manifest if entry.path not in skips}
    filesets = []
    for found in holdings.held(connection, [mark.id for mark in marks], place):
        files = tuple(free.pop(path) for path in sorted(found.paths) if path in free)
        if files:
            filesets.append(FilesetPlan(files))
    attached = attachments.stored(connection, place, [mark.delivery for mark in marks])
    others = tuple(sorted(path for known_as, path in free.items() if known_as in attached))
    return FilesetsDecision(tuple(filesets), others, left_out=skips)


def lies_here(parcel: Parcel) -> bool:
    """Whether the parcel was not withdrawn, by a look at its first files: the folder may be gone, or be another delivery's."""
    try:
        return all(
            (parcel.root / entry.path).lstat().st_size == entry.size for entry in islice(parcel.manifest, _LOOKED_AT)
        )
    except OSError:
        return False


def unheld(entries: Iterable[Entry], decision: FilesetsDecision) -> Iterator[FileOutcome]:
    """The files that the decision says nothing about: some only where it was made from what OMERO holds."""
    known = _known(decision)
    for entry in entries:
        if entry.path not in known:
            yield FileOutcome(entry.path, entry.size, entry.sha256, Outcome.MISSING, _NOBODY_TOOK_IT)


def _known(decision: FilesetsDecision) -> set[str]:
    return {path for plan in decision.filesets for path in plan.files} | {*decision.attachments, *decision.left_out}


def _lines(parcel: Parcel, decision: FilesetsDecision) -> Iterator[object]:
    """The head, then a line per fileset. Key-values and findings are not needed for reading back, and stay out."""
    yield {
        "format": _FORMAT,
        "delivery": parcel.delivery.id,
        "manifest": parcel.manifest.summary.digest,
        "attachments": decision.attachments,
        "left_out": dict(decision.left_out),
    }
    for plan in decision.filesets:
        yield [plan.reader, plan.required_dirs, plan.series, *plan.files]


def _understood(lines: Iterator[str], parcel: Parcel, paths: Set[str]) -> FilesetsDecision | None:
    """None for other content under the same id. Raises OSError, EOFError, ValueError, KeyError, TypeError."""
    head = cast("Mapping[str, object]", json.loads(next(lines, "")))
    if head["format"] != _FORMAT or head["manifest"] != parcel.manifest.summary.digest:
        return None
    left_out = cast("dict[str, str]", head["left_out"])
    found = FilesetsDecision(
        tuple(_plan(json.loads(line)) for line in lines),
        tuple(cast("list[str]", head["attachments"])),
        left_out=left_out,
    )
    # Half a file, or one that was tampered with, must not make a file of the delivery disappear from the account.
    if _known(found) != paths:
        raise ValueError("it is not about the files of the manifest")
    return found


def _plan(line: list[str | int]) -> FilesetPlan:
    reader, required_dirs, series, *files = line
    return FilesetPlan(tuple(map(str, files)), str(reader), int(required_dirs), int(series))
