"""What a TIFF says about itself and its companions: the description of its first image, and the OME-XML in it.

Reads the head of a file that may be anything: every offset and length is checked, and the bytes read are bounded.
"""

import html
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from omero_importer.bounded import open_below

_DESCRIPTION, _SOFTWARE = 270, 305
_MAX_TAGS = 4096
_MAX_TEXT = 32 << 20
# The bound inside a tag keeps a hostile text of a million "<UUID" from costing a million squared.
_UUID = re.compile(r"<(?:\w{1,20}:)?UUID\b[^<>]{0,1000}?\bFileName\s*=\s*[\"']([^\"'<>]{1,1000})[\"']")
_BINARY_ONLY = re.compile(r"<(?:\w{1,20}:)?BinaryOnly\b[^<>]{0,1000}?\bMetadataFile\s*=\s*[\"']([^\"'<>]{1,1000})[\"']")


@dataclass(frozen=True, slots=True)
class TiffHead:
    """The texts of a TIFF's first image; "" where it has none."""

    description: str
    software: str


def tiff_head(base: Path, path: str) -> TiffHead | None:
    """The head of the file `path` (relative POSIX) below `base`; None when it is not a whole TIFF. Raises OSError."""
    with open(open_below(base, path), "rb") as file:
        try:
            return _Reader(file.fileno()).head()
        except (struct.error, _NotTiffError):
            return None


def ome_files(xml: str) -> frozenset[str]:
    """The file names to which an OME-XML assigns planes."""
    return frozenset(html.unescape(name) for name in _UUID.findall(xml))


def ome_companion(xml: str) -> str:
    """The companion file that holds the real OME-XML, or ""."""
    found = _BINARY_ONLY.search(xml)
    return html.unescape(found.group(1)) if found else ""


class _NotTiffError(Exception):
    pass


class _Reader:
    """A TIFF (classic or big, either byte order) behind a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        magic = self._at(0, 4)
        self._order = {b"II": "<", b"MM": ">"}.get(magic[:2], "")
        if not self._order:
            raise _NotTiffError
        version = self._number("H", magic[2:])
        if version not in (42, 43):
            raise _NotTiffError
        self._big = version == 43

    def head(self) -> TiffHead:
        """Raises _NotTiffError, struct.error."""
        offset = self._number("Q", self._at(8, 8)) if self._big else self._number("I", self._at(4, 4))
        count_size, entry_size, form = (8, 20, "HHQ8s") if self._big else (2, 12, "HHI4s")
        count = self._number("Q" if self._big else "H", self._at(offset, count_size))
        if not 0 < count <= _MAX_TAGS:
            raise _NotTiffError
        texts = {}
        entries = self._at(offset + count_size, count * entry_size)
        for tag, kind, length, value in struct.iter_unpack(self._order + form, entries):
            if tag in (_DESCRIPTION, _SOFTWARE) and kind == 2:
                texts[tag] = self._text(length, value)
        return TiffHead(texts.get(_DESCRIPTION, ""), texts.get(_SOFTWARE, ""))

    def _text(self, length: int, value: bytes) -> str:
        if length > _MAX_TEXT:
            raise _NotTiffError
        content = (
            value[:length] if length <= len(value) else self._at(self._number("Q" if self._big else "I", value), length)
        )
        return content.rstrip(b"\0").decode("utf-8", "replace")

    def _number(self, form: str, content: bytes) -> int:
        number: int = struct.unpack(self._order + form, content)[0]
        return number

    def _at(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise _NotTiffError
        os.lseek(self._fd, offset, os.SEEK_SET)
        content = b""
        while len(content) < length:
            block = os.read(self._fd, length - len(content))
            if not block:
                raise _NotTiffError
            content += block
        return content
