"""The robocopy transport with a stand-in for robocopy.exe: everything but that program is the real thing."""

import fcntl
import os
import time

import pytest

from lading.testing import robocopy_double, trees
from lading.testing.transport_suite import Site, TransportSuite

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in is for systems without robocopy")


class TestRobocopy(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path):
        (tmp_path / "bin").mkdir()
        program = str(robocopy_double.install(tmp_path / "bin", "ja"))
        return Site(
            "transport.robocopy:RobocopyTransport.from_settings",
            lambda inbox: {"path": str(inbox), "program": program, "retries": 1, "wait": 0},
        )

    def test_nothing_is_seen_while_it_copies_and_a_killed_copy_is_finished(self, desk):
        source = desk.plain(files=10, size=100_000)
        trees.write(source, {"zz/held": trees.noise(5, 1_000_000)})
        errand = desk.errand(source, {"retries": 6000, "wait": 1}).sealed()
        slot = desk.inbox.root / errand.slot.path
        with (source / "zz" / "held").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # it is copied for as long as we like
            process = errand.start()
            deadline = time.monotonic() + 120
            while not (slot / ".in.robocopy" / "zz" / "held").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            seen = [path for path in desk.data(errand).rglob("*") if path.is_file()]
            process.kill()
            process.communicate()

        assert not seen
        assert not desk.is_sealed(errand)
        errand.carry()
        assert trees.look(desk.data(errand)) == trees.look(source)
        desk.inbox.accept(errand.slot.delivery)
