"""Proves that a slot holds exactly what its seal declares: every name, every byte, nothing else.

What is here is untrusted. Nothing is followed, nothing unbounded is read, and the answer is one of three: a Proof,
Rejected (the sender must act: something hostile, malformed or unlisted), or Damaged (the same files may be sent again).
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lading.delivery import DeliveryId, Labels
from lading.disk import is_real_file, is_real_folder, open_strange
from lading.errors import LadingError, Rejected
from lading.filters import FileRules
from lading.findings import Finding, Severity, error
from lading.listing.names import printable
from lading.manifest import (
    LIST_NAME,
    SUMS_NAME,
    Entry,
    Limits,
    Manifest,
    NameLimits,
    Progress,
    Seen,
    Summary,
    Survey,
    Verdict,
    order_key,
    rehash,
)
from lading.seal import SEAL_NAME, Seal, label_findings, read_seal

DATA = "data"

MAX_NAMED = 10_000
"""So many damaged, unlisted or left-over files are named in one go; the next round finds the rest."""

# What a killed copy leaves beside the files: rsync's partial folder, our own unfinished copies, rsync's `.NAME.Xy12ab`.
_OWN_UNFINISHED = re.compile(r"(?:.*/)?(?:\.rsync-partial/.*|\.in\.[^/]*)", re.DOTALL)
_RSYNC_UNFINISHED = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one delivery may be: files, bytes of content, bytes of its list."""

    max_files: int
    max_bytes: int
    max_list_bytes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Every digest matched. `fingerprint` (names, sizes, times) tells cheaply whether anything was touched since."""

    seal: Seal
    fingerprint: str


class Damaged(Exception):
    """Files are missing or differ; `paths` names them (relative POSIX). No path at all: the papers differ."""

    def __init__(self, what: str, paths: Iterable[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.paths = tuple(paths)


class Leftovers(Exception):
    """Only remains of a killed copy are too many; `paths` names them."""

    def __init__(self, paths: Iterable[str]) -> None:
        super().__init__("remains of an interrupted copy")
        self.paths = tuple(paths)


def prove(
    slot: Path,
    delivery: DeliveryId,
    labels: Labels | None,
    bounds: Bounds,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Proof:
    """Read the papers and every byte of the data of `slot`, once. `labels`: those of the operator, if he changed them.

    Raises Rejected, Damaged, or Leftovers (move those aside and ask again); AccessDenied, Unreachable for the disk.
    """
    sealed = read_papers(slot, delivery, labels, bounds)
    manifest = _opened(slot, sealed.summary, bounds)
    data = slot / DATA
    before = look_through(data, manifest)
    if before.refused:
        raise Rejected(
            f"delivery {delivery} holds what its manifest does not allow: {before.refused[0].message}",
            findings=before.refused,
            safe="nothing was deleted",
        )
    if before.leftovers:
        raise Leftovers(before.leftovers)
    damaged = differing(data, manifest, workers=workers, progress=progress)
    if damaged:
        raise Damaged(f"{len(damaged)} of {sealed.summary.files} files are missing or differ", damaged)
    if look_through(data, manifest).fingerprint != before.fingerprint:
        raise Damaged("files were changed while they were being verified")
    return Proof(sealed, before.fingerprint)


def read_papers(slot: Path, delivery: DeliveryId, labels: Labels | None, bounds: Bounds) -> Seal:
    """The seal, after everything that can be judged without the data. Raises Rejected, or Damaged for altered lists."""
    sealed = read_seal(slot)
    found = [] if sealed.delivery == delivery else [_other_id(sealed.delivery, delivery)]
    found += label_findings(labels or sealed.labels)
    found += _over(sealed.summary, bounds)
    if not is_real_folder(slot / DATA) and (slot / DATA).is_symlink():
        found.append(error("symlink", f"{DATA} is a symbolic link, not a folder", path=DATA))
    if found:
        raise Rejected(f"delivery {delivery} cannot be taken: {found[0].message}", findings=found)
    for name, digest in ((LIST_NAME, sealed.summary.list_digest), (SUMS_NAME, sealed.summary.digest)):
        if _paper_digest(slot / name, bounds) != digest:
            raise Damaged(f"{name} is not the one that was sealed")
    return sealed


@dataclass(slots=True)
class Look:
    """What a walk over the data found, next to the manifest."""

    refused: list[Finding] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    fingerprint: str = ""


def look_through(data: Path, manifest: Iterable[Entry]) -> Look:
    """Walk over names and stats only: what is unlisted, linked or special, and the fingerprint of what is there.

    The fingerprint is over path, size, mtime and ctime of every file: a change of content cannot keep the ctime (it can
    keep the mtime). The inode is left out, since some shares make it up anew.
    """
    look = Look()
    digest = hashlib.sha256()
    survey = Survey(data, rules=FileRules(junk=False), limits=NameLimits.EXACT, follow_root=False)
    listed = _Listed(manifest)
    if not is_real_folder(data):
        return look  # rehash says that every file is missing
    for seen in survey:
        if not isinstance(seen, Seen):
            continue
        digest.update(f"{seen.size} {seen.mtime_ns} {seen.ctime_ns} ".encode() + order_key(seen.path) + b"\n")
        if seen.path not in listed:
            if _is_unfinished(data, seen.path):
                look.leftovers.append(seen.path)
            else:
                look.refused.append(_extra(seen.path))
            if len(look.refused) >= MAX_NAMED or len(look.leftovers) >= MAX_NAMED:
                break
    look.refused += [
        f for f in survey.findings if f.severity is Severity.ERROR and f.code not in ("nothing-to-send", "name-illegal")
    ]
    look.fingerprint = digest.hexdigest()
    return look


def differing(
    data: Path, manifest: Iterable[Entry], *, workers: int | None = None, progress: Progress | None = None
) -> list[str]:
    """The first MAX_NAMED paths that are missing or whose content is not the manifest's; every byte is read."""
    if not is_real_folder(data):
        return [entry.path for entry, _ in zip(manifest, range(MAX_NAMED), strict=False)]
    wrong: list[str] = []
    for entry, verdict in rehash(data, manifest, workers=workers, progress=progress):
        if verdict is not Verdict.MATCHES:
            wrong.append(entry.path)
            if len(wrong) >= MAX_NAMED:
                break
    return wrong


