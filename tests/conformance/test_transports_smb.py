"""The SMB transport over a real Samba server, against the suite of all transports."""

import pytest

from lading.testing.naming import OF_WINDOWS
from lading.testing.servers import free_port
from lading.testing.site import Desk, Site
from lading.testing.smb_server import missing_for_smbd, smbd
from lading.testing.transport_suite import TransportSuite

needs_smbd = pytest.mark.skipif(bool(missing_for_smbd()), reason=missing_for_smbd())


def _site(server, folder, **settings):
    """A site where Samba serves `folder`."""
    return Site(
        "transport.smb:SmbTransport.from_settings",
        lambda inbox: {
            "share": f"//127.0.0.1/inbox/{inbox.relative_to(folder).as_posix()}",
            "port": server.port,
            "user": server.user,
            "password": f"file:{server.password_file}",
            "timeout": 20,
            **settings,
        },
        denied={
            "a wrong password": {"password": f"file:{server.wrong_password_file}"},
            "a user that is not known": {"user": "nobody-of-that-name"},
        },
        unreachable={"nobody listens": {"port": free_port()}},
        server=("127.0.0.1", server.port),
        through=lambda proxy: {"port": proxy.port, "timeout": 5, "connect_timeout": 5},
        secrets=(server.password,),
        stricter={"Windows refuses or changes it, Samba does not": OF_WINDOWS},
    )


@needs_smbd
class TestSmbInShort:
    """What the default suite runs of the whole."""

    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory):
        with smbd(tmp_path_factory.mktemp("samba"), tmp_path) as server:
            yield _site(server, tmp_path)

    @pytest.fixture
    def desk(self, tmp_path, site):
        (tmp_path / "desk").mkdir()
        return Desk(tmp_path / "desk", site)

    test_every_file_arrives = TransportSuite.test_every_file_arrives_with_its_papers_and_is_accepted
    test_times_arrive = TransportSuite.test_times_arrive
    test_only_the_damaged_file_is_sent_again = TransportSuite.test_only_the_damaged_file_is_sent_again
    test_a_cut_connection_can_be_finished = TransportSuite.test_a_cut_connection_is_unreachable_and_can_be_finished
    test_a_stalled_line_is_unreachable = TransportSuite.test_a_stalled_line_is_unreachable
    test_a_half_open_line = TransportSuite.test_a_line_that_only_we_still_believe_in_is_given_up_and_can_be_finished
    test_access_denied_soon = TransportSuite.test_whoever_is_refused_hears_access_denied_soon


@needs_smbd
@pytest.mark.slow
class TestSmbEncrypted(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory):
        with smbd(tmp_path_factory.mktemp("samba"), tmp_path) as server:
            yield _site(server, tmp_path)


@needs_smbd
@pytest.mark.slow
class TestSmbSigned(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory):
        with smbd(tmp_path_factory.mktemp("samba"), tmp_path, protection="smb encrypt = off") as server:
            yield _site(server, tmp_path, encrypt=False)
