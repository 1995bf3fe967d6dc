"""Walks the leading elements of a DICOM file without a toolkit, and refuses to guess.

It understands the plain cases (explicit VR little and big endian, implicit VR little endian, defined and undefined
lengths) and raises `Unsure` for everything else; the caller then asks pydicom. It never reads pixel data: it looks at
where the pixels must end and whether the file goes that far. Rules: DICOM PS3.5 sections 7 and A.4, PS3.10 section 7.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
# Everything else below the standard's root is explicit VR little endian, but for the deflated ones.
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_STANDARD_ROOT = "1.2.840.10008.1.2."

UNDEFINED = 0xFFFFFFFF
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
TRANSFER_SYNTAX = 0x00020010

_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT_VRS = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS"),
    *(b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
)
_HEADER_BYTES: Mapping[bytes, int] = dict.fromkeys(_SHORT_VRS, 8) | dict.fromkeys(_LONG_VRS, 12)

_EXPLICIT = {order: struct.Struct(order + "HH2sH") for order in "<>"}
_IMPLICIT = {order: struct.Struct(order + "HHL") for order in "<>"}
_LONG = {order: struct.Struct(order + "L") for order in "<>"}

# The same with the tag as one number, which little endian writes with its halves swapped.
_EXPLICIT_RAW = {order: struct.Struct(order + "L2sH") for order in "<>"}
_IMPLICIT_RAW = {order: struct.Struct(order + "LL") for order in "<>"}

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_SEQUENCE_END_BYTES = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"

# The headers of most series fit; a jump over a large private element costs one more read.
FIRST_READ = 8192
_NEXT_READ = 4096
_MAX_VALUE = 1024  # the values we want are labels and numbers; a longer one is odd
_MAX_DEPTH = 16
_MAX_FRAGMENTS = 2_000_000


class Unsure(Exception):
    """This file is not one of the plain cases."""


class EndsEarly(Exception):
    """The file ends inside an element's header or value."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are written."""

    implicit: bool
    little: bool

    @property
    def order(self) -> str:
        """The byte order as struct writes it."""
        return "<" if self.little else ">"


@dataclass(slots=True)
class Elements:
    """The raw values found (tag → bytes), the encoding, and how the pixel data stand.

    `pixel_bytes` is the length of native pixel data, UNDEFINED when encapsulated, None when there are none.
    `shortfall` is "" or says in words how the file ends too early.
    """

    values: dict[int, bytes]
    encoding: Encoding
    pixel_bytes: int | None = None
    shortfall: str = ""


class Wanted:
    """The elements to collect: tag → the VR that each must have when the file tells."""

    def __init__(self, tags: Mapping[int, bytes]) -> None:
        self.tags = tags
        both = {*tags, *PIXEL_TAGS}
        self.raw = {">": {tag: tag for tag in both}, "<": {tag >> 16 | (tag & 0xFFFF) << 16: tag for tag in both}}


class Window:
    """A file seen through a small buffer that moves forward. Holds no more than a few KiB."""

    def __init__(self, fd: int, size: int, first: bytes) -> None:
        self.fd = fd
        self.size = size
        self.buffer = first
        self.base = 0
        self.end = len(first)

    def move(self, position: int) -> tuple[bytes, int, int]:
        """Let the buffer begin at `position`; returns buffer, base and end."""
        self.buffer = read_at(self.fd, position, _NEXT_READ) if position < self.size else b""
        self.base = position
        self.end = position + len(self.buffer)
        return self.buffer, self.base, self.end


if hasattr(os, "pread"):

    def read_at(fd: int, position: int, count: int) -> bytes:
        """Up to `count` bytes at `position`."""
        return os.pread(fd, count, position)

else:

    def read_at(fd: int, position: int, count: int) -> bytes:
        """Up to `count` bytes at `position`; moves the file position, so one descriptor belongs to one thread."""
        os.lseek(fd, position, os.SEEK_SET)
        return os.read(fd, count)


def collect(fd: int, size: int, first: bytes, wanted: Wanted) -> Elements:
    """The elements `wanted` of a file with preamble. `first` is its beginning.

    Raises Unsure whenever the file is not plain.
    """
    window = Window(fd, size, first)
    values: dict[int, bytes] = {}
    try:
        start = _meta(window, values, wanted)
        encoding = _encoding(values, window.buffer, start)
        elements = Elements(values, encoding)
        try:
            position = _walk(window, start, encoding, values, wanted)
        except EndsEarly as exc:
            elements.shortfall = str(exc)
        else:
            if position < size:
                elements.pixel_bytes, elements.shortfall = pixels(fd, size, position, encoding)
    except struct.error as exc:
        raise Unsure("an element header is cut") from exc
    return elements


