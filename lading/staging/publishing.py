"""Publishing: data that was proven appears as PROJECT/participant/SESSION by one rename, and leaves that folder by one.

Several deliveries of the same content may stand in one session folder: it stays until the last of them is done with it.
Other processes may publish or withdraw the same delivery meanwhile; what is found then is told from what is wrong.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from lading.delivery import DeliveryId, Labels, Parcel, Stage
from lading.disk import folders_below, is_real_folder, move, sync_folder
from lading.errors import NotVerified, Rejected, UnexpectedFault, Unreachable
from lading.findings import error
from lading.manifest import Manifest
from lading.seal import read_seal
from lading.staging.acceptance import DATA, holds_exactly, look_through
from lading.staging.slots import (
    PUBLISHED,
    SHARED,
    VERIFIED,
    WITHDRAWN,
    Slots,
    labels_given,
    read_note,
    unknown,
    write_note,
)


class Publisher:
    """Publishes the accepted deliveries of the inbox at `root`. Every method may be called again after a crash at any line."""

    def __init__(self, root: Path, slots: Slots) -> None:
        self._root = root
        self._slots = slots

    def parcel(self, delivery: DeliveryId) -> Parcel:
        """The parcel of an accepted or published delivery; no data is read. Raises UnexpectedFault for any other."""
        try:
            return self._parcel(delivery)
        except (Rejected, UnexpectedFault):
            return self._parcel(delivery)  # published by another process between two looks

    def is_untouched(self, parcel: Parcel) -> bool:
        """Whether no file of the parcel was added, removed or written since its bytes were verified (stats only)."""
        slot = self._slots.held(parcel.delivery.id)
        if slot is None:
            return False
        published = read_note(slot / PUBLISHED) or {}
        expected = published.get("fingerprint", _verified_fingerprint(slot)) if parcel.published else ""
        return self._fingerprint(slot, parcel.root) == (expected or _verified_fingerprint(slot))

    def was_touched(self, slot: Path) -> bool:
        """Whether files of an accepted slot are not as they were when they were verified."""
        data = slot / DATA
        return (
            is_real_folder(data)
            and read_note(slot / VERIFIED) is not None
            and self._fingerprint(slot, data) != _verified_fingerprint(slot)
            and is_real_folder(data)  # still: it was not published by another process while we looked
        )

    def publish(self, delivery: DeliveryId, slot: Path) -> None:
        """Show the data of an accepted `slot` in its session folder, then file its papers away.

        Raises Rejected (session-exists); UnexpectedFault when the data is nowhere.
        """
        labels = self.parcel(delivery).delivery.labels
        if is_real_folder(slot / DATA):
            self._show(delivery, slot, labels)
        elif not self._is_shown(slot, labels) and not self._stands(delivery, slot, labels):
            raise UnexpectedFault(
                f"the data of {delivery} is neither in {slot} nor, whole, in {self._root / str(labels)}",
                safe="nothing was deleted",
                next_command=f"lading show {delivery}",
            )
        self._slots.file_away(delivery, self._session(labels))

    def unpublish(self, delivery: DeliveryId) -> None:
        """Take the data of a published delivery back into its slot, and the slot back into our hands."""
        slot = self._slots.accepted / delivery
        labels = self.parcel(delivery).delivery.labels
        if not is_real_folder(slot / DATA) and self._slots.claimed_by(labels) == delivery:
            heir = self._slots.heir(labels, delivery)
            other = self._slots.held(heir) if heir else None
            with suppress(FileNotFoundError):
                if other is not None and is_real_folder(other / DATA):
                    # The session folder stays for the other delivery; we go with its copy of the same content.
                    move(other / DATA, slot / DATA)
                    sync_folder(other)
                else:
                    move(self._session(labels), slot / DATA)
                    sync_folder(self._session(labels).parent)
        self._slots.leave(labels, delivery)
        with suppress(FileNotFoundError):
            (slot / PUBLISHED).unlink()
        move(slot, self._slots.accepting / delivery)

    def withdraw(self, parcel: Parcel) -> None:
        """Remove the published data, every file of it, unless it stands for another delivery too. Its proof was demanded.

        Raises NotVerified, and removes nothing, when the folder no longer holds exactly the delivery.
        """
        delivery, labels = parcel.delivery.id, parcel.delivery.labels
        slot = self._slots.accepted / delivery
        self._take_out(parcel, slot)
        # Before the data goes: without it nobody could tell any more that what lies in its place is another's.
        self._slots.leave(labels, delivery)
        for copy in (self._slots.gone(delivery), slot / DATA):
            if is_real_folder(copy):
                shutil.rmtree(copy)
        self._slots.drop_stub(delivery)
        write_note(slot / WITHDRAWN, {"path": str(labels)})

    # -- how -------------------------------------------------------------------------------------------------------

    def _parcel(self, delivery: DeliveryId) -> Parcel:
        slot = self._slots.held(delivery)
        if slot is None or read_note(slot / VERIFIED) is None:
            raise unknown(delivery, "accepted")
        sealed = read_seal(slot)
        labels = labels_given(slot) or sealed.labels
        published = slot.parent == self._slots.accepted
        return Parcel(
            delivery=sealed.as_delivery(Stage.QUEUED if published else Stage.ACCEPTED, labels),
            root=self._session(labels) if published else slot / DATA,
            manifest=Manifest.trusted(slot, sealed.summary),
            published=published,
        )

    def _show(self, delivery: DeliveryId, slot: Path, labels: Labels) -> None:
        target = self._session(labels)
        try:
            with folders_below(self._root, (labels.project, labels.participant), SHARED) as parent:
                if target.exists() or target.is_symlink():
                    self._compare_with_what_is_there(delivery, slot, target)
                    return
                self._slots.announce(delivery, labels, {"already_delivered": False})
                with suppress(PermissionError):
                    (slot / DATA).chmod(SHARED)
                move(slot / DATA, target, into=parent)
        except NotADirectoryError as exc:
            raise _blocked(labels, f"{exc.filename} is not a folder") from exc
        except FileExistsError:
            self._compare_with_what_is_there(delivery, slot, target)

    def _compare_with_what_is_there(self, delivery: DeliveryId, slot: Path, target: Path) -> None:
        if self._is_shown(slot, self.parcel(delivery).delivery.labels):
            return  # another process was faster
        ours = self.parcel(delivery)
        labels = ours.delivery.labels
        if not holds_exactly(target, ours.manifest):
            raise _blocked(labels, "it exists already, with other content")
        known = {"already_delivered": True, "fingerprint": self._fingerprint(slot, target)}
        self._slots.announce(delivery, labels, known)
        if not is_real_folder(target):
            raise Unreachable(f"{labels} was withdrawn in this very moment", safe="it is published at the next attempt")

    def _is_shown(self, slot: Path, labels: Labels) -> bool:
        target = self._session(labels)
        return is_real_folder(target) and self._fingerprint(slot, target) == _verified_fingerprint(slot)

    def _stands(self, delivery: DeliveryId, slot: Path, labels: Labels) -> bool:
        """Whether the folder we showed before we were killed is whole still, every byte read: its modes were changed meanwhile."""
        target = self._session(labels)
        if self._slots.claimed_by(labels) != delivery or not holds_exactly(target, self.parcel(delivery).manifest):
            return False
        known = {"already_delivered": False, "fingerprint": self._fingerprint(slot, target)}
        self._slots.announce(delivery, labels, known)
        return True

    def _take_out(self, parcel: Parcel, slot: Path) -> None:
        """Move the session folder out of reach if it is this delivery's alone, look it through, and let it be removed."""
        delivery, labels = parcel.delivery.id, parcel.delivery.labels
        going = self._slots.checking(delivery)
        # What stands for another delivery too, perhaps one that is not proven yet, stays for that one.
        ours = self._slots.claimed_by(labels) == delivery and self._slots.heir(labels, delivery) is None
        if ours and is_real_folder(parcel.root):
            move(parcel.root, going)
            sync_folder(parcel.root.parent)
        if is_real_folder(going) and self._slots.heir(labels, delivery) is not None:
            self._put_back(parcel, going)  # it came meanwhile
        if is_real_folder(going):
            if self._fingerprint(slot, going) != _verified_fingerprint(slot) and not holds_exactly(
                going, parcel.manifest
            ):
                self._put_back(parcel, going)
                raise NotVerified(
                    f"{labels} was changed in the inbox since {delivery} was verified",
                    safe="nothing was removed",
                    next_command=f"lading verify {delivery}",
                )
            move(going, self._slots.gone(delivery))

    def _put_back(self, parcel: Parcel, going: Path) -> None:
        try:
            move(going, parcel.root)
        except FileExistsError as exc:
            raise NotVerified(
                f"{parcel.delivery.labels} was to be withdrawn and cannot be put back: another folder was dropped in its place",
                safe=f"nothing was removed: what was there before is kept as {going}",
                next_command=f"lading verify {parcel.delivery.id}",
            ) from exc

    def _fingerprint(self, slot: Path, data: Path) -> str:
        look = look_through(data, Manifest.trusted(slot, read_seal(slot).summary))
        return look.fingerprint if not (look.refused or look.leftovers) else ""

    def _session(self, labels: Labels) -> Path:
        return self._root / labels.project / labels.participant / labels.session


def _verified_fingerprint(slot: Path) -> str:
    return str((read_note(slot / VERIFIED) or {}).get("fingerprint", "not verified"))


def _blocked(labels: Labels, why: str) -> Rejected:
    return Rejected(
        f"the session folder {labels} cannot be made: {why}",
        findings=[
            error(
                "session-exists",
                f"{labels}: {why}",
                hint="compare the two; send again under another session label, or `lading fix ID --session NEW`",
            )
        ],
        safe="both are kept",
    )
