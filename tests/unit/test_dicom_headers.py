"""The fast header reader says what pydicom says, or lets pydicom speak."""

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path

import psutil
import pydicom
import pytest
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from lading.checks.dicom_headers import Companion, DicomUnreadable, Header, Problem, read_header
from lading.checks.dicom_scan import scan
from lading.errors import Corrupted

FILES = sorted(path for path in map(Path, get_testdata_files()) if path.is_file())
TEXTS = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
    "modality": "Modality",
}
NUMBERS = {
    "series_number": "SeriesNumber",
    "instance_number": "InstanceNumber",
    "rows": "Rows",
    "columns": "Columns",
    "samples_per_pixel": "SamplesPerPixel",
    "bits_allocated": "BitsAllocated",
}
# What a person sees when looking at pydicom's files one by one.
NO_OBJECT = {"README", "README.txt", "DICOMDIR"}
CUT_SHORT = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
WITHOUT_PIXELS = "TINY_ALPHA"  # CT objects from which somebody took the pixel data

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def said_by_pydicom(path: Path, *, force: bool = False) -> dict[str, str | int | None]:
    data = pydicom.dcmread(path, force=force)
    said: dict[str, str | int | None] = {
        name: str(data.get(keyword) if data.get(keyword) is not None else "") for name, keyword in TEXTS.items()
    }
    for name, keyword in NUMBERS.items():
        value = data.get(keyword)
        said[name] = None if value is None or value == "" else int(value)
    said["transfer_syntax"] = str(data.file_meta.get("TransferSyntaxUID", ""))
    return said


def said_by_us(header: Header) -> dict[str, str | int | None]:
    return {name: getattr(header, name) for name in (*TEXTS, *NUMBERS, "transfer_syntax")}


def example(path: Path, syntax: str = ExplicitVRLittleEndian, **values: object) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Rows, data.Columns, data.BitsAllocated, data.SamplesPerPixel = 8, 8, 16, 1
    data.PixelData = bytes(128)
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_reads_as_pydicom_reads_it(path):
    header = read_header(path)

    if path.name.startswith("DICOMDIR") or path.suffix in {".json", ".dump", ".gz", ".icc", ".txt"}:
        assert header is None
        return
    if header is None:  # neither preamble nor a beginning that could be a data set
        assert path.read_bytes()[128:132] != b"DICM"
        assert path.name in {"no_meta.dcm", *NO_OBJECT}
        return
    assert said_by_us(header) == said_by_pydicom(path, force=path.read_bytes()[128:132] != b"DICM")
    assert header.truncated == (path.name in CUT_SHORT or WITHOUT_PIXELS in path.parts), header.shortfall


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "image_dfl.dcm"]
)
def test_a_file_cut_anywhere_is_never_taken_for_whole(name, tmp_path):
    whole = Path(get_testdata_file(name)).read_bytes()
    pixels_end = len(whole) - trailing_bytes(name)
    cut = tmp_path / "cut.dcm"

    for length in sorted({*range(0, min(pixels_end, 4000), 7), *range(4000, pixels_end, 997), pixels_end - 1}):
        cut.write_bytes(whole[:length])
        try:
            header = read_header(cut)
        except DicomUnreadable:
            continue
        named = header and header.sop_instance_uid and header.study_instance_uid and header.series_instance_uid
        assert not named or header.truncated, f"cut to {length} of {len(whole)} bytes"


def data_set_start(whole: bytes) -> int:
    start = 132
    while whole[start : start + 2] == b"\x02\x00":
        long = whole[start + 4 : start + 6] in (b"OB", b"UN")
        length = int.from_bytes(whole[start + 8 : start + 12] if long else whole[start + 6 : start + 8], "little")
        start += (12 if long else 8) + length
    return start


def trailing_bytes(name: str) -> int:
    """What follows the pixel data, and may be missing: padding."""
    if name == "image_dfl.dcm":
        whole = Path(get_testdata_file(name)).read_bytes()
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(whole[data_set_start(whole) :])
        return len(inflater.unused_data)
    data = pydicom.dcmread(get_testdata_file(name))
    padding = data.get("DataSetTrailingPadding")
    if padding is None:
        return 0
    return len(padding) + 12 if not data.original_encoding[0] else len(padding) + 8


def test_damaged_headers_read_as_pydicom_reads_them_or_not_at_all(tmp_path):
    random_numbers = random.Random(20261120)
    damaged = tmp_path / "damaged.dcm"
    compared = 0
    for name in ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "test-SR.dcm", "rtplan.dcm"):
        whole = Path(get_testdata_file(name)).read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for _ in range(random_numbers.randint(1, 3)):
                content[random_numbers.randrange(132, min(len(content), 3000))] = random_numbers.randrange(256)
            damaged.write_bytes(content)
            try:
                header = read_header(damaged)
                said = said_by_pydicom(damaged)
            except Exception:  # noqa: BLE001 - whatever pydicom makes of rubbish
                continue
            if header is not None and not header.truncated:
                assert said_by_us(header) == said
                compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jürgen"), ("ISO_IR 192", "Ångström^山田"), ("ISO_IR 144", "Иванов^Иван")],
)
def test_names_are_decoded_by_their_character_set(charset, name, tmp_path):
    path = example(tmp_path / "a.dcm", SpecificCharacterSet=charset, PatientName=name, StudyDescription=name)

    header = read_header(path)

    assert (header.patient_name, header.study_description) == (name, name)


