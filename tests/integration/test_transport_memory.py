"""Memory is flat in the number of files: 20,000 tiny files take no more than 500 do."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing.peaks import peak_of
from lading.testing.servers import missing_for_sshd, sshd
from lading.testing.site import Desk, Site

FEW, MANY = 500, 20_000
ROOM_KIB = 8 << 10
"""What 19,500 files more may take: an allocator does not give back what it had once, and never twice the same."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.name != "posix", reason="Windows does not say what a process came to"),
]


@contextlib.contextmanager
def _local(place: Path, served: Path) -> Iterator[Site]:
    yield Site("transport.local:LocalTransport.from_settings", lambda inbox: {"path": str(inbox)})


@contextlib.contextmanager
def _over_ssh(place: Path, served: Path, factory: str) -> Iterator[Site]:
    with sshd(place / "ssh") as server:
        yield Site(
            factory,
            lambda inbox: {
                "target": f"{server.user}@127.0.0.1:{inbox}",
                "port": server.port,
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
        )


@contextlib.contextmanager
def _rsync(place: Path, served: Path) -> Iterator[Site]:
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed (Debian: rsync)")
    _need(missing_for_sshd())
    with _over_ssh(place, served, "transport.rsync:RsyncTransport.from_settings") as site:
        yield site


def _need(missing: str) -> None:
    if missing:
        pytest.skip(missing)


def _tiny(root: Path, count: int) -> Path:
    for number in range(count):
        folder = root / f"{number // 1000:03}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:06}.dat").write_bytes(b"%d" % number)
    return root


@pytest.mark.parametrize("family", [_local, _rsync], ids=lambda f: f.__name__[1:])
def test_twenty_thousand_files_take_no_more_memory_than_five_hundred(family, tmp_path, tmp_path_factory) -> None:
    served = tmp_path / "desk"
    served.mkdir()
    with family(tmp_path_factory.mktemp("servers"), served) as site:
        desk = Desk(served, site)
        few = peak_of(desk.errand(_tiny(tmp_path / "few", FEW)).sealed())
        whole = desk.errand(_tiny(tmp_path / "many", MANY)).sealed()
        many = peak_of(whole)

    assert sum(len(names) for _, _, names in os.walk(desk.data(whole))) == MANY
    assert many - few < ROOM_KIB, f"{FEW} files: {few} KiB, {MANY} files: {many} KiB"
