"""SFTP over a real sshd, against the suite that every transport must pass."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing.servers import free_port, make_key, missing_for_sshd, sshd
from lading.testing.transport_suite import Site, TransportSuite

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


@contextlib.contextmanager
def _site(tmp_path: Path, **more: object) -> Iterator[Site]:
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
            "transport.sftp:SftpTransport.from_settings",
            lambda inbox: {
                "target": f"{server.user}@127.0.0.1:{inbox}",
                "port": server.port,
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
                **more,
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
                "connect_timeout": 5,
            },
            secrets=tuple(server.identity.read_text().splitlines()[1:-1]),
        )


class TestSftp(TransportSuite):
    """OpenSSH's client encrypts."""

    @pytest.fixture
    def site(self, tmp_path):
        with _site(tmp_path) as site:
            yield site


@pytest.mark.slow
class TestSftpByTheLibrary(TransportSuite):
    """The library encrypts, as where no client is installed."""

    @pytest.fixture
    def site(self, tmp_path):
        pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
        with _site(tmp_path, ssh="") as site:
            yield site
