"""Bare deliveries: session folders that people, an instrument or Globus drop as PROJECT/participant/SESSION, without a seal.

A folder counts as complete when nothing in it moved for a while (size, time and number of files), when it holds no
unfinished copy and, if a marker is configured, when that file is there too. Then it is moved out of reach, listed on
arrival, compared with the checksum files that came along, and sealed; from there on it is a delivery like any other.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lading.delivery import Delivery, Labels, delivery_id
from lading.disk import is_real_file, is_real_folder, make_folder, move, sync_folder
from lading.errors import LadingError, Rejected, SourceChanged
from lading.filters import FileRules
from lading.glance import glance
from lading.manifest import Manifest, NameLimits, Seen, Summary, Survey, make
from lading.seal import SEAL_FORMAT, Seal, is_sealed, seal, seal_json
from lading.staging import checksum_files
from lading.staging.acceptance import DATA
from lading.staging.slots import ADOPTING, DEPOSIT_MARK, REFUSED, Slots, read_note, write_note

_EVERYTHING = FileRules(junk=False)
_OWN_ROOM = 0o2700


@dataclass(frozen=True, slots=True)
class BareFolder:
    """A complete folder without a seal, and the labels that its path says. They are not checked yet."""

    path: Path
    labels: Labels


class BareWatch:
    """Watches one inbox for bare folders. What it has seen is kept in memory: after a restart the quiet time runs anew."""

    def __init__(self, root: Path, slots: Slots) -> None:
        self._root = root
        self._slots = slots
        self._seen: dict[Path, tuple[str, float]] = {}
        self._ours: dict[Path, int] = {}
        self.waiting: Mapping[Path, str] = {}

    def complete(self, *, quiet_s: float, marker: str | None, now: float) -> Iterator[BareFolder]:
        """Look once. `now`: seconds of any clock that only goes forward. `waiting` tells why others are not ready."""
        self._go_on()
        still: dict[Path, str] = {}
        seen: dict[Path, tuple[str, float]] = {}
        for folder in self._sessions():
            look = glance(folder.path, _EVERYTHING)
            earlier = self._seen.get(folder.path)
            since = earlier[1] if earlier and earlier[0] == look.fingerprint else now
            seen[folder.path] = look.fingerprint, since
            reason = _not_ready(folder.path, marker, look.files, look.unreadable, look.unfinished)
            if not reason and now - since < quiet_s:
                reason = f"quiet for {now - since:.0f} of {quiet_s:.0f} s"
            if reason:
                still[folder.path] = reason
            elif self._slots.claimed_by(folder.labels) is None:  # still: a copy may have been put back meanwhile
                yield folder
        self._seen, self.waiting = seen, still

    def _sessions(self) -> Iterator[BareFolder]:
        ours: dict[Path, int] = {}
        claims = self._slots.claims_now()
        for project in _folders(self._root):
            if is_real_file(Path(project.path, DEPOSIT_MARK)):
                continue
            for participant in _folders(project.path):
                for session in _folders(participant.path):
                    path = Path(session.path)
                    labels = Labels(project.name, participant.name, session.name)
                    # A look into the claim only for a folder not met before: thousands of published ones are met again.
                    # By its number alone, one that was withdrawn and dropped again may be the same.
                    known = self._ours.get(path) == session.inode() and self._slots.is_among(claims, labels)
                    if known or self._slots.claimed_by(labels):
                        ours[path] = session.inode()
                    else:
                        yield BareFolder(path, labels)
        self._ours = ours

    def _go_on(self) -> None:
        """Finish what a killed server had moved in already."""
        for entry in _folders(self._slots.accepting):
            slot = Path(entry.path)
            if is_adoption(slot) and is_real_folder(slot / DATA) and not is_listed(slot):
                with suppress(LadingError):  # the next look tries again
                    list_or_refuse(self._slots, slot)


def _not_ready(folder: Path, marker: str | None, files: int, unreadable: str, unfinished: Sequence[str]) -> str:
    if unreadable:
        return f"cannot be read: {unreadable}"
    if not files:
        return "empty"
    if unfinished:
        return f"{unfinished[0]} looks like an unfinished copy"
    if marker and not is_real_file(folder / marker):
        return f"no marker {marker}"
    return ""


def take_in(
    slots: Slots,
    bare: BareFolder,
    delivery: Delivery,
    *,
    rules: FileRules,
    algorithms: Sequence[str],
    limits: NameLimits,
) -> None:
    """Move the folder into a slot of ours and note how it is to be listed. Again: finds it moved.

    Raises SourceChanged when the folder is gone.
    """
    slot = slots.accepting / delivery.id
    make_folder(slot, _OWN_ROOM)
    if not is_real_file(slot / ADOPTING):
        write_note(slot / ADOPTING, _plan(delivery, rules, algorithms, limits))
    if is_real_folder(slot / DATA):
        return
    try:
        move(bare.path, slot / DATA)
    except OSError as exc:
        if not os.path.lexists(slot / DATA):
            # It is tried again under an id of its own: what is left of every attempt would fill the inbox.
            with suppress(OSError):
                (slot / ADOPTING).unlink()
                slot.rmdir()
        if isinstance(exc, FileNotFoundError):
            raise SourceChanged(f"{bare.path} is gone; somebody moved it, or another server took it") from exc
        raise
    sync_folder(slot)
    sync_folder(bare.path.parent)


def list_or_refuse(slots: Slots, slot: Path) -> None:
    """Finish the slot; when its content is refused, mark it as arrived all the same, so that accepting it says why.

    Raises SourceChanged, AccessDenied, OutOfSpace, Unreachable.
    """
    try:
        finish(slot)
    except Rejected as exc:
        write_note(slot / REFUSED, {"message": exc.message})
        slots.leave_stub(delivery_id(slot.name), _provisional(slot, exc.message))
    else:
        slots.leave_stub(delivery_id(slot.name))


def is_listed(slot: Path) -> bool:
    """Whether the slot went through `list_or_refuse`."""
    return is_sealed(slot) or is_real_file(slot / REFUSED)


def finish(slot: Path) -> None:
    """List what was moved in, compare it with the checksum files that came along, seal it. May be repeated.

    Raises Rejected (with the findings), SourceChanged when somebody still writes through an open file.
    """
    with _locked(slot / ADOPTING) as got:
        if not got:
            raise SourceChanged(f"{slot.name} is being listed by another process")
        if is_sealed(slot):
            return
        delivery, rules, algorithms, limits = _parse_plan(read_note(slot / ADOPTING) or {})
        data = slot / DATA
        lists = checksum_files.recognise(
            seen.path for seen in Survey(data, rules=rules, limits=limits, follow_root=False) if isinstance(seen, Seen)
        )
        wanted = {*algorithms, *(each.algorithm for each in lists)}
        manifest = make(data, slot, rules=rules, limits=limits, algorithms=sorted(wanted))
        note = _compare_with_lists(data, lists, manifest)
        seal(slot, delivery, manifest, origin="arrival", note=note)


def is_adoption(slot: Path) -> bool:
    """Whether the slot holds a bare delivery that was moved in."""
    return is_real_file(slot / ADOPTING)


def move_filtered_aside(slot: Path, manifest: Manifest) -> None:
    """Move what the rules left out from the data into `<slot>/filtered/`; it is kept, but not published."""
    for left in manifest.filtered():
        target = slot / "filtered" / left.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            move(slot / DATA / left.path, target)


def _compare_with_lists(data: Path, lists: Sequence[checksum_files.ChecksumFile], manifest: Manifest) -> str:
    if not lists:
        return "unverified at source: the list was made on arrival"
    claims = checksum_files.read(data, lists)
    found, confirmed = checksum_files.compare(
        claims, manifest, left_out=(left.path for left in manifest.filtered()), lists={each.path for each in lists}
    )
    if found:
        raise Rejected(f"a checksum file that came along disagrees: {found[0].message}", findings=found)
    others = manifest.summary.files - len(lists)
    unusable = f"; could not be used: {', '.join(claims.unusable[:5])}" if claims.unusable else ""
    if confirmed >= others:
        return f"the list was made on arrival; checksum files that came along confirm all {others} files{unusable}"
    return (
        f"unverified at source: the list was made on arrival; checksum files that came along confirm {confirmed} "
        f"of {others} files{unusable}"
    )


def _provisional(slot: Path, message: str) -> bytes:
    """A seal that only says whose this is: the labels and the route of what could not be listed."""
    delivery = _parse_plan(read_note(slot / ADOPTING) or {})[0]
    nothing = Summary(files=0, bytes=0, digest="0" * 64, list_digest="0" * 64, filtered=0, algorithms=())
    return seal_json(
        Seal(
            format=SEAL_FORMAT,
            delivery=delivery.id,
            route=delivery.route,
            labels=delivery.labels,
            summary=nothing,
            origin="arrival",
            sender=delivery.sender,
            priority=delivery.priority,
            created_at=delivery.created_at,
            note=f"refused: {message}"[:200],
        )
    ).encode("ascii")


def _plan(delivery: Delivery, rules: FileRules, algorithms: Sequence[str], limits: NameLimits) -> dict[str, object]:
    return {
        "delivery": delivery.id,
        "route": delivery.route,
        "labels": delivery.labels.as_dict(),
        "sender": delivery.sender,
        "priority": delivery.priority,
        "created_at": delivery.created_at.isoformat(),
        "include": list(rules.include),
        "exclude": list(rules.exclude),
        "junk": rules.junk,
        "algorithms": list(algorithms),
        "windows": limits.windows,
    }


def _parse_plan(note: Mapping[str, object]) -> tuple[Delivery, FileRules, tuple[str, ...], NameLimits]:
    raw = json.loads(json.dumps(note))
    delivery = Delivery(
        id=delivery_id(raw["delivery"]),
        route=raw["route"],
        labels=Labels(**raw["labels"]),
        sender=raw["sender"],
        priority=raw["priority"],
        created_at=datetime.fromisoformat(raw["created_at"]),
    )
    rules = FileRules(include=tuple(raw["include"]), exclude=tuple(raw["exclude"]), junk=raw["junk"])
    return delivery, rules, tuple(raw["algorithms"]), NameLimits.WINDOWS if raw["windows"] else NameLimits.POSIX


def _folders(parent: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """The real folders in `parent` whose names do not begin with a dot, sorted; none when it is gone or forbidden."""
    try:
        with os.scandir(parent) as found:
            return sorted(
                (entry for entry in found if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)),
                key=lambda entry: entry.name,
            )
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock on `path`; the system frees it when the process dies."""
    handle = os.open(path, os.O_RDWR)
    try:
        yield _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        import fcntl  # noqa: PLC0415 - absent on Windows, where an inbox is served by one process
    except ImportError:
        return True
    lock: Callable[[int, int], None] = fcntl.flock
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a share without locks
    return True
