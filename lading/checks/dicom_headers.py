"""Reads what identifies a DICOM object, fast, without its pixels; pydicom decides wherever that is not plain.

What counts as DICOM is the content, never the name: "DICM" behind the preamble (PS3.10 section 7.1), or, as old writers
leave it out, a data set that pydicom can read and that names its own SOP instance. A DICOMDIR is an index, no object.
"""

import importlib.util
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lading.checks import dicom_fast
from lading.checks.dicom_fast import Elements, Encoding, Unsure
from lading.errors import AccessDenied, ConfigError, Corrupted, Unreachable

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_DATE = 0x00080020
MODALITY = 0x00080060
STUDY_DESCRIPTION = 0x00081030
SERIES_DESCRIPTION = 0x0008103E
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
SERIES_NUMBER = 0x00200011
INSTANCE_NUMBER = 0x00200013
SAMPLES_PER_PIXEL = 0x00280002
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
_MEDIA_STORAGE_CLASS = 0x00020002
_CHARACTER_SET = 0x00080005
_PIXELS_ELSEWHERE = 0x00287FE0

_WANTED = dicom_fast.Wanted(
    {
        _MEDIA_STORAGE_CLASS: b"UI",
        _CHARACTER_SET: b"CS",
        SOP_CLASS_UID: b"UI",
        SOP_INSTANCE_UID: b"UI",
        STUDY_DATE: b"DA",
        MODALITY: b"CS",
        STUDY_DESCRIPTION: b"LO",
        SERIES_DESCRIPTION: b"LO",
        PATIENT_NAME: b"PN",
        PATIENT_ID: b"LO",
        STUDY_INSTANCE_UID: b"UI",
        SERIES_INSTANCE_UID: b"UI",
        SERIES_NUMBER: b"IS",
        INSTANCE_NUMBER: b"IS",
        SAMPLES_PER_PIXEL: b"US",
        NUMBER_OF_FRAMES: b"IS",
        ROWS: b"US",
        COLUMNS: b"US",
        BITS_ALLOCATED: b"US",
        _PIXELS_ELSEWHERE: b"UR",
    }
)
# Character sets in which ASCII letters and digits mean themselves (PS3.3 C.12.1.1.2); 13 differs in \\ and ~ only.
_ASCII_SETS = frozenset(
    [b"", b"ISO_IR 6", b"ISO_IR 192", b"GB18030", b"GBK"]
    + [b"ISO_IR %d" % n for n in (13, 100, 101, 109, 110, 144, 127, 126, 138, 148, 166, 203)]
    + [b"ISO 2022 IR %d" % n for n in (6, 13, 100, 101, 109, 110, 144, 127, 126, 138, 148, 166, 203, 87, 159, 149, 58)]
)
_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b"\\=~"))
# Storage classes of objects that are nothing without pixels (PS3.4 B.5): CR, DX, CT, US, MR, SC, XA, RF, NM, VL, PET, RT.
_IMAGE_CLASSES = frozenset(
    "1.2.840.10008.5.1.4.1.1." + last
    for last in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "2.2", "3.1", "4", "4.1", "4.3", "4.4"),
        *(
            "6.1",
            "6.2",
            "7",
            "7.1",
            "7.2",
            "7.3",
            "7.4",
            "12.1",
            "12.1.1",
            "12.2",
            "12.2.1",
            "20",
            "128",
            "128.1",
            "130",
        ),
        *("77.1.1", "77.1.2", "77.1.3", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.6", "481.1"),
    )
)
_DICOMDIR = "1.2.840.10008.1.3.10"
_MAX_INFLATED = 1 << 30
_TAGS_FOR_PYDICOM: list[int] = [*_WANTED.tags, *dicom_fast.PIXEL_TAGS]


