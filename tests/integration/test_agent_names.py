"""Names whose bytes are no text, wherever they come from: they stop no agent."""

import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.agent import receipts
from lading.agent.carrier import RESEND
from lading.delivery import Receipt, Stage
from lading.findings import error
from lading.staging.receipts import receipt_json
from lading.testing.instrument import FILES, AnsweringServer, Instrument, delivered_but_unanswered

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")

BROKEN = os.fsdecode(b"caf\xe9.dcm")


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


def answered(instrument: Instrument, stage: Stage) -> Receipt:
    """What the server says of the only delivery, naming a file whose name is no text."""
    item = delivered_but_unanswered(instrument, AnsweringServer(instrument.inbox))
    found = error("corrupted", f"{BROKEN} is not what was listed", path=BROKEN, hint=f"look at {BROKEN}")
    receipt = Receipt(
        item.id, "mri", item.delivery.labels, stage, item.delivery.digest, 3, item.delivery.bytes, {}, {}, (found,), "",
        datetime.now(UTC),
    )  # fmt: skip
    path = instrument.inbox_root / ".lading" / "receipts" / f"{item.id}.json"
    path.write_text(receipt_json(replace(receipt, signature="0" * 64)), encoding="ascii")
    instrument.later(1)
    return receipt


def test_a_refusal_that_names_one_is_shown(instrument: Instrument) -> None:
    answered(instrument, Stage.REJECTED)
    instrument.turn()

    assert instrument.only().stage is Stage.REJECTED
    assert "caf" in instrument.only().error


def test_a_damaged_file_with_one_is_sent_again(instrument: Instrument) -> None:
    receipt = answered(instrument, Stage.SENDING)

    assert receipts.ask(instrument.outbox, instrument.parts, receipt.delivery)

    assert instrument.only().stage is Stage.READY
    assert instrument.outbox.journal(receipt.delivery).recall(RESEND) == BROKEN


def test_a_person_whose_folder_has_one_is_no_obstacle_for_the_others(instrument: Instrument) -> None:
    instrument.configure(watch='quiet = 0\ntemplate = "{sender}/{project}/{participant}/{session}"')
    instrument.write(f"{os.fsdecode(bytes([0xE9]))}/P1/sub-001/s1", FILES)
    instrument.write("zoe/P1/sub-002/s1", FILES)

    instrument.turn()

    assert {item.stage for item in instrument.outbox.deliveries()} == {Stage.ARRIVED}
