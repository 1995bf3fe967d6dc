"""Removable disks against the suite that every transport must pass: in a folder, and on real file systems in image files."""

import pytest

from lading.testing.loop_disks import loop_disk, missing_for, name_it
from lading.testing.naming import FORBIDDEN_ON_WINDOWS, OF_WINDOWS
from lading.testing.site import Desk, Site, not_for
from lading.testing.transport_suite import TransportSuite

VOLUME = "0123456789abcdef"


def site_of(names, stricter=frozenset()):
    def reach(inbox):
        name_it(inbox, VOLUME)
        return {"path": str(inbox), "volume": VOLUME, "names": names}

    return Site(
        "transport.disk:DiskTransport.from_settings",
        reach,
        unreachable={"another disk is plugged in": {"volume": "fedcba9876543210"}},
        stricter={"Windows refuses or changes it, this driver does not": stricter},
    )


class TestDisk(TransportSuite):
    """In a folder that stands for the disk."""

    @pytest.fixture
    def site(self):
        return site_of("posix")


class OnARealDisk(TransportSuite):
    kind = "ext4"
    names = "windows"
    stricter = OF_WINDOWS

    @pytest.fixture
    def site(self):
        return site_of(self.names, self.stricter)

    @pytest.fixture
    def desk(self, tmp_path, site):
        if missing := missing_for(self.kind):
            pytest.skip(missing)
        folder = tmp_path / "desk"
        folder.mkdir()
        (folder / "inbox").mkdir()
        with loop_disk(tmp_path / "images", self.kind, megabytes=300, point=folder / "inbox"):
            yield Desk(folder, site)

    @not_for("4 GiB are written to the folder of TestDisk; an image of that size is not worth its time")
    def test_a_file_over_4_gib_arrives(self):
        """See TestDisk."""


@pytest.mark.slow
@pytest.mark.root
class TestDiskWithExt4(OnARealDisk):
    kind = "ext4"
    names = "posix"
    stricter = frozenset()


@pytest.mark.slow
@pytest.mark.root
class TestDiskWithExFat(OnARealDisk):
    kind = "exfat"

    @not_for("exFAT has no links")
    def test_a_link_in_the_slot_is_not_followed(self):
        """See the others."""

    @not_for("exFAT refuses the name with a newline that this test writes into the slot")
    def test_what_an_earlier_attempt_left_does_not_stay(self):
        """See the others."""

    @not_for("an inbox that is served keeps a stub by a hard link, which exFAT has not; a disk is a waypoint")
    def test_a_delivery_that_the_inbox_took_is_left_alone(self):
        """See the others, and test_disk.py for what a fetch takes."""


@pytest.mark.slow
@pytest.mark.root
class TestDiskWithNtfs(OnARealDisk):
    kind = "ntfs"
    stricter = FORBIDDEN_ON_WINDOWS | {b"*[a-z]?{b,c}~", b"carriage\rreturn", b"new\nline", b"tab\there"}
