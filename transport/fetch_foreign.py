"""One round over a place that holds session folders: looks, brings what has been quiet for long enough, lists it, seals it here."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lading import manifest
from lading.delivery import Delivery, DeliveryId, Slot, Stage, delivery_id, new_delivery_id
from lading.errors import Corrupted, EngineError, LadingError, Rejected, SourceChanged, Unreachable
from lading.findings import Severity, error, warning
from lading.manifest import Entry
from lading.ports import Progress
from lading.seal import is_sealed, label_findings, seal
from lading.template import Template
from transport.fetch_files import PROVEN, Bringing, bring_handed_over, hash_here, look_again
from transport.fetch_ledger import Ledger, Progressing, Remembered, Row, changed
from transport.fetch_look import (
    Choice,
    Fingerprint,
    HostileName,
    Look,
    chosen,
    folders_at,
    left_out,
    look_at,
    refused,
    walked,
)
from transport.fetching import Fetching
from transport.foreign import TARGET, shown, translating
from transport.landing import Landing
from transport.naming import refuse_names
from transport.remote import CopiesTrees, HandsOver
from transport.stalling import Watched

_CHANGED = "changed-after-fetch"
_VANISHED = "vanished-before-fetch"


class ForeignRound:
    """One round over the session folders of a foreign place."""

    def __init__(
        self,
        setting: Fetching,
        template: Template,
        choice: Choice,
        ledger: Ledger,
        files: Watched,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._setting, self._config, self._template, self._choice = setting, setting.config, template, choice
        self._ledger, self._files, self._clock = ledger, files, clock

    def run(self, only: str, progress: Progress) -> list[Remembered]:
        """Look at everything (or at the folder `only`), bring what is complete. What was looked at."""
        seen: list[Remembered] = []
        for path in self.sessions(only):
            seen.append(self._one(path, progress, asked=bool(only)))
        if not only:
            seen += self._vanished({folder.path for folder in seen})
        return seen

    def sessions(self, only: str = "") -> list[str]:
        """The session folders there are, in order. Raises Rejected when `only` is none."""
        if only:
            if not self._template.labels(only) or self._files.look(only) is None:
                raise Rejected(
                    f"{only} is not a session folder of {self._setting.place.name}: it must look like {self._config.template}"
                )
            return [only]
        try:
            return folders_at(self._files, len(self._template.levels), self._template.fits)
        except HostileName as exc:
            raise Rejected(str(exc), findings=[refused(exc)]) from exc

    def look(self, path: str) -> Look:
        """What is in a session now."""
        return look_at(walked(self._files, path), self._choice, self._config.marker)

    def _one(self, path: str, progress: Progress, *, asked: bool) -> Remembered:
        """The folder after a look. `asked`: somebody named it, so what was held before is judged anew."""
        now = self._clock()
        known = self._told(self._ledger.get(path) or Remembered(path, first_seen=now))
        if known.state is Progressing.HELD and (asked or _VANISHED in {found.code for found in known.findings}):
            known = changed(known, state=Progressing.WAITING, findings=())
        try:
            look = self.look(path)
            known = self._ledger.put(self._noted(known, look, now))
            if known.state is Progressing.FETCHING:
                known = self._brought(known, look, progress)
        except HostileName as exc:
            return self._ledger.put(changed(known, state=Progressing.HELD, findings=(refused(exc),), note=str(exc)))
        except Rejected as exc:
            return self._ledger.put(
                changed(known, state=Progressing.HELD, findings=exc.findings or known.findings, note=exc.message)
            )
        except SourceChanged as exc:
            return self._ledger.put(changed(known, state=Progressing.WAITING, since=now, note=exc.message))
        except EngineError:
            raise
        except LadingError as exc:
            # What a service could not bring of one folder says nothing about the others, nor does a file that cannot be read; a
            # connection that broke does.
            theirs = isinstance(self._setting.place, HandsOver) and known.state is Progressing.FETCHING
            if isinstance(exc, Unreachable) and not theirs and not still_answers(self._files, path):
                raise
            command = f"; next: {exc.next_command}" if theirs and exc.next_command else ""
            return self._ledger.put(changed(known, note=exc.message + command))
        return known

    def _noted(self, known: Remembered, look: Look, now: float) -> Remembered:
        """The folder after a look. FETCHING: it is to be brought now."""
        given_back = known.state in (Progressing.FETCHED, Progressing.CHANGED) and self._was_given_back(known)
        if known.state is Progressing.FETCHED and not given_back:
            if known.fingerprint == look.fingerprint:
                return known
            found = warning(
                "changed-after-fetch",
                f"{known.path} changed at the source after it was fetched as {known.delivery}",
                hint="deliver what was added as a session of its own",
            )
            return changed(known, state=Progressing.CHANGED, findings=(*known.findings, found), note=found.message)
        if known.state is Progressing.CHANGED and not given_back:
            if known.fingerprint != look.fingerprint:
                return known
            # It is what was fetched again: a server left something out of one answer, or somebody put it back.
            rest = tuple(found for found in known.findings if found.code != _CHANGED)
            return changed(known, state=Progressing.FETCHED, findings=rest, note="")
        same = known.fingerprint == look.fingerprint
        if known.state is Progressing.HELD and same and known.findings:
            return known
        # A clock that was set back must not make it wait until that time comes again.
        since = known.since if same and known.since <= now else now
        known = changed(
            known,
            fingerprint=look.fingerprint,
            since=since,
            # A time that is still to come is a camera's or a server's wrong clock: no deadline may wait for it.
            newest=look.newest if look.newest <= now else since,
            files=look.files,
            bytes=look.bytes,
            findings=look.findings,
        )
        reason = self._not_ready(look, same=same, quiet_s=now - known.since)
        if reason:
            return changed(known, state=Progressing.WAITING, note=reason)
        labels = self._template.labels(known.path)
        unfit = [f for f in look.findings if f.severity is Severity.ERROR] + (label_findings(labels) if labels else [])
        if unfit or labels is None:
            findings = tuple(dict.fromkeys((*look.findings, *unfit)))
            return changed(known, state=Progressing.HELD, findings=findings, note=unfit[0].message if unfit else "")
        delivery = known.delivery or new_delivery_id()
        return changed(known, state=Progressing.FETCHING, delivery=delivery, note="being fetched")

    def _not_ready(self, look: Look, *, same: bool, quiet_s: float) -> str:
        if not look.files:
            return "nothing in it to fetch"
        if look.unfinished:
            return f"{look.unfinished} looks like an unfinished copy"
        if self._config.marker and not look.has_marker:
            return f"no marker {self._config.marker}"
        if not same:
            return "seen for the first time, or changed since the last look"
        if quiet_s < self._config.quiet:
            return f"quiet for {quiet_s:.0f} of {self._config.quiet:.0f} s"
        return ""

    def _was_given_back(self, known: Remembered) -> bool:
        """Whether the inbox found the delivery damaged: its seal is gone, its data is the sender's again."""
        slot = self._setting.inbox.root / Slot(DeliveryId(known.delivery)).path
        return (slot / "data").is_dir() and not is_sealed(slot)

    def _brought(self, known: Remembered, look: Look, progress: Progress) -> Remembered:
        delivery = delivery_id(known.delivery)
        setting = self._setting
        if not self._is_sealed(delivery):
            self._list(known.path, delivery, look)
            refuse_names((_entry(row) for row in self._ledger.files(delivery)), manifest.NameLimits.POSIX, "the inbox")
            slot = setting.inbox.reserve(delivery, look.bytes)
            with translating(f"cannot open {slot}", TARGET):
                landing = Landing(slot / "data")
            with landing:
                look_again(landing, self._ledger, delivery)
                self._bring_files(known.path, delivery, landing, slot, progress)
                if self.look(known.path).fingerprint != look.fingerprint:
                    raise SourceChanged(f"{known.path} changed while it was fetched")
                with translating(f"cannot finish {slot}", TARGET):
                    landing.keep_only(row.path for row in self._ledger.files(delivery))
                    landing.make_durable()
            self._seal(known, delivery, slot)
        self._ledger.drop_files(delivery)
        return self._ledger.put(changed(known, state=Progressing.FETCHED, note=""))

    def _list(self, path: str, delivery: DeliveryId, look: Look) -> None:
        """What is to be brought. Listed from another answer than the look: a server that left something out of this one alone
        would have it left out of the delivery.
        """
        listed = Fingerprint()
        self._ledger.list_files(delivery, chosen(listed.over(walked(self._files, path)), self._choice))
        if str(listed) != look.fingerprint:
            raise SourceChanged(f"{path} changed while it was listed")

    def _bring_files(self, folder: str, delivery: DeliveryId, landing: Landing, slot: Path, progress: Progress) -> None:
        setting = self._setting
        if isinstance(setting.place, HandsOver):
            bring_handed_over(
                setting.place,
                folder,
                slot / "data",
                self._ledger,
                delivery,
                algorithms=setting.algorithms,
                progress=progress,
                boot=setting.boot,
            )
            return
        if isinstance(setting.place, CopiesTrees):
            missing = (row.path for row in self._ledger.files(delivery, missing=True))
            # Of what an earlier attempt left, size and time may be right and the content not, after a power cut for one; and
            # here there is no list that would tell.
            by_content = not landing.is_empty()
            setting.place.copy_tree(folder, missing, slot / "data", setting.pace, progress, by_content=by_content)
            hash_here(slot / "data", self._ledger, delivery, setting.algorithms)
            return
        Bringing(
            setting.place,
            folder,
            landing,
            self._ledger,
            delivery,
            algorithms=setting.algorithms,
            pace=setting.pace,
            progress=progress,
            boot=setting.boot,
        ).bring()

    def _told(self, known: Remembered) -> Remembered:
        """The folder; FETCHED if we were cut off after the seal, before the note. What changed at the source since is not in it."""
        if known.state is not Progressing.FETCHING or not self._was_handed_over(DeliveryId(known.delivery)):
            return known
        self._ledger.drop_files(known.delivery)
        return self._ledger.put(changed(known, state=Progressing.FETCHED, note=""))

    def _was_handed_over(self, delivery: DeliveryId) -> bool:
        """Whether the inbox has it, or had it until the repository did."""
        if self._is_sealed(delivery):
            return True
        with suppress(Corrupted):
            receipt = self._setting.inbox.read_receipt(delivery)
            return receipt is not None and receipt.stage is Stage.VERIFIED
        return False

    def _is_sealed(self, delivery: DeliveryId) -> bool:
        with translating(f"cannot look at {delivery}", TARGET):
            return is_sealed(self._setting.inbox.root / Slot(delivery).path)

    def _seal(self, known: Remembered, delivery: DeliveryId, slot: Path) -> None:
        unproven = 0

        def entries() -> Iterator[Entry]:
            nonlocal unproven
            for row in self._ledger.files(delivery):
                unproven += not row.digests.get(PROVEN)
                yield _entry(row, slot / "data")

        listed = manifest.write(
            slot,
            entries(),
            left_out(walked(self._files, known.path), self._choice),
            algorithms=self._setting.algorithms,
        )
        labels = self._template.labels(known.path)
        assert labels is not None  # noqa: S101 - looked at before
        made = Delivery(
            delivery,
            self._setting.route,
            labels,
            Stage.ARRIVED,
            sender=self._setting.place.name[:400],
            priority=self._setting.priority,
        )
        seal(slot, made, listed, origin="arrival" if unproven else "source", note=_seal_note(known, unproven))

    def _vanished(self, seen: set[str]) -> list[Remembered]:
        """What is gone from the source before it was fetched."""
        gone = []
        for remembered in self._ledger.all():
            if remembered.path in seen:
                continue
            known = self._told(remembered)
            if known.state in (Progressing.FETCHED, Progressing.CHANGED) and not self._was_given_back(known):
                continue
            found = error(
                "vanished-before-fetch",
                f"{known.path} is gone from {self._setting.place.name}, and was not fetched",
                hint="ask for it at the source; what was fetched of it is kept in the inbox",
            )
            gone.append(self._ledger.put(changed(known, state=Progressing.HELD, findings=(found,), note=found.message)))
        return gone


def still_answers(files: Watched, path: str) -> bool:
    """Whether the place can be asked about `path`: then it is not the connection that failed."""
    try:
        return files.look(path) is not None
    except LadingError:
        return False


def _entry(row: Row, root: Path | None = None) -> Entry:
    """A line of the manifest. The time is that of the file here, which has the source's where that keeps times."""
    mtime_ns = 0
    if root is not None:
        with translating(f"cannot look at {shown(row.path)}", TARGET):
            mtime_ns = (root / row.path).lstat().st_mtime_ns
    digests = {name: digest for name, digest in row.digests.items() if name != PROVEN}
    return Entry(row.path, row.size, mtime_ns, digests or {"sha256": ""})


def _seal_note(known: Remembered, unproven: int) -> str:
    parts = []
    if unproven:
        parts.append(f"listed on arrival: for {unproven} of {known.files} files the source has no checksum")
    if known.findings:
        parts.append(
            f"{len(known.findings)} left at the source: " + "; ".join(f"{f.code} {f.path}" for f in known.findings[:5])
        )
    text = ". ".join(parts)
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
