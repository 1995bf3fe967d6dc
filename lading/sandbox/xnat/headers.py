"""Reads what the importer wants to know of a DICOM object.

Plain objects are walked through by `lading.checks.dicom_fast`, which costs a tenth of what pydicom does; whatever is not
plain in any way (an odd encoding, text that is not ASCII, a file that ends too early) is pydicom's to judge.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.checks import dicom_fast
from lading.sandbox.xnat.answers import Refusal

_ELEMENTS = {
    0x00080016: ("SOPClassUID", b"UI"),
    0x00080018: ("SOPInstanceUID", b"UI"),
    0x00080020: ("StudyDate", b"DA"),
    0x00080030: ("StudyTime", b"TM"),
    0x00080050: ("AccessionNumber", b"SH"),
    0x00080060: ("Modality", b"CS"),
    0x00081030: ("StudyDescription", b"LO"),
    0x0008103E: ("SeriesDescription", b"LO"),
    0x00100010: ("PatientName", b"PN"),
    0x00100020: ("PatientID", b"LO"),
    0x001021B0: ("AdditionalPatientHistory", b"LT"),
    0x00104000: ("PatientComments", b"LT"),
    0x0020000D: ("StudyInstanceUID", b"UI"),
    0x0020000E: ("SeriesInstanceUID", b"UI"),
    0x00200011: ("SeriesNumber", b"IS"),
    0x00200013: ("InstanceNumber", b"IS"),
    0x00324000: ("StudyComments", b"LT"),
}
_NOTHING = {keyword: "" for keyword, _ in _ELEMENTS.values()}
_CHARACTER_SET = 0x00080005
_WANTED = dicom_fast.Wanted({tag: vr for tag, (_, vr) in _ELEMENTS.items()} | {_CHARACTER_SET: b"CS"})
_ASCII_SETS = (b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192")
# Not \ (several values) and not = (several forms of a name); no leading space, which pydicom strips of some values only.
_PLAIN_TEXT = re.compile(rb"(?:[!-<>-\[\]-~][ -<>-\[\]-~]*)?")
_PLAIN_INTEGER = re.compile(rb"-?[0-9]{1,9}")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")  # how a data set without preamble begins


@dataclass(frozen=True)
class Header:
    """What the importer reads of an object. All text, "" where the object has nothing."""

    values: Mapping[str, str]
    complete: bool  # has the preamble and file meta of a DICOM file

    def __getitem__(self, keyword: str) -> str:
        return self.values.get(keyword, "")

    def routed(self, key: str) -> str:
        """``Project:``, ``Subject:`` or ``Session:`` out of the comments, by XNAT's own pattern; "" if absent."""
        pattern = rf"(?is)(?:\A|(?:.*[\s,;])){key}\s*:\s*([\w\-]*)(?:(?:[\s,;].*\Z)|\Z)"
        for keyword in ("PatientComments", "StudyComments", "AdditionalPatientHistory"):
            found = re.match(pattern, self[keyword])
            if found and found.group(1):
                return found.group(1)
        return ""


def unreadable(name: str) -> Refusal:
    """What clients are told of every file that the importer cannot take."""
    return Refusal(400, f"unable to read DICOM object {name}")


def read_header(path: Path, name: str) -> Header:
    """Raises Refusal 400 in the words of XNAT."""
    try:
        with path.open("rb", buffering=0) as content:
            first = content.read(dicom_fast.FIRST_READ) or b""
            complete = first[128:132] == b"DICM"
            values = _walked(content.fileno(), first) if complete else None
        if values is None:
            values = _by_pydicom(path, first, complete=complete)
    except Exception as error:  # the real importer, too, says "unable to read" whatever it was
        raise unreadable(name) from error
    if not values["SOPClassUID"] or not values["SOPInstanceUID"]:
        raise unreadable(name)
    return Header(values, complete)


def _walked(fd: int, first: bytes) -> dict[str, str] | None:
    """The values of a plain object, None for one that pydicom has to judge."""
    try:
        elements = dicom_fast.collect(fd, os.fstat(fd).st_size, first, _WANTED)
    except dicom_fast.Unsure:
        return None
    raw = elements.values
    if elements.shortfall or raw.get(_CHARACTER_SET, b"").strip(b"\0 ") not in _ASCII_SETS:
        return None
    values = dict(_NOTHING)
    for tag, (keyword, vr) in _ELEMENTS.items():
        text = raw.get(tag, b"").rstrip(b"\0 ")
        if not text:
            continue
        if not (_PLAIN_INTEGER if vr == b"IS" else _PLAIN_TEXT).fullmatch(text):
            return None
        # The number 0 counts as no number.
        values[keyword] = "" if vr == b"IS" and int(text) == 0 else text.decode("ascii")
    return values


def _by_pydicom(path: Path, first: bytes, *, complete: bool) -> dict[str, str]:
    if not complete and first[:2] not in _FIRST_GROUPS:
        raise ValueError("neither a DICOM file nor a bare data set")
    import pydicom  # noqa: PLC0415 - takes half a second to import; most objects never need it

    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_ELEMENTS], force=not complete)
    there = dataset.keys() & _ELEMENTS.keys()
    return _NOTHING | {_ELEMENTS[tag][0]: str(dataset[tag].value or "") for tag in there}
