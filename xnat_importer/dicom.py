"""The few facts about a DICOM object that routing and proof need, read without pixels."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from lading.checks.dicom_headers import DicomUnreadable, read_header

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
# What a reader may raise for bytes that are not what they seem; pydicom's own InvalidDicomError comes with it.
_UNREADABLE = (EOFError, ValueError, KeyError, NotImplementedError, AttributeError, TypeError)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which object it is. Never with empty `sop` or `study`: such files are nothing an archive can hold."""

    sop: str
    study: str
    series: str


@dataclass(frozen=True, slots=True)
class Substance:
    """What must survive an import that may rewrite headers: SHA-256 of the pixel data ("" without), as encoded."""

    sop: str
    transfer_syntax: str
    pixels: str
    header: str


def identity(path: Path) -> Identity | None:
    """Who the object in the file is, None when it is no DICOM object with a study: a companion.

    Raises what `lading.checks.dicom_headers.read_header` raises for a disk that refuses.
    """
    try:
        header = read_header(path)
    except DicomUnreadable:
        return None
    if header is None or not header.sop_instance_uid or not header.study_instance_uid:
        return None
    return Identity(header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)


def identity_of(stream: IO[bytes]) -> Identity | None:
    """Who the object is whose first bytes `stream` (seekable) holds, None when they do not tell."""
    from pydicom import dcmread  # noqa: PLC0415 - takes half a second to import; most deliveries never need it
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    try:
        found = dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, *_UNREADABLE):
        return None
    values = [str(found.get(tag) or "").strip() for tag in _TAGS]
    return Identity(*values) if values[0] and values[1] else None


def substance(file: Path | BinaryIO) -> Substance | None:
    """What is in a whole object, None when it cannot be read. Holds its pixel data in memory for a moment."""
    from pydicom import dcmread  # noqa: PLC0415 - as above
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    try:
        found = dcmread(file)
        pixels = next((found[name].value for name in _PIXELS if name in found), b"")
        for name in _PIXELS:
            if name in found:
                del found[name]
        header = _digest_of(found)
        syntax = str(found.file_meta.get("TransferSyntaxUID", ""))
        sop = str(found.get("SOPInstanceUID") or "")
    except (InvalidDicomError, *_UNREADABLE):
        return None
    return Substance(sop, syntax, hashlib.sha256(pixels).hexdigest() if pixels else "", header)


def _digest_of(header: "Dataset") -> str:
    """Of every element: what DICOM's JSON says of it, else its bytes.

    Not by `to_json(suppress_invalid_tags=True)`: that makes pydicom strict for the whole process while it runs, and for good when
    two threads do it at once; from then on files that other readers take are unreadable here.
    """
    digest = hashlib.sha256()
    for tag in sorted(header.keys()):
        try:
            said: object = header[tag].to_json_dict(bulk_data_element_handler=None, bulk_data_threshold=1024)
        except Exception:  # noqa: BLE001 - strangers' bytes; pydicom itself names no closed list here
            said = repr(header.get_item(tag).value)
        digest.update(json.dumps([str(tag), said], sort_keys=True).encode())
    return digest.hexdigest()
