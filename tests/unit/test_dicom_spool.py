"""What becomes of received studies: one that cannot be published must not hold up the others."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed (extra: dicom)")

from lading.testing.dicom import new_study, write_dicom
from transport.dicom_headers import read_header, read_identity
from transport.dicom_settings import ReceiveConfig
from transport.dicom_spool import Published, Sender, Spool

SENDER = Sender("SCANNER", "LADING")
# A sequence that never ends. Nobody looks so far behind the identity of an image until its study is published.
_TRUNCATED = struct.pack("<HH2sHL", 0x0028, 0x1010, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\x64\x00\x00\x00cut off"


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        config = ReceiveConfig(folder=folder, projects={"LADING": "DEMO"}, session="MR1", quiet=1.0)
        self.spool = Spool(config, lambda: self.now)
        self.spool.start()
        self._number = 0

    def receive(self, participant: str, *, truncated: bool = False, study: str = "") -> None:
        """One image comes over an association of its own, which ends well."""
        arrived = self.spool.arriving / f"{self._number}"
        header = {"PatientID": participant, "NumberOfStudyRelatedInstances": "1"}
        write_dicom(arrived, study=study or new_study(), series=new_study(), header=header)
        if truncated:
            content = arrived.read_bytes()
            arrived.write_bytes(content[: content.index(b"\x28\x00\x02\x00")] + _TRUNCATED)
        self._number += 1
        self.spool.keep(arrived, read_identity(arrived), SENDER, self._number)
        self.spool.ended(self._number, released=True)

    def publish(self) -> list[Published]:
        self.now += 10.0
        return list(self.spool.publish_complete())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "received")


def test_a_study_that_cannot_be_read_waits_for_a_person_and_holds_up_no_other(site: Site) -> None:
    site.receive("sub-001", truncated=True)
    site.receive("sub-002")

    published = site.publish()

    assert [one.labels is None for one in published] == [True, False]
    assert "cannot be read" in published[0].reason
    assert len(list(published[0].folder.glob("*.dcm"))) == 1
    assert len(list((site.folder / "DEMO" / "sub-002" / "MR1").glob("*.dcm"))) == 1
    assert site.publish() == []


def test_the_labels_come_from_an_image_that_can_be_read(site: Site) -> None:
    study = new_study()
    for truncated in (True, True, False, True):
        site.receive("sub-001", truncated=truncated, study=study)

    (published,) = site.publish()

    images = list((site.folder / "DEMO" / "sub-001" / "MR1").glob("*.dcm"))
    assert published.labels is not None
    assert len(images) == 4
    with pytest.raises(ValueError, match="not DICOM that can be read"):
        [read_header(image) for image in images]


def test_a_study_whose_place_is_taken_by_a_file_holds_up_no_other_and_goes_later(site: Site) -> None:
    (site.folder / "DEMO").mkdir()
    (site.folder / "DEMO" / "sub-001").write_bytes(b"somebody's file")
    site.receive("sub-001")
    site.receive("sub-002")
    done = []

    site.now += 10.0
    with pytest.raises(OSError, match="DEMO"):
        done.extend(str(one.labels) for one in site.spool.publish_complete())
    (site.folder / "DEMO" / "sub-001").unlink()
    later = site.publish()

    assert done == ["DEMO/sub-002/MR1"]
    assert [str(one.labels) for one in later] == ["DEMO/sub-001/MR1"]


def test_an_image_of_another_patient_is_not_filed_under_the_first_ones_name(site: Site) -> None:
    study = new_study()
    for participant in ("sub-001", "sub-001", "sub-002"):
        site.receive(participant, study=study)

    (published,) = site.publish()

    assert published.labels is None
    assert "several patients, sub-001, sub-002" in published.reason
    assert len(list(published.folder.glob("*.dcm"))) == 3
    assert not (site.folder / "DEMO").exists()


def test_what_a_restart_finds_of_several_patients_is_not_one_participants_either(site: Site, tmp_path: Path) -> None:
    study = new_study()
    for participant in ("sub-001", "sub-002"):
        site.receive(participant, study=study)

    for _ in range(2):  # as it came in, and out of the unmatched ones
        again = Site(tmp_path / "received")
        again.now += 10_000
        (published,) = again.publish()
        assert published.labels is None
        assert published.images == 2


def test_an_image_without_a_patient_does_not_part_its_study(site: Site) -> None:
    study = new_study()
    site.receive("sub-001", study=study)
    site.receive("", study=study)
    site.receive("", study=study)

    (published,) = site.publish()

    assert published.images == 3
    assert published.labels is None or published.labels.participant == "sub-001"


@pytest.mark.parametrize("damage", [lambda note: note.write_bytes(b""), lambda note: note.unlink()])
@pytest.mark.parametrize("kind", ["receiving", "unmatched"])
def test_a_lost_note_hides_no_image_that_was_acknowledged(
    tmp_path: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    site = Site(tmp_path / "received")
    site.receive("sub-001" if kind == "receiving" else "")
    if kind == "unmatched":
        site.publish()
    (note,) = (site.folder / ".dicom" / kind).glob("*.json")
    damage(note)

    again = Site(tmp_path / "received")
    again.now += 10_000
    (published,) = again.publish()

    assert published.labels is None
    assert len(list(published.folder.glob("*.dcm"))) == 1
    assert published.folder.with_suffix(".json").is_file()


def test_a_study_whose_note_was_lost_goes_on_when_its_sender_does(tmp_path: Path) -> None:
    site, study = Site(tmp_path / "received"), new_study()
    site.receive("sub-001", study=study)
    (note,) = (site.folder / ".dicom" / "receiving").glob("*.json")
    note.write_bytes(b"")

    again = Site(tmp_path / "received")
    again.receive("sub-001", study=study)
    again.now += 10_000
    (published,) = again.publish()

    assert (str(published.labels), published.images) == ("DEMO/sub-001/MR1", 2)


def test_a_late_image_does_not_leave_through_a_link(site: Site, tmp_path: Path) -> None:
    study, place, elsewhere = new_study(), site.folder / "DEMO" / "sub-001" / "MR1", tmp_path / "elsewhere"
    site.receive("sub-001", study=study)
    site.publish()
    elsewhere.mkdir()
    place.rename(tmp_path / "before")
    place.symlink_to(elsewhere)

    site.receive("sub-001", study=study)
    with pytest.raises(FileExistsError):
        site.publish()
    assert list(elsewhere.iterdir()) == []

    place.unlink()
    (published,) = site.publish()
    assert published.images == 1
