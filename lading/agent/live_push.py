"""Live mode, the target's side: carries what came to rest, keeps list and status beside it, closes with a full verify.

Order is the whole protocol. A file is durable at the target before the list names it; the list is there before the status
counts by it; "closed" is written after every file was read again. A file that is replaced leaves the list first.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from lading.agent.carrier import CORRUPTED_ATTEMPTS, SPACE_CHECK_S, back_off
from lading.agent.edge import foreseen
from lading.agent.live_book import LEFT, Figures, Link, LiveBook, LiveState, Row
from lading.agent.outbox import Outgoing
from lading.config import LiveConfig
from lading.delivery import DeliveryId, Stage
from lading.deposit import STATUS_NAME, Deposit, Read, Settled
from lading.disk import write_whole
from lading.errors import Corrupted, EngineError, LadingError, OutOfSpace, Rejected, SourceChanged
from lading.findings import error, warning
from lading.listing.entries import Entry, sums_bytes, sums_line
from lading.manifest import SUMS_NAME, Verdict, rehash

log = structlog.get_logger()

STATUS_FORMAT = 1
_FILES_AT_ONCE = 64
_BYTES_AT_ONCE = 1 << 30
_PROBE_S = 30.0
_NOTE_S = 0.5
_LOOK_S = 0.2
"""How soon a file that came to rest is noticed here."""
_PAPERS_SHARE = 0.1  # of the time may go into writing list and status, however long the list is
_LONGEST_BACK_OFF_S = 30.0  # somebody waits for these files now
_VERIFICATIONS = 3  # a target that damages files three times over needs a person


class Push:
    """Pushes one acquisition until it is closed, set aside, or `stop` is set. Its caller holds the delivery's lock."""

    def __init__(
        self, book: LiveBook, live: LiveConfig, item: Outgoing, probe: Callable[[int], None], stop: threading.Event
    ) -> None:
        """`probe` is the transport's: it raises OutOfSpace when so many bytes do not fit."""
        self._probe = probe
        self._book, self._outbox, self._live = book, book.outbox, live
        self._id, self._root, self._stop = item.id, item.root, stop
        self._labels, self._created = item.delivery.labels, item.delivery.created_at
        self._papers = book.outbox.papers(item.id)
        self._next_papers = self._next_probe = 0.0
        self._arrived: list[tuple[Settled, str]] = []
        self._left: list[str] = []
        self._next_note = 0.0
        self._dirty = True

    def visit(self, deposit: Deposit, *, until_idle: bool = False) -> None:
        """Work at the open deposit. With `until_idle`: until nothing can be done now. Raises what the deposit raises."""
        said = self._said_there(deposit)
        if said == LiveState.CLOSED and self._book.get(self._id).state is LiveState.CLOSING:
            # We were killed after the last word was written, and do not take it back.
            self._next_papers = time.monotonic() + self._live.status_every
        else:
            self._write_papers(deposit)
        self._came_up()
        self._book.try_refused(self._id)
        while self._goes_on():
            rows = self._rows()
            if rows:
                self._bring(deposit, rows)
                self._book.put(self._id, tries=0)
            if time.monotonic() >= self._next_papers:
                self._write_papers(deposit)
            if rows:
                continue
            if self._book.get(self._id).state is LiveState.CLOSING:
                if self._close(deposit):
                    return
                continue
            if until_idle:
                self._write_papers(deposit)
                return
            self._stop.wait(_LOOK_S)
        if self._dirty:
            self._write_papers(deposit)  # who stops us may do so for long

    def _goes_on(self) -> bool:
        return not self._stop.is_set() and may_go(self._outbox.get(self._id), self._outbox.clock())

    def _rows(self) -> list[Row]:
        """What to bring next. Of what was only touched (its permissions, a second name) nothing is asked of the target."""
        while rows := self._book.waiting(self._id, files=_FILES_AT_ONCE, size=_BYTES_AT_ONCE):
            if not self._source_is_there():
                return []
            same = [row for row in rows if row.touched and self._is_as_carried(row)]
            self._book.carried(self._id, [(row.settled, row.touched) for row in same])
            if len(same) < len(rows) or not self._goes_on():
                return [row for row in rows if row not in same]
        return []

    def _is_as_carried(self, row: Row) -> bool:
        file = row.settled
        entry = Entry(file.path, file.size, file.mtime_ns, {"sha256": row.touched})
        try:
            return all(verdict is Verdict.MATCHES for _, verdict in rehash(self._root, [entry]))
        except LadingError:
            return False  # whoever brings it says what is the matter

    def _source_is_there(self) -> bool:
        """Whether what waits can be read at all; if not, it goes on waiting, and nothing is closed without it.

        A share that is not mounted is not there, or an empty folder. Only of a session that left is what waits forgotten.
        """
        try:
            with os.scandir(self._root) as entries:
                if next(entries, None) is not None:
                    return True
        except OSError as exc:
            found = exc.strerror or str(exc)
        else:
            found = "it is empty"
        live = self._book.get(self._id)
        if live.state is LiveState.CLOSING and (live.why == LEFT or (live.asked and self._root.is_dir())):
            number = self._book.forget_waiting(self._id)
            self._outbox.remark(self._id, f"{number} files left the source before they went")
            return False
        self._book.not_over(self._id)
        why = _shown(
            f"{self._root} cannot be looked into ({found}), and files of it wait; is the disk or share mounted?"
        )
        if live.why != why:
            self._book.put(self._id, why=why)
        return False

    # -- files -----------------------------------------------------------------------------------------------------

    def _bring(self, deposit: Deposit, rows: list[Row]) -> None:
        if time.monotonic() >= self._next_probe:
            self._probe(self._book.figures(self._id).waiting_bytes)
            self._next_probe = time.monotonic() + _PROBE_S
        self._book.sending(self._id, rows)
        if any(row.replaces for row in rows):
            self._dirty = True
            self._write_papers(deposit)  # their older contents are about to go: the list must not name them any more
        try:
            deposit.bring(self._root, [row.settled for row in rows], self._told)
        finally:
            self._note_arrived()
        if self._left:
            more = f" and {len(self._left) - 1} more" if len(self._left) > 1 else ""
            self._outbox.remark(self._id, f"{_shown(self._left[0])}{more} left the source before they went")
            self._left = []

    def _told(self, file: Settled, outcome: Entry | LadingError) -> None:
        if isinstance(outcome, Entry):
            # Noted a few at a time: of what a kill forgets, the content is compared and not sent again.
            self._arrived.append((file, outcome.sha256))
            if time.monotonic() >= self._next_note:
                self._note_arrived()
        elif isinstance(outcome, SourceChanged):
            self._book.forget(self._id, file)
            self._book.not_over(self._id)  # whether it is over is for the next look at the source to say
            if not os.path.lexists(self._root / file.path):
                self._left.append(file.path)
            log.info("file changed", delivery=self._id, path=file.path, why=outcome.message)
        else:
            self._book.refuse(self._id, file, outcome.message)
            self._dirty = True  # an older content of it is still there, and belongs into the list again
            self._outbox.record(self._id, (warning(outcome.code, outcome.message, path=file.path),))
            log.warning("file refused", delivery=self._id, path=file.path, why=outcome.message)

    def _note_arrived(self) -> None:
        if self._arrived:
            self._book.carried(self._id, self._arrived)
            self._arrived, self._dirty = [], True
        self._next_note = time.monotonic() + _NOTE_S

    # -- list and status ---------------------------------------------------------------------------------------------

    def _write_papers(self, deposit: Deposit) -> None:
        """The list, when it says something new, then the status."""
        began = time.monotonic()
        if self._dirty or not (self._papers / SUMS_NAME).exists():
            self._write_list(deposit)
        self._write_status(deposit)
        took = time.monotonic() - began
        self._next_papers = time.monotonic() + max(self._live.status_every, took * (1 / _PAPERS_SHARE - 1))

    def _write_list(self, deposit: Deposit) -> None:
        local = self._papers / SUMS_NAME
        growing = self._papers / f"{SUMS_NAME}.new"
        with growing.open("wb") as out:
            for entry in self._book.listed(self._id):
                out.write(sums_bytes(sums_line(entry.path, entry.sha256)))
        growing.replace(local)
        deposit.write(SUMS_NAME, local)
        self._dirty = False

    def _write_status(self, deposit: Deposit, **more: object) -> None:
        figures = self._book.figures(self._id)
        write_whole(self._papers / STATUS_NAME, _json(self._status(figures) | more))
        deposit.write(STATUS_NAME, self._papers / STATUS_NAME)
        self._outbox.amend(
            self._id, files=figures.files + figures.waiting, bytes=figures.bytes + figures.waiting_bytes,
            sent_files=figures.files, sent_bytes=figures.bytes,
        )  # fmt: skip

    def _status(self, figures: Figures) -> dict[str, object]:
        live = self._book.get(self._id)
        return {
            "format": STATUS_FORMAT,
            "state": str(live.state),
            "delivery": self._id,
            "labels": self._labels.as_dict(),
            "since": self._created.isoformat(),
            "updated": _iso(self._outbox.clock()),
            "every_s": self._live.status_every,
            "files": figures.files,
            "bytes": figures.bytes,
            "waiting": {"files": figures.waiting, "bytes": figures.waiting_bytes},
            "lag_s": round(figures.lag_s, 1),
            "last_file": _shown(figures.last_path),
            "last_file_at": _iso(figures.last_at) if figures.last_at else None,
            "link_lost": live.downs,
            "manifest": {"name": SUMS_NAME, "sha256": _digest(self._papers / SUMS_NAME)},
        }

    def _said_there(self, deposit: Deposit) -> str:
        """The state that STATUS.json at the target says, "" when there is none.

        Raises Rejected when it is another acquisition's: two under the same labels must not write into one folder.
        """
        found = deposit.read(STATUS_NAME)
        if found is None:
            return ""
        try:
            status = json.loads(found)
            theirs, said = repr(str(status["delivery"])[:80]), str(status["state"])
        except (ValueError, KeyError, TypeError):
            theirs, said = "something that is no status of ours", ""
        if theirs != repr(str(self._id)):
            message = f"the deposit folder {deposit.name} belongs to {theirs} already"
            raise Rejected(
                message,
                findings=[error("deposit-taken", message, hint="give one of the two sessions another label")],
                safe="nothing was written into it",
                next_command=f"lading show {self._id}",
            )
        return said

    # -- the end -----------------------------------------------------------------------------------------------------

    def _close(self, deposit: Deposit) -> bool:
        """Read everything again; write "closed" when it is all there. False: there is more to carry first."""
        if self._book.refused(self._id) and not self._source_is_there():
            return False  # a file that could not be read is not one that left
        self._give_up_what_went()
        self._stop_at_refused()
        damaged = self._verify(deposit)
        if damaged:
            self._again(damaged)
            return False
        if self._book.get(self._id).state is not LiveState.CLOSING or self._book.waiting(self._id, files=1, size=1):
            return False  # files came meanwhile
        if next(self._book.unproved(self._id), None):
            return False  # the reading was cut short
        deposit.tidy()
        self._write_list(deposit)
        figures = self._book.figures(self._id)
        verified = {"files": figures.files, "how": deposit.proof, "at": _iso(self._outbox.clock())}
        self._write_status(deposit, state=str(LiveState.CLOSED), verified=verified, left_the_source=figures.gone)
        self._book.put(self._id, state=LiveState.CLOSED, closed_at=self._outbox.clock(), tries=0, why="")
        digest = _digest(self._papers / SUMS_NAME)
        self._outbox.move(
            self._id, Stage.VERIFIED, f"closed: {figures.files} files {deposit.proof} at {deposit.name}", digest=digest,
            files=figures.files, bytes=figures.bytes, sent_files=figures.files, sent_bytes=figures.bytes,
            not_before=0.0, attempt=0, error_code="", error="", next_command="", verified_at=self._outbox.clock(),
        )  # fmt: skip
        log.info("acquisition closed", delivery=self._id, files=figures.files, bytes=figures.bytes, digest=digest)
        return True

    def _verify(self, deposit: Deposit) -> list[Entry]:
        """At most a few hundred entries that are not there as listed. What was proved before a crash is not read again."""
        damaged: list[Entry] = []
        for page in self._book.unproved(self._id):
            good: list[Entry] = []
            try:
                for read in deposit.verify(self._root, page):
                    if read.problem:
                        damaged.append(read.entry)
                        self._say_damaged(read)
                    else:
                        good.append(read.entry)
                    if not self._goes_on():
                        return damaged
                    if time.monotonic() >= self._next_papers:
                        self._write_papers(deposit)
            finally:
                self._book.prove(self._id, good)
            if damaged:
                break
        return damaged

    def _say_damaged(self, read: Read) -> None:
        path = _shown(read.entry.path)
        self._outbox.remark(self._id, f"{path} at the target: {read.problem}; it goes again")
        log.warning("damaged", delivery=self._id, path=path, problem=read.problem)

    def _again(self, damaged: Iterable[Entry]) -> None:
        live = self._book.get(self._id)
        self._book.put(self._id, verifications=live.verifications + 1)
        paths = []
        for entry in damaged:
            self._book.damaged(self._id, entry)
            paths.append(entry.path)
        self._dirty = True
        if live.verifications + 1 >= _VERIFICATIONS:
            self._book.put(self._id, verifications=0)
            raise Rejected(
                f"{len(paths)} files, {_shown(paths[0])} among them, were damaged at the target {_VERIFICATIONS} times over",
                findings=[error("damaged-at-target", "read back with other content, again and again", path=paths[0])],
                safe="the source is untouched",
                next_command=f"lading retry {self._id}",
            )

    def _stop_at_refused(self) -> None:
        """Raises Rejected when files cannot go: a person must know before anything is called closed."""
        refused = self._book.refused(self._id)
        if not refused:
            return
        file, why = refused[0]
        raise Rejected(
            f"{len(refused)} files of {self._root} cannot go, {_shown(file.path)} among them: {why}",
            findings=[error("file-cannot-go", why, path=file.path)],
            safe="everything else is at the target",
            next_command=f"lading retry {self._id}",
        )

    def _give_up_what_went(self) -> None:
        """Files that left the source: those that never went are nothing to wait for, the others stay at the target."""
        for file, _ in self._book.refused(self._id):
            if self._has_left(file.path):
                self._book.forget(self._id, file)
        number, first = 0, ""
        for page in self._book.not_gone(self._id):
            gone = [entry.path for entry in page if self._has_left(entry.path)]
            self._book.gone(self._id, gone)
            number, first = number + len(gone), first or next(iter(gone), "")
        if number:
            self._outbox.remark(
                self._id, f"{number} files left the source, {_shown(first)} among them; the target keeps them"
            )

    def _has_left(self, path: str) -> bool:
        """Whether the source says that it has no such file; a share that breaks says something else."""
        try:
            os.lstat(self._root / path)
        except OSError as exc:
            return isinstance(exc, FileNotFoundError | NotADirectoryError)
        return False

    # -- what a failure means ----------------------------------------------------------------------------------------

    def _came_up(self) -> None:
        live, item = self._book.get(self._id), self._outbox.get(self._id)
        if item.stage is Stage.HELD:
            self._probe(self._book.figures(self._id).waiting_bytes)
        if live.link is not Link.UP:
            self._book.link(self._id, Link.UP)
            self._outbox.amend(self._id, error_code="", error="", next_command="", not_before=0.0, attempt=0)
        if item.stage is Stage.HELD:
            self._outbox.move(self._id, Stage.SENDING, "there is room again", resume="")
        if live.link is Link.DOWN:
            self._outbox.remark(self._id, "the link is back")
            log.info("link is back", delivery=self._id)


