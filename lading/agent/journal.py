"""The journal of one delivery, in the outbox; and how the outbox writes text."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from lading.delivery import DeliveryId


class OutboxJournal:
    """See `lading.ports.Journal`. `rows` asks the outbox, `writing` is a transaction of it."""

    def __init__(
        self,
        rows: Callable[..., Sequence[sqlite3.Row]],
        writing: Callable[[], AbstractContextManager[sqlite3.Connection]],
        delivery: DeliveryId,
    ) -> None:
        self._rows = rows
        self._writing = writing
        self._delivery = delivery

    def note(self, key: str, value: str) -> None:
        """Remember; durable on return."""
        # As bytes where SQLite would not take it as text: it must come back as it was.
        kept = value if _is_text(value) else value.encode("utf-8", "surrogatepass")
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO journal VALUES (?,?,?)", (self._delivery, key, kept))

    def recall(self, key: str) -> str | None:
        """What was noted last, or None."""
        found = self._rows("SELECT value FROM journal WHERE delivery = ? AND key = ?", self._delivery, key)
        kept = found[0]["value"] if found else None
        return kept.decode("utf-8", "surrogatepass") if isinstance(kept, bytes) else kept


def visible(text: str) -> str:
    """`text` as SQLite takes it: bytes of a name that are no text become visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_text(value: str) -> bool:
    return value.isascii() or visible(value) == value
