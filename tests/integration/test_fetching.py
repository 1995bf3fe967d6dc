"""Fetching over a real sshd: foreign folders and waypoints, from the remote tree to the accepted parcel."""

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.delivery import FileOutcome, Labels, Outcome, Receipt, Stage
from lading.errors import Corrupted, Rejected, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.seal import read_seal
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import missing_for_sshd, sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from transport.fetch_deadlines import DAY_S
from transport.fetch_ledger import Progressing
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.remote import RemotePlace
from transport.rsync_places import RsyncConfig
from transport.rsync_pull import RsyncSource
from transport.sftp import SftpConfig, SftpPlace

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())

LABELS = Labels("PROJ", "sub-001", "MR1")
SESSION = "PROJ/sub-001/MR1"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Scene:
    """A remote tree behind an sshd, an inbox here, and a fetcher between them."""

    def __init__(self, folder: Path, server) -> None:
        self.folder, self.server = folder, server
        self.remote = folder / "remote"
        self.remote.mkdir()
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.state = folder / "state"
        self.state.mkdir()
        self.clock = Clock()
        self.kind = "sftp"

    def place(self, port: int = 0, **changes: object) -> RemotePlace:
        port = port or self.server.port
        if self.kind == "rsync":
            return RsyncSource(RsyncConfig(target=str(self.remote)))
        if self.kind == "rsync over ssh":
            return RsyncSource(
                RsyncConfig(
                    target=f"{self.server.user}@127.0.0.1:{self.remote}",
                    port=port,
                    identity=self.server.identity,
                    known_hosts=self.server.trusting(port, self.folder),
                )
            )
        return SftpPlace(
            SftpConfig(
                target=f"{self.server.user}@127.0.0.1:{self.remote}",
                port=port,
                identity=self.server.identity,
                known_hosts=self.server.trusting(port, self.folder),
                **changes,
            )
        )

    def fetcher(self, place: RemotePlace | None = None, **config: object) -> Fetcher:
        config = {"quiet": 60.0} | config
        setting = Fetching(
            "partner",
            place or self.place(),
            FetchConfig(**config),
            self.inbox,
            self.state,
            algorithms=("md5",),
        )
        return Fetcher(setting, clock=self.clock)

    def settled(self, fetcher: Fetcher):
        """Two looks, far enough apart."""
        fetcher.round()
        self.clock.now += 100
        return fetcher.round()

    def accepted(self):
        return [self.inbox.accept(delivery) for delivery in list(self.inbox.arrivals())]


@pytest.fixture
def scene(tmp_path):
    with sshd(tmp_path / "ssh d") as server:
        yield Scene(tmp_path, server)


@pytest.fixture(params=["sftp", "rsync"])
def any_scene(request, scene):
    if request.param == "rsync" and not shutil.which("rsync"):
        pytest.skip("rsync is not installed (Debian: rsync)")
    scene.kind = request.param
    return scene


