"""Decides who is told what, and when: each end of a delivery once, in as few reports as possible, through every crash.

Nothing here remembers: the drawer does, durably. A round looks at what is so *now* and at what was told, so that no event can be
missed. A report is written down in the same transaction that marks its deliveries as told; then it is sent, and crossed
off. A crash between sending and crossing off sends it once more, word for word, under the same Message-ID.
"""

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from lading.config import Config
from lading.delivery import Delivery, DeliveryId, Stage
from lading.errors import LadingError, NoSuchRecipient
from lading.ports import Clock, Report
from lading.reporters import MAIL, Place, places, words
from lading.reporters.people import People
from lading.reporters.words import Story

_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 15 * 60.0
_ATTEMPTS = 8
"""A refused recipient is tried so often, for about ten minutes: some servers refuse a stranger's first mails."""
_ATTEMPTS_LATER = 480
"""One who is to be tried later is tried for five days, as mail servers do among themselves."""
_NOTICE = "notice/"
_REMEMBERED_S = 30 * 86_400.0
_log = structlog.get_logger("lading.reports")


class Audience(StrEnum):
    """Who is told about the end of a delivery: the person it belongs to, and the operators."""

    PERSON = "person"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Ended:
    """A delivery at rest of which an audience was not told; `rested`: seconds since it came to rest."""

    delivery: Delivery
    rested: float


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now. `key` names it for ever; `what` is a sentence without its full stop and without labels.

    `since`: seconds since the epoch when that is known. `detail` has no labels; `quoted` may have some.
    `after` replaces the settings' `alarm_after`.
    """

    key: str
    what: str
    since: float | None = None
    detail: str = ""
    quoted: str = ""
    safe: str = "Nothing is lost: what waits goes on by itself."
    next_command: str = "lading status"
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should hear of once, in time; nothing is wrong yet. `key` names it for ever.

    `text` is a line without labels, `quoted` says the same with them. `early`: it need not be told yet, and is told along with
    another one, so that a hundred that come one after another are one report.
    """

    key: str
    text: str
    quoted: str
    early: bool = False
    next_command: str = "lading status"


@dataclass(frozen=True, slots=True)
class Alarm:
    """A condition that the drawer remembers. `raised`: people were told. `well_since`: when it was first found gone, else 0."""

    key: str
    what: str
    since: float
    raised: bool = False
    well_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Posted:
    """A report that is written down and not sent yet, for the place `place`."""

    place: str
    report: Report
    attempts: int = 0


class Drawer(Protocol):
    """What the office remembers. Every method is durable when it returns, or when the transaction around it ends."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing."""

    def untold(self, audience: Audience) -> Sequence[Ended]:
        """What ended without `audience` having been told; within a transaction nobody changes them meanwhile."""

    def story(self, delivery: DeliveryId) -> Story:
        """What there is to tell about one of them."""

    def mark_told(self, audience: Audience, ended: Sequence[Ended]) -> None:
        """They are told, as they are now; what becomes of them later is not."""

    def post(self, posted: Posted) -> None:
        """Write a report down, to be sent."""

    def waits(self, place: str, to: tuple[str, ...]) -> bool:
        """Whether a report for these readers is not sent yet."""

    def due(self, resting: Collection[str]) -> Sequence[Posted]:
        """Some of the reports to be sent now, to other places than `resting`; the one that was tried last comes last."""

    def cross_off(self, report: Report, given_up: str = "") -> None:
        """It was sent, or `given_up` says why it never will be."""

    def put_off(self, report: Report, seconds: float, *, refused: bool = True) -> None:
        """One attempt more was in vain: this report was `refused`, or its place did not answer. It goes to the end."""

    def alarms(self) -> Sequence[Alarm]:
        """Those that were kept."""

    def keep(self, alarm: Alarm) -> None:
        """Remember it, in place of the earlier one of its key."""

    def forget(self, key: str) -> None:
        """It is over."""


