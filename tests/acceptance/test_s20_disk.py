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
    volume = str(site.ask("disk", "prepare", str(disk.point))["volume"])
    _configure(site, disk, volume, ", throttle = { mb_per_s = 8 }")
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 3)
    trees.write(session, {"big.raw": trees.noise(20, SIZE)})
    site.start_agent()

    site.until(lambda: _written(disk.point) > SIZE * 6 // 10, seconds=90, why="60 % are on the disk", every=0.01)
    disk.pull()
    _until_it_says(site, "disk removed")

    (paused,) = site.deliveries()
    assert paused["stage"] not in ("ARRIVED", "HELD", "REJECTED"), "it waits, and nobody needs to act"
    assert list(disk.point.iterdir()) == [], "something was written below the empty mount point"
    disk.settle()
    _refuses_another_disk(site, disk, tmp_path / "other")

    site.kill("agent")
    disk.plug_in()
    begun = {path.stat().st_ino for path in disk.point.rglob(".in.*")}
    kept = _written(disk.point)
    _checks(site, disk, 7, "not safe to unplug")
    _configure(site, disk, volume)
    site.start_agent()
    site.until(
        lambda: site.deliveries()[0]["stage"] == "ARRIVED", seconds=120, why="the rest is on the disk", every=0.3
    )

    assert kept > SIZE // 2, "what had arrived was kept"
    (big,) = disk.point.glob(".lading/incoming/*/data/big.raw")
    assert big.stat().st_ino in begun, "it went on inside the file"
    _checks(site, disk, 0, "safe to unplug")
    disk.eject()
    disk.plug_in()
    _is_fetched_and_verified(site)
    assert trees.look(site.inbox / "DEMO" / "sub-001" / "MR1") == trees.look(session)
    assert site.ask("receipt", str(paused["id"]))["proves_all"]


def _configure(site: Facility, disk, volume: str, more: str = "") -> None:
    """The agent carries to the disk, and the server fetches from it. `more`: of the transport."""
    fetch = f'[routes.mri.fetch]\nkind = "disk"\npath = "{disk.point}"\nvolume = "{volume}"\nnames = "posix"\n'
    site.configure(
        transport=_transport(disk.point, volume, more),
        more=f"{fetch}waypoint = true\nclear = true\nevery = 0\nquiet = 0\n",
    )


def _until_it_says(site: Facility, words: str) -> None:
    site.until(lambda: any(words in str(d["error"]) for d in site.deliveries()), seconds=90, why=f"it says {words!r}")


def _refuses_another_disk(site: Facility, disk, folder: Path) -> None:
    """One that is prepared as well, and plugged in at the same place."""
    with loop_disk(folder, "ext4", megabytes=16, point=disk.point) as other:
        site.ask("disk", "prepare", str(other.point))
        _until_it_says(site, "another disk")
        assert _written(other.point) == 0
        other.eject()


def _checks(site: Facility, disk, code: int, words: str) -> None:
    """What `lading disk check` says of it."""
    said = site.run("disk", "check", str(disk.point))
    assert said.returncode == code, said.stdout + said.stderr
    assert words in said.stdout


def _is_fetched_and_verified(site: Facility) -> None:
    fetched = site.ask("fetch", "mri", "--wait", "--timeout", "60")
    assert [folder["state"] for folder in fetched["folders"]] == ["fetched"]
    site.start_server()
    site.until(
        lambda: site.ask("fetch", "mri")["folders"] != [] and _is_verified(site), seconds=120, why="verified", every=0.5
    )


def _is_verified(site: Facility) -> bool:
    return [d["stage"] for d in site.deliveries()] == ["VERIFIED"]
