"""What the transports' suite expects of a call, and who listens to its progress."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from lading.delivery import Receipt, Stage
from lading.errors import LadingError
from lading.ports import NoProgress
from lading.testing.carrying import LABELS, Errand

SOON_S = 45.0
"""How long a transport may take to notice a dead host or a refused key, with the settings of a site.

A few seconds each, on a machine that has much else to do; TCP by itself takes more than two minutes.
"""


class Told:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self._lock = threading.Lock()

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        with self._lock:
            self.files += files
            self.bytes += bytes


class AtFirst:
    """Does something once, when the first bytes or files are done."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._left = [do]

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002, ARG002
        with contextlib.suppress(IndexError):
            self._left.pop()()


def calls_of(errand: Errand) -> list[Callable[[], object]]:
    """Everything that reaches the server for an errand."""
    transport = errand.transport()
    return [
        transport.probe,
        lambda: transport.carry(errand.cargo(), errand.slot, errand.journal, NoProgress()),
        lambda: transport.fetch_receipt(errand.slot.delivery),
    ]


def raises_soon(
    kind: type[LadingError], reason: str, call: Callable[[], object], secrets: tuple[str, ...]
) -> LadingError:
    """The error of `call`, which must be of a `kind`, come soon, and show no secret."""
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        call()
    assert time.monotonic() - start < SOON_S, reason
    assert not [secret for secret in secrets if secret in str(caught.value)]
    return caught.value


def failure_of(call: Callable[[], object]) -> LadingError | None:
    """What `call` fails with, or None."""
    try:
        call()
    except LadingError as exc:
        return exc
    return None


def receipt_for(errand: Errand) -> Receipt:
    """A receipt that an inbox could write for the errand's delivery."""
    return Receipt(
        delivery=errand.slot.delivery,
        route="test",
        labels=LABELS,
        stage=Stage.VERIFIED,
        digest="0" * 64,
        files=12,
        bytes=34,
        counts={"verified": 12},
        repository={"kind": "test"},
        findings=(),
        files_digest="0" * 64,
        at=datetime.now(UTC).replace(microsecond=0),
    )
