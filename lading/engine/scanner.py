"""Looks into the inboxes: sealed slots become rows. Cheap while nothing arrives."""

import structlog

from lading.delivery import Delivery, DeliveryId, Labels, Slot, Stage
from lading.disk import translated
from lading.engine import deliveries, jobs
from lading.engine.database import Connection, recording
from lading.engine.deliveries import MOST_URGENT
from lading.engine.parts import Parts
from lading.errors import EngineError, LadingError, Rejected
from lading.findings import error
from lading.inbox import Inbox, read_seal

_BATCH = 100
"""So many arrivals share a transaction: a thousand small ones cost ten commits."""
_log = structlog.get_logger("lading.engine")


class Scanner:
    """Scans the inboxes of one server. Several scanners may run: registering twice is harmless."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: dict[str, set[DeliveryId]] = {}
        self._said: dict[str, str] = {}

    def scan(self, connection: Connection) -> int:
        """One look at every inbox; returns how many deliveries are new. An inbox that fails is logged and left out."""
        found = 0
        for name, inbox in self._parts.inboxes.items():
            try:
                with recording(f"registering the arrivals of {name}"):
                    found += self._register(connection, name, inbox)
                self._said.pop(name, None)
            except EngineError:
                raise
            except LadingError as exc:
                if self._said.get(name) != exc.message:
                    _log.warning("scan failed", inbox=name, code=exc.code, note=exc.message)
                self._said[name] = exc.message
        return found

    def forget(self) -> None:
        """Look at every slot anew: the database was away, and what comes back may not know what it was told last."""
        self._known.clear()

    def reconcile(self, connection: Connection) -> int:
        """Register published deliveries that the database has never heard of: it was restored, or made anew.

        They run the whole line again, which finds its work done: the repository is asked before anything is sent.
        """
        found = 0
        for name, inbox in self._parts.inboxes.items():
            with recording(f"comparing {name} with its records"):
                rows = connection.execute("SELECT id FROM deliveries WHERE inbox = %s", (name,)).fetchall()
                try:
                    unheard = set(inbox.filed()) - {id_ for (id_,) in rows}
                except LadingError as exc:
                    _log.warning("not reconciled", inbox=name, code=exc.code, note=exc.message)
                    continue
                for delivery_id in sorted(unheard):
                    found += self._brought_back(connection, name, inbox, delivery_id)
        return found

    def _brought_back(self, connection: Connection, name: str, inbox: Inbox, delivery_id: DeliveryId) -> bool:
        """One that cannot be read keeps no other from coming back."""
        try:
            return self._bring_back(connection, name, inbox, delivery_id)
        except EngineError:
            raise
        except LadingError as exc:
            _log.warning("not reconciled", inbox=name, delivery=delivery_id, code=exc.code, note=exc.message)
            return False

    def _bring_back(self, connection: Connection, name: str, inbox: Inbox, delivery_id: DeliveryId) -> bool:
        receipt = inbox.read_receipt(delivery_id)
        if receipt is not None and receipt.proves_all:
            return False
        with connection.transaction():
            return self._arrive(connection, name, inbox, inbox.parcel(delivery_id).delivery)

    def _register(self, connection: Connection, name: str, inbox: Inbox) -> int:
        present = set(inbox.arrivals())
        # Those registered before are not looked at again, unless they were given back to be sent again.
        waiting = connection.execute("SELECT id FROM deliveries WHERE inbox = %s AND stage = 'SENDING'", (name,))
        again = {DeliveryId(row[0]) for row in waiting.fetchall()}
        known = self._known.setdefault(name, set())
        known &= present
        fresh = sorted(present - (known - again))
        unreadable: set[DeliveryId] = set()
        found = 0
        for start in range(0, len(fresh), _BATCH):
            batch = fresh[start : start + _BATCH]
            described = [self._described(name, inbox, id_, unreadable) for id_ in batch]
            with connection.transaction():
                found += sum(self._arrive(connection, name, inbox, one) for one in described if one is not None)
            known.update(set(batch) - unreadable)
        return found

    def _described(self, name: str, inbox: Inbox, id_: DeliveryId, unreadable: set[DeliveryId]) -> Delivery | None:
        """What its seal says; None, and `unreadable` has it, where the disk did not let us read that now."""
        try:
            with translated(f"reading the seal of {id_}", inbox.root):
                found = _described(inbox, id_)
        except LadingError as exc:
            unreadable.add(id_)
            if self._said.get(id_) != exc.message:
                _log.warning("seal not read", inbox=name, delivery=id_, code=exc.code, note=exc.message)
            self._said[id_] = exc.message
            return None
        self._said.pop(id_, None)
        return found

    def _arrive(self, connection: Connection, name: str, inbox: Inbox, delivery: Delivery) -> bool:
        repository, urgency = self._destination(delivery.route)
        priority = max(-MOST_URGENT, min(MOST_URGENT, delivery.priority)) + urgency
        epoch = deliveries.register(connection, name, repository, delivery, priority)
        if epoch is None:
            self._refuse_stolen_id(connection, name, inbox, delivery.id)
            return False
        jobs.queue(connection, jobs.Job(delivery.id, epoch, "accept"), priority=priority)
        _log.info("arrived", delivery=delivery.id, inbox=name, files=delivery.files, bytes=delivery.bytes)
        return True

    def _refuse_stolen_id(self, connection: Connection, name: str, inbox: Inbox, delivery: DeliveryId) -> None:
        row = deliveries.load(connection, delivery)
        if row is None or row.inbox == name:
            return
        if row.inbox not in self._parts.inboxes:
            # An inbox that was given another name in the settings has all its deliveries still: they stay where they are.
            note = f"{delivery} is known from the inbox {row.inbox}, which is not here; was it called {name} since?"
            _log.warning("not taken up", delivery=delivery, inbox=name, note=note)
            return
        found = error(
            "id-taken", f"{delivery} is known from the inbox {row.inbox}", hint="send it under an id of its own"
        )
        try:
            inbox.quarantine(delivery, [found])
        except LadingError as exc:  # a slot that cannot be moved keeps no other from arriving
            _log.warning("id taken, not set aside", delivery=delivery, inbox=name, code=exc.code, note=exc.message)
        else:
            _log.warning("id taken", delivery=delivery, inbox=name, note=found.message)

    def _destination(self, route: str) -> tuple[str, int]:
        try:
            parts = self._parts.route(route)
        except LadingError:
            return "", 0  # Held when its checks are due; the operator may have named the route by then.
        return parts.repository, parts.priority


def _described(inbox: Inbox, delivery_id: DeliveryId) -> Delivery:
    """What the seal says. An unusable one is nobody's yet: accepting it says what is wrong, and sets it aside."""
    try:
        delivery = read_seal(inbox.root / Slot(delivery_id).path).as_delivery(Stage.ARRIVED)
    except (Rejected, PermissionError):
        delivery = None
    if delivery is None or delivery.id != delivery_id:
        return Delivery(delivery_id, "", Labels("", "", ""), Stage.ARRIVED)
    return delivery
