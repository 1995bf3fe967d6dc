"""Fetching over a real sshd: sealed deliveries out of a waypoint, and receipts back into it."""

import os
import shutil
from pathlib import Path

import pytest

from lading.errors import Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.seal import read_seal
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.servers import missing_for_sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import Scene, proof
from transport.fetch_ledger import Progressing

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


@pytest.fixture(params=["sftp", "rsync"])
def waypoint(request, scene):
    if request.param == "rsync" and not shutil.which("rsync"):
        pytest.skip("rsync is not installed (Debian: rsync)")
    scene.kind = request.param
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    return scene


def _agent(scene: Scene, name: str = "test-delivery-1", **shape: int) -> Errand:
    source = trees.plain_tree(scene.folder / f"source-{name}", **shape)
    (source / "whose").write_text(name)
    settings = {
        "target": f"{scene.server.user}@127.0.0.1:{scene.remote}",
        "port": scene.server.port,
        "identity": str(scene.server.identity),
        "known_hosts": str(scene.server.known_hosts),
    }
    return Errand(
        "transport.sftp:SftpTransport.from_settings",
        settings,
        str(source),
        str(scene.folder / name),
        str(scene.state),
        name,
    ).sealed()


def test_a_sealed_delivery_comes_with_its_papers_and_the_receipt_goes_back(waypoint):
    errand = _agent(waypoint)
    errand.carry()
    fetcher = waypoint.fetcher(waypoint=True, clear=True)

    (found,) = fetcher.round()

    assert found.state is Progressing.FETCHED
    (parcel,) = waypoint.accepted()
    assert trees.look(parcel.root) == trees.look(Path(errand.root))
    assert trees.times(parcel.root) == trees.times(Path(errand.root))
    assert read_seal(Path(errand.papers)).summary == parcel.manifest.summary
    assert errand.transport().fetch_receipt(errand.slot.delivery) is None
    published = waypoint.inbox.publish(parcel)
    written = waypoint.inbox.write_receipt(*proof(published), b"a key of the server")
    fetcher.round()
    assert errand.transport().fetch_receipt(errand.slot.delivery) == written
    assert not (waypoint.remote / errand.slot.data).exists()
    before = trees.look(waypoint.remote)
    errand.carry()
    fetcher.round()
    assert trees.look(waypoint.remote) == before


@pytest.mark.parametrize("withdrawn", [False, True])
def test_another_delivery_under_an_id_that_the_inbox_has_is_held_and_not_cleared(waypoint, withdrawn):
    # Seen, once the inbox had withdrawn its copy: cleared away by the receipt of the first, and the inbox did not look at it.
    first = _agent(waypoint)
    first.carry()
    waypoint.fetcher(waypoint=True).round()
    (parcel,) = waypoint.accepted()
    waypoint.inbox.write_receipt(*proof(waypoint.inbox.publish(parcel)), b"a key of the server")
    if withdrawn:
        waypoint.inbox.withdraw(parcel.delivery.id)
    other = _agent(waypoint, "test-delivery-2")
    slot = waypoint.remote / first.slot.path
    shutil.rmtree(slot)
    other.carry()
    (waypoint.remote / other.slot.path).rename(slot)
    seal = slot / "manifest.json"
    seal.write_text(seal.read_text().replace("test-delivery-2", "test-delivery-1"))
    before = trees.look(slot)

    (found,) = waypoint.fetcher(waypoint=True, clear=True).round()

    assert found.state is Progressing.HELD
    assert [finding.code for finding in found.findings] == ["delivery-id-taken"]
    assert trees.look(slot) == before


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")
def test_rsync_takes_from_a_waypoint_over_ssh(scene):
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    scene.kind = "rsync over ssh"
    errand = _agent(scene)
    errand.carry()
    fetcher = scene.fetcher(waypoint=True, clear=True)

    (found,) = fetcher.round()
    (parcel,) = scene.accepted()
    same = trees.look(parcel.root) == trees.look(Path(errand.root))
    written = scene.inbox.write_receipt(*proof(scene.inbox.publish(parcel)), b"a key of the server")
    fetcher.round()

    assert found.state is Progressing.FETCHED
    assert same
    assert errand.transport().fetch_receipt(errand.slot.delivery) == written
    assert not (scene.remote / errand.slot.data).exists()


