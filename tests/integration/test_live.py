"""Live mode, turn by turn: what the agent carries, lists and promises while an acquisition goes on."""

import hashlib
import os
from pathlib import Path

import pytest

from lading.agent.live_book import LiveBook
from lading.agent.live_view import views
from lading.delivery import Stage
from lading.staging.bare import BareWatch
from lading.staging.slots import Slots
from lading.testing.live import checked_sums
from lading.testing.live_spying import Spying
from lading.testing.live_turns import MOVIES, sums
from lading.testing.live_turns import TurnedSite as Instrument


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


def test_an_open_acquisition_is_there_file_by_file_with_list_and_status(instrument: Instrument) -> None:
    instrument.write(MOVIES)

    instrument.turn()

    status = instrument.status()
    assert instrument.there() == MOVIES
    assert instrument.listed() == sums(MOVIES)
    assert checked_sums(instrument.deposit()) == (0, "")
    assert (status["state"], status["files"], status["bytes"]) == ("acquiring", 3, sum(map(len, MOVIES.values())))
    assert status["waiting"] == {"files": 0, "bytes": 0}
    assert status["lag_s"] == 0
    assert status["labels"] == {"project": "EM", "participant": "grid-1", "session": "s1"}
    listed = (instrument.deposit() / "manifest-sha256.txt").read_bytes()
    assert status["manifest"] == {"name": "manifest-sha256.txt", "sha256": hashlib.sha256(listed).hexdigest()}
    assert instrument.only().stage is Stage.SENDING
    (view,) = views(instrument.outbox)
    assert (view.state, view.figures.files, view.figures.waiting, str(view.live.link)) == ("acquiring", 3, 0, "up")


def test_a_growing_file_is_carried_again_and_the_list_follows(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    grown = {"Images/m2.mdoc": b"[T = SerialEM]\n[ZValue = 0]\n"}
    instrument.write(grown)

    instrument.turn()

    assert instrument.there() == MOVIES | grown
    assert instrument.listed() == sums(MOVIES | grown)
    assert checked_sums(instrument.deposit()) == (0, "")
    assert instrument.status()["files"] == 3


def test_a_file_about_to_be_replaced_leaves_the_list_first(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    seen: list[dict[str, str]] = []
    parts = Spying(instrument.parts, before_bring=lambda: seen.append(instrument.listed()))
    instrument.write({"m1.mrc": b"rewritten"})

    instrument.turn(parts)

    rest = {name: content for name, content in MOVIES.items() if name != "m1.mrc"}
    assert seen == [sums(rest)]
    assert instrument.listed() == sums(rest | {"m1.mrc": b"rewritten"})


def test_nothing_is_carried_while_a_program_writes_or_a_name_says_so(instrument: Instrument) -> None:
    root = instrument.write({"ready.mrc": b"ready", "movie.mrc.part": b"half", "done": b""})
    with (root / "open.mrc").open("wb") as file:
        file.write(b"first half")
        file.flush()
        instrument.turn()
        while_open = instrument.there()
        file.write(b", second half")
    instrument.turn()
    with_part = instrument.status()["state"]
    (root / "movie.mrc.part").rename(root / "movie.mrc")

    instrument.turn()

    assert while_open == {"ready.mrc": b"ready", "done": b""}
    assert with_part == "acquiring"
    assert instrument.there()["open.mrc"] == b"first half, second half"
    assert instrument.there()["movie.mrc"] == b"half"
    assert instrument.status()["state"] == "closed"


def test_two_acquisitions_under_the_same_labels_do_not_mix(instrument: Instrument) -> None:
    instrument.configure(more='template = "{_}/{project}/{participant}/{session}"')
    instrument.write({"m.mrc": b"of the first"}, "one/EM/grid-1/s1")
    instrument.turn()
    instrument.write({"m.mrc": b"of the second", "n.mrc": b"n"}, "two/EM/grid-1/s1")

    instrument.turn()

    second, first = instrument.outbox.deliveries()
    assert (first.stage, second.stage) == (Stage.SENDING, Stage.HELD)
    assert [finding.code for finding in instrument.outbox.findings(second.id)] == ["deposit-taken"]
    assert instrument.there() == {"m.mrc": b"of the first"}


def test_a_name_that_lading_uses_itself_is_not_overwritten(instrument: Instrument) -> None:
    root = instrument.write({"STATUS.json": b"the microscope's own", "m.mrc": b"m", "done": b""})

    instrument.turn()
    (view,) = views(instrument.outbox)
    (root / "STATUS.json").rename(root / "microscope-status.json")
    instrument.turn()

    assert "STATUS.json cannot go" in view.live.why
    assert instrument.status()["state"] == "closed"
    assert instrument.there()["microscope-status.json"] == b"the microscope's own"


def test_an_inbox_leaves_its_deposit_folder_alone(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    dropped = instrument.target / "EM" / "grid-2" / "s2"
    dropped.mkdir(parents=True)
    (dropped / "image").write_bytes(b"image")

    found = list(BareWatch(instrument.target, Slots(instrument.target)).complete(quiet_s=0, marker=None, now=1.0))

    assert [str(bare.labels) for bare in found] == ["EM/grid-2/s2"]


def test_a_batch_that_a_kill_cut_short_is_not_sent_again(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in instrument.deposit().rglob("*.mrc")}
    with instrument.outbox.writing() as db:
        db.execute("UPDATE live_files SET state = 'sending', sha256 = '', carried_at = 0")

    instrument.turn()

    assert before == {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in instrument.deposit().rglob("*.mrc")
    }
    assert instrument.listed() == sums(MOVIES)
    assert LiveBook(instrument.outbox).figures(instrument.only().id).waiting == 0


@pytest.mark.skipif(os.name != "posix", reason="only POSIX keeps when a file was last changed in any way")
def test_a_file_rewritten_with_its_size_and_time_of_before_is_carried_again(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    times = (root / "m1.mrc").stat()
    (root / "m1.mrc").write_bytes(b"two" * 500)
    os.utime(root / "m1.mrc", ns=(times.st_atime_ns, times.st_mtime_ns))

    instrument.turn()

    rewritten = MOVIES | {"m1.mrc": b"two" * 500}
    assert instrument.there() == rewritten
    assert instrument.listed() == sums(rewritten)


def test_of_a_file_of_which_only_the_permissions_changed_nothing_is_asked_of_the_target(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    (root / "m1.mrc").chmod(0o600)
    brought: list[str] = []

    instrument.turn(Spying(instrument.parts, before_bring=lambda: brought.append("something")))

    assert brought == []
    assert instrument.listed() == sums(MOVIES)
    assert views(instrument.outbox)[0].figures.waiting == 0
