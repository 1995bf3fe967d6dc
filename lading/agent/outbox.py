"""The agent's memory: one SQLite file that several processes may use and that survives a power cut at every line."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lading.agent.connections import Connections, explained, patiently
from lading.agent.journal import OutboxJournal, visible
from lading.agent.locks import FileLock, held
from lading.agent.outgoing import LONGEST_WAIT_S, UNSENT, Outgoing, WatchReport, outgoing
from lading.agent.tables import MIGRATIONS
from lading.delivery import DeliveryId, Event, Labels, Stage, new_delivery_id
from lading.disk import write_durably
from lading.errors import ConfigError, EngineError, LadingError
from lading.findings import Finding
from lading.ports import Clock, Journal

__all__ = ["OUTBOX_NAME", "UNSENT", "Outbox", "Outgoing", "WatchReport"]

OUTBOX_NAME = "outbox.sqlite"
CANCELLED_THERE = "cancelled-there"
"""The note on a delivery that the server gave up. It may be taken up again there, so its receipt is asked for further on."""

# Like Outgoing.is_due.
_DUE = f"(not_before <= ?1 OR not_before > ?1 + {LONGEST_WAIT_S})"

_NOT_PAUSED = "NOT EXISTS (SELECT 1 FROM pauses WHERE target IN ('all', route))"

_SqlValue = str | int | float | bytes


class Outbox:
    """The deliveries of this machine, and everything the agent must remember about them.

    Every method is one transaction, durable when it returns. Safe to share between threads and processes.
    Raises EngineError when the file cannot be read or written: what cannot be recorded is not done.
    """

    def __init__(self, home: Path, *, clock: Clock = time.time) -> None:
        self.home = home
        self.clock = clock
        with self._recording("open"):
            for folder in (home, home / "outgoing", home / "cleaned", home / "locks"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Labels are personal data: nobody else reads this file.
            self._connections = Connections(home / OUTBOX_NAME)
            self._migrate()

    def close(self) -> None:
        """Let go of the file; threads that still work keep it until they end."""
        self._connections.close()

    # -- taking up ------------------------------------------------------------------------------------------------

    def take(
        self,
        root: Path,
        route: str,
        labels: Labels,
        *,
        fingerprint: str,
        sender: str = "",
        priority: int = 0,
        quiet: float = 0.0,
        clean: bool = False,
        grace_s: float = 0.0,
        late: Finding | None = None,
        after: DeliveryId | None = None,
        live: bool = False,
    ) -> Outgoing:
        """A new delivery of `root`, READY to be carried (or SENDING: `live`), and the note that this folder is taken.

        With `late` (files that came after the folder was sent) the delivery is HELD for a person to decide. `after` is the
        folder's earlier delivery; when another process was faster and took the folder since, its delivery is given back.
        """
        now = self.clock()
        delivery = new_delivery_id(datetime.fromtimestamp(now, UTC))
        with self._transaction() as db:
            known = db.execute(
                "SELECT delivery FROM taken WHERE route = ? AND root = ?", (route, os.fsencode(root))
            ).fetchone()
            if known and known["delivery"] != after:
                return outgoing(db.execute("SELECT * FROM deliveries WHERE id = ?", (known["delivery"],)).fetchone())
            db.execute(
                "INSERT INTO deliveries (id, route, root, project, participant, session, stage, sender, priority, quiet, clean,"
                " grace_s, created_at, updated_at, live) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (delivery, route, os.fsencode(root), visible(labels.project), visible(labels.participant), visible(labels.session),
                 Stage.FOUND, visible(sender), priority, quiet, int(clean), grace_s, now, now, int(live)),
            )  # fmt: skip
            db.execute(
                "INSERT INTO taken VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET delivery = excluded.delivery,"
                " fingerprint = excluded.fingerprint",
                (route, os.fsencode(root), delivery, fingerprint),
            )
            self._event(db, delivery, Stage.FOUND, f"found {visible(str(root))}")
            if late:
                self._findings(db, delivery, (late,))
                self._move(
                    db, delivery, Stage.HELD, late.message, resume=Stage.READY, error_code=late.code, error=late.message,
                    next_command=f"lading show {delivery}",
                )  # fmt: skip
            else:
                stage = Stage.SENDING if live else Stage.READY
                self._move(db, delivery, stage, "acquiring" if live else "complete")
                if db.execute("SELECT 1 FROM pauses WHERE target IN ('all', ?)", (route,)).fetchone():
                    self._move(db, delivery, Stage.PAUSED, "paused with all others", resume=stage)
        return self.get(delivery)

    def taken(self, route: str, root: Path) -> tuple[DeliveryId, str] | None:
        """The latest delivery made of `root` on `route`, and the folder's fingerprint then; None when it is new."""
        row = self._one(
            "SELECT delivery, fingerprint FROM taken WHERE route = ? AND root = ?", route, os.fsencode(root)
        )
        return (DeliveryId(row["delivery"]), row["fingerprint"]) if row else None

    def seen_again(self, item: Outgoing, fingerprint: str) -> None:
        """The folder looks different now, and that is accounted for: remember its new fingerprint."""
        with self._transaction() as db:
            db.execute(
                "UPDATE taken SET fingerprint = ? WHERE route = ? AND root = ?",
                (fingerprint, item.delivery.route, os.fsencode(item.root)),
            )

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, delivery: DeliveryId) -> Outgoing:
        """The delivery. Raises ConfigError when the outbox has none of that id."""
        row = self._one("SELECT * FROM deliveries WHERE id = ?", delivery)
        if row is None:
            raise ConfigError(f"the outbox {self.home} has no delivery {delivery}", next_command="lading list")
        return outgoing(row)

    def deliveries(self, *stages: Stage, limit: int = 1_000_000) -> list[Outgoing]:
        """All, or those at `stages`; the newest first."""
        where = f"WHERE stage IN ({','.join('?' * len(stages))})" if stages else ""
        query = f"SELECT * FROM deliveries {where} ORDER BY created_at DESC, id DESC LIMIT ?"  # noqa: S608 - only question marks
        return [outgoing(row) for row in self._all(query, *stages, limit)]

    def carriable(self, *, but: Collection[str] = ()) -> list[Outgoing]:
        """What may be carried now: higher priority first, then the oldest. Includes held deliveries whose time has come.

        Nothing of the routes `but`.
        """
        rows = self._all(
            f"SELECT * FROM deliveries WHERE live = 0 AND {_DUE} AND {_NOT_PAUSED} AND (stage IN ('FOUND', 'READY', 'SENDING')"  # noqa: S608 - constants
            " OR (stage = 'HELD' AND not_before > 0)) AND route NOT IN (SELECT value FROM json_each(?2))"
            " ORDER BY priority DESC, created_at, id LIMIT 100",
            self.clock(),
            json.dumps(list(but)),
        )
        return [outgoing(row) for row in rows]

    def has_cargo(self) -> bool:
        """Whether anything is still to be carried, now or later, without a person's help."""
        going = "stage IN ('FOUND','READY','SENDING') OR (stage='HELD' AND not_before>0)"
        return self._one(f"SELECT 1 FROM deliveries WHERE live = 0 AND {_NOT_PAUSED} AND ({going}) LIMIT 1") is not None  # noqa: S608

    def awaiting_receipt(self) -> list[Outgoing]:
        """What lies in an inbox without a final answer, and whose time to ask has come."""
        given_up = "stage = 'CANCELLED' AND id IN (SELECT delivery FROM journal WHERE key = ?2)"
        rows = self._all(
            f"SELECT * FROM deliveries WHERE arrived_at > 0 AND (stage IN ('ARRIVED', 'REJECTED') OR {given_up}) AND {_DUE}"  # noqa: S608
            " ORDER BY not_before LIMIT 1000",
            self.clock(),
            CANCELLED_THERE,
        )
        return [outgoing(row) for row in rows]

    def cleanable(self) -> list[Outgoing]:
        """Verified deliveries whose source is to be removed and whose grace period is over, and half-cleaned ones."""
        rows = self._all(
            f"SELECT * FROM deliveries WHERE {_NOT_PAUSED} AND ((stage = 'CLEANABLE' AND {_DUE})"  # noqa: S608 - constants
            " OR (clean = 1 AND stage = 'VERIFIED' AND grace_until <= ?1)) ORDER BY grace_until",
            self.clock(),
        )
        return [outgoing(row) for row in rows]

    def needing(self, root: Path) -> list[Outgoing]:
        """The last deliveries of `root`, of folders in it or around it, on any route, that may still have to be carried from it."""
        rows = self._all(
            "SELECT deliveries.* FROM taken JOIN deliveries ON deliveries.id = taken.delivery"
            " WHERE stage NOT IN ('VERIFIED', 'CLEANABLE', 'CLEANED', 'CANCELLED')"
        )
        found = (outgoing(row) for row in rows)
        return [item for item in found if item.root.is_relative_to(root) or root.is_relative_to(item.root)]

    def events(self, delivery: DeliveryId) -> list[Event]:
        """What happened to the delivery, the oldest first."""
        rows = self._all("SELECT at, stage, note FROM events WHERE delivery = ? ORDER BY rowid", delivery)
        return [Event(datetime.fromtimestamp(r["at"], UTC), Stage(r["stage"]), r["note"]) for r in rows]

    def findings(self, delivery: DeliveryId) -> list[Finding]:
        """What was noticed about the delivery."""
        rows = self._all("SELECT finding FROM findings WHERE delivery = ?", delivery)
        return [Finding.from_dict(json.loads(row["finding"])) for row in rows]

    def journal(self, delivery: DeliveryId) -> Journal:
        """The notes that parts keep about the delivery."""
        return OutboxJournal(self.rows, self.writing, delivery)

    def papers(self, delivery: DeliveryId) -> Path:
        """The folder for the delivery's manifest and seal; made when it is not there."""
        folder = self.home / "outgoing" / delivery
        with self._recording("make a folder beside"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep(self, delivery: DeliveryId, name: str, content: bytes) -> None:
        """Put a small file of ours beside the delivery's papers, durably."""
        folder = self.papers(delivery)
        with self._recording("write beside"):
            write_durably(folder / name, content, mode=0o600)

    def lock(self, delivery: DeliveryId) -> FileLock:
        """Whoever works on the delivery holds this lock; it frees itself when that process dies."""
        return _DeliveryLock(self.home / "locks" / f"{delivery}.lock", self._recording)

    # -- the line -------------------------------------------------------------------------------------------------

    def move(self, delivery: DeliveryId, stage: Stage, note: str = "", **changes: _SqlValue) -> None:
        """The delivery is now at `stage`. `changes` are columns of its row, written in the same transaction.

        A delivery that was PAUSED or CANCELLED meanwhile stays so; PAUSED remembers the stage to go on from.
        """
        with self._transaction() as db:
            self._move(db, delivery, stage, note, **changes)

    def amend(self, delivery: DeliveryId, **changes: _SqlValue) -> None:
        """Change columns of the row without a change of stage."""
        with self._transaction() as db:
            self._set(db, delivery, changes)

    def remark(self, delivery: DeliveryId, note: str) -> None:
        """An event without a change of stage."""
        with self._transaction() as db:
            row = db.execute("SELECT stage FROM deliveries WHERE id = ?", (delivery,)).fetchone()
            self._event(db, delivery, Stage(row["stage"]), note)

    def record(self, delivery: DeliveryId, findings: Iterable[Finding], *, replace: bool = False) -> None:
        """Keep `findings`; with `replace`, instead of the earlier ones."""
        with self._transaction() as db:
            if replace:
                db.execute("DELETE FROM findings WHERE delivery = ?", (delivery,))
            self._findings(db, delivery, findings)

    def fail(
        self,
        delivery: DeliveryId,
        stage: Stage,
        error: LadingError,
        *,
        again_in: float = 0.0,
        resume: Stage | None = None,
    ) -> None:
        """The attempt failed. The delivery is at `stage`; it is tried again `again_in` seconds from now, 0 for not by itself."""
        self.move(
            delivery, stage, f"{error.code}: {visible(error.message)}", resume=resume or "", error_code=error.code,
            error=error.message, next_command=error.next_command,
            not_before=self.clock() + again_in if again_in else 0.0,
        )  # fmt: skip

    def drop_papers(self, delivery: DeliveryId) -> None:
        """Forget manifest, seal and the notes of parts: the source is to be listed afresh."""
        with self._transaction() as db:
            db.execute("DELETE FROM journal WHERE delivery = ?", (delivery,))
            self._set(db, delivery, {"digest": "", "sent_files": 0, "sent_bytes": 0})
        with self._recording("drop the papers in"):
            folder = self.home / "outgoing" / delivery
            if folder.exists():
                aside = folder.with_name(f"{delivery}.dropped")
                shutil.rmtree(aside, ignore_errors=True)
                # A half-removed folder could look sealed; under another name it is nothing.
                folder.replace(aside)
                shutil.rmtree(aside, ignore_errors=True)

    # -- requests of people ---------------------------------------------------------------------------------------

    def pause(self, delivery: DeliveryId, note: str = "paused on request") -> None:
        """No further attempt until `resume`; a carry under way runs to its end. Raises ConfigError when nothing can be paused."""
        item = self.get(delivery)
        with self._transaction() as db:
            # As it is now: a carry may have ended since anybody looked.
            row = db.execute("SELECT stage, resume FROM deliveries WHERE id = ?", (delivery,)).fetchone()
            stage, before = Stage(row["stage"]), row["resume"]
            if stage in (*UNSENT, Stage.HELD, Stage.VERIFIED):
                resume = before if stage is Stage.HELD else stage
                self._move(db, delivery, Stage.PAUSED, note, resume=resume or Stage.READY)
        if stage not in (*UNSENT, Stage.HELD, Stage.VERIFIED, Stage.PAUSED):
            raise _not_now(item.id, stage, "paused")

    def resume(self, delivery: DeliveryId, note: str = "resumed on request") -> None:
        """Go on where it was paused. Raises ConfigError when it is not paused."""
        item = self.get(delivery)
        if item.stage is not Stage.PAUSED:
            raise _not_now(delivery, item.stage, "resumed")
        self._force(delivery, item.resume or Stage.READY, note)

    def pause_target(self, target: str) -> None:
        """Carry and clean nothing of "all" or of a route, what is taken later too, until `resume_target`."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO pauses VALUES (?,?)", (target, self.clock()))

    def resume_target(self, target: str) -> None:
        """The reverse; "all" ends the pauses of routes as well. Raises ConfigError for a route while all is paused."""
        if target != "all" and "all" in self.pauses():
            raise ConfigError(
                f"everything is paused, {target} with it", safe="nothing was changed", next_command="lading resume all"
            )
        with self._transaction() as db:
            db.execute("DELETE FROM pauses WHERE ?1 IN ('all', target)", (target,))

    def pauses(self) -> Mapping[str, float]:
        """What stands still, and since when."""
        return {row["target"]: row["at"] for row in self._all("SELECT target, at FROM pauses ORDER BY target")}

    def cancel(self, delivery: DeliveryId, note: str = "cancelled on request") -> None:
        """Give it up; the source is not touched. Raises ConfigError once the inbox has it, and while it is being carried."""
        item = self.get(delivery)
        if item.arrived_at and item.stage is not Stage.REJECTED:
            raise _not_now(delivery, item.stage, "cancelled here; it lies in the inbox already")
        with held(self.lock(delivery)) as idle:
            if not idle:
                # It may be sealed a moment from now; to call it cancelled would be a lie then.
                raise _not_now(delivery, item.stage, "cancelled while it is being carried; pause it, or wait")
            item = self.get(delivery)
            if item.arrived_at and item.stage is not Stage.REJECTED:  # since we looked
                raise _not_now(delivery, item.stage, "cancelled here; it lies in the inbox already")
            self._force(delivery, Stage.CANCELLED, note)

    def take_up(self, delivery: DeliveryId, note: str) -> None:
        """The server goes on with what it had cancelled: wait for its answer again."""
        self._force(delivery, Stage.ARRIVED, note)

    def retry(self, delivery: DeliveryId, note: str = "retried on request") -> None:
        """Try again at once, from a fresh look at the source if it was REJECTED. Raises ConfigError when nothing failed."""
        item = self.get(delivery)
        if item.stage in UNSENT:
            self.amend(delivery, not_before=0.0, attempt=0)
        elif item.stage is Stage.REJECTED and item.arrived_at:
            raise ConfigError(
                f"{delivery} was refused by the server and lies in quarantine there; change the source, or its labels",
                safe="the source is untouched",
                next_command=f"lading fix {delivery}",
            )
        elif item.stage in (Stage.HELD, Stage.REJECTED):
            if item.stage is Stage.REJECTED:
                self.drop_papers(delivery)
                self.record(delivery, (), replace=True)
            self._force(delivery, item.resume or Stage.READY, note)
        else:
            raise _not_now(delivery, item.stage, "retried")

    # -- watched folders ------------------------------------------------------------------------------------------

    def report_watch(self, report: WatchReport) -> bool:
        """Keep the last word on a watched folder. True when its error or its findings are new."""
        text = json.dumps({"waiting": report.waiting, "findings": [f.as_dict() for f in report.findings]})
        with self._transaction() as db:
            old = db.execute("SELECT error, report FROM watches WHERE path = ?", (os.fsencode(report.path),)).fetchone()
            db.execute(
                "INSERT INTO watches VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET at = excluded.at, error = excluded.error,"
                " next_command = excluded.next_command, report = excluded.report",
                (os.fsencode(report.path), report.at, visible(report.error), visible(report.next_command), text),
            )
        if old is None:
            return bool(report.error or report.findings)
        found = json.loads(text)["findings"]
        return bool(old["error"] != visible(report.error) or json.loads(old["report"])["findings"] != found)

    def watches(self) -> list[WatchReport]:
        """The last word on every watched folder."""
        reports = []
        for row in self._all("SELECT * FROM watches ORDER BY path"):
            more = json.loads(row["report"])
            reports.append(
                WatchReport(
                    Path(os.fsdecode(row["path"])),
                    row["at"],
                    row["error"],
                    row["next_command"],
                    tuple((folder, reason) for folder, reason in more["waiting"]),
                    tuple(Finding.from_dict(f) for f in more["findings"]),
                )
            )
        return reports

    # -- for those who keep tables of their own in this file ----------------------------------------------------------

    def rows(self, query: str, *values: _SqlValue) -> list[sqlite3.Row]:
        """What a query of ours finds."""
        return self._all(query, *values)

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction; other processes wait meanwhile."""
        return self._transaction()

    # -- below the surface ----------------------------------------------------------------------------------------

    def _force(self, delivery: DeliveryId, stage: Stage, note: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE deliveries SET stage = ? WHERE id = ?", (stage, delivery))
            self._move(
                db, delivery, stage, note, resume="", attempt=0, not_before=0.0, error_code="", error="", next_command="",
            )  # fmt: skip

    def _move(
        self, db: sqlite3.Connection, delivery: DeliveryId, stage: Stage, note: str, **changes: _SqlValue
    ) -> None:
        now = Stage(db.execute("SELECT stage FROM deliveries WHERE id = ?", (delivery,)).fetchone()["stage"])
        if now is not stage and now is Stage.PAUSED:
            changes["resume"] = stage if stage is not Stage.HELD else changes.get("resume", "")
            self._set(db, delivery, changes)
        elif now is not stage and now is Stage.CANCELLED:
            note = f"{note} (stays cancelled)"
        else:
            self._set(db, delivery, {"stage": stage, **changes})
        self._event(db, delivery, stage, note)

    def _set(self, db: sqlite3.Connection, delivery: DeliveryId, changes: Mapping[str, _SqlValue]) -> None:
        columns = {**changes, "updated_at": self.clock()}
        assignments = ", ".join(f"{name} = ?" for name in columns)
        # Findings and errors quote names, also of files whose names are no text.
        values = [visible(value) if isinstance(value, str) else value for value in columns.values()]
        db.execute(f"UPDATE deliveries SET {assignments} WHERE id = ?", (*values, delivery))  # noqa: S608 - our names

    def _event(self, db: sqlite3.Connection, delivery: DeliveryId, stage: Stage, note: str) -> None:
        db.execute("INSERT INTO events VALUES (?,?,?,?)", (delivery, self.clock(), stage, visible(note)))

    def _findings(self, db: sqlite3.Connection, delivery: DeliveryId, findings: Iterable[Finding]) -> None:
        rows = [(delivery, json.dumps(finding.as_dict())) for finding in findings]
        db.executemany("INSERT OR IGNORE INTO findings VALUES (?,?)", rows)

    def _one(self, query: str, *values: _SqlValue) -> sqlite3.Row | None:
        with self._recording("read"):
            row: sqlite3.Row | None = self._connections.here().execute(query, values).fetchone()
            return row

    def _all(self, query: str, *values: _SqlValue) -> list[sqlite3.Row]:
        with self._recording("read"):
            return self._connections.here().execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._recording("write"):
            db = self._connections.here()
            patiently(db, "BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # A full disk has taken it back already; another word about that would hide the reason.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise EngineError(
                    f"the outbox {self.home} was written by a newer Lading", next_command="lading --version"
                )
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                for statement in script.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def _recording(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            path = self.home / OUTBOX_NAME
            why, safe, command = explained(exc, path)
            raise EngineError(f"could not {doing} the outbox {path}: {why}", safe=safe, next_command=command) from exc


class _DeliveryLock(FileLock):
    """Of an outbox: when its disk is full, that is said as of the outbox itself."""

    def __init__(self, path: Path, recording: Callable[[str], AbstractContextManager[None]]) -> None:
        super().__init__(path)
        self._recording = recording

    def acquire(self, *, patience: float = 0.0) -> bool:
        with self._recording("lock a delivery of"):
            return super().acquire(patience=patience)


def _not_now(delivery: DeliveryId, stage: Stage, wish: str) -> ConfigError:
    return ConfigError(f"{delivery} is {stage} and cannot be {wish}", next_command=f"lading show {delivery}")
