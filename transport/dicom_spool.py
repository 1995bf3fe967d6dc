"""Keeps received images by study until the study is complete, then lets it appear as PROJECT/participant/SESSION.

    FOLDER/PROJECT/participant/SESSION/<uid>.dcm      complete; appears by one rename
    FOLDER/.dicom/receiving/<key>/<uid>.dcm           still coming; <key>.json says from whom
    FOLDER/.dicom/unmatched/<key>/<uid>.dcm           complete, but no labels; <key>.json says why. Looked at again at each start
    FOLDER/.dicom/known/<labels>.json                 whose study has these labels
    FOLDER/.dicom/arriving/                           files being written; emptied at start

Each step is a rename, and may be cut off by a power cut: the next start finds its work where it was. Nothing that was
acknowledged is deleted, except a file whose equal is there already.
"""

import filecmp
import hashlib
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lading.delivery import Labels
from lading.disk import is_real_folder, make_folder, move, read_small, sync_all, sync_folder, write_durably
from lading.ports import Clock
from transport.dicom_headers import Header, read_header, read_identity
from transport.dicom_settings import ReceiveConfig, labels_of

OWN: Final = ".dicom"
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_NOTE_LIMIT = 1 << 16
_ABANDONED_S = 3600.0
_KEY_LENGTH = 32
_MOST_TRIED = 100
"""Images of a study whose headers are looked at for its labels: what was acknowledged may still be cut off further down."""
_NAMED = 5
_PUBLISHED_FOLDER = 0o750
_PUBLISHED_FILE = 0o640
_OWN_FOLDER = 0o750


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: the two AE titles of an association. They prove nothing."""

    calling: str
    called: str


@dataclass(slots=True)
class _Study:
    """A study that is coming in. Guarded by the spool's lock.

    `last`: when something last happened (the spool's clock). `broken_by`: the association that broke, until a later one ends well.
    `patients`: the PatientIDs that its images name, as labels.
    """

    key: str
    uid: str
    sender: Sender
    last: float
    images: int = 0
    announced: int = 0
    storing: int = 0
    broken_by: int | None = None
    associations: set[int] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)

    def note_patient(self, patient: str) -> None:
        """Of one image; a few are enough to know that they are not one."""
        if patient and len(self.patients) < _NAMED:
            self.patients.add(patient)


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a complete study: `labels`, or None and the `reason` why it waits in `folder` for a person."""

    folder: Path
    images: int
    labels: Labels | None
    reason: str = ""
    missing: int = 0


class Spool:
    """The folder of one receiver, which alone writes to it. Safe to share between threads."""

    def __init__(self, config: ReceiveConfig, clock: Clock) -> None:
        """`clock` must not go backwards. Call `start` first."""
        self._config, self._clock = config, clock
        self._own = config.folder / OWN
        self.arriving = self._own / "arriving"
        self._receiving, self._unmatched, self._known = (
            self._own / name for name in ("receiving", "unmatched", "known")
        )
        self._studies: dict[str, _Study] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Make the folders, drop what never became whole, and take up what was there. Raises OSError."""
        self._config.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self._own, self._receiving, self._unmatched, self._known, self.arriving):
            make_folder(folder, _OWN_FOLDER)
        for stale in self.arriving.iterdir():
            stale.unlink()
        for note in _notes_of(self._unmatched):
            self._look_again(note)
        for note in _notes_of(self._receiving):
            self._take_up(note)

    def keep(self, arrived: Path, header: Header, sender: Sender, association: int) -> None:
        """Take over the file `arrived`. On return it is in its study's folder and survives a power cut. Raises OSError."""
        study = self._begin(header, sender, association)
        try:
            folder = self._receiving / study.key
            arrived.chmod(_PUBLISHED_FILE)
            sync_all([arrived])
            added = _place(arrived, folder / file_name(header.sop_instance))
            sync_folder(folder)
        finally:
            with self._lock:
                study.storing -= 1
                study.last = self._clock()
        with self._lock:
            study.images += added
            study.note_patient(header.patient)
            study.announced = max(study.announced, header.announced)

    def ended(self, association: int, *, released: bool) -> None:
        """An association is over; a later one has a higher number. One that was not `released` may be repeated by its sender."""
        with self._lock:
            for study in self._studies.values():
                if association not in study.associations:
                    continue
                study.associations.remove(association)
                study.last = self._clock()
                if not released:
                    study.broken_by = association
                elif study.broken_by is not None and study.broken_by < association:
                    study.broken_by = None

    def publish_complete(self) -> Iterator[Published]:
        """Publish each study that is complete now. One that cannot be keeps the others from nothing: it waits for the next call.

        Raises the first such study's OSError at the end.
        """
        self._sweep()
        with self._lock:
            candidates = list(self._studies.values())
        failures: list[OSError] = []
        for study in candidates:
            done = None
            with self._lock:  # nobody stores while we rename
                if self._rest(study) <= 0:
                    try:
                        done = self._publish(study)
                    except OSError as exc:
                        failures.append(exc)
                    else:
                        del self._studies[study.key]
            if done is not None:
                yield done
        if failures:
            raise failures[0]

    def _sweep(self) -> None:
        """Drop what broken associations left half written. Long after: what is still being written changes all the time."""
        for stale in self.arriving.iterdir():
            with suppress(FileNotFoundError):
                if stale.stat().st_mtime < time.time() - _ABANDONED_S:
                    stale.unlink()

    def _rest(self, study: _Study) -> float:
        """Seconds until `study` is complete, if nothing more comes."""
        if study.storing or study.associations:
            return self._config.quiet
        wanted = self._config.quiet
        if study.broken_by is not None:
            wanted = max(wanted, self._config.after_broken)
        if study.images < study.announced:
            wanted = max(wanted, self._config.patience)
        return study.last + wanted - self._clock()

    def _begin(self, header: Header, sender: Sender, association: int) -> _Study:
        key = hashlib.sha256("\0".join((sender.called, sender.calling, header.study)).encode()).hexdigest()[
            :_KEY_LENGTH
        ]
        with self._lock:
            study = self._studies.get(key)
            if study is None:
                note = {"study": header.study, "calling": sender.calling, "called": sender.called}
                write_durably(self._receiving / f"{key}.json", json.dumps(note).encode())
                make_folder(self._receiving / key, _PUBLISHED_FOLDER)
                study = self._studies[key] = _Study(key, header.study, sender, self._clock())
            if not study.sender.called:  # its note was damaged
                study.sender = sender
            study.storing += 1
            study.associations.add(association)
        return study

    # -- complete studies ----------------------------------------------------------------------------------------------

    def _publish(self, study: _Study) -> Published:
        folder = self._receiving / study.key
        images = sorted(path for path in folder.iterdir() if path.is_file())
        if not images:  # its only image failed to be written, and was not acknowledged
            folder.rmdir()
            (self._receiving / f"{study.key}.json").unlink(missing_ok=True)
            return Published(folder, 0, None, "no image of it became whole")
        labels, reason = self._labels(images, study)
        if labels is not None and not self._belongs(labels, study):
            labels, reason = None, f"{labels} already belongs to another study"
        missing = max(0, study.announced - len(images))
        if labels is None:
            kept = self._set_aside(study, reason)
            return Published(kept, len(images), None, reason, missing)
        target = self._config.folder.joinpath(labels.project, labels.participant, labels.session)
        for parent in (target.parent.parent, target.parent):
            make_folder(parent, _PUBLISHED_FOLDER)
        _merge(folder, target)
        (self._receiving / f"{study.key}.json").unlink(missing_ok=True)
        return Published(target, len(images), labels, missing=missing)

    def _labels(self, images: Sequence[Path], study: _Study) -> tuple[Labels | None, str]:
        """Where the study belongs, going by the first of `images` that can be read; None and the reason."""
        if len(study.patients) > 1 and "{PatientID}" in self._config.participant:
            return None, f"its images are of several patients, {', '.join(sorted(study.patients))}: whose is it?"
        unreadable = ""
        for image in images[:_MOST_TRIED]:
            try:
                fields = read_header(image).fields
            except ValueError as exc:
                unreadable = unreadable or f"its images cannot be read: {exc}"
            else:
                return labels_of(self._config, fields, study.sender.calling, study.sender.called)
        return None, unreadable

    def _belongs(self, labels: Labels, study: _Study) -> bool:
        """Whether the folder of `labels` is this study's. Notes it, when it is nobody's yet."""
        note = self._known / f"{hashlib.sha256(str(labels).encode()).hexdigest()[:_KEY_LENGTH]}.json"
        known = _note(note)
        if known is None:
            write_durably(note, json.dumps({"study": study.uid, "labels": str(labels)}).encode())
            return True
        return known.get("study") == study.uid

    def _set_aside(self, study: _Study, reason: str) -> Path:
        note = {"study": study.uid, "calling": study.sender.calling, "called": study.sender.called, "reason": reason}
        write_durably(self._unmatched / f"{study.key}.json", json.dumps(note).encode())
        _merge(self._receiving / study.key, self._unmatched / study.key)
        (self._receiving / f"{study.key}.json").unlink(missing_ok=True)
        return self._unmatched / study.key

    # -- at start ------------------------------------------------------------------------------------------------------

    def _look_again(self, note: Path) -> None:
        """The settings may have changed: what had no labels may have some now."""
        found = _note(note) or {}
        folder = self._unmatched / note.stem
        if folder.is_dir():
            write_durably(self._receiving / note.name, json.dumps({**found, "reason": ""}).encode())
            _merge(folder, self._receiving / note.stem)
        note.unlink(missing_ok=True)

    def _take_up(self, note: Path) -> None:
        """A study that was coming in when the receiver ended. Its sender may come back."""
        folder = self._receiving / note.stem
        if not folder.is_dir():  # published; only its note was left
            note.unlink(missing_ok=True)
            return
        found = _note(note) or {}
        sender = Sender(found.get("calling", ""), found.get("called", ""))
        broken_by = None if "reason" in found else 0
        study = _Study(note.stem, found.get("study", ""), sender, self._clock(), broken_by=broken_by)
        for image in folder.iterdir():
            study.images += image.is_file()
            with suppress(ValueError, OSError):  # what cannot be read names nobody
                header = read_identity(image)
                study.uid = study.uid or header.study
                study.note_patient(header.patient)
                study.announced = max(study.announced, header.announced if broken_by is not None else 0)
        self._studies[note.stem] = study


def file_name(sop_instance: str) -> str:
    """The file's name for a SOPInstanceUID; one that is none (a path, say) is replaced by its digest."""
    safe = _UID.fullmatch(sop_instance) is not None
    return f"{sop_instance if safe else hashlib.sha256(sop_instance.encode()).hexdigest()}.dcm"


def read_notes(folder: Path, kind: str) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """The folder and the note of each study that is "receiving" or "unmatched" below `folder`; read by others than the receiver."""
    for note in sorted((folder / OWN / kind).glob("*.json")):
        found = _note(note)
        if found is not None and note.with_suffix("").is_dir():
            yield note.with_suffix(""), found


def _notes_of(kind: Path) -> list[Path]:
    """The notes of the studies in `kind`, also where there should be one: nothing that was acknowledged is hidden by its loss."""
    wanted = {path.with_suffix(".json") for path in kind.iterdir() if path.is_dir()}
    return sorted(wanted.union(kind.glob("*.json")))


def _note(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(read_small(path, _NOTE_LIMIT))
    except (FileNotFoundError, ValueError):
        return None
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else None


def _merge(folder: Path, target: Path) -> None:
    """Move `folder` to `target`, by one rename where nothing is there yet, else file by file."""
    try:
        move(folder, target)
    except FileExistsError:
        if not is_real_folder(target):  # through a link the images would leave for elsewhere
            raise
        for image in sorted(folder.iterdir()):
            _place(image, target / image.name)
        sync_folder(target)
        shutil.rmtree(folder)  # empty by now
    sync_folder(target.parent)
    sync_folder(folder.parent)


def _place(image: Path, target: Path) -> bool:
    """Move `image` to `target`; False when its equal is there. One that differs is kept too, under a name of its own."""
    while True:
        try:
            move(image, target)
        except FileExistsError:
            with suppress(FileNotFoundError):
                if filecmp.cmp(image, target, shallow=False):
                    image.unlink()
                    return False
            target = target.with_name(f"{target.stem.split('~')[0]}~{secrets.token_hex(4)}.dcm")
        else:
            return True
