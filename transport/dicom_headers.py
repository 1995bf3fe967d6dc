"""Reads what the receiver must know of an image, from its header alone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom

from lading.checks import dicom_fast
from transport.dicom_settings import FIELDS, as_label

_SOP_INSTANCE, _PATIENT, _STUDY, _INSTANCES = 0x00080018, 0x00100020, 0x0020000D, 0x00201208
_IDENTITY = dicom_fast.Wanted({_SOP_INSTANCE: b"UI", _PATIENT: b"LO", _STUDY: b"UI", _INSTANCES: b"IS"})
_ANNOUNCED = "NumberOfStudyRelatedInstances"
_MOST_ANNOUNCED = 1_000_000
_LONGEST_VALUE = 256


@dataclass(frozen=True, slots=True)
class Header:
    """`study` and `sop_instance`: UIDs as the sender wrote them; `fields` by keyword; `announced`: images of the study, or 0.

    `patient`: the PatientID as a label, in which the character set of the header makes no difference.
    """

    study: str
    sop_instance: str
    fields: Mapping[str, str]
    announced: int
    patient: str


def read_header(path: Path) -> Header:
    """The header of the DICOM file `path`; pixels are not read. Raises ValueError for what is no usable image."""
    # pydicom warns of values that break its rules, and gives them. Its `disable_value_validation` is the whole process's: where two
    # threads use it at once, it stays as one of them left it.
    try:
        image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*FIELDS, _ANNOUNCED, "SOPInstanceUID"])
        fields = {name: _text(image.get(name)) for name in FIELDS}
        sop_instance, announced = _text(image.get("SOPInstanceUID")), _text(image.get(_ANNOUNCED))
    except Exception as exc:  # what pydicom raises for strangers' bytes is not a closed list
        raise ValueError(f"not DICOM that can be read: {type(exc).__name__}") from exc
    if not fields["StudyInstanceUID"] or not sop_instance:
        raise ValueError("it has no StudyInstanceUID or no SOPInstanceUID")
    return Header(fields["StudyInstanceUID"], sop_instance, fields, _number(announced), as_label(fields["PatientID"]))


def read_identity(path: Path) -> Header:
    """The same without `fields`, fast: for each image that arrives. Raises ValueError for what is no usable image, OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size, first = os.fstat(handle).st_size, os.read(handle, dicom_fast.FIRST_READ)
        values = dicom_fast.collect(handle, size, first, _IDENTITY).values
        study, sop_instance, announced = (_plain(values.get(tag, b"")) for tag in (_STUDY, _SOP_INSTANCE, _INSTANCES))
        patient = as_label(values.get(_PATIENT, b"").decode("latin-1"))
    except (dicom_fast.Unsure, dicom_fast.EndsEarly):
        return read_header(path)
    finally:
        os.close(handle)
    if not study or not sop_instance:
        raise ValueError("it has no StudyInstanceUID or no SOPInstanceUID")
    return Header(study, sop_instance, {}, _number(announced), patient)


def _plain(raw: bytes) -> str:
    text = raw.rstrip(b"\0 ").decode("latin-1")
    if len(text) > _LONGEST_VALUE or not text.isascii() or text != text.strip():
        raise dicom_fast.Unsure("a value that is not plain")
    return text


def _number(text: str) -> int:
    """How many images were announced, 0 when it does not say."""
    return min(int(text), _MOST_ANNOUNCED) if text.isascii() and text.isdecimal() and len(text) < 8 else 0


def _text(value: object) -> str:
    return "" if value is None else str(value).strip().strip("\0")[:_LONGEST_VALUE]
