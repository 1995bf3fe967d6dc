"""Removable disks from the instrument to the staging host: pulled out, swapped, failing, and checked (scenario S20)."""

import json
import shutil
import subprocess
import sys

import pytest

from lading.delivery import DeliveryId
from lading.errors import ConfigError, Corrupted, LadingError, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.loop_disks import MAKERS, loop_disk, missing_for
from lading.testing.site import flip_a_byte
from transport.disk import DiskPlace, DiskTransport
from transport.disk_care import CHECKER, Standing, look_over, prepare_disk
from transport.fetch_ledger import Progressing
from transport.fetching import FetchConfig, Fetcher, Fetching

KINDS = sorted(MAKERS)


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.root) for kind in KINDS])
def disk(request, tmp_path):
    if missing := missing_for(request.param):
        pytest.skip(missing)
    with loop_disk(tmp_path / "disks", request.param, megabytes=64) as plugged:
        yield plugged


@pytest.fixture
def linux_disk(tmp_path):
    if missing := missing_for("ext4"):
        pytest.skip(missing)
    with loop_disk(tmp_path / "disks", "ext4", megabytes=64) as plugged:
        yield plugged


def errand_to(tmp_path, root, volume, source, name="test-delivery-1"):
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    settings = {"path": str(root), "volume": volume}
    papers = tmp_path / "papers" / name
    return Errand(
        "transport.disk:DiskTransport.from_settings", settings, str(source), str(papers), str(state), name
    ).sealed()


def source_of(tmp_path, *, files=20, size=400_000):
    return trees.plain_tree(tmp_path / "source", files=files, size=size)


class AtBytes:
    """Does something once, when so many bytes are done."""

    def __init__(self, count, do):
        self._left, self._do = count, do

    def advance(self, *, files=0, bytes=0):  # noqa: A002 - the unit is the name
        before, self._left = self._left, self._left - bytes
        if before > 0 >= self._left:
            self._do()


class WhenNoted:
    """A journal that does something once, when a key is noted."""

    def __init__(self, journal, key, do):
        self._journal, self._key, self._do, self._done = journal, key, do, False

    def recall(self, key):
        return self._journal.recall(key)

    def note(self, key, value):
        self._journal.note(key, value)
        if key == self._key and not self._done:
            self._done = True
            self._do()


def flip_on_the_medium(disk, content):
    """Damage the image below the mounted file system, which does not hear of it."""
    with disk.image.open("r+b") as image:
        whole = image.read()
        at = whole.index(content[:512]) + 100
        image.seek(at)
        image.write(bytes([whole[at] ^ 0xFF]))


def put(errand, journal=None, progress=None):
    errand.transport().carry(errand.cargo(), errand.slot, journal or errand.journal, progress or NoProgress())


