"""(c) The whole DICOM check of 5,000 files against a plain loop of `pydicom.dcmread(stop_before_pixels=True)`.

    python bench/dicom_check.py [--files 5000] [--rounds 5] [--folder FOLDER]

The files are pydicom's own CT and MR with new UIDs and numbers, their images enlarged to 512 x 512 (sparse: neither
side reads pixels). Both sides run in turn over a warm cache; the median of the ratios counts. The check's time includes the
manifest being read, studies, series and duplicates being compared and the findings being made.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydicom import FileDataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from lading.checks.dicom import DicomCheck
from lading.delivery import Delivery, Labels, Parcel, new_delivery_id
from lading.manifest import Manifest, make

TARGET = 5.0
SIDE = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put the files (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        parcel = make_parcel(Path(folder), arguments.files)
        return compare(parcel, arguments.rounds)


def compare(parcel: Parcel, rounds: int) -> int:
    files = [parcel.root / entry.path for entry in parcel.manifest]
    check = DicomCheck.from_settings({"required": True, "patient_id": "{participant}"})
    plain_loop(files)  # warms the cache and the imports

    ratios = []
    for number in range(1, rounds + 1):
        plain = timed(lambda: plain_loop(files))
        ours = timed(lambda: expect_clean(check, parcel))
        ratios.append(plain / ours)
        print(
            f"round {number}: pydicom loop {len(files) / plain:8,.0f} files/s   "
            f"lading check {len(files) / ours:8,.0f} files/s   {plain / ours:5.1f} x"
        )
    ratio = statistics.median(ratios)
    print(f"(c) DICOM check of {len(files):,} files: {ratio:.1f} x as fast as the plain loop (wanted: {TARGET:.0f} x)")
    return 0 if ratio >= TARGET else 1


def plain_loop(files: list[Path]) -> int:
    studies = set()
    for file in files:
        studies.add(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    return len(studies)


def expect_clean(check: DicomCheck, parcel: Parcel) -> None:
    findings = list(check.check(parcel))
    if findings:
        sys.exit(f"the check should find nothing: {findings[:3]}")


def timed(action: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def make_parcel(folder: Path, count: int) -> Parcel:
    root = folder / "session"
    study = generate_uid()
    for number, name in enumerate(("CT_small.dcm", "MR_small.dcm"), start=1):
        series = root / f"{number}"
        series.mkdir(parents=True)
        data = dcmread(get_testdata_file(name))
        data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber = study, generate_uid(), number
        data.PatientID = "sub-001"
        data.Rows = data.Columns = SIDE
        data.PixelData = b""
        if "DataSetTrailingPadding" in data:
            del data.DataSetTrailingPadding
        for instance in range(1, count // 2 + 1):
            data.InstanceNumber = instance
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            write_sparse(data, series / f"{instance:05d}.dcm")
    papers = folder / "papers"
    papers.mkdir()
    make(root, papers)
    delivery = Delivery(new_delivery_id(), "bench", Labels("PROJ1", "sub-001", "ses-01"))
    return Parcel(delivery, root, Manifest.open(papers), published=False)


def write_sparse(data: FileDataset, path: Path) -> None:
    """Writes the object with the pixel data as a hole of the right length."""
    size = SIDE * SIDE * 2
    data.save_as(path)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(size.to_bytes(4, "little"))
        file.truncate(file.tell() + size)


if __name__ == "__main__":
    sys.exit(main())
