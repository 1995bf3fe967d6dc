"""The S3 transport over OpenStack Swift, against the suite of all transports."""

import itertools

import pytest

from lading.errors import OutOfSpace
from lading.testing.certificates import certificates
from lading.testing.servers import free_port
from lading.testing.site import Site, not_for
from lading.testing.swift_server import missing_for_swift, swift_with_back_door
from lading.testing.swift_view import SwiftView
from lading.testing.transport_suite import TransportSuite

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def swift(tmp_path_factory, tls):
    with swift_with_back_door(tmp_path_factory.mktemp("swift"), tls) as server:
        yield server


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_swift()), reason=missing_for_swift())
class TestS3OverSwift(TransportSuite):
    """In plain http, so that what is damaged on the way is for Swift to notice and not for TLS."""

    @pytest.fixture
    def view(self, swift):
        view = SwiftView(swift.back_door, f"bucket-{next(_numbers)}")
        with view.shown():
            yield view

    @pytest.fixture
    def site(self, tmp_path, swift, tls, view):
        s3 = swift.s3

        def reach(inbox):
            prefix = inbox.relative_to(tmp_path).as_posix()
            view.show(prefix, inbox)
            return {
                "endpoint": s3.endpoint,
                "bucket": view.bucket,
                "prefix": prefix,
                "access_key": s3.access_key,
                "secret_key": f"file:{s3.secret_file}",
                "addressing": "path",
                "part_mib": 5,
                "parts_at_once": 2,
            }

        return Site(
            "lading.testing.swift_view:LookedAtS3.from_settings",
            reach,
            denied={
                "a wrong secret": {"secret_key": f"file:{s3.wrong_secret_file}"},
                "a user that is not known": {"access_key": "test:nobody"},
            },
            untrusted={
                "a CA that did not sign the certificate": {
                    "endpoint": f"https://127.0.0.1:{swift.tls_port}",
                    "ca": str(tls.other_ca),
                },
            },
            unreachable={"nobody listens": {"endpoint": f"http://127.0.0.1:{free_port()}"}},
            server=("127.0.0.1", s3.port),
            through=lambda proxy: {
                "endpoint": f"http://127.0.0.1:{proxy.port}",
                "timeout": 10,
                "connect_timeout": 10,
                "tries": 1,
            },
            secrets=(s3.secret,),
            look=view.look,
            unseen=view.unseen,
        )

    @not_for("a bucket holds no links")
    def test_a_link_in_the_slot_is_not_followed(self):
        """Said as a skip: an empty test would count as a proof."""

    def test_a_full_disk_is_out_of_space_with_figures_and_can_be_cured(self, desk, view):
        """A bucket has a quota instead of a disk, and Swift does not say how much of it is left."""
        errand = desk.errand(desk.plain(files=40, size=500_000)).sealed()
        view.allow(8_000_000)

        with pytest.raises(OutOfSpace, match="quota"):
            errand.carry()

        assert not desk.is_sealed(errand)
        view.allow(64_000_000)
        errand.carry()
        desk.inbox.accept(errand.slot.delivery)