def deflated_start(first: bytes) -> int | None:
    """Where the deflated data set of a file beginning with `first` starts, or None when it is not deflated."""
    values: dict[int, bytes] = {}
    if first[128:132] != b"DICM":
        return None
    try:
        start = _meta(Window(-1, 0, first), values, Wanted({}))
    except (Unsure, struct.error):
        return None
    return start if values.get(TRANSFER_SYNTAX, b"").rstrip(b"\0 ").decode("ascii", "replace") in DEFLATED else None


def pixels(fd: int, size: int, position: int, encoding: Encoding) -> tuple[int, str]:
    """Length of the pixel data element at `position` (UNDEFINED when encapsulated), and how it ends too early, or "".

    Raises Unsure when there is no such element.
    """
    head = read_at(fd, position, 12)
    # Seen by its own VR: some writers change the encoding on the way. As a length, these two letters would be odd.
    explicit = head[4:6] in _LONG_VRS
    if len(head) < (12 if explicit else 8):
        return 0, "the file ends in the header of the pixel data"
    group, element = struct.unpack_from(encoding.order + "HH", head)
    if group << 16 | element not in PIXEL_TAGS:
        raise Unsure("no pixel data where they were expected")
    at = 8 if explicit else 4
    (length,) = struct.unpack_from(encoding.order + "L", head, at)
    start = position + at + 4
    if length == UNDEFINED:
        return length, _encapsulated(fd, size, start, encoding.order)
    missing = start + length - size
    return length, f"the last {missing:,} of {length:,} bytes of pixel data are missing" if missing > 0 else ""


def _encapsulated(fd: int, size: int, start: int, order: str) -> str:
    if size - start >= 8 and read_at(fd, size - 8, 8) == _SEQUENCE_END_BYTES:
        return ""
    position = start
    for _ in range(_MAX_FRAGMENTS):
        head = read_at(fd, position, 8)
        if len(head) < 8:
            return "the compressed pixel data have no end"
        group, element, length = struct.unpack(order + "HHL", head)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return ""
        if tag != _ITEM or length == UNDEFINED:
            raise Unsure("odd fragment in compressed pixel data")
        position += 8 + length
        if position > size:
            return f"the last fragment of the compressed pixel data lacks {position - size:,} bytes"
    raise Unsure("too many fragments")


def _meta(window: Window, values: dict[int, bytes], wanted: Wanted) -> int:
    """Reads the file meta group (always explicit little endian); returns where the data set begins."""
    buffer = window.buffer
    unpack, unpack_long = _EXPLICIT["<"].unpack_from, _LONG["<"].unpack_from
    position = 132
    while True:
        group, element, vr, length = unpack(buffer, position)
        if group != 2:
            return position
        header = _HEADER_BYTES.get(vr)
        if header is None:
            raise Unsure("odd value representation in the file meta group")
        if header == 12:
            (length,) = unpack_long(buffer, position + 8)
        start = position + header
        position = start + length
        if position + 12 > len(buffer):
            raise Unsure("the file meta group is unusually long")
        tag = group << 16 | element
        if tag in wanted.tags or tag == TRANSFER_SYNTAX:
            values[tag] = buffer[start:position]


def _encoding(values: Mapping[int, bytes], buffer: bytes, start: int) -> Encoding:
    raw = values.get(TRANSFER_SYNTAX)
    try:
        syntax = raw.rstrip(b"\0 ").decode("ascii") if raw else ""
    except UnicodeDecodeError as exc:
        raise Unsure("odd transfer syntax") from exc
    if syntax in DEFLATED or not (syntax == IMPLICIT_LITTLE or syntax.startswith(_STANDARD_ROOT)):
        raise Unsure("transfer syntax to be judged by pydicom")
    encoding = Encoding(implicit=syntax == IMPLICIT_LITTLE, little=syntax != EXPLICIT_BIG)
    group, _, vr = struct.unpack_from(encoding.order + "HH2s", buffer, start)
    # Writers do declare one encoding and use another.
    if (vr in _HEADER_BYTES) == encoding.implicit or not 4 <= group <= 0x0100:
        raise Unsure("the data set is not written as its transfer syntax says")
    return encoding


def _walk(  # noqa: C901 - one loop on purpose: calls would halve its speed
    window: Window, position: int, encoding: Encoding, values: dict[int, bytes], wanted: Wanted
) -> int:
    """Collects what is wanted; returns where the pixel data element begins, or the size of the file without one."""
    if encoding.implicit:
        return _walk_implicit(window, position, values, wanted)
    # The hot loop of the whole check: some hundred rounds a file. Plain locals, no calls in the common case.
    unpack, unpack_long = _EXPLICIT_RAW[encoding.order].unpack_from, _LONG[encoding.order].unpack_from
    header_bytes, special = _HEADER_BYTES, wanted.raw[encoding.order]
    buffer, base, end = window.buffer, window.base, window.end
    while True:
        if position + 12 > end:
            if position + 8 > window.size:
                return _end_of_file(window, position)
            buffer, base, end = window.move(position)
        at = position - base
        raw_tag, vr, length = unpack(buffer, at)
        header = header_bytes.get(vr, 0)
        if header == 12:
            (length,) = unpack_long(buffer, at + 8)
        elif header == 0:
            raise Unsure("odd value representation")
        if raw_tag in special:
            tag = special[raw_tag]
            if tag in PIXEL_TAGS:
                return position
            if vr != wanted.tags[tag]:
                raise Unsure("unexpected value representation")
            values[tag] = _value(window, position + header, length)
            buffer, base, end = window.buffer, window.base, window.end
        if length == UNDEFINED:
            position = _skip_undefined(window, position + header, vr, encoding)
            buffer, base, end = window.buffer, window.base, window.end
        else:
            position += header + length


