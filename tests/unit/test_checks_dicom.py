"""The DICOM check holds a session for every reason a person would, and names the files."""

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from lading.checks import SHOWN
from lading.checks.dicom import DicomCheck
from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.errors import ConfigError, Corrupted
from lading.findings import Finding, Severity, refuses, skips
from lading.manifest import make

STUDY, OTHER_STUDY = generate_uid(), generate_uid()


class Scanner:
    """Writes sessions of real MR objects as a scanner would."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "data"
        self._papers = folder / "papers"
        self.root.mkdir()
        self._papers.mkdir()
        self._series: dict[tuple[str, int], str] = {}

    def image(self, name: str, number: int, *, study: str = STUDY, series: int = 1, **values: object) -> Path:
        data = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
        data.StudyInstanceUID, data.SeriesNumber, data.InstanceNumber = study, series, number
        data.SeriesInstanceUID = self._series.setdefault((study, series), generate_uid())
        data.SOPInstanceUID = generate_uid()
        data.PatientID, data.StudyDescription, data.StudyDate = "sub-001", "PROJ1", "20260504"
        for key, value in values.items():
            setattr(data, key, value)
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path)
        return path

    def images(self, count: int, **values: object) -> None:
        for number in range(1, count + 1):
            self.image(f"{values.get('series', 1)}-{number:03d}.dcm", number, **values)

    def parcel(self) -> Parcel:
        delivery = Delivery(new_delivery_id(), "mri", Labels("PROJ1", "sub-001", "ses-01"))
        return Parcel(delivery, self.root, make(self.root, self._papers), published=False)

    def checked(self, **settings: object) -> list[Finding]:
        return list(DicomCheck.from_settings(settings).check(self.parcel()))


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path)


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_a_clean_session_with_companions_has_no_findings(scanner):
    scanner.images(5)
    scanner.images(3, series=2)
    (scanner.root / "physio.log").write_text("1 2 3")
    (scanner.root / "protocol.pdf").write_bytes(b"%PDF-1.7")

    assert scanner.checked(required=True, patient_id="{participant}", study_description="{project}") == []


@pytest.fixture
def bad_session(scanner) -> Scanner:
    """Twenty good images, and three bad ones."""
    scanner.images(20)
    whole = scanner.image("truncated.dcm", 21).read_bytes()
    (scanner.root / "truncated.dcm").write_bytes(whole[:-3000])
    (scanner.root / "notes.dcm").write_text("not an image at all")
    scanner.image("stranger.dcm", 1, study=OTHER_STUDY, PatientID="sub-077")
    return scanner


def test_three_bad_files_hold_the_session_and_all_three_are_named(bad_session):
    findings = bad_session.checked()

    assert refuses(findings)
    assert {f.path: f.code for f in findings if f.path} == {
        "truncated.dcm": "dicom-truncated",
        "notes.dcm": "not-dicom-named-dcm",
    }
    (studies,) = [f for f in findings if f.code == "two-studies-in-session"]
    assert "stranger.dcm" in studies.message
    assert skips(findings) == {}


def test_three_bad_files_can_be_left_out_instead(bad_session):
    findings = bad_session.checked(on_bad_file="skip", other_study="skip", patient_id="{participant}")

    assert not refuses(findings)
    assert set(skips(findings)) == {"truncated.dcm", "notes.dcm", "stranger.dcm"}
    assert "bytes of pixel data are missing" in skips(findings)["truncated.dcm"]


def test_a_file_that_is_left_out_counts_neither_as_a_study_nor_as_a_gap(scanner):
    for number in (2, 3):
        scanner.image(f"{number}.dcm", number)
    for name, number, study in (("1.dcm", 1, STUDY), ("4.dcm", 4, STUDY), ("other.dcm", 1, OTHER_STUDY)):
        path = scanner.image(name, number, study=study)
        path.write_bytes(path.read_bytes()[:-3000])
    scanner.image("last.dcm", 5)

    findings = scanner.checked(on_bad_file="skip", missing_instances="reject")

    assert codes(findings) == ["dicom-truncated"] * 3
    assert not refuses(findings)


def test_two_studies_are_refused_with_both_described(scanner):
    scanner.images(2)
    scanner.images(3, study=OTHER_STUDY, series=7, StudyDate="20260511", StudyDescription="Knee")

    (finding,) = scanner.checked(other_study="skip")  # nobody can say which of the two was meant

    assert finding.code == "two-studies-in-session"
    assert finding.severity is Severity.ERROR
    for part in (STUDY, OTHER_STUDY, "2026-05-04", "2026-05-11", "Knee", "3 files", "2 files", "7-001.dcm"):
        assert part in finding.message


def test_the_same_object_twice_is_a_warning_but_two_versions_of_it_are_refused(scanner):
    scanner.images(2)
    original = scanner.image("original.dcm", 3, SOPInstanceUID="1.2.3.4")
    (scanner.root / "copy.dcm").write_bytes(original.read_bytes())

    (finding,) = scanner.checked()
    assert (finding.code, finding.severity) == ("duplicate-sop-instance", Severity.WARNING)

    scanner.image("version.dcm", 3, SOPInstanceUID="1.2.3.4", PatientComments="edited")
    (finding,) = scanner.checked()
    assert (finding.code, finding.severity) == ("duplicate-sop-instance", Severity.ERROR)
    assert "1.2.3.4" in finding.message


@pytest.mark.parametrize(
    ("policy", "severity"), [("warn", Severity.WARNING), ("reject", Severity.ERROR), ("ignore", None)]
)
def test_missing_instances_are_listed(policy, severity, scanner):
    for number in (1, 2, 5, 6, 8):
        scanner.image(f"{number}.dcm", number)

    findings = scanner.checked(missing_instances=policy)

    assert [f.severity for f in findings] == ([severity] if severity else [])
    assert all("lacks 3: 3-4, 7" in f.message for f in findings)


def test_a_series_with_its_own_numbering_has_no_gaps(scanner):
    scanner.image("a.dcm", 4001)
    scanner.image("b.dcm", 4002)

    assert scanner.checked() == []


def test_headers_are_compared_with_labels_as_xnat_would_write_them(scanner):
    scanner.image("a.dcm", 1, PatientID="SUB 001", StudyDescription="Group^PROJ1")
    fitting = {"patient_id": "sub_001", "study_description": "*{project}"}

    assert scanner.checked(**fitting) == []
    (finding,) = scanner.checked(patient_id="{participant}")
    assert (finding.code, finding.severity, finding.path) == ("patient-mismatch", Severity.ERROR, "a.dcm")
    assert "'SUB 001'" in finding.message
    assert "'sub-001'" in finding.message
    (finding,) = scanner.checked(study_description="{project}", study_description_mismatch="warn")
    assert (finding.code, finding.severity) == ("study-description-mismatch", Severity.WARNING)
    assert scanner.checked(patient_id="{participant}", patient_mismatch="ignore") == []


def test_a_patients_name_is_compared_but_never_repeated(scanner):
    scanner.image("a.dcm", 1, PatientName="Doe^Jane")

    (finding,) = scanner.checked(patient_name="{participant}")

    assert finding.code == "patient-mismatch"
    assert "Doe" not in str(finding)


def test_two_patients_in_one_study_are_pointed_out(scanner):
    scanner.image("a.dcm", 1)
    scanner.image("b.dcm", 2, PatientID="sub-002")

    (finding,) = scanner.checked()

    assert (finding.code, finding.severity) == ("two-patients-in-session", Severity.WARNING)


def test_a_route_may_require_dicom(scanner):
    (scanner.root / "physio.log").write_text("1 2 3")

    assert scanner.checked() == []
    assert codes(scanner.checked(required=True)) == ["no-dicom"]


def test_a_session_of_nothing_but_bad_files_is_never_left_to_the_importer(scanner):
    (scanner.root / "a.dcm").write_text("no")

    findings = scanner.checked(on_bad_file="skip")

    assert codes(findings) == ["not-dicom-named-dcm", "no-dicom"]
    assert refuses(findings)


def test_an_object_without_identity_is_bad(scanner):
    scanner.images(2)
    scanner.image("anonymous.dcm", 3, StudyInstanceUID="")

    (finding,) = scanner.checked()

    assert (finding.code, finding.path) == ("dicom-uid-missing", "anonymous.dcm")
    assert "StudyInstanceUID" in finding.message


def test_many_findings_of_a_kind_are_counted_but_every_file_left_out_is_named(scanner):
    scanner.image("good.dcm", 1)
    for number in range(SHOWN + 10):
        (scanner.root / f"{number}.dcm").write_text("no")

    held, left = scanner.checked(), scanner.checked(on_bad_file="skip")

    assert len(held) == SHOWN + 1
    assert held[-1].message == "… and 10 more like these"
    assert len(skips(left)) == SHOWN + 10


def test_the_check_changes_nothing_and_may_run_again(scanner):
    scanner.images(3)
    parcel = scanner.parcel()
    check = DicomCheck.from_settings({})
    before = {path: path.read_bytes() for path in scanner.root.rglob("*")}

    assert list(check.check(parcel)) == list(check.check(parcel))
    assert {path: path.read_bytes() for path in scanner.root.rglob("*")} == before


def test_a_vanished_file_is_not_a_finding(scanner):
    scanner.images(2)
    parcel = scanner.parcel()
    (scanner.root / "1-002.dcm").unlink()

    with pytest.raises(Corrupted):
        list(DicomCheck.from_settings({}).check(parcel))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_bad_file": "hodl"}, "on_bad_file = 'hodl' is none of hold, skip; did you mean 'hold'"),
        ({"patient_id": "{particpant}"}, "did you mean '{participant}'"),
        ({"missing_instances": "refuse"}, "is none of ignore, warn, reject"),
        ({"patientid": "x"}, "did you mean 'patient_id'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        DicomCheck.from_settings(settings)


def test_without_pydicom_the_error_says_what_to_install():
    script = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from lading.checks.dicom import DicomCheck\n"
        "from lading.errors import ConfigError\n"
        "try: DicomCheck.from_settings({}, where='routes.mri.checks.dicom')\n"
        "except ConfigError as exc: print(exc.message, '|', exc.next_command)\n"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert said.startswith("routes.mri.checks.dicom")
    assert "pip install 'lading[dicom]'" in said
