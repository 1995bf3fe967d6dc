"""S7 by the command line, its second half: the staging disk is filled by others while a delivery is on its way."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.site import inodes

MB = 1_000_000

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(disk: Path) -> Path:
    """A file of somebody else's that leaves no block free, whatever the delivery writes meanwhile."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(1 << 16))
        except OSError:
            return filler


@pytest.mark.slow
def test_s7_what_is_there_is_kept_and_it_goes_on_by_itself_when_there_is_room(make_site, small) -> None:
    site: Facility = make_site(
        inbox=str(small),
        transport=f'{{ kind = "local", path = "{small}", workers = 1, throttle = {{ mb_per_s = 5 }} }}',
        import_route="upload",
    )
    try:
        session = site.instrument / "DEMO" / "sub-001" / "MR1"
        write_series(session, 2)
        trees.write(session, {f"part-{number}.raw": trees.noise(number, 5 * MB) for number in range(8)})
        site.start_agent()
        site.until(
            lambda: len(list(small.glob(".lading/incoming/*/data/*.raw"))) >= 3, seconds=60, why="it is on its way"
        )
        filler = _fill(small)
        site.until(lambda: site.deliveries()[0]["stage"] == "HELD", seconds=60, why="the full disk is noticed")
        (held,) = site.ask("list")["deliveries"]
        (data,) = small.glob(".lading/incoming/*/data")
        kept = {path: told for path, told in inodes(data).items() if not Path(path).name.startswith(".")}

        assert re.search(r"[0-9]+ bytes", str(held["error"])), held["error"]
        assert held["next"]
        assert 3 <= len([path for path in kept if path.endswith(".raw")]) < 8
        assert not list(small.glob(".lading/incoming/*/manifest.json"))

        filler.unlink()
        site.until(lambda: site.deliveries()[0]["stage"] == "ARRIVED", seconds=150, why="it goes on, and nobody asked")
        carried = inodes(data)
        site.start_server()
        (delivery,) = site.settle(1, seconds=90)
    finally:
        site.close()

    assert {path: carried[path] for path in kept} == kept, "what was there was written again"
    assert delivery["stage"] == "VERIFIED"
    assert trees.look(small / "DEMO" / "sub-001" / "MR1") == trees.look(session)