@pytest.mark.root
def test_a_disk_pulled_out_at_60_percent_pauses_and_goes_on_when_that_disk_is_back(tmp_path, linux_disk):
    volume = prepare_disk(linux_disk.point).id
    source = source_of(tmp_path)
    errand = errand_to(tmp_path, linux_disk.point, volume, source)
    total = sum(size for size, _ in trees.look(source).values())

    with pytest.raises(Unreachable, match="disk removed"):
        put(errand, progress=AtBytes(total * 6 // 10, linux_disk.pull))
    assert not list(linux_disk.point.iterdir()), "it wrote below the mount point"
    with pytest.raises(Unreachable, match="disk removed"):
        put(errand)
    linux_disk.settle()

    with loop_disk(tmp_path / "other", "ext4", megabytes=16, point=linux_disk.point) as other:
        prepare_disk(other.point)
        with pytest.raises(Unreachable, match="another disk"):
            put(errand)
        assert not list((other.point / ".lading" / "incoming").iterdir())

    linux_disk.plug_in()
    place = linux_disk.point / errand.slot.data
    there = {path: path.stat().st_ino for path in place.rglob("*.dcm")}
    assert len(there) >= 8, "what had arrived is kept"
    assert next(look_over(linux_disk.point)).standing is Standing.UNFINISHED
    put(errand)

    assert trees.look(place) == trees.look(source)
    assert all(path.stat().st_ino == inode for path, inode in there.items()), "what had arrived was sent again"
    assert [one.standing for one in look_over(linux_disk.point)] == [Standing.WHOLE]


def test_when_a_carry_returns_everything_is_on_the_medium(tmp_path, disk):
    volume = prepare_disk(disk.point).id
    source = source_of(tmp_path)
    errand = errand_to(tmp_path, disk.point, volume, source)

    put(errand)
    shutil.copyfile(disk.image, tmp_path / "as it was.img")  # as if the plug was pulled now
    disk.eject()
    shutil.copyfile(tmp_path / "as it was.img", disk.image)
    disk.plug_in()

    assert trees.look(disk.point / errand.slot.data) == trees.look(source)
    assert [one.standing for one in look_over(disk.point)] == [Standing.WHOLE]


def test_what_the_medium_does_not_give_back_is_never_called_carried(tmp_path, disk):
    volume = prepare_disk(disk.point).id
    source = source_of(tmp_path, files=6)
    errand = errand_to(tmp_path, disk.point, volume, source)
    victim = sorted(source.rglob("*.dcm"))[2]
    damage = WhenNoted(errand.journal, "placing-sealed", lambda: flip_on_the_medium(disk, victim.read_bytes()))

    with pytest.raises(Corrupted) as caught:
        put(errand, journal=damage)
    assert caught.value.paths == (victim.relative_to(source).as_posix(),)
    assert next(look_over(disk.point)).standing is Standing.UNFINISHED
    put(errand)

    assert trees.look(disk.point / errand.slot.data) == trees.look(source)
    assert [one.standing for one in look_over(disk.point)] == [Standing.WHOLE]


def test_what_fails_later_is_found_by_a_look_over_the_disk(tmp_path, disk):
    source = source_of(tmp_path, files=6)
    errand = errand_to(tmp_path, disk.point, prepare_disk(disk.point).id, source)
    put(errand)
    victim = sorted(source.rglob("*.dcm"))[3]

    flip_on_the_medium(disk, victim.read_bytes())

    (found,) = look_over(disk.point)
    assert (found.standing, found.wrong) == (Standing.DAMAGED, (victim.relative_to(source).as_posix(),))


@pytest.mark.root
def test_between_two_carries_nothing_keeps_the_disk_from_being_ejected(tmp_path, linux_disk):
    errand = errand_to(tmp_path, linux_disk.point, prepare_disk(linux_disk.point).id, source_of(tmp_path, files=4))
    transport = errand.transport()
    transport.probe()
    transport.plan(errand.cargo(), errand.slot)
    transport.carry(errand.cargo(), errand.slot, errand.journal, NoProgress())
    assert transport.fetch_receipt(errand.slot.delivery) is None

    unmounted = subprocess.run(["umount", str(linux_disk.point)], check=False, capture_output=True, text=True)

    assert unmounted.returncode == 0, unmounted.stderr


class Host:
    """The staging host: an inbox, and a fetcher for disks."""

    def __init__(self, folder, root, volume, **config):
        (folder / "host").mkdir(exist_ok=True)
        self.inbox = Inbox.create(folder / "host" / "inbox", limits=InboxLimits(keep_free_bytes=0))
        place = DiskPlace.from_settings({"path": str(root), "volume": volume})
        self.now = 1_800_000_000.0
        setting = Fetching("disk", place, FetchConfig(**config), self.inbox, folder / "host")
        self.fetcher = Fetcher(setting, clock=lambda: self.now)


def test_the_staging_host_takes_sealed_deliveries_off_the_disk(tmp_path, disk):
    volume = prepare_disk(disk.point).id
    source = source_of(tmp_path)
    errand = errand_to(tmp_path, disk.point, volume, source)
    put(errand)
    (disk.point / ".lading" / "incoming" / "test-delivery-unfinished" / "data").mkdir(parents=True)
    disk.eject()
    host = Host(tmp_path, disk.point, volume, waypoint=True)
    with pytest.raises(Unreachable, match="disk removed"):
        host.fetcher.round()
    disk.plug_in()

    (found,) = host.fetcher.round()

    assert (found.path, found.state) == ("test-delivery-1", Progressing.FETCHED)
    disk.eject()  # nothing of ours keeps it
    parcel = host.inbox.accept(DeliveryId("test-delivery-1"))
    assert trees.look(parcel.root) == trees.look(source)


def test_session_folders_on_whatever_disk_somebody_brings_are_fetched(tmp_path, disk):
    session = disk.point / "PROJ" / "sub-001" / "ses-01"
    trees.write(session, {"a.dcm": b"1" * 5000, "b/c.dcm": b"2" * 70_000})
    host = Host(tmp_path, disk.point, "any", quiet=60.0)

    host.fetcher.round()
    host.now += 61
    (found,) = host.fetcher.round()

    assert found.state is Progressing.FETCHED, found
    parcel = host.inbox.accept(DeliveryId(found.delivery))
    assert trees.look(parcel.root) == trees.look(session)
    disk.eject()
    with pytest.raises(Unreachable, match="nothing is mounted"):
        host.fetcher.round()


def test_a_link_on_a_strangers_disk_leads_nowhere(tmp_path):
    secret = trees.write(tmp_path / "secret", {"key": b"precious"})
    root = tmp_path / "disk"
    root.mkdir()
    volume = prepare_disk(root).id
    errand = errand_to(tmp_path, root, volume, source_of(tmp_path, files=2))
    put(errand)
    shutil.rmtree(root / errand.slot.data)
    (root / errand.slot.data).symlink_to(secret)
    host = Host(tmp_path, root, volume, waypoint=True)

    host.fetcher.round()

    assert not list(host.inbox.arrivals())
    assert b"precious" not in b"".join(p.read_bytes() for p in host.inbox.root.rglob("*") if p.is_file())
    files = DiskPlace.from_settings({"path": str(root), "volume": volume}).connect()
    assert files.look(f"{errand.slot.data}/key") is None
    with pytest.raises(LadingError):
        list(files.read(f"{errand.slot.data}/key"))
    files.close()


def check(root, *arguments):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(root / CHECKER), *arguments], check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_checker_on_the_disk_needs_nothing_but_python(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    volume = prepare_disk(root).id
    assert check(root)[0] == 2
    source = source_of(tmp_path, files=4)
    trees.write(source, {"odd ü \\ name": b"x", "empty": b""})
    state = errand_to(tmp_path, root, volume, source)
    put(
        Errand(
            state.factory, {**state.settings, "names": "posix"}, state.root, state.papers, state.state, state.delivery
        )
    )

    assert check(root) == (0, "test-delivery-1: whole PROJ/sub-001/ses-01\n1 deliveries, 0 not whole\n")

    flip_a_byte(next((root / state.slot.data).rglob("*-0001.dcm")))
    (root / state.slot.data / "more").write_bytes(b"")
    (root / state.slot.data / "empty").unlink()
    code, said = check(root, str(root / state.slot.path))
    assert code == 1
    assert "image-0001.dcm' is damaged" in said
    assert "'more' is not listed" in said
    assert "'empty' is missing" in said
    (root / state.slot.path / "manifest.json").unlink()
    assert "UNFINISHED" in check(root)[1]


def lading(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lading", *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_the_commands_prepare_a_disk_and_say_when_it_is_safe_to_unplug(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    assert lading("disk", "check", str(root)).returncode == 3

    made = json.loads(lading("disk", "prepare", str(root), "--json").stdout)
    again = json.loads(lading("disk", "prepare", str(root), "--json").stdout)
    assert made == again
    errand = errand_to(tmp_path, root, made["volume"], source_of(tmp_path, files=4))
    put(errand)
    safe = lading("disk", "check", str(root))
    (root / errand.slot.path / "manifest.json").rename(tmp_path / "seal")
    unfinished = lading("disk", "check", str(root))
    (tmp_path / "seal").rename(root / errand.slot.path / "manifest.json")
    flip_a_byte(next((root / errand.slot.data).rglob("*.dcm")))
    damaged = lading("disk", "check", str(root))

    assert (safe.returncode, unfinished.returncode, damaged.returncode) == (0, 7, 3), damaged.stderr
    assert "safe to unplug" in safe.stdout
    assert "not safe to unplug" in unfinished.stdout
    assert "damaged" in damaged.stderr


def test_settings_that_name_no_disk_are_refused(tmp_path):
    for settings in (
        {"path": str(tmp_path)},
        {"path": str(tmp_path), "volume": ""},
        {"path": "/x", "volume": "1", "names": "x"},
    ):
        with pytest.raises(ConfigError):
            DiskTransport.from_settings(settings, state=tmp_path)


@pytest.mark.root
def test_a_disk_for_windows_is_not_given_names_that_windows_refuses(tmp_path, disk):
    errand = errand_to(tmp_path, disk.point, prepare_disk(disk.point).id, trees.write(tmp_path / "s", {"a:b": b"x"}))

    with pytest.raises(LadingError, match="cannot hold these names"):
        put(errand)
    if disk.kind != "ext4":
        settings = {**errand.settings, "names": "posix"}
        with pytest.raises(ConfigError, match="windows"):
            DiskTransport.from_settings(settings, state=tmp_path).probe()


def test_an_agent_waits_for_its_disk_and_goes_on_when_it_is_back(tmp_path):
    root, away = tmp_path / "disk", tmp_path / "in the bag"
    root.mkdir()
    volume = prepare_disk(root).id
    root.rename(away)
    root.mkdir()  # the empty mount point
    session = trees.write(tmp_path / "instrument" / "PROJ" / "sub-001" / "ses-01", {"a.dcm": b"1" * 5000})
    settings = tmp_path / "lading.toml"
    settings.write_text(
        f"""home = "{tmp_path / "home"}"
[routes.mri]
transport = {{ kind = "disk", path = "{root}", volume = "{volume}" }}
[agent]
[[agent.watch]]
path = "{tmp_path / "instrument"}"
route = "mri"
quiet = 0.2
"""
    )

    lading("--config", str(settings), "agent", "run", "--once")
    waiting = lading("--config", str(settings), "list", "--json").stdout
    assert not list(root.iterdir()), "it wrote below the mount point"
    root.rmdir()
    away.rename(root)
    lading("--config", str(settings), "retry", json.loads(waiting)["deliveries"][0]["id"])
    lading("--config", str(settings), "agent", "run", "--once")
    arrived = lading("--config", str(settings), "list", "--json").stdout

    assert "disk removed" in waiting
    assert json.loads(arrived)["deliveries"][0]["stage"] == "ARRIVED", arrived
    (slot,) = (root / ".lading" / "incoming").iterdir()
    assert trees.look(slot / "data") == trees.look(session)
    assert check(root)[0] == 0
