"""OMERO's names of its checksums. The strings are those that its server computes; see `lading.listing.digests`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from lading.listing.digests import Digest, maker

Hasher: TypeAlias = Digest
"""Takes a file block by block."""

_NAMES: Final = ("SHA1-160", "MD5-128", "Murmur3-128", "Murmur3-32", "CRC-32", "Adler-32", "File-Size-64")

MANIFEST_NAMES: Final[Mapping[str, str]] = {
    name: {"SHA1-160": "sha1", "MD5-128": "md5"}.get(name, name) for name in _NAMES
}
"""What they are called in a manifest. Where it has one, nothing needs to be read for it again."""


def _begun(name: str) -> Hasher:
    return maker(MANIFEST_NAMES[name])(b"")


ALGORITHMS: Final[Mapping[str, Callable[[], Hasher]]] = {name: partial(_begun, name) for name in _NAMES}
"""Each begins a checksum, or raises ConfigError when its library is missing. In the order of a server's defaults."""

NO_PROOF: Final = frozenset({"File-Size-64"})
"""Those that say nothing about the content."""
