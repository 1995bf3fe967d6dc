"""Fetching at the worst moment: a clock that was set back, a memory that cannot be used, a receipt that is damaged."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lading.errors import Corrupted, EngineError, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.staging.receipts import receipt_json
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.servers import missing_for_sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import SESSION, proof
from transport.fetch_ledger import Progressing
from transport.fetch_schedule import scheduled

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


def test_a_clock_that_was_set_back_is_not_waited_for(scene):
    trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    right = scene.clock.now
    scene.clock.now = right + 10 * 365 * 86_400  # an empty battery, or a typing error
    fetcher.round()
    scene.clock.now = right

    fetcher.round()
    scene.clock.now += 100
    (found,) = fetcher.round()

    assert found.state is Progressing.FETCHED


def test_what_changed_at_the_source_and_came_back_from_the_inbox_is_fetched_again(scene):
    # Seen: it stayed "changed" for ever, while its slot waited for it.
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    (found,) = scene.settled(fetcher)
    victim = scene.inbox.root / f".lading/incoming/{found.delivery}/data/series-0/image-0000.dcm"
    victim.write_bytes(b"?" * victim.stat().st_size)
    trees.write(source, {"late.dcm": b"late"})
    assert fetcher.round()[0].state is Progressing.CHANGED
    with pytest.raises(Corrupted):
        scene.accepted()

    (again,) = scene.settled(fetcher)

    assert (again.state, again.delivery) == (Progressing.FETCHED, found.delivery)
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_a_memory_that_cannot_be_used_is_said_as_that(scene):
    (scene.state / "fetch").mkdir()
    (scene.state / "fetch" / "partner.lock").mkdir()

    with pytest.raises(EngineError, match="cannot lock"):
        scene.fetcher().round()


def test_an_error_nobody_foresaw_does_not_end_the_rounds():
    rounds = threading.Semaphore(0)

    def make():
        rounds.release()
        raise RuntimeError("a server that answers nonsense")

    with scheduled({"partner": (make, 0.01)}):
        assert rounds.acquire(timeout=60)
        assert rounds.acquire(timeout=60)


@pytest.fixture
def waypoint(scene):
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    return scene


def carried(scene, name):
    source = trees.plain_tree(scene.folder / f"source-{name}", files=2)
    (source / "whose").write_text(name)
    settings = {"path": str(scene.remote)}
    errand = Errand(
        "transport.local:LocalTransport.from_settings", settings, str(source), str(scene.folder / name),
        str(scene.state), name,
    ).sealed()  # fmt: skip
    errand.carry()
    return errand


def test_a_receipt_that_cannot_be_read_holds_back_no_other(waypoint):
    names = ("test-delivery-1", "test-delivery-2")
    errands = {name: carried(waypoint, name) for name in names}
    fetcher = waypoint.fetcher(waypoint=True, clear=True)
    fetcher.round()
    for parcel in waypoint.accepted():
        waypoint.inbox.write_receipt(*proof(parcel), b"a key of the server")
    receipts = waypoint.inbox.root / ".lading" / "receipts"
    good = (receipts / f"{names[0]}.json").read_bytes()
    (receipts / f"{names[0]}.json").write_bytes(good[: len(good) // 2])

    found = fetcher.round()

    assert [f.cleared for f in found] == [False, True]
    assert errands[names[1]].transport().fetch_receipt(errands[names[1]].slot.delivery) is not None


def test_a_receipt_for_fewer_files_clears_nothing(waypoint):
    errand = carried(waypoint, "test-delivery-1")
    fetcher = waypoint.fetcher(waypoint=True, clear=True)
    fetcher.round()
    (parcel,) = waypoint.accepted()
    receipt, _ = proof(waypoint.inbox.publish(parcel))
    path = waypoint.inbox.root / ".lading" / "receipts" / f"{parcel.delivery.id}.json"
    path.write_text(receipt_json(replace(receipt, files=0, counts={}, signature="0" * 64)))

    (found,) = fetcher.round()

    assert not found.cleared
    assert (Path(waypoint.remote) / errand.slot.data).is_dir()


class OneBadFile:
    """A place, or a connection to it, where one file cannot be read: its disk has a hole there."""

    def __init__(self, real, bad):
        self._real, self._bad = real, bad

    def __getattr__(self, name):
        return getattr(self._real, name)

    def connect(self):
        return OneBadFile(self._real.connect(), self._bad)

    def read(self, path, offset=0):
        if path.endswith(self._bad):
            raise Unreachable(f"cannot read {path}: Input/output error")
        return self._real.read(path, offset)


def test_a_file_that_cannot_be_read_holds_back_no_other_folder(scene):
    trees.plain_tree(scene.remote / "PROJ/sub-001/MR1", files=2)
    trees.write(scene.remote / "PROJ/sub-001/MR1", {"bad.dcm": b"unreadable"})
    trees.plain_tree(scene.remote / "PROJ/sub-002/MR1", files=2)

    bad, good = scene.settled(scene.fetcher(OneBadFile(scene.place(), "bad.dcm")))

    assert (bad.state, good.state) == (Progressing.FETCHING, Progressing.FETCHED)
    assert "Input/output error" in bad.note


def test_a_file_that_cannot_be_read_holds_back_no_other_delivery(waypoint):
    errands = [carried(waypoint, name) for name in ("test-delivery-1", "test-delivery-2")]
    data = waypoint.remote / errands[0].slot.data
    first = next(data.rglob("*.dcm")).relative_to(waypoint.remote).as_posix()
    place = OneBadFile(waypoint.place(), first)

    found = waypoint.fetcher(place, waypoint=True).round()

    assert [f.state for f in found] == [Progressing.FETCHING, Progressing.FETCHED]
