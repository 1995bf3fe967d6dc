"""OMERO's checksums of stored files, in OMERO's own spelling.

The four short ones are printed with the low byte first, as Java's Guava does it: CRC-32 of "abc" is `c2412435`. Murmur3
is in plain Python, 10 MB/s: what a test needs, and nobody's choice for real data.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_BLOCK = 1 << 20
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1


class Hasher(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """The checksum of everything so far."""


def checksum(path: Path, algorithm: str) -> str:
    """Read the whole file. Raises KeyError for an algorithm that OMERO has not, OSError."""
    hasher = ALGORITHMS[algorithm]()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def read_through(descriptor: int, algorithm: str) -> tuple[str, int]:
    """The same for a file that is open: its checksum, and how many bytes it has."""
    hasher, size = ALGORITHMS[algorithm](), 0
    while block := os.pread(descriptor, _BLOCK, size):
        hasher.update(block)
        size += len(block)
    return hasher.hexdigest(), size


class _Size:
    def __init__(self) -> None:
        self._size = 0

    def update(self, data: bytes, /) -> None:
        self._size += len(data)

    def hexdigest(self) -> str:
        return struct.pack("<q", self._size).hex()


class _Zlib:
    def __init__(self, function: Callable[[bytes, int], int], start: int) -> None:
        self._function, self._value = function, start

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return struct.pack("<I", self._value).hex()


class _Blocks:
    """Cuts what comes in into blocks of `size` bytes; what is left over waits for more."""

    size: int

    def __init__(self) -> None:
        self._rest, self._length = b"", 0

    def update(self, data: bytes, /) -> None:
        self._length += len(data)
        whole = self._rest + bytes(data)
        end = len(whole) - len(whole) % self.size
        self._mix(whole[:end])
        self._rest = whole[end:]

    def _mix(self, blocks: bytes) -> None:
        raise NotImplementedError


class _Murmur32(_Blocks):
    size = 4

    def __init__(self) -> None:
        super().__init__()
        self._hash = 0

    @staticmethod
    def _scrambled(word: int) -> int:
        return _rotated(word * 0xCC9E2D51 & _MASK32, 15, 32) * 0x1B873593 & _MASK32

    def _mix(self, blocks: bytes) -> None:
        mixed = self._hash
        for (word,) in struct.iter_unpack("<I", blocks):
            mixed = _rotated(mixed ^ self._scrambled(word), 13, 32) * 5 + 0xE6546B64 & _MASK32
        self._hash = mixed

    def hexdigest(self) -> str:
        mixed = self._hash ^ self._scrambled(int.from_bytes(self._rest, "little")) ^ (self._length & _MASK32)
        mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & _MASK32
        mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & _MASK32
        return struct.pack("<I", mixed ^ mixed >> 16).hex()


class _Murmur128(_Blocks):
    size = 16

    def __init__(self) -> None:
        super().__init__()
        self._low, self._high = 0, 0

    @staticmethod
    def _scrambled(low: int, high: int) -> tuple[int, int]:
        one, two = 0x87C37B91114253D5, 0x4CF5AD432745937F
        return (
            _rotated(low * one & _MASK64, 31, 64) * two & _MASK64,
            _rotated(high * two & _MASK64, 33, 64) * one & _MASK64,
        )

    def _mix(self, blocks: bytes) -> None:
        low, high = self._low, self._high
        for pair in struct.iter_unpack("<QQ", blocks):
            first, second = self._scrambled(*pair)
            low = (_rotated(low ^ first, 27, 64) + high) * 5 + 0x52DCE729 & _MASK64
            high = (_rotated(high ^ second, 31, 64) + low) * 5 + 0x38495AB5 & _MASK64
        self._low, self._high = low, high

    def hexdigest(self) -> str:
        first, second = self._scrambled(*struct.unpack("<QQ", self._rest.ljust(16, b"\0")))
        low, high = self._low ^ first ^ self._length, self._high ^ second ^ self._length
        low = low + high & _MASK64
        high = high + low & _MASK64
        low, high = _finished(low), _finished(high)
        low = low + high & _MASK64
        return struct.pack("<QQ", low, high + low & _MASK64).hex()


def _rotated(word: int, by: int, bits: int) -> int:
    return (word << by | word >> bits - by) & (1 << bits) - 1


def _finished(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK64
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK64
    return word ^ word >> 33


ALGORITHMS: dict[str, Callable[[], Hasher]] = {
    "SHA1-160": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5-128": lambda: hashlib.md5(usedforsecurity=False),
    "Murmur3-128": _Murmur128,
    "Murmur3-32": _Murmur32,
    "CRC-32": lambda: _Zlib(zlib.crc32, 0),
    "Adler-32": lambda: _Zlib(zlib.adler32, 1),
    "File-Size-64": _Size,
}
"""By name, in the order in which the server prefers them (omero.checksum.supported)."""