class DicomUnreadable(ValueError):
    """The file says that it is DICOM and cannot be read as such. The text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What identifies one DICOM object. Absent texts are "", absent numbers None; `size` is the file's, in bytes.

    Texts are decoded by the object's character set and stripped as pydicom does. `frames` is 1 when absent. `shortfall`
    is "" or says in words that the file ends before its pixel data do. `pixel_bytes`: None without pixel data, -1 when
    they are compressed.
    """

    path: str
    size: int
    transfer_syntax: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    instance_number: int | None
    patient_id: str
    patient_name: str
    study_date: str
    study_description: str
    series_description: str
    modality: str
    rows: int | None
    columns: int | None
    samples_per_pixel: int | None
    bits_allocated: int | None
    frames: int
    pixel_bytes: int | None
    shortfall: str

    @property
    def truncated(self) -> bool:
        """Whether the end of the file is missing."""
        return bool(self.shortfall)


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that says it is DICOM and cannot be read; `reason` in words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that is no DICOM object: a log, a PDF, a DICOMDIR."""

    path: str


Scanned = Header | Problem | Companion


def read_header(path: str | Path, *, name: str = "") -> Header | None:
    """The header of the file at `path`, or None when it is no DICOM object. `name` is what `Header.path` says.

    Raises DicomUnreadable for broken DICOM, Corrupted when the file is gone, AccessDenied or Unreachable when the disk
    refuses, ConfigError when pydicom would have to decide and is not installed.
    """
    text = os.fspath(path)
    try:
        return _read(text, name or text)
    except FileNotFoundError as exc:
        raise Corrupted(f"reading the DICOM header of {text}: the file is gone", paths=[name or text]) from exc
    except PermissionError as exc:
        raise AccessDenied(f"reading the DICOM header of {text}: {exc.strerror}") from exc
    except OSError as exc:
        raise Unreachable(f"reading the DICOM header of {text}: {exc.strerror}") from exc


def require_pydicom(where: str) -> None:
    """Raises ConfigError when pydicom is not installed. `where` is the settings key that needs it."""
    # Looked for, not imported: that takes half a second, and most headers never need it.
    if importlib.util.find_spec("pydicom") is None:
        raise ConfigError(
            f"{where} reads DICOM and needs the Python package 'pydicom', which is not installed",
            next_command="pip install 'lading[dicom]'",
        )


_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _read(path: str, name: str) -> Header | None:
    fd = os.open(path, _OPEN_FLAGS)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        first = os.read(fd, dicom_fast.FIRST_READ)
        if first[128:132] != b"DICM":
            return _without_preamble(path, name, status.st_size, first)
        try:
            elements = dicom_fast.collect(fd, status.st_size, first, _WANTED)
            return _plain_header(name, status.st_size, elements)
        except Unsure:
            return _ask_pydicom(path, name, status.st_size)
    finally:
        os.close(fd)


def _plain_header(name: str, size: int, elements: Elements) -> Header | None:
    """The header from raw values. Raises Unsure when a value needs more than plain ASCII."""
    raw = elements.values
    if _text(raw, _MEDIA_STORAGE_CLASS) == _DICOMDIR:
        return None
    charset = raw.get(_CHARACTER_SET, b"")
    if charset and not all(part.strip(b"\0 ") in _ASCII_SETS for part in charset.split(b"\\")):
        raise Unsure("a character set in which ASCII bytes may mean something else")
    order = "little" if elements.encoding.little else "big"
    rows, columns, samples, bits = (
        _number(raw, tag, order) for tag in (ROWS, COLUMNS, SAMPLES_PER_PIXEL, BITS_ALLOCATED)
    )
    frames, sop_class = _integer(raw, NUMBER_OF_FRAMES), _text(raw, SOP_CLASS_UID)
    pixel_bytes = -1 if elements.pixel_bytes == dicom_fast.UNDEFINED else elements.pixel_bytes
    return Header(
        path=name,
        size=size,
        transfer_syntax=_text(raw, dicom_fast.TRANSFER_SYNTAX),
        sop_class_uid=sop_class,
        sop_instance_uid=_text(raw, SOP_INSTANCE_UID),
        study_instance_uid=_text(raw, STUDY_INSTANCE_UID),
        series_instance_uid=_text(raw, SERIES_INSTANCE_UID),
        series_number=_integer(raw, SERIES_NUMBER),
        instance_number=_integer(raw, INSTANCE_NUMBER),
        patient_id=_text(raw, PATIENT_ID),
        patient_name=_text(raw, PATIENT_NAME),
        study_date=_text(raw, STUDY_DATE),
        study_description=_text(raw, STUDY_DESCRIPTION),
        series_description=_text(raw, SERIES_DESCRIPTION),
        modality=_text(raw, MODALITY),
        rows=rows,
        columns=columns,
        samples_per_pixel=samples,
        bits_allocated=bits,
        frames=frames or 1,
        pixel_bytes=pixel_bytes,
        shortfall=elements.shortfall
        or _too_few_pixels(
            sop_class, pixel_bytes, (rows, columns, samples, bits, frames), elsewhere=_PIXELS_ELSEWHERE in raw
        ),
    )


def _text(raw: dict[int, bytes], tag: int) -> str:
    value = raw.get(tag)
    if not value:
        return ""
    text = value.rstrip(b"\0 ")
    # Multi-valued (\), escaped (ESC), padded inside (NUL), phonetic (=), indented or non-ASCII text is pydicom's.
    if text.translate(None, _PLAIN) or text.startswith(b" "):
        raise Unsure("text that is not plain")
    return text.decode("ascii")


def _integer(raw: dict[int, bytes], tag: int) -> int | None:
    value = raw.get(tag, b"").strip(b"\0 ")
    if not value:
        return None
    if not value.isdigit() or len(value) > 12:
        raise Unsure("a number that is not plain")
    return int(value)


def _number(raw: dict[int, bytes], tag: int, order: str) -> int | None:
    value = raw.get(tag)
    if not value:
        return None
    if len(value) != 2:
        raise Unsure("more than one value")
    return value[0] | value[1] << 8 if order == "little" else value[0] << 8 | value[1]


def _too_few_pixels(sop_class: str, pixel_bytes: int | None, image: tuple[int | None, ...], *, elsewhere: bool) -> str:
    """How the pixel data fall short of `image` (rows, columns, samples, bits, frames), or "".

    `elsewhere`: the object refers to pixels that lie on a server (Pixel Data Provider URL).
    """
    rows, columns, samples, bits, frames = image
    if pixel_bytes is None and not elsewhere and (sop_class in _IMAGE_CLASSES or (rows and columns)):
        return "the file ends before its pixel data"
    if not rows or not columns or pixel_bytes is None or pixel_bytes == -1:
        return ""
    needed = rows * columns * (samples or 1) * (frames or 1) * (bits or 8)
    if samples == 3:
        needed = needed // 3 * 2  # YBR_FULL_422 leaves out half of the colour (PS3.3 C.7.6.3.1.2)
    needed = (needed + 7) // 8
    if pixel_bytes >= needed:
        return ""
    return f"the header promises {needed:,} bytes of pixel data, the file holds {pixel_bytes:,}"


def _without_preamble(path: str, name: str, size: int, first: bytes) -> Header | None:
    """Old writers begin with the data set, at group 0002 or 0008. Everything else is no DICOM."""
    if len(first) < 8:
        return None
    little, big = struct.unpack_from("<H", first)[0], struct.unpack_from(">H", first)[0]
    if little not in (2, 8) and big not in (2, 8):
        return None
    try:
        header = _ask_pydicom(path, name, size, force=True)
    except DicomUnreadable:
        return None
    return header if header and header.sop_instance_uid and header.sop_class_uid else None


def _ask_pydicom(path: str, name: str, size: int, *, force: bool = False) -> Header | None:
    require_pydicom("this file")
    with open(path, "rb") as file:
        _judge_deflated(file)
        data = _parsed(file, headers_only=True, force=force)
        if _string(data.file_meta, "MediaStorageSOPClassUID") == _DICOMDIR:
            return None
        if _string(data.file_meta, "TransferSyntaxUID") in dicom_fast.DEFLATED:
            # Positions in the file mean nothing here: read it whole (these are rare).
            file.seek(0)
            pixel_bytes, shortfall = _inflated_pixels(_parsed(file, headers_only=False, force=force)), ""
        else:
            pixel_bytes, shortfall = _pixels_of(file, size, data)
        return _header_of(data, name, size, pixel_bytes, shortfall)


def _parsed(file: BinaryIO, *, headers_only: bool, force: bool) -> "FileDataset":
    from pydicom import dcmread  # noqa: PLC0415 - an extra

    with _translated():
        # It steps over all other tags, so that a hostile header cannot fill the memory.
        return dcmread(file, stop_before_pixels=headers_only, force=force, specific_tags=_TAGS_FOR_PYDICOM)


@contextmanager
def _translated() -> Iterator[None]:
    """pydicom's many ways to say that content is broken become DicomUnreadable; a disk's errors pass."""
    try:
        yield
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise _unreadable(exc) from exc  # pydicom's own: an item ends early
    except _broken() as exc:
        raise _unreadable(exc) from exc


def _broken() -> tuple[type[Exception], ...]:
    """What pydicom lets through when the content is broken; anything else is a bug worth seeing."""
    from pydicom import errors  # noqa: PLC0415 - an extra

    return (
        *(errors.InvalidDicomError, errors.BytesLengthException, ValueError, TypeError, LookupError, AttributeError),
        *(NotImplementedError, AssertionError, EOFError, OverflowError, RecursionError, MemoryError),
        *(struct.error, zlib.error),
    )


def _unreadable(exc: Exception) -> DicomUnreadable:
    return DicomUnreadable(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)


def _header_of(data: "FileDataset", name: str, size: int, pixel_bytes: int | None, shortfall: str) -> Header:
    rows, columns = _int_of(data, "Rows"), _int_of(data, "Columns")
    samples, bits = _int_of(data, "SamplesPerPixel"), _int_of(data, "BitsAllocated")
    frames, sop_class = _int_of(data, "NumberOfFrames"), _string(data, "SOPClassUID")
    return Header(
        path=name,
        size=size,
        transfer_syntax=_string(data.file_meta, "TransferSyntaxUID"),
        sop_class_uid=sop_class,
        sop_instance_uid=_string(data, "SOPInstanceUID"),
        study_instance_uid=_string(data, "StudyInstanceUID"),
        series_instance_uid=_string(data, "SeriesInstanceUID"),
        series_number=_int_of(data, "SeriesNumber"),
        instance_number=_int_of(data, "InstanceNumber"),
        patient_id=_string(data, "PatientID"),
        patient_name=_string(data, "PatientName"),
        study_date=_string(data, "StudyDate"),
        study_description=_string(data, "StudyDescription"),
        series_description=_string(data, "SeriesDescription"),
        modality=_string(data, "Modality"),
        rows=rows,
        columns=columns,
        samples_per_pixel=samples,
        bits_allocated=bits,
        frames=frames or 1,
        pixel_bytes=pixel_bytes,
        shortfall=shortfall
        or _too_few_pixels(
            sop_class, pixel_bytes, (rows, columns, samples, bits, frames), elsewhere="PixelDataProviderURL" in data
        ),
    )


def _string(data: "Dataset", keyword: str) -> str:
    with _translated():
        value = data.get(keyword)
        return "" if value is None else str(value)


def _int_of(data: "Dataset", keyword: str) -> int | None:
    try:
        value = data.get(keyword)
        return None if value is None or value == "" else int(value)
    except _broken():
        return None  # not a number, or several: nothing that can be compared


def _pixels_of(file: BinaryIO, size: int, data: "FileDataset") -> tuple[int | None, str]:
    """Length of the pixel data (-1 compressed, None absent) and shortfall; `file` is where pydicom stopped reading."""
    position = file.tell()
    implicit, little = data.original_encoding
    if position < size:
        encoding = Encoding(implicit=bool(implicit), little=little is not False)
        try:
            length, shortfall = dicom_fast.pixels(file.fileno(), size, position, encoding)
        except Unsure:
            return None, ""
        return (-1 if length == dicom_fast.UNDEFINED else length), shortfall
    with _translated():
        values = (data.get_item(tag) for tag in data.keys())  # noqa: SIM118 - iterating would decode the values
        if position > size or any(len(getattr(v, "value", None) or b"") < getattr(v, "length", 0) for v in values):
            return None, "the file ends inside the value of an element"
    return None, ""


def _inflated_pixels(data: "FileDataset") -> int | None:
    with _translated():
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            value = getattr(data.get_item(keyword), "value", None) if keyword in data else None
            if isinstance(value, bytes):
                return len(value)
    return None


def _judge_deflated(file: BinaryIO) -> None:
    """pydicom inflates a deflated data set in memory: make sure first that it ends, and is not a bomb."""
    start = dicom_fast.deflated_start(file.read(dicom_fast.FIRST_READ))
    if start is not None:
        file.seek(start)
        inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (block := inflater.unconsumed_tail or file.read(1 << 16)):
            try:
                inflated += len(inflater.decompress(block, 1 << 20))
            except zlib.error as exc:
                raise _unreadable(exc) from exc
            if inflated > _MAX_INFLATED:
                raise DicomUnreadable(f"its deflated data set holds more than {_MAX_INFLATED >> 30} GiB")
        if not inflater.eof:
            raise DicomUnreadable("its deflated data set has no end")
    file.seek(0)
