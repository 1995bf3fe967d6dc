"""What may take long and hurries nobody: taking in dropped folders, withdrawing what was proven, sweeping up.

In a thread of its own: a dropped folder of 500 GB is read for half an hour, and the line must not wait for that.
"""

import json
import time
from contextlib import suppress
from datetime import timedelta
from threading import Event, Thread

import structlog

from lading.config import Config
from lading.delivery import Delivery, DeliveryId, Stage, new_delivery_id
from lading.disk import write_whole
from lading.engine import database, deliveries
from lading.engine.database import Connection, recording
from lading.engine.deliveries import TableJournal
from lading.engine.parts import Bare, Parts
from lading.engine.reporting import Reporting
from lading.errors import EngineError, LadingError, NotVerified
from lading.filters import FileRules
from lading.inbox import Inbox

_TIDY_EVERY_S = 600.0
_SWEEP_OLDER_S = 24 * 3600.0
_AFTER_A_BUG_S = 10.0
_WITHDRAWN = "withdrawn"
"""Journal key: the published copy was removed, or why it is kept."""
CHORES_NAME = "chores.json"
"""Below `home`: when each chore last went well in every inbox (seconds since the epoch), for whoever watches."""
_log = structlog.get_logger("lading.engine")


class Chores:
    """The chores of one server, telling people among them. Raises ConfigError for settings about that which cannot be used."""

    def __init__(self, config: Config, dsn: str, parts: Parts) -> None:
        self._config = config
        self._dsn = dsn
        self._parts = parts
        self._stop = Event()
        self._said: dict[str, str] = {}
        self._well: dict[str, float] = {}
        self._reporting = Reporting(config, dsn, parts)

    def start(self) -> None:
        """Begin, in the background. What is cut off at the end of the program is finished by the next."""
        self._reporting.start()
        Thread(target=self._run, name="lading chores", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()
        self._reporting.stop()

    def _run(self) -> None:
        tidied = -_TIDY_EVERY_S
        while not self._stop.wait(self._config.server.scan_every):
            tidy = time.monotonic() - tidied >= _TIDY_EVERY_S
            tidied = time.monotonic() if tidy else tidied
            well = [self._turn(name, inbox, tidy=tidy) for name, inbox in self._parts.inboxes.items()]
            if tidy:
                well.append(self._sum_up())
            if all(well):
                self._note(*(("adopt", "tidy") if tidy else ("adopt",)))

    def _turn(self, name: str, inbox: Inbox, *, tidy: bool) -> bool:
        """What there is to do in one inbox; whether it went well."""
        try:
            self._adopt(inbox, self._parts.bare.get(name, Bare()))
            if tidy:
                self.tidy(name, inbox)
        except LadingError as exc:
            return self._failed(name, exc)
        except Exception:  # noqa: BLE001 - a bug, or a machine out of threads for a moment, must not end the chores for good
            _log.exception("chore failed", inbox=name)
            self._stop.wait(_AFTER_A_BUG_S)
            return False
        self._said.pop(name, None)
        return True

    def _sum_up(self) -> bool:
        try:
            with database.connect(self._dsn, "lading chores") as connection, recording("adding up tallies"):
                compact(connection)
        except LadingError as exc:
            return self._failed("", exc)
        self._said.pop("", None)
        return True

    def _failed(self, inbox: str, exc: LadingError) -> bool:
        # An inbox that is away is away at every turn: said once, until it says something else.
        if self._said.get(inbox) != exc.message:
            _log.warning("chore failed", inbox=inbox, code=exc.code, note=exc.message)
        self._said[inbox] = exc.message
        return False

    def _note(self, *chores: str) -> None:
        self._well |= dict.fromkeys(chores, time.time())
        # A full disk keeps us from saying so; that the time stands still says it too.
        with suppress(OSError):
            write_whole(self._config.home / CHORES_NAME, json.dumps(self._well).encode())

    def _adopt(self, inbox: Inbox, rule: Bare) -> None:
        if not rule.route:
            return
        route = self._config.route(rule.route)
        rules = FileRules(include=route.include, exclude=route.exclude, junk=route.junk)
        failed: LadingError | None = None
        for bare in inbox.bare(quiet_s=rule.quiet, marker=rule.marker or None, now=time.monotonic()):
            delivery = Delivery(new_delivery_id(), rule.route, bare.labels, Stage.ARRIVED, sender="dropped")
            try:
                inbox.adopt(bare, delivery, rules=rules, algorithms=route.digests)
            except LadingError as exc:
                failed = failed or exc  # a folder that cannot be taken in keeps no other waiting
            else:
                _log.info("adopted", delivery=delivery.id, path=str(bare.path))
        if failed is not None:
            raise failed

    def tidy(self, name: str, inbox: Inbox) -> list[DeliveryId]:
        """Withdraw what was verified more than `keep_days` ago, then sweep; names what was withdrawn."""
        keep = timedelta(days=self._config.inboxes[name].keep_days)
        with database.connect(self._dsn, "lading chores") as connection:
            with recording("looking for what may be withdrawn"):
                due = connection.execute(
                    "SELECT id FROM deliveries d WHERE inbox = %s AND stage = 'VERIFIED' AND updated_at < now() - %s"
                    " AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.delivery = d.id AND j.key = %s)",
                    (name, keep, _WITHDRAWN),
                ).fetchall()
            withdrawn = [id_ for (id_,) in due if self._withdraw(connection, inbox, DeliveryId(id_))]
        inbox.sweep(older_than_s=_SWEEP_OLDER_S)
        return withdrawn

    def _withdraw(self, connection: Connection, inbox: Inbox, delivery: DeliveryId) -> bool:
        """Under the delivery's lock: nobody reads it back while its files go."""
        with recording(f"withdrawing {delivery}"), deliveries.held(connection, delivery) as got:
            row = deliveries.load(connection, delivery) if got else None
            if row is None or row.stage != Stage.VERIFIED:
                return False
            try:
                inbox.withdraw(delivery, key=self._parts.receipt_key)
                note = "the copy in the inbox was withdrawn; the repository holds every file"
            except NotVerified as exc:
                note = f"the copy in the inbox is kept: {exc.message}"
            except EngineError:
                raise
            except LadingError as exc:
                # A disk that is away, or forbids: tried again with the next tidying, and no reason to keep the copy for good.
                _log.warning("not withdrawn", delivery=delivery, code=exc.code, note=exc.message)
                return False
            TableJournal(connection, delivery).note(_WITHDRAWN, note)
            deliveries.add_event(connection, delivery, Stage.VERIFIED, note)
        _log.info("tidied", delivery=delivery, note=note)
        return True


def compact(connection: Connection) -> None:
    """Add the rows of `tallies` up. Whoever reads meanwhile sees the same sums; a second one at it takes only what is new."""
    connection.execute(
        "WITH gone AS (DELETE FROM tallies RETURNING *) INSERT INTO tallies"
        " SELECT what, route, word, sum(number), sum(files), sum(bytes) FROM gone GROUP BY what, route, word"
    )
