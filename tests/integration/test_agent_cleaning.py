"""A source is removed only against a receipt for every file, and only what was sent."""

import os
from pathlib import Path

import pytest

from lading.agent import cleaner
from lading.agent.cleaner import rehearse, undo_list
from lading.delivery import Stage
from lading.testing.instrument import (
    FILES,
    AnsweringServer,
    Instrument,
    delivered,
    hashes,
)

DAY = 86_400.0


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    made = Instrument(tmp_path)
    _ = made.inbox
    return made


@pytest.fixture
def server(instrument: Instrument) -> AnsweringServer:
    return AnsweringServer(instrument.inbox)


@pytest.fixture
def cleaning(instrument: Instrument) -> Instrument:
    instrument.configure(watch="quiet = 0\nclean = true\ngrace_days = 7")
    return instrument


def test_a_source_is_removed_after_the_grace_period_and_only_what_was_sent(
    cleaning: Instrument, server: AnsweringServer
) -> None:
    cleaning.write("P1/sub-001/s1", {"Thumbs.db": b"never sent"})
    item = delivered(cleaning, server)
    cleaning.later(6.9 * DAY)
    cleaning.turn()
    assert set(FILES) <= set(cleaning.left("P1/sub-001/s1"))
    planned = rehearse(cleaning.outbox, cleaning.parts, item.id)

    cleaning.later(0.2 * DAY)
    cleaning.turn()

    assert cleaning.only().stage is Stage.CLEANED
    assert cleaning.left("P1/sub-001/s1") == {"Thumbs.db": b"never sent"}
    assert not (cleaning.data / "P1/sub-001/s1/scans").exists()
    assert sorted(planned.paths) == sorted(FILES)
    undo = undo_list(cleaning.outbox, item.id).read_text()
    assert item.delivery.digest in undo
    assert all(f'"{name}"' in undo for name in FILES)
    cleaning.turn()
    assert len(cleaning.outbox.deliveries()) == 1


def test_nothing_is_removed_when_the_repository_lacks_one_file(cleaning: Instrument, server: AnsweringServer) -> None:
    item = delivered(cleaning, server)
    server.answer(item.id, missing=1)
    planned = rehearse(cleaning.outbox, cleaning.parts, item.id)

    cleaning.later(8 * DAY)
    cleaning.turn()

    assert cleaning.left("P1/sub-001/s1") == FILES
    kept = cleaning.only()
    assert kept.stage is Stage.HELD
    assert "1 of 3 files unproven" in kept.error
    assert planned.kept == kept.error
    assert kept.next_command


@pytest.mark.parametrize("change", ["content", "content, same size and time", "gone"])
def test_nothing_is_removed_when_one_file_is_not_what_was_sent(
    cleaning: Instrument, server: AnsweringServer, change: str
) -> None:
    item = delivered(cleaning, server)
    file = cleaning.data / "P1/sub-001/s1/b.dcm"
    times = file.stat()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(b"IMAGE two" if "same" in change else b"edited since")
    if "same" in change:
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = cleaning.left("P1/sub-001/s1")

    cleaning.later(8 * DAY)
    cleaner.clean(cleaning.outbox, cleaning.parts, item.id)

    assert cleaning.left("P1/sub-001/s1") == before
    kept = cleaning.outbox.get(item.id)
    assert kept.stage is Stage.HELD
    assert "b.dcm" in kept.error
    assert "source-differs" in cleaning.codes(item.id)


def test_a_folder_swapped_for_a_link_is_not_cleaned_through_it(cleaning: Instrument, server: AnsweringServer) -> None:
    delivered(cleaning, server)
    root = cleaning.data / "P1/sub-001/s1"
    elsewhere = root.rename(cleaning.base / "precious")
    root.symlink_to(elsewhere)

    cleaning.later(8 * DAY)
    cleaning.turn()

    assert hashes(elsewhere).keys() == FILES.keys()
    assert cleaning.only().stage is Stage.HELD


def test_a_cleaning_cut_short_is_finished(cleaning: Instrument, server: AnsweringServer) -> None:
    item = delivered(cleaning, server)
    cleaning.outbox.move(item.id, Stage.CLEANABLE)
    (cleaning.data / "P1/sub-001/s1/a.dcm").unlink()

    cleaning.turn()

    assert cleaning.only().stage is Stage.CLEANED
    assert not (cleaning.data / "P1/sub-001/s1").exists()


def test_without_being_asked_to_nothing_is_ever_removed(instrument: Instrument, server: AnsweringServer) -> None:
    delivered(instrument, server)

    instrument.later(1000 * DAY)
    instrument.turn()

    assert instrument.only().stage is Stage.VERIFIED
    assert instrument.left("P1/sub-001/s1") == FILES