def may_go(item: Outgoing, now: float) -> bool:
    """Whether an acquisition is to be pushed at `now`."""
    waits_for_space = item.stage is Stage.HELD and item.not_before > 0
    return (item.stage is Stage.SENDING or waits_for_space) and item.is_due(now)


def failed(book: LiveBook, delivery: DeliveryId, problem: LadingError) -> None:
    """Note what kept us from the target, and when it is tried again."""
    outbox, item = book.outbox, book.outbox.get(delivery)
    tries = book.get(delivery).tries + 1
    log.warning("push failed", delivery=delivery, code=problem.code, tries=tries, error=problem.message)
    if isinstance(problem, OutOfSpace):
        book.link(delivery, Link.FULL)
        problem.next_command = problem.next_command or "lading doctor"
        outbox.fail(delivery, Stage.HELD, problem, again_in=min(back_off(tries), SPACE_CHECK_S), resume=Stage.SENDING)
        return
    if problem.retried and not (isinstance(problem, Corrupted) and tries >= CORRUPTED_ATTEMPTS):
        if book.get(delivery).link is not Link.DOWN:
            outbox.remark(delivery, f"the link is down: {problem.message}; files wait here")
        book.link(delivery, Link.DOWN)
        outbox.amend(
            delivery, not_before=outbox.clock() + min(back_off(tries), _LONGEST_BACK_OFF_S), attempt=item.attempt + 1,
            error_code=problem.code, error=_shown(problem.message), next_command=problem.next_command or "lading doctor",
        )  # fmt: skip
        return
    book.link(delivery, Link.STOPPED)
    if isinstance(problem, Rejected):
        outbox.record(delivery, problem.findings)
    problem.next_command = problem.next_command or f"lading retry {delivery}"
    outbox.fail(delivery, Stage.HELD, problem, resume=Stage.SENDING)


def attempt(push: Push, book: LiveBook, item: Outgoing, deposit: Deposit, *, until_idle: bool = False) -> None:
    """One visit to the deposit; its failure is recorded. Raises EngineError only."""
    try:
        with foreseen(f"pushing {item.id} from {item.root}", next_command=f"lading retry {item.id}"), deposit as there:
            push.visit(there, until_idle=until_idle)
    except EngineError:
        raise
    except LadingError as exc:
        failed(book, item.id, exc)


def _json(document: dict[str, object]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
