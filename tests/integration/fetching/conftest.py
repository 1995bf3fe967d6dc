"""A remote tree behind a real sshd, by each way that fetches from there."""

import shutil

import pytest

from lading.testing.servers import sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import Scene


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
