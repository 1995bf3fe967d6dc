"""Reads what the receiver must know of an image, from its header alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import config as pydicom_config

from transport.dicom_settings import FIELDS

_ANNOUNCED = "NumberOfStudyRelatedInstances"
_MOST_ANNOUNCED = 1_000_000
_LONGEST_VALUE = 256


@dataclass(frozen=True, slots=True)
class Header:
    """`study` and `sop_instance`: UIDs as the sender wrote them; `fields` by keyword; `announced`: images of the study, or 0."""

    study: str
    sop_instance: str
    fields: Mapping[str, str]
    announced: int


def read_header(path: Path) -> Header:
    """The header of the DICOM file `path`; pixels are not read. Raises ValueError for what is no usable image."""
    try:
        with pydicom_config.disable_value_validation():
            image = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=[*FIELDS, _ANNOUNCED, "SOPInstanceUID"]
            )
            fields = {name: _text(image.get(name)) for name in FIELDS}
            sop_instance, announced = _text(image.get("SOPInstanceUID")), _text(image.get(_ANNOUNCED))
    except Exception as exc:  # what pydicom raises for strangers' bytes is not a closed list
        raise ValueError(f"not DICOM that can be read: {type(exc).__name__}") from exc
    if not fields["StudyInstanceUID"] or not sop_instance:
        raise ValueError("it has no StudyInstanceUID or no SOPInstanceUID")
    number = int(announced) if announced.isascii() and announced.isdecimal() and len(announced) < 8 else 0
    return Header(fields["StudyInstanceUID"], sop_instance, fields, min(number, _MOST_ANNOUNCED))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip().strip("\0")[:_LONGEST_VALUE]
