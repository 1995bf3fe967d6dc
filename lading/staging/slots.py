"""The folders of an inbox below `.lading`, and how a slot moves between them. One rename per move, nothing is deleted.

incoming/<id>    the sender's: being filled, or sealed; after the move below, a stub with the seal alone
accepting/<id>   ours alone: moved here before the first byte is verified, so that the sender cannot reach it by name
accepted/<id>    the papers of a published delivery
quarantine/<id>  refused; findings.json says why
claims/          one small file per published PROJECT/participant/SESSION: whose it is; one more for each delivery of equal content
receipts/        list first, receipt last
withdrawn/       published copies on their way out, after a receipt that proves all
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from lading.delivery import DeliveryId, Labels, delivery_id
from lading.disk import (
    TEMPORARY,
    is_real_folder,
    make_folder,
    move,
    read_small,
    sync_all,
    sync_folder,
    write_durably,
    write_whole,
)
from lading.errors import UnexpectedFault
from lading.listing.below import Below
from lading.seal import MAX_SEAL_BYTES, SEAL_NAME
from lading.staging.acceptance import DATA

SYSTEM = ".lading"
DEPOSIT_MARK = ".lading-deposit"
"""Beside the projects of a deposit folder: acquisitions are filled there while others read. No bare delivery lies in it."""
VERIFIED = "verified.json"
PUBLISHED = "published.json"
WITHDRAWN = "withdrawn.json"
LABELS = "labels.json"
ADOPTING = "adopting.json"
REFUSED = "refused.json"
FINDINGS = "findings.json"

SHARED = 0o2770  # senders, server and repository share the inbox's group; setgid hands it down
FOLDERS = {
    "incoming": 0o3770,  # sticky: nobody renames or removes another sender's slot
    "accepting": 0o2700,
    "quarantine": 0o2700,
    "accepted": 0o2750,
    "receipts": 0o2750,  # senders read, only the server writes
    "claims": 0o2750,
    "withdrawn": 0o2700,
}
_MAX_NOTE = 1 << 20


class Slots:
    """The system folders of the inbox at `root`. Every method may be called again after a crash at any line."""

    def __init__(self, root: Path) -> None:
        self.system = root / SYSTEM
        self.incoming = self.system / "incoming"
        self.accepting = self.system / "accepting"
        self.quarantine = self.system / "quarantine"
        self.accepted = self.system / "accepted"
        self.receipts = self.system / "receipts"
        self.claims = self.system / "claims"
        self.withdrawn = self.system / "withdrawn"

    def make(self) -> None:
        """Make the folders that are missing."""
        make_folder(self.system, 0o2750)
        for name, mode in FOLDERS.items():
            make_folder(self.system / name, mode)

    def reserve(self, delivery: DeliveryId) -> Path:
        """The sender's slot, with its data folder; the same one when asked again."""
        slot = self.incoming / delivery
        make_folder(slot, SHARED)
        make_folder(slot / DATA, SHARED)
        return slot

    def sealed(self) -> Iterator[DeliveryId]:
        """Slots that wait for the server: sealed by their sender, or ours already but not published yet."""
        for name in _names(self.incoming):
            if os.path.lexists(self.incoming / name / SEAL_NAME) and not self.is_taken(name):
                yield name
        for name in _names(self.accepting):
            if any(os.path.lexists(self.accepting / name / paper) for paper in (SEAL_NAME, REFUSED)):
                yield name

    def filed(self) -> Iterator[DeliveryId]:
        """Deliveries whose papers were filed away."""
        yield from _names(self.accepted)

    def is_taken(self, delivery: DeliveryId) -> bool:
        """Whether the slot left the sender's hands: what is in `incoming` under this id is only a stub."""
        return any(os.path.lexists(place / delivery) for place in (self.accepting, self.accepted, self.quarantine))

    def take(self, delivery: DeliveryId) -> Path | None:
        """Move a sealed slot into our hands; the sender keeps a stub with the seal. None when there is nothing sealed.

        The stub tells a sender that was killed before it could note its success: nothing is left to carry.
        """
        ours = self.accepting / delivery
        if os.path.lexists(ours):
            return ours
        theirs = self.incoming / delivery
        if self.is_taken(delivery) or not os.path.lexists(theirs / SEAL_NAME):
            return None
        try:
            move(theirs, ours)
        except FileExistsError:
            return ours  # another worker was faster
        self.leave_stub(delivery)
        return ours

    def leave_stub(self, delivery: DeliveryId, seal: bytes | None = None) -> None:
        """Leave the seal (or `seal`) of a slot of ours under its id in `incoming`."""
        with suppress(OSError, ValueError):  # a courtesy: without it the sender carries again, in vain but harmlessly
            content = seal or read_small(self.accepting / delivery / SEAL_NAME, MAX_SEAL_BYTES)
            stub = self.incoming / delivery
            with suppress(FileExistsError):
                stub.mkdir()
                stub.chmod(SHARED)
            # The sender may have put a link to somebody's folder where his slot was a moment ago.
            with Below(stub, follow_root=False) as there:
                ours = self.accepting / f"{TEMPORARY}{secrets.token_hex(6)}"
                write_whole(ours, content)
                there.take_in(ours, SEAL_NAME)

    def give_back(self, delivery: DeliveryId, damaged: Iterable[str]) -> None:
        """Reopen the slot for its sender: damaged files aside, no seal; his next carry brings what is missing."""
        ours, theirs = self.accepting / delivery, self.incoming / delivery
        self.set_aside(ours, "damaged", damaged)
        with suppress(FileNotFoundError):
            (ours / SEAL_NAME).replace(ours / "refused-seal.json")
        sync_folder(ours)
        self._remove_stub(delivery)
        try:
            move(ours, theirs)
        except FileExistsError:
            # The sender has begun anew already: his copy counts, ours is kept for whoever wants to know.
            move(ours, self.quarantine / f"{delivery}.damaged-{secrets.token_hex(4)}")
        sync_folder(self.incoming)
        sync_folder(self.accepting)

    def set_aside(self, slot: Path, kind: str, paths: Iterable[str]) -> None:
        """Move files out of the slot's data into `<slot>/<kind>/`, under flat names.

        The sender may hold the slot open still: a folder that he swaps for a link is not followed, or files of others would go.
        """
        wanted = list(paths)
        if not wanted:
            return
        make_folder(slot / kind, 0o2700)
        with Below(slot, follow_root=False) as data, Below(slot, follow_root=False) as aside:
            aside.enter(kind)
            for path in wanted:
                folder, _, name = path.rpartition("/")
                flat = _ending(name).lstrip(".") or "file"
                with suppress(FileNotFoundError, NotADirectoryError), _no_link():
                    data.enter(f"{DATA}/{folder}" if folder else DATA)
                    data.give_to(name, aside, f"{secrets.token_hex(4)}-{flat}")

    def put_aside(self, delivery: DeliveryId) -> Path | None:
        """Move the slot to quarantine, whoever holds it (one that is no folder is put into one). None: no such slot."""
        aside = self.quarantine / delivery
        held = self.accepting / delivery
        if not os.path.lexists(held) and not os.path.lexists(aside):
            held = self.incoming / delivery
        if os.path.lexists(held):
            if is_real_folder(held):
                move(held, aside)
            else:
                make_folder(aside, 0o2700)
                move(held, aside / "slot")
            sync_folder(held.parent)
            sync_folder(self.quarantine)
        return aside if os.path.lexists(aside) else None

    def bring_back(self, delivery: DeliveryId) -> Path | None:
        """Move a slot from quarantine back into our hands. None when it is in neither place."""
        aside, ours = self.quarantine / delivery, self.accepting / delivery
        if os.path.lexists(aside):
            move(aside, ours)
            sync_folder(self.quarantine)
            sync_folder(self.accepting)
        return ours if os.path.lexists(ours) else None

    def held(self, delivery: DeliveryId) -> Path | None:
        """Where an accepted or published delivery's papers are, or None."""
        return next((p / delivery for p in (self.accepted, self.accepting) if is_real_folder(p / delivery)), None)

    def file_away(self, delivery: DeliveryId, session: Path) -> None:
        """The last step of publishing `session`: the papers go to `accepted`; all of it survives a power cut."""
        with suppress(FileNotFoundError, FileExistsError):
            move(self.accepting / delivery, self.accepted / delivery)
        sync_all((session.parent, self.accepting, self.accepted))

    def announce(self, delivery: DeliveryId, labels: Labels, more: dict[str, object]) -> None:
        """Note, before it appears, that PROJECT/participant/SESSION is ours and no bare delivery, and `more` about it.

        Where it is another delivery's already, we are noted beside that one: `heir` finds us when it goes.
        """
        ours = self.accepting / delivery
        claim = self._claim(labels)
        if self.claimed_by(labels) not in (None, delivery):
            claim = self._share(labels, delivery)
        write_whole(claim, note_json({"path": str(labels), "delivery": delivery}))
        write_whole(ours / PUBLISHED, note_json({"path": str(labels), **more}))
        sync_all((claim, self.claims, ours / PUBLISHED, ours))

    def heir(self, labels: Labels, delivery: DeliveryId) -> DeliveryId | None:
        """Another delivery that the same session folder stands for and that was not withdrawn: the oldest, or None."""
        for path in sorted(self.claims.glob(f"{self._claim(labels).stem}+*.json")):
            owner = (read_note(path) or {}).get("delivery")
            if not isinstance(owner, str) or owner == delivery:
                continue
            slot = self.held(DeliveryId(owner))
            note = read_note(slot / PUBLISHED) if slot is not None else None
            if slot is not None and note and note.get("path") == str(labels) and not (slot / WITHDRAWN).is_file():
                return DeliveryId(owner)
        return None

    def leave(self, labels: Labels, delivery: DeliveryId) -> None:
        """The session folder does not stand for that delivery any more: it is its heir's, or nobody's. Durable on return."""
        if self._owner(labels) == delivery:
            heir = self.heir(labels, delivery)
            if heir is None:
                with suppress(FileNotFoundError):
                    self._claim(labels).unlink()
            else:
                write_durably(self._claim(labels), note_json({"path": str(labels), "delivery": heir}))
        with suppress(FileNotFoundError):
            self._share(labels, delivery).unlink()
        sync_folder(self.claims)

    def checking(self, delivery: DeliveryId) -> Path:
        """Where its published copy is looked through, out of everybody's reach, before it goes."""
        return self.withdrawn / f"{delivery}.checking"

    def gone(self, delivery: DeliveryId) -> Path:
        """Where its published copy is removed."""
        return self.withdrawn / delivery

    def claimed_by(self, labels: Labels) -> DeliveryId | None:
        """Which delivery the published session folder belongs to; None when it is nobody's.

        Whose copy was moved away to be withdrawn claims nothing: what lies in its place was put there since.
        """
        owner = self._owner(labels)
        if owner is not None and any(os.path.lexists(copy) for copy in (self.checking(owner), self.gone(owner))):
            return self.heir(labels, owner)
        return owner

    def claims_now(self) -> frozenset[str]:
        """The names of all claims; see `is_among`."""
        with suppress(FileNotFoundError):
            return frozenset(os.listdir(self.claims))
        return frozenset()

    def is_among(self, claims: frozenset[str], labels: Labels) -> bool:
        """Whether one of these claims is on the session folder: a faster answer than whose it is."""
        return self._claim(labels).name in claims

    def _owner(self, labels: Labels) -> DeliveryId | None:
        note = read_note(self._claim(labels)) or {}
        owner = note.get("delivery")
        if not isinstance(owner, str) or self.held(DeliveryId(owner)) is None:
            return None  # claimed, but refused before it was published
        return DeliveryId(owner)

    def drop_stub(self, delivery: DeliveryId) -> None:
        """Remove what stayed in `incoming` of a delivery that is long done."""
        self._remove_stub(delivery)

    def sweep(self, before: float) -> Iterator[Path]:
        """Remove temporaries, finished withdrawals, and stubs of withdrawn deliveries from before `before` (epoch)."""
        for folder in (self.system, self.receipts, self.claims, self.accepting):
            for path in folder.glob(f"{TEMPORARY}*"):
                if _is_older(path, before):
                    path.unlink(missing_ok=True)
                    yield path
        for name in _names(self.withdrawn):
            shown = (read_note(self.accepted / name / PUBLISHED) or {}).get("path")
            if isinstance(shown, str) and shown.count("/") == 2:
                self.leave(Labels(*shown.split("/")), name)  # while it can be told that what lies there now is not it
            shutil.rmtree(self.gone(name))
            yield self.gone(name)
        for name in _names(self.incoming):
            stub = self.incoming / name
            if (self.accepted / name / WITHDRAWN).is_file() and is_real_folder(stub) and _is_older(stub, before):
                shutil.rmtree(stub)
                yield stub

    def _claim(self, labels: Labels) -> Path:
        return self.claims / f"{hashlib.sha256(str(labels).encode('utf-8', 'surrogatepass')).hexdigest()}.json"

    def _share(self, labels: Labels, delivery: DeliveryId) -> Path:
        claim = self._claim(labels)
        return claim.with_name(f"{claim.stem}+{delivery}.json")

    def _remove_stub(self, delivery: DeliveryId) -> None:
        stub = self.incoming / delivery
        with suppress(FileNotFoundError, NotADirectoryError), _no_link(), Below(stub, follow_root=False) as there:
            for name in there.names():
                if name == SEAL_NAME or name.startswith(TEMPORARY):
                    with suppress(FileNotFoundError):
                        there.unlink(name)
        with suppress(OSError):  # not empty: the sender is writing again
            stub.rmdir()


