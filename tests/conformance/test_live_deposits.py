"""Filling a deposit folder while others read it: every transport that can, over the real thing."""

import shutil

import pytest

from lading.testing.certificates import certificates
from lading.testing.dav_servers import apache_dav, missing_for_apache
from lading.testing.ftp_servers import OTHER_ADDRESS, missing_for_ftp_servers, proftpd
from lading.testing.live_suite import DepositSuite
from lading.testing.s3_servers import rclone, rclone_s3
from lading.testing.servers import missing_for_sshd, sshd
from lading.testing.site import Site
from lading.testing.smb_server import missing_for_smbd, smbd

needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")
needs_sshd = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


def _ssh_site(server, folder, factory):
    return Site(
        factory,
        lambda inbox: {
            "target": f"{server.user}@127.0.0.1:{inbox}",
            "port": server.port,
            "identity": str(server.identity),
            "known_hosts": str(server.known_hosts),
        },
        server=("127.0.0.1", server.port),
        through=lambda proxy: {
            "port": proxy.port,
            "known_hosts": str(server.trusting(proxy.port, folder)),
            "timeout": 5,
            "connect_timeout": 5,
        },
    )


class TestLocal(DepositSuite):
    @pytest.fixture
    def site(self):
        return Site("transport.local:LocalTransport.from_settings", lambda inbox: {"path": str(inbox)})


class TestThrottledLocal(DepositSuite):
    @pytest.fixture
    def site(self):
        return Site("lading.testing.wrapped:throttled_local", lambda inbox: {"path": str(inbox)})


class _RsyncSuite(DepositSuite):
    leftover = ".movie.mrc.Xy12Ab"

    def _perhaps_damaged(self, place):
        """rsync believes equal sizes and times; what was damaged since is found by the reading back."""
        return []


@needs_rsync
class TestRsyncOnOneMachine(_RsyncSuite):
    @pytest.fixture
    def site(self):
        return Site("transport.rsync:RsyncTransport.from_settings", lambda inbox: {"target": str(inbox)})


@needs_rsync
@needs_sshd
class TestRsyncOverSsh(_RsyncSuite):
    @pytest.fixture
    def site(self, tmp_path):
        with sshd(tmp_path / "ssh d") as server:
            yield _ssh_site(server, tmp_path, "transport.rsync:RsyncTransport.from_settings")


@needs_sshd
class TestSftp(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path):
        with sshd(tmp_path / "ssh d") as server:
            yield _ssh_site(server, tmp_path, "transport.sftp:SftpTransport.from_settings")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"), OTHER_ADDRESS)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_smbd()), reason=missing_for_smbd())
class TestSmb(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory):
        with smbd(tmp_path_factory.mktemp("smbd"), tmp_path) as server:
            yield Site(
                "transport.smb:SmbTransport.from_settings",
                lambda inbox: {
                    "share": f"//127.0.0.1/inbox/{inbox.relative_to(tmp_path).as_posix()}",
                    "port": server.port,
                    "user": server.user,
                    "password": f"file:{server.password_file}",
                    "timeout": 20,
                },
                server=("127.0.0.1", server.port),
                through=lambda proxy: {"port": proxy.port, "timeout": 5, "connect_timeout": 5},
            )


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_ftp_servers()), reason=missing_for_ftp_servers())
class TestFtps(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with proftpd(tmp_path_factory.mktemp("proftpd"), tmp_path, tls) as server:
            yield Site(
                "transport.ftps:FtpsTransport.from_settings",
                lambda inbox: {
                    "url": f"ftps://127.0.0.1:{server.port}{server.root}/{inbox.relative_to(tmp_path).as_posix()}",
                    "user": server.user,
                    "password": f"file:{server.password_file}",
                    "ca": str(tls.ca),
                    "timeout": 20,
                },
                server=("127.0.0.1", server.port),
                through=lambda proxy: {
                    "url": f"ftps://{server.through(proxy)}{server.root}/desk/inbox",
                    "timeout": 4,
                    "connect_timeout": 4,
                },
            )


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_apache()), reason=missing_for_apache())
class TestWebdav(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with apache_dav(tmp_path_factory.mktemp("apache"), tmp_path, tls) as server:

            def at(port):
                return f"{server.url.replace(str(server.port), str(port))}/desk/inbox"

            yield Site(
                "transport.webdav:WebdavTransport.from_settings",
                lambda inbox: {
                    "url": f"{server.url}/{inbox.relative_to(tmp_path).as_posix()}",
                    "user": server.user,
                    "password": f"file:{server.password_file}",
                    "ca": str(tls.ca),
                    "timeout": 15,
                },
                server=("127.0.0.1", server.port),
                through=lambda proxy: {"url": at(proxy.port), "timeout": 5, "connect_timeout": 5},
            )


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone is not installed (pip install 'lading[dev]')")
class TestS3(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with rclone_s3(tmp_path_factory.mktemp("rclone"), tmp_path.parent, tls=tls) as server:
            yield Site(
                "transport.s3:S3Transport.from_settings",
                lambda inbox: {
                    "endpoint": server.endpoint,
                    "bucket": tmp_path.name,
                    "prefix": inbox.relative_to(tmp_path).as_posix(),
                    "access_key": server.access_key,
                    "secret_key": f"file:{server.secret_file}",
                    "ca": str(tls.ca),
                    "addressing": "path",
                    "part_mib": 5,
                },
                server=("127.0.0.1", server.port),
                through=lambda proxy: {
                    "endpoint": f"https://127.0.0.1:{proxy.port}",
                    "timeout": 5,
                    "connect_timeout": 5,
                    "tries": 1,
                },
            )
