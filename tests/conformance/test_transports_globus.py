"""Globus, over the stand-in that the unmodified globus-sdk takes for it, against the suite that every transport must pass."""

import pytest

from lading.testing.servers import free_port
from lading.testing.transport_suite import Desk, Site, TransportSuite

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.testing.globus_stand_in import SECRET, globus, settings_for


class TestGlobus(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path):
        wrong = tmp_path / "wrong-secret"
        wrong.write_text("not-the-secret\n")
        wrong.chmod(0o600)
        with globus(tmp_path, tmp_path) as server:
            dead = f"http://127.0.0.1:{free_port()}/"
            account = settings_for(server, tmp_path, tmp_path)["account"]
            yield Site(
                "transport.globus:GlobusTransport.from_settings",
                lambda inbox: settings_for(server, tmp_path, inbox),
                denied={"a secret that Globus does not know": {"account": {**account, "secret": f"file:{wrong}"}}},
                unreachable={"nobody listens": {"account": {**account, "auth_url": dead, "transfer_url": dead}}},
                secrets=(SECRET,),
            )

    @pytest.mark.slow
    def test_a_killed_carry_is_finished_by_the_next(self, desk: Desk) -> None:
        """Slow: nothing is visible to be killed at. What a kill leaves with Globus is told in tests/integration/test_globus.py."""
        super().test_a_killed_carry_is_finished_by_the_next(desk)