class Office:
    """One round after the other, over one drawer. Raises ConfigError for settings that cannot be used."""

    def __init__(self, drawer: Drawer, config: Config, *, program: str, clock: Clock = time.time) -> None:
        self._drawer = drawer
        self._complaint = complaint_file(config.home, program)
        self._mail = config.mail
        self._people = People(config.people)
        self._places: Mapping[str, Place] = places(config)
        self._clock = clock
        self._fails: dict[str, tuple[int, float]] = {}
        self._complaint.unlink(missing_ok=True)

    def round(self, conditions: Iterable[Condition], notices: Sequence[Notice] | None = None) -> None:
        """Raise and call off alarms, gather what ended, send what is written down. Raises EngineError.

        `notices` are all that are so now; None when nobody has looked.
        """
        self._watch(conditions)
        if notices is not None:
            self._notify(notices)
        for audience in Audience:
            self._gather(audience)
        self._send()

    # -- alarms --------------------------------------------------------------------------------------------------------

    def _watch(self, conditions: Iterable[Condition]) -> None:
        now = self._clock()
        with self._drawer.transaction():
            known = {alarm.key: alarm for alarm in self._drawer.alarms() if not alarm.key.startswith(_NOTICE)}
            for condition in conditions:
                before = known.pop(condition.key, None)
                alarm = replace(before, well_since=0.0) if before else _new(condition, now)
                after = self._mail.alarm_after if condition.after is None else condition.after
                if not alarm.raised and now - alarm.since >= after:
                    alarm = replace(alarm, raised=True)
                    self._raise_alarm(condition, alarm)
                if alarm != before:
                    self._drawer.keep(alarm)
            for alarm in known.values():
                self._call_off(alarm, now)

    def _raise_alarm(self, condition: Condition, alarm: Alarm) -> None:
        _log.warning("alarm", what=condition.what, detail=condition.detail, next=condition.next_command)
        for name, place in self._for_admins():
            detail = (
                f"{condition.detail}\n{condition.quoted}" if condition.quoted and place.labels else condition.detail
            )
            told = words.alarm(
                condition.what, alarm.since, detail, safe=condition.safe, next_command=condition.next_command
            )
            self._post(name, place.admins, *told)

    def _call_off(self, alarm: Alarm, now: float) -> None:
        if not alarm.raised:
            self._drawer.forget(alarm.key)
        elif not alarm.well_since:
            self._drawer.keep(replace(alarm, well_since=now))
        elif now - alarm.well_since >= self._mail.recovered_after:
            _log.info("well again", what=alarm.what)
            for name, place in self._for_admins():
                self._post(name, place.admins, *words.recovery(alarm.what, alarm.since, alarm.well_since))
            self._drawer.forget(alarm.key)

    # -- notices -------------------------------------------------------------------------------------------------------

    def _notify(self, notices: Sequence[Notice]) -> None:
        """One report about all that is new. That something was told is remembered for a month after it is no longer so."""
        now = self._clock()
        with self._drawer.transaction():
            told = {alarm.key: alarm for alarm in self._drawer.alarms() if alarm.key.startswith(_NOTICE)}
            new = []
            for notice in notices:
                before = told.pop(_NOTICE + notice.key, None)
                if before is None:
                    new.append(notice)
                elif before.well_since:
                    self._drawer.keep(replace(before, well_since=0.0))
            for alarm in told.values():
                if not alarm.well_since:
                    self._drawer.keep(replace(alarm, well_since=now))
                elif now - alarm.well_since >= _REMEMBERED_S:
                    self._drawer.forget(alarm.key)
            if any(not notice.early for notice in new):
                self._tell_notices(new, now)

    def _tell_notices(self, new: Sequence[Notice], now: float) -> None:
        _log.warning("notice", about=[notice.quoted for notice in new[: words.SHOWN]], number=len(new))
        for name, place in self._for_admins():
            lines = [notice.quoted if place.labels else notice.text for notice in new]
            self._post(name, place.admins, *words.notice(lines, new[0].next_command))
        for notice in new:
            self._drawer.keep(Alarm(_NOTICE + notice.key, notice.text, now, raised=True))

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def _gather(self, audience: Audience) -> None:
        with self._drawer.transaction():
            groups: dict[str, list[Ended]] = defaultdict(list)
            nobody: list[Ended] = []
            for ended in self._drawer.untold(audience):
                who = self._who(audience, ended.delivery)
                (nobody if who is None else groups[who]).append(ended)
            if nobody:
                self._drawer.mark_told(audience, nobody)
            for who, group in groups.items():
                if self._is_due(group):
                    self._tell(audience, who, group)

    def _who(self, audience: Audience, delivery: Delivery) -> str | None:
        """The address to write to, "" for the admins, None for nobody."""
        person = self._people.address_of(delivery) if MAIL in self._places else ""
        if audience is Audience.PERSON:
            return person or None
        needed = delivery.stage is Stage.HELD or (delivery.stage is Stage.REJECTED and not person)
        return "" if needed and self._for_admins() else None

    def _is_due(self, group: Sequence[Ended]) -> bool:
        rested = [ended.rested for ended in group]
        return min(rested) >= self._mail.quiet or max(rested) >= self._mail.longest

    def _tell(self, audience: Audience, who: str, group: Sequence[Ended]) -> None:
        readers = [(MAIL, (who,))] if who else [(name, place.admins) for name, place in self._for_admins()]
        # While a report to them waits for the mail server, all that ends goes into the one after it.
        if all(self._drawer.waits(name, to) for name, to in readers):
            return
        counts = Counter(ended.delivery.stage for ended in group)
        stories = [self._drawer.story(ended.delivery.id) for ended in _some_of_each(group)]
        for name, to in readers:
            labels = self._places[name].labels
            told = words.summary(stories, counts, labels=labels, to_admin=audience is Audience.ADMIN)
            self._post(name, to, *told)
        self._drawer.mark_told(audience, group)

    def _for_admins(self) -> Sequence[tuple[str, Place]]:
        return [(name, place) for name, place in self._places.items() if place.admins or name != MAIL]

    def _post(self, place: str, to: tuple[str, ...], subject: str, text: str) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        report = Report(f"{now:%Y%m%d%H%M%S}.{secrets.token_hex(8)}", to, subject, text, now)
        self._drawer.post(Posted(place, report))

    # -- sending -------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        # What waits for one place must not stand before what goes to others.
        resting: Collection[str] | None = None
        while resting != (resting := self._resting()):
            for posted in self._drawer.due(resting):
                self._send_one(posted)

    def _resting(self) -> Collection[str]:
        """The places that failed and are not to be bothered yet."""
        now = time.monotonic()
        return {place for place, (_, not_before) in self._fails.items() if now < not_before}

    def _send_one(self, posted: Posted) -> None:
        place = self._places.get(posted.place)
        if place is None:
            self._drawer.cross_off(posted.report, f"the settings name no reporter {posted.place!r} any more")
            return
        failures, not_before = self._fails.get(posted.place, (0, 0.0))
        if time.monotonic() < not_before:
            return
        try:
            place.reporter.send(posted.report)
        except NoSuchRecipient as exc:
            self._refused(posted, exc)
        except LadingError as exc:
            self._fails[posted.place] = (failures + 1, time.monotonic() + _wait_s(failures + 1))
            # Perhaps it is this report that the place cannot stomach: the next time another one has its turn.
            self._drawer.put_off(posted.report, 0.0, refused=False)
            if failures == 0:
                self._complain(posted.place, exc)
        else:
            self._drawer.cross_off(posted.report)
            if self._fails.pop(posted.place, None):
                self._complaint.unlink(missing_ok=True)
            _log.info("reported", place=posted.place, report=posted.report.id)

    def _complain(self, place: str, error: LadingError) -> None:
        """What cannot be told by mail is told by `lading status`."""
        _log.warning("reports wait", place=place, code=error.code, note=error.message)
        with suppress(OSError):
            self._complaint.write_text(f"{error.message}\n", encoding="utf-8", errors="replace")

    def _refused(self, posted: Posted, error: NoSuchRecipient) -> None:
        if error.readers:
            self._keep_for(error.readers, posted)
            return
        if posted.attempts + 1 < (_ATTEMPTS if error.lasting else _ATTEMPTS_LATER):
            self._drawer.put_off(posted.report, _wait_s(posted.attempts + 1))
            return
        _log.error("report given up", place=posted.place, report=posted.report.id, note=error.message)
        others = tuple(one for one in self._places[posted.place].admins if one not in posted.report.to)
        with self._drawer.transaction():
            self._drawer.cross_off(posted.report, error.message)
            # Two admins who are both refused must not be told of each other for ever.
            if others and posted.report.subject != words.RETURNED:
                self._post(posted.place, others, *words.returned(posted.report.subject, error.message))

    def _keep_for(self, readers: tuple[str, ...], posted: Posted) -> None:
        """The others have the report; these few get one of their own, so that nobody gets it twice."""
        report = replace(posted.report, id=f"{posted.report.id.partition('.')[0]}.{secrets.token_hex(8)}", to=readers)
        with self._drawer.transaction():
            self._drawer.cross_off(posted.report)
            self._drawer.post(Posted(posted.place, report))
            self._drawer.put_off(report, _wait_s(1))


def complaint_file(home: Path, program: str) -> Path:
    """There while reports of `program` wait because a place does not take them; its one line says why."""
    return home / f"reports-of-{program}-wait"


def _new(condition: Condition, now: float) -> Alarm:
    return Alarm(condition.key, condition.what, now if condition.since is None else condition.since)


def _some_of_each(group: Sequence[Ended]) -> Iterable[Ended]:
    """As many of each stage as one report describes."""
    taken: Counter[Stage] = Counter()
    for ended in group:
        taken[ended.delivery.stage] += 1
        if taken[ended.delivery.stage] <= words.SHOWN:
            yield ended


def _wait_s(failures: int) -> float:
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(failures - 1, 20))
