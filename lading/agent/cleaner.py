"""Removes a source, once its grace period is over: only against a receipt for every file, and only what the receipt is about."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from lading.agent.edge import foreseen
from lading.agent.locks import held
from lading.agent.outbox import Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.delivery import DeliveryId, Receipt, Stage
from lading.disk import sync_folder
from lading.errors import (
    AccessDenied,
    Actor,
    EngineError,
    LadingError,
    NotVerified,
    OwnDiskFull,
    SourceChanged,
    Unreachable,
)
from lading.findings import error as error_finding
from lading.listing.below import Below
from lading.listing.entries import Entry
from lading.listing.hashing import rehash
from lading.listing.reading import Verdict
from lading.manifest import Manifest, unchanged
from lading.seal import read_seal
from lading.staging.receipts import receipt_json

log = structlog.get_logger()

_ASK_AGAIN_S = 300.0
_SAMPLE = 1000
_EMPTIED = "emptied"
"""The note that every file of the delivery is gone from its source, written before the folder itself goes."""
_MOUNTS = "mount-points"
"""The note on the mount points that the source is or holds, written before the first file goes: without them nothing is missing."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What cleaning would remove now below `root`: so many files and bytes, `paths` naming up to 1,000 of them.

    `kept` says why nothing at all would be removed, or "".
    """

    delivery: DeliveryId
    root: Path
    files: int
    bytes: int
    paths: tuple[str, ...]
    kept: str = ""


def clean(outbox: Outbox, parts: AgentParts, delivery: DeliveryId, *, asked: bool = False) -> bool:
    """Remove the source of a delivery whose grace period is over. False when it is not its time or something speaks against it.

    What speaks against it is recorded: HELD until a person decides. May be called again after any crash and then goes on.
    `asked`: a person wants it now, whatever the settings say about cleaning and grace; the proofs stay the same.
    """
    with held(outbox.lock(delivery)) as ours:
        item = outbox.get(delivery) if ours else None
        if item is None or not _is_due(item, outbox.clock(), asked=asked):
            return False
        try:
            with foreseen(f"cleaning {item.root}", next_command=f"lading retry {delivery}"):
                _clean(outbox, parts, item)
        except EngineError:
            raise
        except LadingError as exc:
            _keep(outbox, item, exc)
            return False
        return True


def rehearse(outbox: Outbox, parts: AgentParts, delivery: DeliveryId) -> Removal:
    """What `clean` would do if the grace period were over now. Reads every file; removes and records nothing."""
    item = outbox.get(delivery)
    paths: list[str] = []
    files = total = 0
    try:
        if item.stage not in (Stage.VERIFIED, Stage.CLEANABLE):
            raise NotVerified(f"{delivery} is {item.stage}; only what is VERIFIED can be cleaned")
        _refuse_while_needed(outbox, item)
        _proof(parts, item)
        for entry in _still_as_listed(outbox, item, _manifest(outbox, item)):
            files += 1
            total += entry.size
            if files <= _SAMPLE:
                paths.append(entry.path)
    except LadingError as exc:
        return Removal(delivery, item.root, 0, 0, (), kept=exc.message)
    return Removal(delivery, item.root, files, total, tuple(paths))


def undo_list(outbox: Outbox, delivery: DeliveryId) -> Path:
    """Where the list of what was removed is kept: a line with the receipt, then one line per file. JSON lines."""
    return outbox.home / "cleaned" / f"{delivery}.jsonl"


def _clean(outbox: Outbox, parts: AgentParts, item: Outgoing) -> None:
    _refuse_while_needed(outbox, item)
    receipt = _proof(parts, item)
    manifest = _manifest(outbox, item)
    files = sum(1 for _ in _still_as_listed(outbox, item, manifest))
    _write_undo_list(outbox, item, receipt, manifest)
    if item.stage is not Stage.CLEANABLE:
        outbox.journal(item.id).note(_MOUNTS, json.dumps(_mount_points(item.root, manifest)))
        outbox.move(item.id, Stage.CLEANABLE, f"{files} files equal the receipt and may go")
    try:
        if item.root.is_dir():
            _remove_files(item, manifest)
            _refuse_while_away(outbox, item)
            outbox.journal(item.id).note(_EMPTIED, "1")
            _remove_empty_folders(item.root)
    except OSError as exc:
        raise AccessDenied(
            f"removing {exc.filename} of {item.id} from {item.root}: {exc.strerror}",
            safe="the repository has every file",
            next_command=f"lading retry {item.id}",
        ) from exc
    note = f"{files} files removed from {item.root}{_left(item.root)}"
    outbox.move(item.id, Stage.CLEANED, note, not_before=0.0, error_code="", error="", next_command="")
    log.info("cleaned", delivery=item.id, files=files, root=str(item.root), undo=str(undo_list(outbox, item.id)))


def _is_due(item: Outgoing, now: float, *, asked: bool) -> bool:
    over = item.stage is Stage.VERIFIED and (asked or (item.clean and 0 < item.grace_until <= now))
    return over or item.stage is Stage.CLEANABLE


class _StillNeeded(LadingError):
    """Another delivery is to be carried from the same folder."""

    code = "source-needed"
    actor = Actor.NOBODY
    retried = True


class _InUse(LadingError):
    """Somebody works on the source just now."""

    code = "source-in-use"
    actor = Actor.NOBODY
    retried = True


def _refuse_while_needed(outbox: Outbox, item: Outgoing) -> None:
    """Raises _StillNeeded while another route has yet to carry what lies there, or a person has yet to decide about late files."""
    others = [other for other in outbox.needing(item.root) if other.id != item.id]
    if others and item.stage is not Stage.CLEANABLE:
        other = others[0]
        raise _StillNeeded(
            f"{item.root} is still needed: {other.id} of the route {other.delivery.route} is {other.stage}",
            safe="nothing was removed",
            next_command=f"lading show {other.id}",
        )


def _proof(parts: AgentParts, item: Outgoing) -> Receipt:
    """A fresh copy of the receipt: an operator or a later check may have changed it."""
    receipt = parts.transport(item.delivery.route).fetch_receipt(item.id)
    if receipt is None:
        raise NotVerified(f"the inbox has no receipt for {item.id} any more", safe="the source was not touched")
    if (receipt.delivery, receipt.digest, receipt.files) != (item.id, item.delivery.digest, item.delivery.files):
        raise NotVerified(f"the receipt for {item.id} is about other content", safe="the source was not touched")
    if not receipt.proves_all:
        missing = receipt.files - receipt.counts.get("verified", 0)
        raise NotVerified(
            f"the receipt for {item.id} leaves {missing} of {receipt.files} files unproven ({receipt.stage})",
            safe="the source was not touched",
        )
    return receipt


def _manifest(outbox: Outbox, item: Outgoing) -> Manifest:
    papers = outbox.papers(item.id)
    summary = read_seal(papers).summary
    if summary.digest != item.delivery.digest:
        raise NotVerified(f"our own papers of {item.id} are about other content", safe="the source was not touched")
    return Manifest.trusted(papers, summary)


def _still_as_listed(outbox: Outbox, item: Outgoing, manifest: Manifest) -> Iterator[Entry]:
    """The entries whose files are there, every one read again and equal in content, size and time, and not touched meanwhile.

    Files that are gone count only after we began to remove them. Raises SourceChanged naming the first that differs: then
    nothing may be removed.
    """
    begun = item.stage is Stage.CLEANABLE
    if begun and outbox.journal(item.id).recall(_EMPTIED) and _away(outbox, item):
        return
    _refuse_while_away(outbox, item)
    for path in unchanged(item.root, manifest):
        if not begun or os.path.lexists(item.root / path):
            raise _differs(item, path, "size or time")
    before = _last_changes(item, manifest)
    for entry, verdict in rehash(item.root, manifest):
        if begun and verdict is Verdict.MISSING:
            continue
        if verdict is not Verdict.MATCHES:
            raise _differs(item, entry.path, verdict)
        yield entry
    if _last_changes(item, manifest) != before:
        raise _InUse(
            f"files in {item.root} were changed while they were read again",
            safe="nothing was removed; it is looked at again later",
            next_command=f"lading show {item.id}",
        )


def _last_changes(item: Outgoing, manifest: Manifest) -> str:
    """Stands for when each file was last changed in whatever way: programs set the time of a file back, but not this one."""
    digest = hashlib.sha256()
    try:
        with Below(item.root, follow_root=False) as below:
            for entry in manifest:
                folder, _, name = entry.path.rpartition("/")
                try:
                    below.enter(folder)
                    info = below.lstat(name)
                except (FileNotFoundError, NotADirectoryError):
                    digest.update(b"gone\n")
                else:
                    # Not the inode: where a system makes its numbers up (exFAT, some shares), a file gets another one now and then.
                    digest.update(f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}\n".encode())
    except OSError:
        return ""  # whoever reads them again says what is the matter
    return digest.hexdigest()


def _mount_points(root: Path, manifest: Manifest) -> list[str]:
    """The folders on the way to the files (relative POSIX, "" for `root` itself) where another file system begins."""
    folders = {""}
    for entry in manifest:
        folder = entry.path.rpartition("/")[0]
        while folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return sorted(folder for folder in folders if os.path.ismount(root / folder))


def _away(outbox: Outbox, item: Outgoing) -> list[Path]:
    """What of the source is not there, or not mounted as it was when we began: its files are not gone, only out of sight."""
    if not _is_there(item.root):
        return [item.root]
    noted = json.loads(outbox.journal(item.id).recall(_MOUNTS) or "[]")
    return [item.root / folder for folder in noted if not os.path.ismount(item.root / folder)]


def _refuse_while_away(outbox: Outbox, item: Outgoing) -> None:
    if away := _away(outbox, item):
        raise Unreachable(
            f"{away[0]} is not there; is the disk mounted?", safe="what is not removed yet stays as it is"
        )


def _left(root: Path) -> str:
    """What stays of a cleaned source, for people."""
    if not root.exists():
        return ""
    if any(files for _, _, files in os.walk(root)):
        return " (files that were never sent stay there)"
    return " (the folder stays: mount points are not removed)" if os.path.ismount(root) else " (some folders stay)"


def _is_there(root: Path) -> bool:
    try:
        return stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise Unreachable(
            f"looking at {root}: {exc.strerror}; is the disk mounted?", safe="nothing was removed"
        ) from exc


def _differs(item: Outgoing, path: str, how: str) -> SourceChanged:
    return SourceChanged(
        f"{path} in {item.root} is not what was sent ({how})",
        safe="the whole source is kept",
        next_command=f"lading show {item.id}",
    )


def _keep(outbox: Outbox, item: Outgoing, error: LadingError) -> None:
    log.warning("source kept", delivery=item.id, code=error.code, error=error.message)
    passes = error.retried or isinstance(error, OwnDiskFull)
    if passes and not isinstance(error, SourceChanged):
        again = outbox.clock() + _ASK_AGAIN_S
        later = {"not_before": again} if item.stage is Stage.CLEANABLE else {"grace_until": again}
        outbox.amend(item.id, error_code=error.code, error=error.message, next_command=error.next_command, **later)
        return
    error.next_command = error.next_command or f"lading show {item.id}"
    code = "source-differs" if isinstance(error, SourceChanged) else "source-kept"
    hint = "look at the file; `lading retry` checks again, nothing is removed before"
    outbox.record(item.id, (error_finding(code, error.message, hint=hint),))
    outbox.fail(item.id, Stage.HELD, error, resume=outbox.get(item.id).stage)


def _write_undo_list(outbox: Outbox, item: Outgoing, receipt: Receipt, manifest: Manifest) -> None:
    """On the disk before the first file goes. A second run after a crash finds it there."""
    path = undo_list(outbox, item.id)
    if path.exists():
        sync_folder(path.parent)
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_suffix(".part")
    head = {"delivery": item.id, "root": str(item.root), "removed_at": datetime.now(UTC).isoformat()}
    with unfinished.open("w", encoding="ascii") as undo:
        undo.write(json.dumps({**head, "receipt": json.loads(receipt_json(receipt))}) + "\n")
        for entry in manifest:
            line = {"path": entry.path, "size": entry.size, "mtime_ns": entry.mtime_ns, **entry.digests}
            undo.write(json.dumps(line) + "\n")
        undo.flush()
        os.fsync(undo.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def _remove_files(item: Outgoing, manifest: Manifest) -> None:
    with Below(item.root, follow_root=False) as below:
        for entry in manifest:
            folder, _, name = entry.path.rpartition("/")
            with suppress(FileNotFoundError):
                below.enter(folder)
                info = below.lstat(name)
                if (stat.S_ISREG(info.st_mode), info.st_size, info.st_mtime_ns) != (True, entry.size, entry.mtime_ns):
                    # Between the reading and now somebody wrote it.
                    raise SourceChanged(f"{entry.path} in {item.root} changed just now", safe="it is kept")
                below.unlink(name)


def _remove_empty_folders(root: Path) -> None:
    with Below(root, follow_root=False) as below:
        _remove_empty_below(below, "")
    if not os.path.ismount(root):
        with suppress(OSError):  # something that was never sent lies in it
            root.rmdir()


def _remove_empty_below(below: Below, folder: str) -> None:
    below.enter(folder)
    for name in below.names():
        if stat.S_ISDIR(below.lstat(name).st_mode):
            with suppress(OSError):
                _remove_empty_below(below, f"{folder}/{name}" if folder else name)
            below.enter(folder)
            with suppress(OSError):
                below.rmdir(name)