def test_what_has_no_seal_yet_is_ignored(waypoint):
    errand = _agent(waypoint)
    errand.carry()
    seal = waypoint.remote / errand.slot.path / "manifest.json"
    content = seal.read_bytes()
    seal.unlink()
    fetcher = waypoint.fetcher(waypoint=True)

    assert fetcher.round() == []
    assert list(waypoint.inbox.arrivals()) == []

    seal.write_bytes(content)
    assert [f.state for f in fetcher.round()] == [Progressing.FETCHED]


def test_a_damaged_file_in_the_waypoint_is_carried_again_by_its_sender(waypoint):
    errand = _agent(waypoint)
    errand.carry()
    victim = waypoint.remote / errand.slot.data / "series-1" / "image-0003.dcm"
    content = victim.read_bytes()
    victim.write_bytes(b"?" * len(content))
    fetcher = waypoint.fetcher(waypoint=True)

    (found,) = fetcher.round()

    assert found.state is Progressing.WAITING
    assert "image-0003.dcm" in found.note
    assert not (waypoint.remote / errand.slot.path / "manifest.json").exists()
    errand.carry()
    assert victim.read_bytes() == content
    assert [f.state for f in fetcher.round()] == [Progressing.FETCHED]
    assert trees.look(waypoint.accepted()[0].root) == trees.look(Path(errand.root))


def test_a_file_missing_in_the_waypoint_does_not_stop_the_others(waypoint):
    broken, whole = _agent(waypoint, "test-delivery-1"), _agent(waypoint, "test-delivery-2")
    for errand in (broken, whole):
        errand.carry()
    (waypoint.remote / broken.slot.data / "series-1" / "image-0003.dcm").unlink()

    found = waypoint.fetcher(waypoint=True).round()

    assert [f.state for f in found] == [Progressing.WAITING, Progressing.FETCHED]
    assert [p.delivery.id for p in waypoint.accepted()] == [whole.slot.delivery]


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")
def test_what_an_earlier_attempt_of_rsync_left_damaged_is_copied_again(scene):
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    scene.kind = "rsync"
    errand = _agent(scene)
    errand.carry()
    slot = scene.inbox.reserve(errand.slot.delivery, 1_000_000)
    remote = scene.remote / errand.slot.data
    for right in sorted(remote.rglob("*.dcm"))[:2]:
        damaged = slot / "data" / right.relative_to(remote)
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"?" * right.stat().st_size)
        os.utime(damaged, ns=(right.stat().st_mtime_ns,) * 2)  # size and time are right, which is what rsync believes

    (found,) = scene.fetcher(waypoint=True).round()

    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(Path(errand.root))


class WithoutPapers:
    """A place, or a connection to it, whose server has the seals at hand and nothing else: a share that is coming back."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def connect(self):
        return WithoutPapers(self._real.connect())

    def look(self, path):
        return None if path.endswith(".jsonl") else self._real.look(path)


def test_what_is_held_in_a_waypoint_is_judged_anew_when_it_is_named(scene):
    # Seen: nothing that anybody could type made it go on.
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    errand = _agent(scene)
    errand.carry()

    (held,) = scene.fetcher(WithoutPapers(scene.place()), waypoint=True).round()
    (still,) = scene.fetcher(waypoint=True).round()
    (named,) = scene.fetcher(waypoint=True).round(only=errand.slot.delivery)

    assert [found.state for found in (held, still, named)] == [Progressing.HELD, Progressing.HELD, Progressing.FETCHED]
    assert trees.look(scene.accepted()[0].root) == trees.look(Path(errand.root))


def test_a_forged_seal_is_held(waypoint):
    errand = _agent(waypoint)
    errand.carry()
    seal = waypoint.remote / errand.slot.path / "manifest.json"
    seal.write_text(seal.read_text().replace("test-delivery-1", "test-delivery-9"))
    (waypoint.remote / ".lading/incoming/NOT AN ID").mkdir()

    (found,) = waypoint.fetcher(waypoint=True).round()

    assert found.state is Progressing.HELD
    assert list(waypoint.inbox.arrivals()) == []


def test_a_place_without_a_sentinel_is_no_waypoint_until_it_is_made_one(any_scene):
    scene = any_scene
    fetcher = scene.fetcher(waypoint=True)
    with pytest.raises(Unreachable):
        fetcher.round()

    made = fetcher.make_waypoint()

    assert made == fetcher.make_waypoint() == Inbox.open(scene.remote).id
    errand = _agent(scene)
    errand.transport().carry(errand.cargo(), errand.slot, errand.journal, NoProgress())
    assert [f.state for f in fetcher.round()] == [Progressing.FETCHED]
