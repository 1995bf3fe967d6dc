"""What XNAT takes for a label, and what it makes of a text that is none."""

import re

_VALID = re.compile(r"[A-Za-z0-9_-]+")
_NOT_A_LABEL_CHARACTER = re.compile(r"[^\w-]", re.ASCII)
_REPLACED_AT_ARCHIVE = re.compile(r"[`~@#$%^&*()+=\[\]{}|\\/?:;',.<> ]")


def is_valid(label: str) -> bool:
    """XNAT's own rule for IDs and labels (``Patterns``, ``XftStringUtils.REGEX_VALID_ID``)."""
    return _VALID.fullmatch(label) is not None


def from_header(text: str) -> str:
    """A label out of a DICOM header (``Labels.toLabelChars``)."""
    return _NOT_A_LABEL_CHARACTER.sub("_", text)


def at_archive(label: str) -> str:
    """What archiving does to any label (``OmUtils.cleanValue``): ``A.1`` and ``A 1`` become one."""
    return _REPLACED_AT_ARCHIVE.sub("_", label)
