"""S20 by the command line: a USB disk is pulled out while the agent writes to it, and plugged in again."""

from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.loop_disks import loop_disk, missing_for

MB = 1_000_000
SIZE = 30 * MB


@pytest.fixture
def disk(tmp_path):
    if missing := missing_for("ext4"):
        pytest.skip(missing)
    with loop_disk(tmp_path / "disks", "ext4", megabytes=250) as plugged:
        yield plugged


def _transport(point: Path, volume: str, more: str = "") -> str:
    return f'{{ kind = "disk", path = "{point}", volume = "{volume}", names = "posix"{more} }}'


def _written(point: Path) -> int:
    """Bytes in the slots of the disk; 0 while it is being pulled out."""
    total = 0
    for path in (point / ".lading" / "incoming").rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            return 0
    return total


@pytest.mark.root
def test_s20_a_disk_that_is_pulled_out_pauses_the_delivery_until_the_same_disk_is_back(
    make_site, disk, tmp_path
) -> None:
    site: Facility = make_site()
    volume = site.ask("disk", "prepare", str(disk.point))["volume"]
    fetch = f'[routes.mri.fetch]\nkind = "disk"\npath = "{disk.point}"\nvolume = "{volume}"\nnames = "posix"\n'
    more = f"{fetch}waypoint = true\nclear = true\nevery = 0\nquiet = 0\n"
    slowly = _transport(disk.point, str(volume), ", throttle = { mb_per_s = 8 }")
    site.configure(transport=slowly, more=more)
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 3)
    trees.write(session, {"big.raw": trees.noise(20, SIZE)})
    site.start_agent()

    site.until(lambda: _written(disk.point) > SIZE * 6 // 10, seconds=90, why="60 % are on the disk", every=0.01)
    disk.pull()
    site.until(
        lambda: any("disk removed" in str(d["error"]) for d in site.deliveries()), seconds=90, why="the agent noticed"
    )

    (paused,) = site.deliveries()
    assert paused["stage"] not in ("ARRIVED", "HELD", "REJECTED"), "it waits, and nobody needs to act"
    assert list(disk.point.iterdir()) == [], "something was written below the empty mount point"
    disk.settle()

    with loop_disk(tmp_path / "other", "ext4", megabytes=16, point=disk.point) as other:
        site.ask("disk", "prepare", str(other.point))
        site.until(
            lambda: any("another disk" in str(d["error"]) for d in site.deliveries()),
            seconds=90,
            why="the other disk is refused",
        )
        assert _written(other.point) == 0
        other.eject()

    site.kill("agent")
    disk.plug_in()
    early = site.run("disk", "check", str(disk.point))
    kept = _written(disk.point)
    begun = {path.stat().st_ino for path in disk.point.rglob(".in.*")}
    site.configure(transport=_transport(disk.point, str(volume)), more=more)
    site.start_agent()
    site.until(
        lambda: site.deliveries()[0]["stage"] == "ARRIVED", seconds=120, why="the rest is on the disk", every=0.3
    )
    safe = site.run("disk", "check", str(disk.point))

    assert early.returncode == 7, early.stdout
    assert "not safe to unplug" in early.stdout
    assert kept > SIZE // 2, "what had arrived was kept"
    (big,) = disk.point.glob(".lading/incoming/*/data/big.raw")
    assert big.stat().st_ino in begun, "it went on inside the file"
    assert safe.returncode == 0, safe.stdout + safe.stderr
    assert "safe to unplug" in safe.stdout
    disk.eject()
    disk.plug_in()

    fetched = site.ask("fetch", "mri", "--wait", "--timeout", "60")
    assert [folder["state"] for folder in fetched["folders"]] == ["fetched"]
    site.start_server()
    site.until(
        lambda: site.ask("fetch", "mri")["folders"] != [] and _is_verified(site), seconds=120, why="verified", every=0.5
    )
    assert trees.look(site.inbox / "DEMO" / "sub-001" / "MR1") == trees.look(session)
    assert site.ask("receipt", str(paused["id"]))["proves_all"]


def _is_verified(site: Facility) -> bool:
    return [d["stage"] for d in site.deliveries()] == ["VERIFIED"]
