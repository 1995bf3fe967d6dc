"""The FTPS transport over real FTP servers, against the suite of all transports."""

from dataclasses import replace

import pytest

from lading.testing import trees
from lading.testing.certificates import certificates
from lading.testing.ftp_servers import OTHER_ADDRESS, missing_for_ftp_servers, proftpd, vsftpd
from lading.testing.servers import free_port
from lading.testing.site import Desk, Site
from lading.testing.transport_suite import TransportSuite

needs_servers = pytest.mark.skipif(bool(missing_for_ftp_servers()), reason=missing_for_ftp_servers())


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"), OTHER_ADDRESS)


def _site(server, tls, folder, denied, **settings):
    """A site where the `server` serves `folder`."""
    return Site(
        "transport.ftps:FtpsTransport.from_settings",
        lambda inbox: {
            "url": f"ftps://127.0.0.1:{server.port}{server.root}/{inbox.relative_to(folder).as_posix()}",
            "user": server.user,
            "password": f"file:{server.password_file}",
            "ca": str(tls.ca),
            "timeout": 20,
            **settings,
        },
        denied=denied,
        untrusted={"a CA that did not sign the certificate": {"ca": str(tls.other_ca)}},
        unreachable={"nobody listens": {"url": f"ftps://127.0.0.1:{free_port()}/desk/inbox"}},
        server=("127.0.0.1", server.port),
        # Only a site's own inbox is ever reached through a proxy.
        through=lambda proxy: {
            "url": f"ftps://{server.through(proxy)}{server.root}/desk/inbox",
            "timeout": 4,
            "connect_timeout": 4,
        },
        secrets=(server.password,),
        stricter={"FTP speaks UTF-8 (RFC 2640); these two servers do not insist": frozenset({b"latin-1 \xfc.dcm"})},
    )


def _proftpd_site(server, tls, folder):
    return _site(server, tls, folder, {"a wrong password": {"password": f"file:{server.wrong_password_file}"}})


@needs_servers
class TestFtpsInShort:
    """What the default suite runs of the whole."""

    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with proftpd(tmp_path_factory.mktemp("proftpd"), tmp_path, tls) as server:
            yield _proftpd_site(server, tls, tmp_path)

    @pytest.fixture
    def desk(self, tmp_path, site):
        (tmp_path / "desk").mkdir()
        return Desk(tmp_path / "desk", site)

    test_every_file_arrives = TransportSuite.test_every_file_arrives_with_its_papers_and_is_accepted
    test_times_arrive = TransportSuite.test_times_arrive
    test_only_the_damaged_file_is_sent_again = TransportSuite.test_only_the_damaged_file_is_sent_again
    test_a_cut_connection_can_be_finished = TransportSuite.test_a_cut_connection_is_unreachable_and_can_be_finished
    test_a_stalled_line_is_unreachable = TransportSuite.test_a_stalled_line_is_unreachable
    test_the_wrong_ca = TransportSuite.test_a_server_that_cannot_prove_who_it_is_gets_nothing
    test_a_half_open_line = TransportSuite.test_a_line_that_only_we_still_believe_in_is_given_up_and_can_be_finished
    test_access_denied_soon = TransportSuite.test_whoever_is_refused_hears_access_denied_soon


class FtpsSuite(TransportSuite):
    """The suite, but for what FTP cannot say."""

    def test_what_an_earlier_attempt_left_does_not_stay(self, desk):
        """Without a line break in a name: see tests/integration/test_ftps.py."""
        source = desk.plain()
        errand = desk.errand(source).sealed()
        errand.carry()
        left = ("series-0/.image-0000.dcm.Xy12Ab", ".in.0123456789ab", "stale folder/deep er/ [x]*?", " -x", "ü")
        trees.write(desk.data(errand), dict.fromkeys(left, b"stale"))
        (source / "series-1" / "image-0001.dcm").unlink()
        (source / "series-1" / "image-0003.dcm").write_bytes(b"changed")

        errand.sealed().carry()

        assert trees.look(desk.data(errand)) == trees.look(source)
        desk.inbox.accept(errand.slot.delivery)


@needs_servers
@pytest.mark.slow
class TestFtpsOverProftpd(FtpsSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with proftpd(tmp_path_factory.mktemp("proftpd"), tmp_path, tls) as server:
            yield _proftpd_site(server, tls, tmp_path)


@needs_servers
@pytest.mark.slow
class TestFtpsOverVsftpd(FtpsSuite):
    """No times, no checksums, listings for people, and a TLS session that must be continued."""

    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with vsftpd(tmp_path_factory.mktemp("vsftpd"), tmp_path, tls) as server:
            yield _site(server, tls, tmp_path, {}, keep_times=False)


@needs_servers
@pytest.mark.slow
class TestFtpsWithTwoProcesses(FtpsSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with proftpd(tmp_path_factory.mktemp("proftpd"), tmp_path, tls) as server:
            yield replace(_proftpd_site(server, tls, tmp_path), factory="lading.testing.two_handed:Ftps.from_settings")
