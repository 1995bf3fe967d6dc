"""`lading clean` at the staging host: one inbox that is away does not keep the copies in another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.assembly import receipt_key
from lading.cleaning import cleaning
from lading.config import load
from lading.delivery import FileOutcome, Outcome, Stage
from lading.engine import memory
from lading.testing.instrument import AnsweringServer, Instrument, delivered_but_unanswered


@dataclass(frozen=True)
class Row:
    """Of the server's ledger, as far as cleaning looks."""

    id: str
    inbox: str
    updated_at: datetime


def test_an_inbox_that_is_away_keeps_no_copy_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instrument = Instrument(tmp_path)
    server = AnsweringServer(instrument.inbox)
    item = delivered_but_unanswered(instrument, server)
    settings = instrument.file.read_text()
    inboxes = f'[inboxes.away]\npath = "{tmp_path / "nowhere"}"\n[inboxes.here]\npath = "{instrument.inbox_root}"\n'
    instrument.file.write_text(f"{settings}\n{inboxes}")
    config = load(instrument.file)
    server.answer(item.id)
    receipt = server.inbox.read_receipt(item.id)
    assert receipt is not None
    entries = server.inbox.parcel(item.id).manifest
    outcomes = [FileOutcome(e.path, e.size, e.sha256, Outcome.VERIFIED, "md5") for e in entries]
    server.inbox.write_receipt(receipt, outcomes, receipt_key(config.home))
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    rows = [Row("20200101-000000-0000000000", "away", long_ago), Row(item.id, "here", long_ago)]

    class Ledger:
        def deliveries(self, stages: tuple[Stage, ...], *, limit: int) -> list[Row]:
            return rows

    @contextmanager
    def opened(_: object) -> Iterator[Ledger]:
        yield Ledger()

    monkeypatch.setattr(memory, "opened", opened)
    monkeypatch.setattr(memory, "has_database", lambda _: True)

    lines = list(cleaning(config, (), dry_run=False, ignore_grace=False))

    copies = [(line.delivery, line.what) for line in lines if line.what.startswith("inbox copy")]
    assert copies == [(rows[0].id, "inbox copy kept"), (item.id, "inbox copy removed")]
    assert not (instrument.inbox_root / "P1/sub-001/s1").exists()
