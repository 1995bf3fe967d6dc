"""The rsync transport over a real rsync daemon, plain on loopback and inside TLS, against the shared suite."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from lading.errors import ConfigError
from lading.testing.rsyncd import USER, rsyncd, tls_before
from lading.testing.servers import free_port
from lading.testing.site import Site
from lading.testing.transport_suite import TransportSuite
from transport.rsync import RsyncTransport

FACTORY = "transport.rsync:RsyncTransport.from_settings"
LOGIN = "LADING_TEST_RSYNCD"

pytestmark = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


class TestRsyncDaemon(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        with rsyncd(tmp_path / "daemon", tmp_path) as daemon:
            login = private(tmp_path / "login", daemon.password + "\n")
            wrong = private(tmp_path / "wrong", "not it\n")

            def reach(inbox: Path) -> dict[str, object]:
                path = inbox.relative_to(tmp_path)
                return {"target": f"rsync://{USER}@127.0.0.1:{daemon.port}/inbox/{path}", "password": f"file:{login}"}

            def elsewhere(port: int) -> dict[str, object]:
                return {"target": f"rsync://{USER}@127.0.0.1:{port}/inbox/desk/inbox", "timeout": 5}

            yield Site(
                FACTORY,
                reach,
                denied={
                    "a wrong password": {"password": f"file:{wrong}"},
                    "a module that is not there": {"target": f"rsync://{USER}@127.0.0.1:{daemon.port}/other/inbox"},
                },
                unreachable={"nobody listens": elsewhere(free_port())},
                server=("127.0.0.1", daemon.port),
                through=lambda proxy: elsewhere(proxy.port),
                secrets=(daemon.password,),
            )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("stunnel4"), reason="stunnel4 is not installed (Debian: stunnel4)")
class TestRsyncDaemonInTls(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path: Path) -> Iterator[Site]:
        ours, foreign = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        foreign.cert_pem.write_to_path(str(tmp_path / "foreign.pem"))
        certificate = private(tmp_path / "server.pem", "")
        ours.issue_cert("staging.example").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        with (
            rsyncd(tmp_path / "daemon", tmp_path) as daemon,
            tls_before(daemon.port, tmp_path / "tls", certificate) as port,
        ):
            login = private(tmp_path / "login", daemon.password + "\n")

            def elsewhere(port: int) -> dict[str, object]:
                return {"target": f"rsyncs://{USER}@127.0.0.1:{port}/inbox/desk/inbox", "timeout": 5}

            yield Site(
                FACTORY,
                lambda inbox: {
                    "target": f"rsyncs://{USER}@127.0.0.1:{port}/inbox/{inbox.relative_to(tmp_path)}",
                    "password": f"file:{login}",
                    "ca_file": str(tmp_path / "ca.pem"),
                    "server_name": "staging.example",
                },
                untrusted={
                    "a CA that we do not trust": {"ca_file": str(tmp_path / "foreign.pem")},
                    "a certificate of another host": {"server_name": "other.example"},
                },
                unreachable={"nobody listens": elsewhere(free_port())},
                server=("127.0.0.1", port),
                through=lambda proxy: elsewhere(proxy.port),
                secrets=(daemon.password,),
            )


@pytest.mark.parametrize(
    "target",
    [
        "rsync://staging.example/inbox/main",  # everybody on the way could read it
        "rsyncs://user:secret@staging.example/inbox/main",
        "rsyncs://staging.example/",
        "rsyncs://staging.example/inbox/../etc",
        "rsyncs://-oProxyCommand=x/inbox/main",
        "rsyncs://staging.example:99999/inbox/main",
    ],
)
def test_a_daemon_that_is_not_safe_to_use_is_refused_when_the_settings_are_read(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        RsyncTransport.from_settings({"target": target}, state=tmp_path)

    assert "secret" not in str(refused.value)


def test_a_missing_password_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    os.environ.pop(LOGIN, None)
    transport = RsyncTransport.from_settings(
        {"target": f"rsync://{USER}@127.0.0.1:{free_port()}/inbox/main", "password": f"env:{LOGIN}"}, state=tmp_path
    )

    with pytest.raises(Exception, match=f"{LOGIN} is not set"):
        transport.probe()
