"""What the agent remembers about acquisitions that it pushes while they go on: two tables in the outbox."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from lading.agent.outbox import Outbox
from lading.delivery import DeliveryId
from lading.deposit import Settled
from lading.listing.entries import Entry

KEPT_S = 30 * 86_400.0
"""So long after its end the files of an acquisition are remembered, and it can be reopened."""
_PAGE = 500
_RATE_S = 60.0
_REFUSED_AGAIN_S = 60.0
"""A file that another program holds locked, or that may not be read, is tried again so often."""


LEFT = "left the instrument"
"""Why an acquisition closes whose folder somebody removed: what was not carried then never will be."""


class LiveState(StrEnum):
    """How far an acquisition is; STATUS.json says the same word."""

    ACQUIRING = "acquiring"  # files are still expected
    CLOSING = "closing"  # the source is complete; the rest is carried, and everything is read again
    CLOSED = "closed"  # every file was found equal at the target; nothing is written there any more


class Link(StrEnum):
    """What the last attempt to reach the target said."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    FULL = "full"  # up, but its disk is full
    STOPPED = "stopped"  # a person must act first


@dataclass(frozen=True, slots=True)
class Live:
    """One acquisition. Times are seconds since the epoch, 0 when it has not happened. `why`: what keeps it from closing.

    `asked`: somebody asked to close it. `downs`: how often the link was lost; `tries`: attempts since it was last up.
    """

    delivery: DeliveryId
    state: LiveState
    asked: bool
    why: str
    link: Link
    link_since: float
    downs: int
    tries: int
    verifications: int
    closed_at: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One acquisition in numbers. `lag_s`: the age of the oldest settled file that is not at the target, 0 when all are.

    `files_per_s`: over the last minute. `last_path`, `last_at`: the file that arrived last ("" and 0 before the first).
    """

    files: int
    bytes: int
    waiting: int
    waiting_bytes: int
    refused: int
    lag_s: float
    files_per_s: float
    last_path: str
    last_at: float
    gone: int


@dataclass(frozen=True, slots=True)
class Row:
    """A file on its way. `replaces`: another content of it lies at the target, and in the list there.

    `touched`: its size and time are those of before, and this is the SHA-256 of what was carried then; else "".
    """

    settled: Settled
    replaces: bool
    touched: str = ""


class LiveBook:
    """The live half of the outbox. Every method is one transaction; raises EngineError as the outbox does."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    # -- acquisitions ---------------------------------------------------------------------------------------------

    def get(self, delivery: DeliveryId) -> Live:
        """The acquisition; a new one when the outbox has just taken it."""
        rows = self.outbox.rows("SELECT * FROM live WHERE delivery = ?", delivery)
        if not rows:
            with self.outbox.writing() as db:
                db.execute("INSERT OR IGNORE INTO live (delivery) VALUES (?)", (delivery,))
            rows = self.outbox.rows("SELECT * FROM live WHERE delivery = ?", delivery)
        row = rows[0]
        return Live(
            delivery, LiveState(row["state"]), bool(row["asked"]), row["why"], Link(row["link"]), row["link_since"],
            row["downs"], row["tries"], row["verifications"], row["closed_at"],
        )  # fmt: skip

    def put(self, delivery: DeliveryId, **columns: str | int | float) -> None:
        """Change columns of the acquisition's row."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        with self.outbox.writing() as db:
            db.execute(f"UPDATE live SET {assignments} WHERE delivery = ?", (*columns.values(), delivery))  # noqa: S608 - our names

    def not_over(self, delivery: DeliveryId) -> None:
        """Files are expected again, unless it was closed meanwhile: that is not taken back."""
        with self.outbox.writing() as db:
            db.execute("UPDATE live SET state = 'acquiring' WHERE delivery = ? AND state = 'closing'", (delivery,))

    def deliveries(self, *, open_only: bool = False) -> list[DeliveryId]:
        """Those of every acquisition, the newest first; with `open_only` those that are not closed or given up."""
        which = " AND stage NOT IN ('VERIFIED', 'CANCELLED', 'CLEANABLE', 'CLEANED')" if open_only else ""
        rows = self.outbox.rows(f"SELECT id FROM deliveries WHERE live = 1{which} ORDER BY created_at DESC, id DESC")  # noqa: S608
        return [DeliveryId(row["id"]) for row in rows]

    def thin_out(self) -> None:
        """Forget the single files of what was closed long ago; the target has their list."""
        with self.outbox.writing() as db:
            db.execute(
                "DELETE FROM live_files WHERE delivery IN (SELECT delivery FROM live WHERE state = 'closed' AND closed_at < ?)",
                (self.outbox.clock() - KEPT_S,),
            )

    def is_live(self, delivery: DeliveryId) -> bool:
        """Whether it is pushed live; deliveries of the time before its route became live are not."""
        return bool(self.outbox.rows("SELECT 1 FROM deliveries WHERE id = ? AND live = 1", delivery))

    def link(self, delivery: DeliveryId, link: Link) -> None:
        """What the last attempt said; `link_since` moves only when it says something else."""
        with self.outbox.writing() as db:
            db.execute(
                "UPDATE live SET downs = downs + (?1 = 'down' AND link <> 'down'), tries = iif(?1 = 'up', tries, tries + 1),"
                " link_since = iif(link = ?1, link_since, ?2), link = ?1 WHERE delivery = ?3",
                (str(link), self.outbox.clock(), delivery),
            )

    # -- the source's side ----------------------------------------------------------------------------------------

    def in_folder(self, delivery: DeliveryId, folder: str) -> dict[str, tuple[int, int, int]]:
        """Size, time, and time of the last change of whatever kind of the files of one folder as they are noted, by name."""
        rows = self.outbox.rows(
            "SELECT name, size, mtime_ns, ctime_ns FROM live_files WHERE delivery = ? AND folder = ?",
            delivery,
            os.fsencode(folder),
        )
        return {os.fsdecode(row["name"]): (row["size"], int(row["mtime_ns"]), int(row["ctime_ns"])) for row in rows}

    def settle(self, delivery: DeliveryId, files: Sequence[Settled]) -> None:
        """These files came to rest as they are: they wait to be carried, again if need be.

        What has its size and time of before may have its content of before, too (its permissions changed): that is looked at first.
        """
        now = self.outbox.clock()
        with self.outbox.writing() as db:
            db.executemany(
                "INSERT INTO live_files (delivery, folder, name, size, mtime_ns, ctime_ns, state, settled_at)"
                " VALUES (?,?,?,?,?,?,'waiting',?)"
                " ON CONFLICT DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,"
                " state = 'waiting', settled_at = excluded.settled_at, error = '', again_at = 0, proved = 0,"
                " perhaps = (state = 'sending' OR (size = excluded.size AND mtime_ns = excluded.mtime_ns)),"
                # Of a file on its way nobody knows which content the target holds.
                " sha256 = iif(state = 'sending', '', sha256)",
                [(delivery, *_key(f.path), f.size, _kept(f.mtime_ns), _kept(f.ctime_ns), now) for f in files],
            )

    # -- the target's side ----------------------------------------------------------------------------------------

    def waiting(self, delivery: DeliveryId, *, files: int, size: int) -> list[Row]:
        """The files to carry next, in the order in which they came to rest: at most `files`, and `size` bytes or one file."""
        now = self.outbox.clock()
        rows = self.outbox.rows(
            "SELECT * FROM live_files WHERE delivery = ?1 AND state <> 'carried'"
            # A time further away than any is of before the clock was set back.
            " AND (again_at <= ?2 OR again_at > ?2 + ?3) ORDER BY settled_at, mtime_ns, folder, name LIMIT ?4",
            delivery, now, _REFUSED_AGAIN_S, files,
        )  # fmt: skip
        chosen: list[Row] = []
        for row in rows:
            if chosen and size < row["size"]:
                break
            size -= row["size"]
            perhaps = row["state"] == "sending" or bool(row["perhaps"])
            touched = row["sha256"] if row["perhaps"] and row["state"] == "waiting" else ""
            chosen.append(Row(_settled(row, perhaps=perhaps), bool(row["sha256"]), touched))
        return chosen

    def sending(self, delivery: DeliveryId, rows: Iterable[Row]) -> None:
        """From now on they may be at the target, or half there; the list must not name their older contents any more."""
        with self.outbox.writing() as db:
            db.executemany(
                "UPDATE live_files SET state = 'sending', perhaps = 0 WHERE delivery = ? AND folder = ? AND name = ?",
                [(delivery, *_key(row.settled.path)) for row in rows],
            )

    def carried(self, delivery: DeliveryId, files: Iterable[tuple[Settled, str]]) -> None:
        """These are there, with their SHA-256. What changed meanwhile waits again, and is there with no listed content."""
        now = self.outbox.clock()
        with self.outbox.writing() as db:
            db.executemany(
                "UPDATE live_files SET sha256 = iif(size = ?1 AND mtime_ns = ?2 AND ctime_ns = ?8, ?3, ''),"
                " state = iif(size = ?1 AND mtime_ns = ?2 AND ctime_ns = ?8, 'carried', state),"
                " carried_at = ?4, error = '', proved = 0 WHERE delivery = ?5 AND folder = ?6 AND name = ?7",
                [
                    (f.size, _kept(f.mtime_ns), sha256, now, delivery, *_key(f.path), _kept(f.ctime_ns))
                    for f, sha256 in files
                ],
            )

    def forget(self, delivery: DeliveryId, file: Settled) -> None:
        """It changed or went while it was carried: it is new to us when it is seen again."""
        with self.outbox.writing() as db:
            db.execute(
                f"DELETE FROM live_files WHERE {_THIS}",  # noqa: S608 - our own text
                _this(delivery, file),
            )

    def forget_waiting(self, delivery: DeliveryId) -> int:
        """Nothing that is not carried will ever come. How many files that was."""
        with self.outbox.writing() as db:
            return db.execute("DELETE FROM live_files WHERE delivery = ? AND state <> 'carried'", (delivery,)).rowcount

    def refuse(self, delivery: DeliveryId, file: Settled, error: str) -> None:
        """This file cannot go; it is tried again in a minute."""
        again = self.outbox.clock() + _REFUSED_AGAIN_S
        with self.outbox.writing() as db:
            db.execute(
                f"UPDATE live_files SET state = 'refused', error = ?, again_at = ? WHERE {_THIS}",  # noqa: S608 - our own text
                (error.encode("utf-8", "backslashreplace").decode(), again, *_this(delivery, file)),
            )

    def try_refused(self, delivery: DeliveryId) -> None:
        """What could not go is tried again now: somebody may have mended it."""
        with self.outbox.writing() as db:
            db.execute("UPDATE live_files SET again_at = 0 WHERE delivery = ? AND state = 'refused'", (delivery,))

    def refused(self, delivery: DeliveryId) -> list[tuple[Settled, str]]:
        """At most a hundred files that cannot go, and why."""
        rows = self.outbox.rows(
            "SELECT * FROM live_files WHERE delivery = ? AND state = 'refused' ORDER BY folder, name LIMIT 100",
            delivery,
        )
        return [(_settled(row), row["error"]) for row in rows]

    def listed(self, delivery: DeliveryId) -> Iterator[Entry]:
        """The files whose content at the target is known, folder by folder: what the list there says. Streams."""
        yield from self._pages(delivery, "sha256 <> '' AND state <> 'sending'")

    def unproved(self, delivery: DeliveryId) -> Iterator[list[Entry]]:
        """The carried files that were not read again yet, some hundred at a time; note each page before the next."""
        yield from _by_page(self._pages(delivery, "sha256 <> '' AND state = 'carried' AND proved = 0"))

    def not_gone(self, delivery: DeliveryId) -> Iterator[list[Entry]]:
        """The carried files that were at the source when it was last looked at, some hundred at a time."""
        yield from _by_page(self._pages(delivery, "sha256 <> '' AND state = 'carried' AND gone = 0"))

    def prove(self, delivery: DeliveryId, entries: Iterable[Entry]) -> None:
        """They were read again at the target and found equal."""
        with self.outbox.writing() as db:
            db.executemany(
                "UPDATE live_files SET proved = 1 WHERE delivery = ? AND folder = ? AND name = ? AND sha256 = ?",
                [(delivery, *_key(entry.path), entry.sha256) for entry in entries],
            )

    def damaged(self, delivery: DeliveryId, entry: Entry) -> None:
        """It is not there as listed: it goes again."""
        with self.outbox.writing() as db:
            db.execute(
                "UPDATE live_files SET state = 'waiting', sha256 = '', perhaps = 0, settled_at = ?"
                " WHERE delivery = ? AND folder = ? AND name = ?",
                (self.outbox.clock(), delivery, *_key(entry.path)),
            )

    def gone(self, delivery: DeliveryId, paths: Iterable[str]) -> None:
        """These left the source after they were carried. They stay at the target."""
        with self.outbox.writing() as db:
            db.executemany(
                "UPDATE live_files SET gone = 1 WHERE delivery = ? AND folder = ? AND name = ?",
                [(delivery, *_key(path)) for path in paths],
            )

    def figures(self, delivery: DeliveryId) -> Figures:
        """The acquisition in numbers."""
        now = self.outbox.clock()
        row = self.outbox.rows(
            "SELECT coalesce(sum(sha256 <> ''), 0) AS files, coalesce(sum(iif(sha256 <> '', size, 0)), 0) AS bytes,"
            " coalesce(sum(state <> 'carried'), 0) AS waiting, coalesce(sum(iif(state <> 'carried', size, 0)), 0) AS waiting_bytes,"
            " coalesce(sum(state = 'refused'), 0) AS refused, min(iif(state <> 'carried', settled_at, NULL)) AS oldest,"
            " coalesce(sum(carried_at > ?), 0) AS lately, coalesce(sum(gone), 0) AS gone FROM live_files WHERE delivery = ?",
            now - _RATE_S, delivery,
        )[0]  # fmt: skip
        last = self._last(delivery)
        return Figures(
            row["files"], row["bytes"], row["waiting"], row["waiting_bytes"], row["refused"],
            max(0.0, now - row["oldest"]) if row["oldest"] is not None else 0.0, row["lately"] / _RATE_S,
            _path(last) if last else "", last["carried_at"] if last else 0.0, row["gone"],
        )  # fmt: skip

    def _last(self, delivery: DeliveryId) -> sqlite3.Row | None:
        rows = self.outbox.rows(
            "SELECT folder, name, carried_at FROM live_files WHERE delivery = ? AND sha256 <> ''"
            " ORDER BY carried_at DESC, settled_at DESC LIMIT 1", delivery,
        )  # fmt: skip
        return rows[0] if rows else None

    def _pages(self, delivery: DeliveryId, where: str) -> Iterator[Entry]:
        folder, name = b"", b""
        while rows := self.outbox.rows(
            "SELECT folder, name, size, mtime_ns, sha256 FROM live_files"  # noqa: S608 - our own text
            f" WHERE delivery = ? AND (folder, name) > (?, ?) AND {where} ORDER BY folder, name LIMIT ?",
            delivery, folder, name, _PAGE,
        ):  # fmt: skip
            for row in rows:
                yield Entry(_path(row), row["size"], int(row["mtime_ns"]), {"sha256": row["sha256"]})
            folder, name = rows[-1]["folder"], rows[-1]["name"]


def _by_page(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while page := list(islice(entries, _PAGE)):
        yield page


def _key(path: str) -> tuple[bytes, bytes]:
    folder, _, name = path.rpartition("/")
    return os.fsencode(folder), os.fsencode(name)


_THIS = "delivery = ? AND folder = ? AND name = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?"


def _this(delivery: DeliveryId, file: Settled) -> tuple[str | bytes | int, ...]:
    """What fills the marks of `_THIS`: the file as it came to rest, and not as it is noted anew meanwhile."""
    return delivery, *_key(file.path), file.size, _kept(file.mtime_ns), _kept(file.ctime_ns)


def _kept(time_ns: int) -> int | bytes:
    """A time as SQLite takes it, whose integers have 64 bits (until 2262): any other as a blob of its digits."""
    return time_ns if -(1 << 63) <= time_ns < 1 << 63 else str(time_ns).encode()


def _settled(row: sqlite3.Row, *, perhaps: bool = False) -> Settled:
    return Settled(_path(row), row["size"], int(row["mtime_ns"]), perhaps, int(row["ctime_ns"]))


def _path(row: sqlite3.Row) -> str:
    folder, name = os.fsdecode(row["folder"]), os.fsdecode(row["name"])
    return f"{folder}/{name}" if folder else name
