"""What makes the digests that a manifest may carry: hashlib's, rsync's xxh128, and those by which only OMERO compares.

OMERO's are in its own strings. It prints the short ones as Guava's `HashCode.toString()` does: their bytes, least significant
first, in hex. So its CRC-32 of b"abc" is c2412435, and 352441c2 everywhere else. Therefore they have OMERO's names here: nobody
shall take them for others.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

from lading.errors import ConfigError
from lading.listing.entries import DIGEST_CHARS

if TYPE_CHECKING:
    import attrs

_MURMUR: Final[Mapping[str, str]] = {"Murmur3-128": "mmh3_x64_128", "Murmur3-32": "mmh3_32"}
"""The classes of mmh3 for them, with Guava's seed, 0. Plain Python would read 10 to 20 MB a second: no choice for real data."""
_LIBRARIES: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(_MURMUR, ("mmh3", "murmur")),
    "xxh128": ("xxhash", "xxhash"),
}
"""The package that a digest needs, and the extra of ours that installs it."""
_ELSEWHERE: Final[Mapping[str, str]] = {"SHA1-160": "sha1", "MD5-128": "md5"}


Block: TypeAlias = bytes | memoryview


class Digest(Protocol):
    """What `hashlib` gives, as far as it is used."""

    def update(self, block: Block, /) -> None:
        """The next bytes."""

    def hexdigest(self) -> str:
        """The digest of what came so far, in lower-case hex."""

    def copy(self) -> Self:
        """Another one that has had the same bytes."""


Maker: TypeAlias = Callable[[bytes], Digest]
"""Begins a digest with its first bytes."""


def maker(name: str) -> Maker:
    """What makes the digest `name`: of DIGEST_CHARS, or any of hashlib's. Raises ConfigError when its library is missing."""
    known = _KNOWN.get(name)
    if known:
        return known
    if name in _MURMUR:
        return _murmur(name)
    if name == "xxh128":
        return _xxh128()
    return lambda data: hashlib.new(name, data, usedforsecurity=False)


def begun(names: Iterable[str]) -> dict[str, Digest]:
    """A digest of nothing yet for each name. See `maker`."""
    return {name: maker(name)(b"") for name in names}


def available(names: Sequence[str], where: str) -> tuple[str, ...]:
    """`names`, once everything is here that they need. Raises ConfigError; `where` is the settings key that names them."""
    for name in names:
        if name in _LIBRARIES and find_spec(_LIBRARIES[name][0]) is None:
            raise _lacking(name, f"{where}: ")
    return tuple(names)


def are_digests(_: object, attribute: "attrs.Attribute[tuple[str, ...]]", names: Sequence[str]) -> None:
    """The attrs validator of a list of digests. Raises ValueError."""
    for name in names:
        if name not in DIGEST_CHARS:
            hint = f"; OMERO's {name} is {_ELSEWHERE[name]!r} here" if name in _ELSEWHERE else ""
            raise ValueError(
                f"{attribute.name}: there is no digest {name!r}{hint}; there are {', '.join(DIGEST_CHARS)}"
            )


def _lacking(name: str, where: str = "") -> ConfigError:
    package, extra = _LIBRARIES[name]
    return ConfigError(
        f"{where}{name} needs the Python package {package!r}, which is not installed; nothing else makes it fast enough",
        safe="nothing was read",
        next_command=f"pip install 'lading[{extra}]'",
    )


def _md5(data: bytes) -> Digest:
    # Repositories compare by it; nothing is trusted because of it. A FIPS build of OpenSSL wants to hear that.
    return hashlib.md5(data, usedforsecurity=False)


def _sha1(data: bytes) -> Digest:
    return hashlib.sha1(data, usedforsecurity=False)


class _Sum:
    """One of zlib's sums of 32 bits."""

    def __init__(self, step: Callable[[Block, int], int], value: int) -> None:
        self._step, self._value = step, value

    def update(self, block: Block, /) -> None:
        self._value = self._step(block, self._value)

    def hexdigest(self) -> str:
        return self._value.to_bytes(4, "little").hex()

    def copy(self) -> "_Sum":
        return _Sum(self._step, self._value)


class _Size:
    def __init__(self, count: int) -> None:
        self._count = count

    def update(self, block: Block, /) -> None:
        self._count += len(block)

    def hexdigest(self) -> str:
        return self._count.to_bytes(8, "little").hex()

    def copy(self) -> "_Size":
        return _Size(self._count)


class _MmhDigest(Protocol):
    def update(self, block: Block, /) -> None: ...

    def digest(self) -> bytes: ...

    def copy(self) -> Self: ...


class _Murmur:
    """mmh3 gives the bytes least significant first already."""

    def __init__(self, inner: _MmhDigest) -> None:
        self._inner = inner
        self.update = inner.update

    def hexdigest(self) -> str:
        return self._inner.digest().hex()

    def copy(self) -> "_Murmur":
        return _Murmur(self._inner.copy())


def _murmur(name: str) -> Maker:
    try:
        import mmh3  # noqa: PLC0415 - only for servers that insist on it
    except ImportError as exc:
        raise _lacking(name) from exc
    kind: Callable[[bytes], _MmhDigest] = getattr(mmh3, _MURMUR[name])
    return lambda data: _Murmur(kind(data))


def _xxh128() -> Maker:
    try:
        import xxhash  # noqa: PLC0415 - only for routes whose rsync is to be compared with
    except ImportError as exc:
        raise _lacking("xxh128") from exc
    return xxhash.xxh3_128


_KNOWN: Final[Mapping[str, Maker]] = {
    "sha256": hashlib.sha256,
    "md5": _md5,
    "sha1": _sha1,
    "CRC-32": lambda data: _Sum(zlib.crc32, zlib.crc32(data)),
    "Adler-32": lambda data: _Sum(zlib.adler32, zlib.adler32(data)),
    "File-Size-64": lambda data: _Size(len(data)),
}