def _ending(name: str) -> str:
    """The last 100 bytes of a file's name: as many letters may be three or four times as long as a name may be."""
    return name.encode("utf-8", "ignore")[-100:].decode("utf-8", "ignore")


@contextmanager
def _no_link() -> Iterator[None]:
    """A link where a folder of ours should be is as if nothing were there."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise


def write_note(path: Path, note: dict[str, object]) -> None:
    """Write one of our own small JSON files, durably."""
    write_durably(path, note_json(note))


def note_json(note: dict[str, object]) -> bytes:
    """One of our own small JSON files, as it is written."""
    full = {"format": 1, **note, "at": datetime.now(UTC).isoformat(timespec="milliseconds")}
    return (json.dumps(full, indent=1) + "\n").encode("ascii")


def read_note(path: Path) -> dict[str, object] | None:
    """One of our own small JSON files, or None when it is not there. Raises UnexpectedFault for a foreign one."""
    try:
        note = json.loads(read_small(path, _MAX_NOTE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as exc:
        raise UnexpectedFault(f"{path} is not as we wrote it: {exc}", next_command="lading doctor") from exc
    if not isinstance(note, dict):
        raise UnexpectedFault(f"{path} is not as we wrote it", next_command="lading doctor")
    return note


def labels_given(slot: Path) -> Labels | None:
    """The labels that an operator gave to the delivery when he released it, or None: those of its seal count."""
    changed = read_note(slot / LABELS)
    if changed is None:
        return None
    return Labels(*(str(changed[key]) for key in ("project", "participant", "session")))


def unknown(delivery: DeliveryId, what: str) -> UnexpectedFault:
    """The error for a delivery that is in none of the places where it could be `what`."""
    return UnexpectedFault(
        f"delivery {delivery} cannot be {what}: it is not in this inbox, or not that far",
        next_command=f"lading show {delivery}",
    )


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime < before
    except FileNotFoundError:
        return False


def _names(folder: Path) -> Iterator[DeliveryId]:
    for name in sorted(os.listdir(folder)):
        with suppress(ValueError):
            yield delivery_id(name)