def _walk_implicit(window: Window, position: int, values: dict[int, bytes], wanted: Wanted) -> int:
    unpack, special = _IMPLICIT_RAW["<"].unpack_from, wanted.raw["<"]
    encoding = Encoding(implicit=True, little=True)
    buffer, base, end = window.buffer, window.base, window.end
    while True:
        if position + 8 > end:
            if position + 8 > window.size:
                return _end_of_file(window, position)
            buffer, base, end = window.move(position)
        raw_tag, length = unpack(buffer, position - base)
        if raw_tag in special:
            tag = special[raw_tag]
            if tag in PIXEL_TAGS:
                return position
            values[tag] = _value(window, position + 8, length)
            buffer, base, end = window.buffer, window.base, window.end
        if length == UNDEFINED:
            position = _skip_sequence(window, position + 8, encoding)
            buffer, base, end = window.buffer, window.base, window.end
        else:
            position += 8 + length


def _end_of_file(window: Window, position: int) -> int:
    if position > window.size:
        raise EndsEarly("the file ends inside the value of an element")
    if read_at(window.fd, position, 8).strip(b"\0"):
        raise EndsEarly("the file ends in the header of an element")
    return window.size


def _value(window: Window, start: int, length: int) -> bytes:
    if length > _MAX_VALUE:
        raise Unsure("unusually long value")
    if start < window.base or start + length > window.end:
        window.move(start)
    at = start - window.base
    value = window.buffer[at : at + length]
    if len(value) != length:
        raise EndsEarly("the file ends inside a value")
    return value


def _skip_undefined(window: Window, position: int, vr: bytes, encoding: Encoding) -> int:
    if vr != b"SQ":
        raise Unsure("undefined length outside a sequence")
    return _skip_sequence(window, position, encoding)


def _skip_sequence(window: Window, position: int, encoding: Encoding, depth: int = 1) -> int:
    """From the first item of a sequence of undefined length to the byte after its delimiter."""
    if depth > _MAX_DEPTH:
        raise Unsure("sequences nested too deeply")
    unpack = _IMPLICIT[encoding.order].unpack_from
    while True:
        _ensure(window, position)
        group, element, length = unpack(window.buffer, position - window.base)
        tag = group << 16 | element
        position += 8
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise Unsure("no item where a sequence should have one")
        if length == UNDEFINED:
            position = _skip_item(window, position, encoding, depth)
        else:
            position += length
            if position > window.size:
                raise EndsEarly("the file ends inside a sequence")


def _skip_item(window: Window, position: int, encoding: Encoding, depth: int) -> int:
    """From the first element of an item of undefined length to the byte after its delimiter."""
    while True:
        tag, vr, start, length = _element(window, position, encoding)
        if tag == _ITEM_END:
            return position + 8
        if length == UNDEFINED:
            if vr != b"SQ":
                raise Unsure("undefined length outside a sequence")
            position = _skip_sequence(window, start, encoding, depth + 1)
        else:
            position = start + length
            if position > window.size:
                raise EndsEarly("the file ends inside a sequence")


def _element(window: Window, position: int, encoding: Encoding) -> tuple[int, bytes, int, int]:
    """Tag, VR, begin and length of the value at `position`. In implicit VR, only a sequence has undefined length."""
    _ensure(window, position)
    at = position - window.base
    if encoding.implicit:
        group, element, length = _IMPLICIT[encoding.order].unpack_from(window.buffer, at)
        vr, header = b"SQ", 8
    else:
        group, element, vr, length = _EXPLICIT[encoding.order].unpack_from(window.buffer, at)
        header = _HEADER_BYTES.get(vr, 0)
    tag = group << 16 | element
    if tag != _ITEM_END and (header == 0 or group == 0xFFFE):
        raise Unsure("odd element in a sequence")
    if header == 12:
        (length,) = _LONG[encoding.order].unpack_from(window.buffer, at + 8)
    return tag, vr, position + header, length


def _ensure(window: Window, position: int) -> None:
    if position < window.base or position + 12 > window.end:
        window.move(position)
        if window.end - position < 8:
            raise EndsEarly("the file ends inside a sequence")
