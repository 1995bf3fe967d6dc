"""The expected-files rules count what a delivery holds."""

from pathlib import Path

import pytest

from lading.checks.expected import ExpectedFilesCheck
from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.errors import ConfigError
from lading.manifest import make


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    root, papers = tmp_path / "data", tmp_path / "papers"
    for name in (
        "func/run1.nii.gz",
        "func/run1.json",
        "func/run2.nii.gz",
        "dicom/1.dcm",
        "dicom/2.DCM",
        "tools/Setup.EXE",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 100)
    papers.mkdir()
    delivery = Delivery(new_delivery_id(), "mri", Labels("PROJ1", "sub-001", "ses-01"))
    return Parcel(delivery, root, make(root, papers), published=False)


def found(parcel: Parcel, **settings: object) -> list[tuple[str, str]]:
    return [(f.code, f.path) for f in ExpectedFilesCheck.from_settings(settings).check(parcel)]


def test_without_settings_anything_goes(parcel):
    assert found(parcel) == []


def test_counts_per_pattern_ignore_case_and_folder(parcel):
    assert found(parcel, counts=[{"glob": "*.dcm", "min": 2, "max": 2}, {"glob": "func/*.json"}]) == []
    assert found(parcel, counts=[{"glob": "*.dcm", "min": 3}]) == [("files-too-few", "")]
    assert found(parcel, counts=[{"glob": "*.dcm", "max": 1}]) == [("files-too-many", "")]
    assert found(parcel, counts=[{"glob": "*.edf"}]) == [("files-too-few", "")]


def test_two_rules_with_one_pattern_count_each_file_once(parcel):
    assert found(parcel, counts=[{"glob": "*.dcm", "min": 3}, {"glob": "*.dcm", "max": 4}]) == [("files-too-few", "")]
    assert found(parcel, counts=[{"glob": "*.dcm"}, {"glob": "*.dcm", "max": 3}]) == []


def test_a_missing_companion_is_named_by_the_file_that_lacks_it(parcel):
    rules = [{"suffix": ".nii.gz", "needs": ".json"}]

    assert found(parcel, companions=rules) == [("companion-missing", "func/run2.nii.gz")]


def test_forbidden_files_are_refused(parcel):
    assert found(parcel, forbidden=["*.exe"]) == [("file-forbidden", "tools/Setup.EXE")]


def test_totals_are_bounded(parcel):
    assert found(parcel, min_files=7) == [("files-too-few", "")]
    assert found(parcel, max_files=5) == [("files-too-many", "")]
    assert found(parcel, min_bytes=601) == [("delivery-too-small", "")]


def test_wrong_settings_are_named(parcel):
    with pytest.raises(ConfigError, match="did you mean 'glob'"):
        found(parcel, counts=[{"globb": "*.dcm"}])
    with pytest.raises(ConfigError, match="max = 1 is less than min = 2"):
        found(parcel, counts=[{"glob": "*", "min": 2, "max": 1}])