def holds_exactly(folder: Path, manifest: Manifest) -> bool:
    """Whether `folder` holds the files of the manifest and nothing else, every byte read."""
    try:
        look = look_through(folder, manifest)
    except LadingError:
        return False
    return not look.refused and not look.leftovers and not differing(folder, manifest)


class _Listed:
    """Membership in a streamed manifest, for questions that come in its own order."""

    def __init__(self, manifest: Iterable[Entry]) -> None:
        self._entries = iter(manifest)
        self._key = b""
        self._done = False

    def __contains__(self, path: object) -> bool:
        wanted = order_key(str(path))
        while not self._done and self._key < wanted:
            entry = next(self._entries, None)
            self._done = entry is None
            self._key = order_key(entry.path) if entry else b""
        return not self._done and self._key == wanted


def _opened(slot: Path, summary: Summary, bounds: Bounds) -> Manifest:
    limits = Limits(max_files=bounds.max_files, max_list_bytes=bounds.max_list_bytes)
    manifest = Manifest.open(slot, limits=limits)
    found = manifest.summary
    if (found.files, found.bytes) != (summary.files, summary.bytes):
        raise _refused(
            "manifest-differs-from-seal",
            f"the seal declares {summary.files} files of {summary.bytes} bytes, "
            f"the manifest lists {found.files} of {found.bytes}",
        )
    if not found.files:
        raise _refused("nothing-to-send", "the manifest lists no file")
    return manifest


def _paper_digest(path: Path, bounds: Bounds) -> str:
    try:
        with open_strange(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > bounds.max_list_bytes:
                raise _refused(
                    "manifest-too-large",
                    f"{path.name} has {size} bytes, {bounds.max_list_bytes} are allowed",
                    path.name,
                )
            digest = hashlib.sha256()
            while size > 0 and (block := file.read(min(size, 1 << 20))):
                digest.update(block)
                size -= len(block)
    except FileNotFoundError:
        return ""
    except ValueError as exc:
        raise _refused("manifest-not-a-file", str(exc), path.name) from exc
    return digest.hexdigest()


def _over(summary: Summary, bounds: Bounds) -> Iterator[Finding]:
    for what, figure, limit in (("files", summary.files, bounds.max_files), ("bytes", summary.bytes, bounds.max_bytes)):
        if figure > limit:
            yield error(
                "delivery-too-large",
                f"the delivery declares {figure} {what}; this inbox takes {limit}",
                hint="send it in parts, or ask the operator to raise the inbox's limits",
            )


def _is_unfinished(data: Path, path: str) -> bool:
    if _OWN_UNFINISHED.fullmatch(path):
        return True
    folder, _, name = path.rpartition("/")
    match = _RSYNC_UNFINISHED.fullmatch(name)
    # Only beside the file that it was going to be: `.hidden.abcdef` of its own is an unlisted file like any other.
    return match is not None and any(is_real_file(data / folder / n) for n in (match[1], f".{match[1]}"))


def _extra(path: str) -> Finding:
    return error(
        "extra-file",
        f"{printable(path)} is not in the manifest",
        path=path,
        hint="nobody may write into a slot but its sender; send the delivery again",
    )


def _other_id(inside: DeliveryId, slot: DeliveryId) -> Finding:
    return error("delivery-id-mismatch", f"the seal in the slot {slot} is that of delivery {inside}", path=SEAL_NAME)


def _refused(code: str, message: str, path: str = LIST_NAME) -> Rejected:
    return Rejected(message, findings=[error(code, message, path=path)], safe="nothing was deleted")