def test_a_remote_folder_becomes_a_delivery_after_two_quiet_looks(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()

    first = fetcher.round()
    scene.clock.now += 30
    second = fetcher.round()
    scene.clock.now += 60
    third = fetcher.round()

    assert [f.state for f in (*first, *second, *third)] == [
        Progressing.WAITING,
        Progressing.WAITING,
        Progressing.FETCHED,
    ]
    (parcel,) = scene.accepted()
    assert parcel.delivery.labels == LABELS
    assert trees.look(parcel.root) == trees.look(source)
    assert trees.times(parcel.root) == trees.times(source)
    assert parcel.manifest.summary.algorithms == ("sha256", "md5")
    assert "unverified-at-source" in {note.code for note in scene.inbox.notes(parcel.delivery.id)}


def test_what_was_fetched_is_not_fetched_again(scene):
    trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    (fetched,) = scene.settled(fetcher)

    (again,) = fetcher.round()

    assert again == fetched
    assert len(list(scene.inbox.arrivals())) == 1


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")
def test_rsync_fetches_over_ssh(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    trees.write(source, {"odd\nname ü.dcm": b"odd", ".hidden/-x": b"dash"})
    scene.kind = "rsync over ssh"

    (found,) = scene.settled(scene.fetcher())

    assert found.state is Progressing.FETCHED
    (parcel,) = scene.accepted()
    assert trees.look(parcel.root) == trees.look(source)


def test_a_growing_folder_is_waited_for(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    for _ in range(3):
        scene.clock.now += 100
        with (source / "series-0" / "image-0000.dcm").open("ab") as out:
            out.write(b"more")
        (found,) = fetcher.round()
        assert found.state is Progressing.WAITING

    (found,) = scene.settled(fetcher)

    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_conflict_copies_and_empty_files_stay_with_a_finding_and_the_rest_is_fetched(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    whole = trees.look(source)
    trees.write(
        source,
        {
            "a (conflicted copy 2026-05-04 181500).dcm": b"other version",
            "failed upload.tif": b"",
            "series-0/lock": b"",
            "Thumbs.db": b"junk",
        },
    )

    (found,) = scene.settled(scene.fetcher(empty_files=("lock",)))

    assert found.state is Progressing.FETCHED
    assert sorted((f.code, f.path) for f in found.findings) == [
        ("conflict-copy", "a (conflicted copy 2026-05-04 181500).dcm"),
        ("empty-file", "failed upload.tif"),
    ]
    (parcel,) = scene.accepted()
    assert trees.look(parcel.root).keys() == whole.keys() | {"series-0/lock"}
    assert {f.path for f in parcel.manifest.filtered()} == {
        "a (conflicted copy 2026-05-04 181500).dcm",
        "failed upload.tif",
        "Thumbs.db",
    }


def test_an_unfinished_copy_is_waited_for(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    trees.write(source, {"big.tif.part": b"half"})

    (found,) = scene.settled(scene.fetcher())

    assert found.state is Progressing.WAITING
    assert "big.tif.part" in found.note


def test_a_link_at_the_source_is_not_followed(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    secret = trees.write(scene.folder / "outside", {"secret": b"precious"})
    (source / "link").symlink_to(secret / "secret")
    (source / "folder").symlink_to(secret)

    (found,) = scene.settled(scene.fetcher())

    (parcel,) = scene.accepted()
    assert "link" not in trees.look(parcel.root)
    assert not (parcel.root / "folder").exists()
    assert {f.code for f in found.findings} == {"link-left"}


def test_only_one_folder_is_fetched_when_asked(any_scene):
    scene = any_scene
    trees.plain_tree(scene.remote / SESSION)
    trees.plain_tree(scene.remote / "PROJ/sub-002/MR1")
    fetcher = scene.fetcher(quiet=0.0)

    fetcher.round(only=SESSION)
    (found,) = fetcher.round(only=SESSION + "/")

    assert (found.path, found.state) == (SESSION, Progressing.FETCHED)
    assert [p.delivery.labels for p in scene.accepted()] == [LABELS]
    with pytest.raises(Rejected):
        fetcher.round(only="PROJ/sub-001")
    with pytest.raises(Rejected):
        fetcher.round(only="PROJ/sub-001/none")


def test_a_template_with_other_folders_chooses_the_sessions(scene):
    trees.plain_tree(scene.remote / "visits/2026_PROJ/sub-001/MR1")
    trees.plain_tree(scene.remote / "other/2026_PROJ/sub-001/MR1")

    found = scene.settled(scene.fetcher(template="visits/{_}_{project}/{participant}/{session}"))

    assert [f.path for f in found] == ["visits/2026_PROJ/sub-001/MR1"]
    assert scene.accepted()[0].delivery.labels == LABELS


def test_a_cut_in_a_big_file_is_gone_on_with_inside_the_file(scene):
    source = trees.write(scene.remote / SESSION, {"large": trees.noise(3, 30_000_000), "small": b"x"})
    with FaultProxy(("127.0.0.1", scene.server.port)) as proxy:
        fetcher = scene.fetcher(scene.place(proxy.port, timeout=5, connect_timeout=5))
        fetcher.round()
        scene.clock.now += 100
        failure: list[BaseException] = []

        def fetch() -> None:
            try:
                fetcher.round()
            except Unreachable as exc:
                failure.append(exc)

        proxy.faults.bytes_per_second = 20_000_000
        thread = threading.Thread(target=fetch)
        thread.start()
        _until(lambda: _size_of_parts(scene.inbox.root) > 10_000_000)
        proxy.cut()
        thread.join(60)
        proxy.faults.bytes_per_second = 0
        kept = _size_of_parts(scene.inbox.root)

        (found,) = fetcher.round()

    assert failure
    assert kept > 5_000_000
    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_a_delivery_that_arrived_damaged_is_fetched_again(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    (found,) = scene.settled(fetcher)
    victim = scene.inbox.root / f".lading/incoming/{found.delivery}/data/series-0/image-0000.dcm"
    victim.write_bytes(b"?" * victim.stat().st_size)
    with pytest.raises(Corrupted):
        scene.accepted()

    (again,) = fetcher.round()

    assert (again.state, again.delivery) == (Progressing.FETCHED, found.delivery)
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_a_change_after_the_fetch_is_told(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    scene.settled(fetcher)
    trees.write(source, {"late.dcm": b"late"})

    (found,) = fetcher.round()

    assert found.state is Progressing.CHANGED
    assert "changed-after-fetch" in {f.code for f in found.findings}


def test_what_vanishes_before_it_was_fetched_is_told(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    shutil.rmtree(source)

    (found,) = fetcher.round()

    assert (found.state, [f.code for f in found.findings]) == (Progressing.HELD, ["vanished-before-fetch"])


def test_a_vanished_folder_that_comes_back_is_fetched(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    source.rename(scene.folder / "away")
    fetcher.round()
    (scene.folder / "away").rename(source)

    scene.clock.now += 100
    assert [f.state for f in scene.settled(fetcher)] == [Progressing.FETCHED]


def test_what_is_held_is_judged_anew_when_it_is_named(scene):
    trees.plain_tree(scene.remote / "PROJ/sub-001/ MR1")
    (held,) = scene.settled(scene.fetcher())
    (still,) = scene.fetcher().round()
    (scene.remote / "PROJ/sub-001/ MR1").rename(scene.remote / SESSION)

    found = scene.settled(scene.fetcher())

    assert (held.state, {f.code for f in held.findings}) == (Progressing.HELD, {"label-invalid"})
    assert still == held
    assert [f.state for f in found if f.path == SESSION] == [Progressing.FETCHED]
    (again,) = scene.fetcher().round(only=SESSION)
    assert again.state is Progressing.FETCHED


def test_a_full_inbox_is_said_and_cured(scene):
    trees.plain_tree(scene.remote / SESSION)
    Inbox.create(scene.inbox.root, limits=InboxLimits(keep_free_bytes=1 << 60))
    scene.inbox = Inbox.open(scene.inbox.root)
    (full,) = scene.settled(scene.fetcher())

    Inbox.create(scene.inbox.root, limits=InboxLimits(keep_free_bytes=0))
    scene.inbox = Inbox.open(scene.inbox.root)
    (cured,) = scene.fetcher().round()

    assert (full.state, "free" in full.note) == (Progressing.FETCHING, True)
    assert cured.state is Progressing.FETCHED
    assert cured.delivery == full.delivery


def test_a_deadline_is_urgent_until_the_repository_has_the_data(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    for path in source.rglob("*"):
        if path.is_file():
            os.utime(path, (scene.clock.now - 30 * DAY_S,) * 2)
    fetcher = scene.fetcher(deadline_days=40, warn_days=5)
    scene.settled(fetcher)
    (calm,) = fetcher.standings()
    scene.clock.now += 6 * DAY_S
    (late,) = fetcher.standings()

    parcel = scene.inbox.publish(scene.accepted()[0])
    scene.inbox.write_receipt(*_proof(parcel), b"a key of the server")
    (safe,) = fetcher.standings()

    assert (calm.urgent, late.urgent, safe.urgent, safe.safe) == (False, True, False, True)
    assert late.due == pytest.approx(scene.clock.now + 4 * DAY_S, abs=3600)


def test_two_rounds_at_a_time_are_refused(scene):
    trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()

    with contextlib.closing(sqlite3.connect(scene.state / "fetch" / "partner.lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable, match="another process"):
            fetcher.round()
    fetcher.round()


# -- waypoints ---------------------------------------------------------------------------------------------------------


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
    written = waypoint.inbox.write_receipt(*_proof(published), b"a key of the server")
    fetcher.round()
    assert errand.transport().fetch_receipt(errand.slot.delivery) == written
    assert not (waypoint.remote / errand.slot.data).exists()
    before = trees.look(waypoint.remote)
    errand.carry()
    fetcher.round()
    assert trees.look(waypoint.remote) == before


def test_another_delivery_under_an_id_that_the_inbox_has_is_held_and_not_cleared(waypoint):
    first = _agent(waypoint)
    first.carry()
    waypoint.fetcher(waypoint=True).round()
    (parcel,) = waypoint.accepted()
    waypoint.inbox.write_receipt(*_proof(waypoint.inbox.publish(parcel)), b"a key of the server")
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
    written = scene.inbox.write_receipt(*_proof(scene.inbox.publish(parcel)), b"a key of the server")
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


# -- helpers -----------------------------------------------------------------------------------------------------------


def _proof(parcel) -> tuple[Receipt, list[FileOutcome]]:
    outcomes = [FileOutcome(e.path, e.size, e.sha256, Outcome.VERIFIED, "test") for e in parcel.manifest]
    receipt = Receipt(
        delivery=parcel.delivery.id,
        route="partner",
        labels=parcel.delivery.labels,
        stage=Stage.VERIFIED,
        digest=parcel.delivery.digest,
        files=parcel.delivery.files,
        bytes=parcel.delivery.bytes,
        counts={"verified": parcel.delivery.files},
        repository={"kind": "test"},
        findings=(),
        files_digest="0" * 64,
        at=datetime.now(UTC).replace(microsecond=0),
    )
    return receipt, outcomes


def _size_of_parts(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob(".in.*"))


def _until(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