def test_japanese_names_read_as_pydicom_reads_them(tmp_path):
    path = tmp_path / "a.dcm"
    raw = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    example(path, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=pydicom.valuerep.PersonName(raw))

    assert read_header(path).patient_name == str(pydicom.dcmread(path).PatientName)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_sequences_of_undefined_length_are_stepped_over(syntax, tmp_path):
    inner = Dataset()
    inner.PatientID = "not this one"
    middle = Dataset()
    middle.ReferencedImageSequence = Sequence([inner, inner])
    for sequence in (middle["ReferencedImageSequence"],):
        sequence.is_undefined_length = True
    path = tmp_path / "a.dcm"
    data = Dataset()
    data.ReferencedStudySequence = Sequence([middle])
    data["ReferencedStudySequence"].is_undefined_length = True
    example(path, syntax, ReferencedStudySequence=data.ReferencedStudySequence, PatientID="P1")

    assert read_header(path).patient_id == "P1"


def test_a_header_costs_no_pixels(tmp_path):
    path = example(tmp_path / "big.dcm", NumberOfFrames=60_000, Rows=256, Columns=256)
    size = 60_000 * 256 * 256 * 2 // 2  # the header promises twice as much
    with path.open("r+b") as file:
        file.seek(-132, os.SEEK_END)
        file.write((size & 0xFFFFFFFF).to_bytes(4, "little"))
        file.truncate(file.tell() + size)

    start = time.process_time()  # not the clock on the wall: others may have the processor meanwhile
    header = read_header(path)

    assert time.process_time() - start < 0.5
    assert "promises 7,864,320,000 bytes" in header.shortfall


def test_compressed_pixel_data_must_come_to_their_end(tmp_path):
    whole = Path(get_testdata_file("JPEG2000.dcm")).read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(whole)
    assert not read_header(path).truncated

    path.write_bytes(whole[:-8])

    assert "no end" in read_header(path).shortfall


def test_a_deflated_bomb_is_refused_without_inflating_it(tmp_path):
    whole = Path(get_testdata_file("image_dfl.dcm")).read_bytes()
    start = data_set_start(whole)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = BytesIO()
    for _ in range(1100):
        bomb.write(packer.compress(bytes(1 << 20)))
    path = tmp_path / "bomb.dcm"
    path.write_bytes(whole[:start] + bomb.getvalue() + packer.flush())
    before = psutil.Process().memory_info().rss

    with pytest.raises(DicomUnreadable, match="GiB"):
        read_header(path)

    assert psutil.Process().memory_info().rss - before < 50 << 20


def test_a_companion_is_no_dicom_and_rubbish_behind_the_mark_is_unreadable(tmp_path):
    (tmp_path / "physio.log").write_text("1 2 3\n" * 1000)
    (tmp_path / "empty").touch()
    (tmp_path / "fake.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00" + bytes(range(256)))

    assert list(scan(tmp_path, ["physio.log", "empty"])) == [Companion("physio.log"), Companion("empty")]
    (found,) = scan(tmp_path, ["fake.dcm"])
    assert isinstance(found, Problem | Header)
    assert isinstance(found, Problem) or not found.sop_instance_uid


def test_a_file_that_is_gone_is_corrupted_and_named(tmp_path):
    with pytest.raises(Corrupted) as caught:
        list(scan(tmp_path, ["gone.dcm"]))

    assert caught.value.paths == ("gone.dcm",)


@pytest.fixture
def three_hundred(tmp_path) -> list[str]:
    whole = Path(get_testdata_file("MR_small.dcm")).read_bytes()
    names = [f"{number:03d}.dcm" for number in range(300)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"text" if number % 7 == 0 else whole)
    return names


@pytest.mark.parametrize("workers", [None, 2, 5])
def test_many_hands_read_the_same_in_the_same_order(workers, three_hundred, tmp_path):
    found = list(scan(tmp_path, three_hundred, workers))

    assert found == list(scan(tmp_path, three_hundred, 1))
    assert [one.path for one in found] == three_hundred


def test_an_error_of_a_helper_reaches_the_caller(three_hundred, tmp_path):
    (tmp_path / three_hundred[200]).unlink()

    with pytest.raises(Corrupted) as caught:
        list(scan(tmp_path, three_hundred, 2))

    assert caught.value.paths == (three_hundred[200],)


def test_a_killed_helper_costs_time_and_no_result(three_hundred, tmp_path):
    reading = scan(tmp_path, three_hundred * 20, 2)
    found = [next(reading)]
    for helper in psutil.Process().children():
        if "lading.checks.dicom_helper" in helper.cmdline():
            helper.kill()

    found += reading

    assert [one.path for one in found] == three_hundred * 20


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX thing")
def test_helpers_end_with_a_killed_parent(three_hundred, tmp_path):
    script = (
        "import itertools, sys\n"
        "from lading.checks.dicom_scan import scan\n"
        "for found in scan(sys.argv[1], itertools.cycle(['000.dcm', '001.dcm']), 2): pass\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    helpers: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        while len(helpers) < 2 and time.monotonic() < deadline:
            helpers = psutil.Process(parent.pid).children()
            time.sleep(0.05)
        assert len(helpers) == 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()

    _, alive = psutil.wait_procs(helpers, timeout=120)

    assert not alive
