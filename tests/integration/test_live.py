"""Live mode, turn by turn: what the agent carries, lists and promises while an acquisition goes on."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from lading.agent.live_book import LiveBook
from lading.agent.live_view import ask_to_close, reopen, views
from lading.agent.loop import Agent
from lading.agent.outbox import Outbox
from lading.agent.sending import enqueue
from lading.assembly import agent_parts
from lading.config import load
from lading.delivery import Stage
from lading.deposit import Deposit, Read, Settled, Told
from lading.errors import AccessDenied, ConfigError
from lading.inbox import Inbox, InboxLimits
from lading.listing.entries import Entry
from lading.staging.bare import BareWatch
from lading.staging.slots import Slots
from lading.testing.instrument import wait_until
from lading.testing.live import LiveSite, checked_sums
from lading.testing.live_turns import TurnedSite as Instrument
from lading.testing.site import flip_a_byte, small_disk


def sums(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def instrument(tmp_path: Path) -> Instrument:
    return Instrument(tmp_path)


MOVIES = {"m1.mrc": b"one" * 500, "Images/m2.mrc": b"two" * 900, "Images/m2.mdoc": b"[T = SerialEM]\n"}


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


def test_the_marker_closes_it_and_everything_is_read_again(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    instrument.write({"done": b""})

    instrument.turn()

    status, item = instrument.status(), instrument.only()
    assert status["state"] == "closed"
    assert status["verified"] == {"files": 4, "how": "read back, SHA-256", "at": status["verified"]["at"]}
    assert (item.stage, item.delivery.files) == (Stage.VERIFIED, 4)
    assert item.delivery.digest == status["manifest"]["sha256"]
    assert checked_sums(instrument.deposit()) == (0, "")
    assert views(instrument.outbox)[0].state == "closed"


def test_quiet_closes_it_when_that_is_how_it_ends(instrument: Instrument) -> None:
    instrument.configure(live="close_after = 0.5")
    instrument.write(MOVIES)
    stop = threading.Event()
    agent = Agent(instrument.config.agent, instrument.parts, instrument.outbox, stop)
    working = threading.Thread(target=agent.work)
    working.start()
    try:
        wait_until(lambda: instrument.status().get("state") == "closed")
    finally:
        stop.set()
        working.join()

    assert instrument.there() == MOVIES


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


def test_what_left_the_source_is_kept_and_noted(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    (root / "m1.mrc").unlink()
    instrument.write({"done": b""})

    instrument.turn()

    assert instrument.there() == MOVIES | {"done": b""}
    assert instrument.status()["left_the_source"] == 1
    assert "1 files left the source, m1.mrc among them; the target keeps them" in instrument.notes(instrument.only().id)


def test_a_file_damaged_at_the_target_is_found_and_carried_again(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    flip_a_byte(instrument.deposit() / "m1.mrc")
    (instrument.deposit() / "Images" / "m2.mrc").unlink()
    instrument.write({"done": b""})

    instrument.turn()

    assert instrument.status()["state"] == "closed"
    assert instrument.there() == MOVIES | {"done": b""}
    notes = instrument.notes(instrument.only().id)
    assert "m1.mrc at the target" in notes
    assert "Images/m2.mrc at the target: missing; it goes again" in notes


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


def test_late_files_are_said_and_carried_only_when_a_person_reopens(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    item = instrument.only()
    instrument.write({"late.mrc": b"late"})

    instrument.turn()
    before = instrument.there()
    (finding,) = instrument.outbox.findings(item.id)
    reopen(instrument.outbox, item.id)
    instrument.turn()

    assert "late.mrc" not in before
    assert finding.code == "late-files"
    assert finding.hint == f"lading live reopen {item.id}"
    assert instrument.there() == MOVIES | {"done": b"", "late.mrc": b"late"}
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


def test_a_file_that_cannot_be_read_keeps_it_from_closing_until_that_is_mended(instrument: Instrument) -> None:
    instrument.write({"good.mrc": b"good", "locked.mrc": b"locked", "done": b""})
    refusing = Refusing(instrument.parts, "locked.mrc")

    instrument.turn(refusing)
    held = instrument.only()
    instrument.outbox.retry(held.id)
    instrument.turn()

    assert held.stage is Stage.HELD
    assert "locked.mrc" in held.error
    assert instrument.status()["state"] == "closed"
    assert instrument.there()["locked.mrc"] == b"locked"


def test_paused_it_stands_still_and_goes_on_noting(instrument: Instrument) -> None:
    instrument.write(MOVIES)
    instrument.turn()
    item = instrument.only()
    instrument.outbox.pause(item.id)
    instrument.write({"m3.mrc": b"three"})
    instrument.turn()
    paused, (view,) = instrument.there(), views(instrument.outbox)
    instrument.outbox.resume(item.id)

    instrument.turn()

    assert "m3.mrc" not in paused
    assert (view.state, view.figures.waiting) == ("paused", 1)
    assert instrument.there() == MOVIES | {"m3.mrc": b"three"}


def test_an_absent_target_is_waited_for_and_files_are_noted_meanwhile(instrument: Instrument) -> None:
    away = instrument.target.with_name("away")
    instrument.target.rename(away)
    instrument.target.mkdir()
    instrument.write(MOVIES)
    instrument.turn()
    (down,) = views(instrument.outbox)
    item = instrument.only()
    made = list(instrument.target.iterdir())
    instrument.target.rmdir()
    away.rename(instrument.target)
    instrument.outbox.retry(item.id)

    instrument.turn()

    assert made == []  # nothing is written under an unmounted share
    assert (str(down.live.link), down.figures.waiting, item.stage, item.error_code) == (
        "down",
        3,
        Stage.SENDING,
        "unreachable",
    )
    assert instrument.there() == MOVIES
    assert instrument.only().error == ""
    assert "the link is back" in instrument.notes(item.id)


@pytest.mark.root
def test_a_full_disk_pauses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "target-disk", "3m") as disk:
        (tmp_path / "base").mkdir()
        instrument = Instrument(tmp_path / "base")
        instrument.target = disk
        Inbox.create(disk, limits=InboxLimits(keep_free_bytes=0))
        instrument.configure()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 << 20))
        instrument.write({"small.mrc": b"small"})
        instrument.turn()
        instrument.write({"big.mrc": os.urandom(1_500_000)})
        instrument.turn()
        (full,) = views(instrument.outbox)
        held = instrument.only()
        visible = set(instrument.there())
        ballast.unlink()
        instrument.outbox.retry(held.id)
        instrument.turn()

        assert (str(full.live.link), held.stage, held.error_code) == ("full", Stage.HELD, "out-of-space")
        assert held.not_before > 0  # tried again by itself
        assert visible == {"small.mrc"}
        assert set(instrument.there()) == {"small.mrc", "big.mrc"}
        assert instrument.only().stage is Stage.SENDING


def test_a_closed_session_goes_on_by_the_route_that_follows(instrument: Instrument) -> None:
    files = f'[routes.files]\ntransport = {{ kind = "local", path = "{instrument.target}" }}'
    instrument.configure(live='marker = "done"\nthen = "files"', more=f"quiet = 0\n{files}")
    instrument.write(MOVIES | {"done": b""})

    instrument.turn()
    instrument.turn()

    sent, pushed = instrument.outbox.deliveries()
    assert (pushed.delivery.route, pushed.stage) == ("cryo", Stage.VERIFIED)
    assert (sent.delivery.route, sent.stage) == ("files", Stage.ARRIVED)
    assert list(instrument.inbox.arrivals()) == [sent.id]
    assert f"goes on as {sent.id}" in instrument.notes(pushed.id)


def test_what_came_late_goes_on_as_well_once_it_is_closed_again(instrument: Instrument) -> None:
    files = f'[routes.files]\ntransport = {{ kind = "local", path = "{instrument.target}" }}'
    instrument.configure(live='marker = "done"\nthen = "files"', more=f"quiet = 0\n{files}")
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    instrument.turn()
    sent, pushed = instrument.outbox.deliveries()
    instrument.write({"late.mrc": b"late"})
    instrument.turn()
    before = instrument.outbox.deliveries()

    reopen(instrument.outbox, pushed.id)
    for _ in range(3):
        instrument.turn()

    late, *others = instrument.outbox.deliveries()
    assert [item.id for item in before] == [item.id for item in others] == [sent.id, pushed.id]
    assert (late.delivery.route, late.stage, late.error_code) == ("files", Stage.HELD, "late-files")
    assert "late.mrc" in instrument.outbox.findings(late.id)[0].message
    assert instrument.status()["state"] == "closed"


def test_an_inbox_leaves_its_deposit_folder_alone(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    dropped = instrument.target / "EM" / "grid-2" / "s2"
    dropped.mkdir(parents=True)
    (dropped / "image").write_bytes(b"image")

    found = list(BareWatch(instrument.target, Slots(instrument.target)).complete(quiet_s=0, marker=None, now=1.0))

    assert [str(bare.labels) for bare in found] == ["EM/grid-2/s2"]


def test_a_session_that_left_the_instrument_is_closed_on_request(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)
    instrument.turn()
    shutil.rmtree(root)
    instrument.turn()
    still = instrument.status()["state"]
    ask_to_close(instrument.outbox, instrument.only().id)

    instrument.turn()

    assert still == "acquiring"
    assert (instrument.status()["state"], instrument.status()["left_the_source"]) == ("closed", 3)
    assert instrument.there() == MOVIES


def test_a_route_that_became_live_leaves_what_went_as_a_whole_alone(instrument: Instrument) -> None:
    live = instrument.file.read_text()
    instrument.file.write_text(live.replace("[routes.cryo.live]", "[routes.cryo.checks.layout]").replace("settle", "#").replace(
        "status_every", "#").replace("marker", "#") + "quiet = 0\n")  # fmt: skip
    config = load(instrument.file)
    instrument.write(MOVIES)
    Agent(config.agent, agent_parts(config), instrument.outbox, threading.Event()).once()
    whole = instrument.only()
    instrument.file.write_text(live)

    instrument.turn()

    assert (whole.stage, instrument.only().stage) == (Stage.ARRIVED, Stage.ARRIVED)
    assert not instrument.deposit().exists()


def test_a_live_route_is_not_sent_by_hand(instrument: Instrument) -> None:
    root = instrument.write(MOVIES)

    with pytest.raises(ConfigError, match="is live"):
        enqueue(instrument.outbox, instrument.config, instrument.parts, root, "cryo")


def test_asked_to_close_it_closes(instrument: Instrument) -> None:
    instrument.configure(live="")
    instrument.write(MOVIES)
    instrument.turn()
    ask_to_close(instrument.outbox, instrument.only().id)

    instrument.turn()

    assert instrument.status()["state"] == "closed"
    with pytest.raises(ConfigError, match="VERIFIED"):
        ask_to_close(instrument.outbox, instrument.only().id)


def test_after_the_last_word_it_is_not_taken_back(instrument: Instrument) -> None:
    """Killed between "closed" at the target and its own note of it."""
    instrument.write(MOVIES | {"done": b""})
    instrument.turn()
    item = instrument.only()
    with instrument.outbox.writing() as db:
        db.execute("UPDATE deliveries SET stage = 'SENDING' WHERE id = ?", (item.id,))
        db.execute("UPDATE live SET state = 'closing'")
    written: list[str] = []
    parts = Spying(instrument.parts, on_status=written.append)

    instrument.turn(parts)

    assert written == ["closed"]
    assert instrument.only().stage is Stage.VERIFIED


def test_who_stops_the_reading_back_does_not_close_it(instrument: Instrument) -> None:
    instrument.write(MOVIES | {"done": b""})
    pausing = Spying(instrument.parts, on_read=lambda: instrument.outbox.pause(instrument.only().id))

    instrument.turn(pausing)
    paused, state = instrument.only(), instrument.status()["state"]
    instrument.outbox.resume(paused.id)
    instrument.turn()

    assert (paused.stage, state) == (Stage.PAUSED, "closing")
    assert instrument.status()["state"] == "closed"


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transport": '{ kind = "robocopy", path = "inbox" }'},
            "cannot put single files into a folder that others read",
        ),
        ({"transport": '{ kind = "disk", path = "usb", volume = "usb" }'}, "it is to be unplugged"),
        ({"more": "clean = true"}, "clean = true needs a receipt"),
        ({"more": 'marker = "done"'}, "routes.cryo.live"),
        ({"live": 'then = "nowhere"'}, "is not defined"),
        ({"live": 'then = "cryo"'}, "is live itself"),
        ({"live": 'folder = "../elsewhere"'}, "plain name of one folder"),
        ({"live": 'marke = "done"'}, "did you mean 'marker'"),
        ({"live": "close_after = -1"}, "close_after"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    site = LiveSite(tmp_path)
    site.configure(**changes)  # type: ignore[arg-type]  # one of its texts

    with pytest.raises(ConfigError, match=message):  # noqa: PT012 - either may find it
        config = load(site.file)
        Agent(config.agent, agent_parts(config), Outbox(config.home), threading.Event()).once()


class Spying:
    """The real parts; tells before files are brought, and what each status says."""

    def __init__(self, real, before_bring=lambda: None, on_status=lambda state: None, on_read=lambda: None) -> None:
        self._real, self._before_bring, self._on_status, self._on_read = real, before_bring, on_status, on_read

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def live(self, route: str):
        return self._real.live(route)

    def transport(self, route: str):
        return self._real.transport(route)

    def rules(self, route: str):
        return self._real.rules(route)

    def algorithms(self, route: str):
        return self._real.algorithms(route)

    def sources(self):
        return self._real.sources()

    def deposit(self, route: str, folder: str) -> Deposit:
        return self._spied(self._real.deposit(route, folder))

    def _spied(self, deposit: Deposit) -> Deposit:
        bring, write, verify = deposit.bring, deposit.write, deposit.verify

        def spied_bring(root: Path, files: Sequence[Settled], told: Told) -> None:
            self._before_bring()
            bring(root, files, told)

        def spied_write(name: str, content: Path) -> None:
            write(name, content)
            if name == "STATUS.json":
                self._on_status(json.loads(content.read_text())["state"])

        def spied_verify(root: Path, entries: Iterable[Entry]) -> Iterator[Read]:
            for read in verify(root, entries):
                self._on_read()
                yield read

        deposit.bring, deposit.write, deposit.verify = spied_bring, spied_write, spied_verify
        return deposit


class Refusing(Spying):
    """The real parts, at a source where one file cannot be read: root may read everything, so it is said here."""

    def __init__(self, real, name: str) -> None:
        super().__init__(real)
        self._name = name

    def _spied(self, deposit: Deposit) -> Deposit:
        bring = deposit.bring

        def refuse(root: Path, files: Sequence[Settled], told: Told) -> None:
            bring(root, [file for file in files if file.path != self._name], told)
            for file in files:
                if file.path == self._name:
                    told(file, AccessDenied(f"cannot read {root / file.path}: Permission denied"))

        deposit.bring = refuse
        return deposit
