"""The server's ledger, seen through the desk's one shape (`lading.desk.Memory`)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from lading.config import Config
from lading.delivery import DeliveryId, Event, Labels, Receipt, Stage
from lading.desk import NEEDS_YOU, Account
from lading.engine import database, postgres
from lading.engine.deliveries import Row
from lading.engine.ledger import Ledger, Unknown
from lading.errors import LadingError
from lading.findings import Finding
from lading.inbox import Inbox


def has_database(config: Config) -> bool:
    """Whether there can be a ledger: a database of the site's own, or an embedded one that a server has made."""
    return config.server.database != postgres.EMBEDDED or (config.home / "postgres").is_dir()


@contextmanager
def opened(config: Config) -> Iterator[Ledger]:
    """The ledger of the settings' database, which runs for as long as the context. Raises EngineError."""
    with postgres.database(config) as dsn:
        database.migrate(dsn)
        ledger = Ledger(dsn)
        try:
            yield ledger
        finally:
            ledger.close()


def database_version(config: Config) -> str:
    """A sentence about the database, for the doctor. Raises EngineError."""
    with postgres.database(config) as dsn:
        connection = database.connect(dsn, "lading doctor")
        try:
            with database.recording("asking the database for its version"):
                found = connection.execute(
                    "SELECT current_setting('server_version'), current_setting('fsync')"
                ).fetchone()
        finally:
            connection.close()
    version, fsync = found or ("?", "?")
    kind = "embedded" if config.server.database == postgres.EMBEDDED else "the site's"
    if fsync != "on":
        raise LadingError(
            f"{kind} PostgreSQL {version} runs with fsync = {fsync}: a power cut would lose what was promised",
            next_command="psql -c 'ALTER SYSTEM SET fsync = on'",
        )
    return f"{kind} PostgreSQL {version}, fsync on"


class ServerMemory:
    """What the server knows. Receipts are read from the inboxes."""

    def __init__(self, ledger: Ledger, config: Config) -> None:
        self._ledger = ledger
        self._config = config

    def recent(self, *, stages: Sequence[Stage], limit: int) -> Iterable[Account]:
        """Newest first. What needs a person comes with the findings that tell what to do."""
        rows = self._ledger.deliveries(stages, limit=limit)
        hints = self._ledger.hints([row.delivery.id for row in rows if row.delivery.stage in NEEDS_YOU])
        return [self._account(row, hints.get(row.id, ())) for row in rows]

    def starting_with(self, prefix: str) -> Sequence[DeliveryId]:
        """At most ten ids that begin or end so."""
        return self._ledger.starting_with(prefix)

    def account(self, delivery: DeliveryId) -> Account | None:
        """One delivery with everything, or None."""
        try:
            view = self._ledger.show(delivery)
        except Unknown:
            return None
        return self._account(view.row, view.findings, view.events, self._receipt(view.row))

    def verify(self, delivery: DeliveryId, *, reread: bool = False) -> None:
        """Read it back again."""
        self._ledger.verify(delivery, reread=reread)

    def retry(self, delivery: DeliveryId) -> None:
        """Try again at once."""
        self._ledger.retry(delivery)

    def fix(self, delivery: DeliveryId, labels: Labels) -> None:
        """Other labels, and the whole line again."""
        self._ledger.fix(delivery, labels)

    def release(self, delivery: DeliveryId) -> None:
        """The whole line again, as it is."""
        self._ledger.release(delivery)

    def cancel(self, delivery: DeliveryId) -> None:
        """Give it up; its files are kept in quarantine."""
        self._ledger.cancel(delivery)

    def pause(self, target: str) -> None:
        """A delivery, a route, a repository, or "all"."""
        for name in self._targets(target):
            self._ledger.pause_target(name)
        if not self._targets(target):
            self._ledger.pause(DeliveryId(target))

    def resume(self, target: str) -> None:
        """The reverse of pause."""
        for name in self._targets(target):
            self._ledger.resume_target(name)
        if not self._targets(target):
            self._ledger.resume(DeliveryId(target))

    def _targets(self, target: str) -> list[str]:
        """A name may be a route's and a repository's at once; then both are meant."""
        if target == "all":
            return ["all"]
        kinds = (("route", self._config.routes), ("repository", self._config.repositories))
        return [f"{kind}:{target}" for kind, names in kinds if target in names]

    def _receipt(self, row: Row) -> Receipt | None:
        inbox = self._config.inboxes.get(row.inbox)
        if inbox is None:
            return None
        try:
            return Inbox.open(inbox.path).read_receipt(DeliveryId(row.id))
        except LadingError:
            return None  # the inbox is away; the ledger's own word still stands

    def _account(
        self,
        row: Row,
        findings: tuple[Finding, ...] = (),
        events: tuple[Event, ...] = (),
        receipt: Receipt | None = None,
    ) -> Account:
        failure = row.error or {}
        return Account(
            delivery=row.delivery,
            changed_at=row.updated_at,
            known_to=("server",),
            findings=findings,
            events=events,
            error=str(failure.get("message", "")),
            next_command=str(failure.get("next", "")),
            given_up=bool(failure) and not failure.get("retried", False),
            attempt=row.attempt,
            not_before=row.not_before,
            paused=row.paused,
            receipt=receipt,
        )
