"""DICOM files for tests: tiny ones made from nothing, and real ones (pydicom's MR test image) with new identifiers."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def write_dicom(
    path: Path,
    *,
    study: str,
    series: str,
    instance: int = 1,
    sop_class: str = MR_IMAGE,
    modality: str = "MR",
    series_number: int = 1,
    header: Mapping[str, str] | None = None,
) -> str:
    """Writes one 4 x 4 image of 16 bits; answers its SOPInstanceUID. ``header`` sets or replaces elements by keyword."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = UID(sop_class)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.StudyInstanceUID, image.SeriesInstanceUID = study, series
    image.PatientID, image.PatientName = "sub-001_ses-01", "sub-001"
    image.StudyDate, image.StudyDescription = "20240101", "brain"
    image.Modality, image.SeriesDescription = modality, "T1w"
    image.SeriesNumber, image.InstanceNumber = series_number, instance
    image.Rows = image.Columns = 4
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = instance.to_bytes(2, "little") * 16
    image["PixelData"].VR = "OW"
    for keyword, value in (header or {}).items():
        setattr(image, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return str(image.SOPInstanceUID)


def write_session(folder: Path, images: int = 3, *, header: Mapping[str, str] | None = None) -> list[str]:
    """One new study with one series, ``0001.dcm`` and so on; answers the SOPInstanceUIDs."""
    study, series = generate_uid(), generate_uid()
    return [
        write_dicom(folder / f"{number:04}.dcm", study=study, series=series, instance=number, header=header)
        for number in range(1, images + 1)
    ]


def new_study() -> str:
    """A fresh StudyInstanceUID."""
    return str(generate_uid())


def write_series(
    folder: Path,
    count: int = 3,
    *,
    study: str | None = None,
    number: int = 1,
    participant: str = "sub-001",
    session: str = "MR1",
    description: str = "T1w",
) -> list[Path]:
    """`count` images of one series as `folder`/0001.dcm and on; returns their paths. 9.6 kB each."""
    folder.mkdir(parents=True, exist_ok=True)
    study = study or new_study()
    series = str(generate_uid())
    paths = []
    for instance in range(1, count + 1):
        image = _real_image()
        image.StudyInstanceUID, image.SeriesInstanceUID = UID(study), UID(series)
        image.SOPInstanceUID = generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesNumber, image.InstanceNumber = number, instance
        image.PatientID, image.PatientName = session, participant
        image.SeriesDescription = description
        path = folder / f"{instance:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def read_uid(path: Path) -> str:
    """The SOPInstanceUID of an image, by pydicom."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


@cache
def _real_path() -> str:
    path = get_testdata_file("MR_small.dcm", download=False)
    if not isinstance(path, str):
        raise RuntimeError("pydicom is installed without its test images; install it from its wheel")  # noqa: TRY004 - not a type of ours
    return path


def _real_image() -> FileDataset:
    return pydicom.dcmread(_real_path())
