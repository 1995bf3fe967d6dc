"""OMERO's checksums, in the exact strings that its server computes and compares.

The server prints the integer ones as Guava's `HashCode.toString()` does: their bytes, least significant first, in hex. So
CRC-32 of b"abc" is c2412435 here and 352441c2 everywhere else.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol


class Hasher(Protocol):
    """Takes a file block by block."""

    def update(self, block: bytes, /) -> None:
        """The next bytes."""

    def hexdigest(self) -> str:
        """OMERO's string for what came so far."""


def sha1() -> Hasher:
    """SHA1-160."""
    return hashlib.sha1(usedforsecurity=False)


def md5() -> Hasher:
    """MD5-128."""
    return hashlib.md5(usedforsecurity=False)


class _Size:
    def __init__(self) -> None:
        self._count = 0

    def update(self, block: bytes) -> None:
        self._count += len(block)

    def hexdigest(self) -> str:
        return struct.pack("<q", self._count).hex()


class _Sum:
    def __init__(self, step: Callable[[bytes, int], int], start: int) -> None:
        self._step, self._value = step, start

    def update(self, block: bytes) -> None:
        self._value = self._step(block, self._value)

    def hexdigest(self) -> str:
        return struct.pack("<I", self._value & 0xFFFFFFFF).hex()


def _crc32() -> Hasher:
    return _Sum(zlib.crc32, 0)


def _adler32() -> Hasher:
    return _Sum(zlib.adler32, 1)


def _murmur32() -> Hasher:
    import mmh3  # noqa: PLC0415 - only for servers that insist on it

    return _Murmur(mmh3.mmh3_32())


def _murmur128() -> Hasher:
    import mmh3  # noqa: PLC0415

    return _Murmur(mmh3.mmh3_x64_128())


class _Digest(Protocol):
    def update(self, block: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Murmur:
    """mmh3 gives the bytes least significant first already."""

    def __init__(self, inner: _Digest) -> None:
        self._inner = inner

    def update(self, block: bytes) -> None:
        self._inner.update(block)

    def hexdigest(self) -> str:
        return self._inner.digest().hex()


ALGORITHMS: Final[Mapping[str, Callable[[], Hasher]]] = {
    "SHA1-160": sha1,
    "MD5-128": md5,
    "Murmur3-128": _murmur128,
    "Murmur3-32": _murmur32,
    "CRC-32": _crc32,
    "Adler-32": _adler32,
    "File-Size-64": _Size,
}
"""OMERO's names, in the order of a server's defaults."""

MANIFEST_NAMES: Final[Mapping[str, str]] = {"SHA1-160": "sha1", "MD5-128": "md5"}
"""Those that a manifest may carry: nothing needs to be read for them again."""

NO_PROOF: Final = frozenset({"File-Size-64"})
"""Those that say nothing about the content."""
