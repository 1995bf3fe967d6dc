"""Our transports and their wrappers, each over the real thing, against the suite that third parties use too."""

import shutil
from pathlib import Path

import pytest

from lading.testing.servers import free_port, make_key, missing_for_sshd, sshd
from lading.testing.transport_suite import Site, TransportSuite

needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")


def _by_path(inbox: Path) -> dict[str, object]:
    return {"path": str(inbox)}


def _by_target(inbox: Path) -> dict[str, object]:
    return {"target": str(inbox)}


class TestLocal(TransportSuite):
    @pytest.fixture
    def site(self):
        return Site("transport.local:LocalTransport.from_settings", _by_path)


class TestRetryingLocal(TransportSuite):
    @pytest.fixture
    def site(self):
        return Site("lading.testing.wrapped:retrying_local", _by_path)


class TestThrottledLocal(TransportSuite):
    @pytest.fixture
    def site(self):
        return Site("lading.testing.wrapped:throttled_local", _by_path)


@needs_rsync
class TestRsyncOnOneMachine(TransportSuite):
    @pytest.fixture
    def site(self):
        return Site("transport.rsync:RsyncTransport.from_settings", _by_target)


@needs_rsync
class TestThrottledRsync(TransportSuite):
    @pytest.fixture
    def site(self):
        return Site("lading.testing.wrapped:throttled_rsync", _by_target)


@needs_rsync
@pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())
class TestRsyncOverSsh(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path):
        with sshd(tmp_path / "ssh d") as server:
            stranger = make_key(tmp_path / "stranger")
            wrong_host = tmp_path / "wrong-host"
            wrong_host.write_text(
                f"[127.0.0.1]:{server.port} " + " ".join(stranger.with_suffix(".pub").read_text().split()[:2]) + "\n"
            )
            nobody = tmp_path / "nobody"
            nobody.touch()
            dead = free_port()
            yield Site(
                "transport.rsync:RsyncTransport.from_settings",
                lambda inbox: {
                    "target": f"{server.user}@127.0.0.1:{inbox}",
                    "port": server.port,
                    "identity": str(server.identity),
                    "known_hosts": str(server.known_hosts),
                    "connect_timeout": 5,
                },
                denied={
                    "a key that the server does not know": {"identity": str(stranger)},
                },
                untrusted={
                    "a host key that is not the one we know": {"known_hosts": str(wrong_host)},
                    "a host that we do not know": {"known_hosts": str(nobody)},
                },
                unreachable={"nobody listens": {"port": dead, "known_hosts": str(server.trusting(dead, tmp_path))}},
                server=("127.0.0.1", server.port),
                through=lambda proxy: {
                    "port": proxy.port,
                    "known_hosts": str(server.trusting(proxy.port, tmp_path)),
                    "timeout": 5,
                },
                secrets=tuple(server.identity.read_text().splitlines()[1:-1]),
            )


@needs_rsync
@pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())
@pytest.mark.skipif(not shutil.which("rrsync"), reason="rrsync is not installed (Debian: rsync)")
class TestRsyncWithARestrictedKey(TransportSuite):
    """The key can do nothing but rsync below one folder."""

    @pytest.fixture
    def site(self, tmp_path):
        with sshd(tmp_path / "ssh", forced_command=f"{shutil.which('rrsync')} {tmp_path}") as server:
            yield Site(
                "transport.rsync:RsyncTransport.from_settings",
                lambda inbox: {
                    "target": f"{server.user}@127.0.0.1:/{inbox.relative_to(tmp_path)}",
                    "port": server.port,
                    "identity": str(server.identity),
                    "known_hosts": str(server.known_hosts),
                },
            )
