"""OMERO's checksums are the strings that its server computes, whatever the size of the blocks."""

import hashlib

import pytest

from lading.listing.entries import DIGEST_CHARS
from omero_importer.hashes import ALGORITHMS, MANIFEST_NAMES, NO_PROOF

ABC = {
    "SHA1-160": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "MD5-128": "900150983cd24fb0d6963f7d28e17f72",
    "Murmur3-128": "6778ad3f3f3f96b4522dca264174a23b",
    "Murmur3-32": "fa93ddb3",
    "CRC-32": "c2412435",
    "Adler-32": "27014d02",
    "File-Size-64": "0300000000000000",
}
"""As Guava's `HashCode.toString()` prints them for b"abc": the short ones begin with their least significant byte."""
NOTHING = {
    "SHA1-160": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "MD5-128": "d41d8cd98f00b204e9800998ecf8427e",
    "Murmur3-128": "0" * 32,
    "Murmur3-32": "0" * 8,
    "CRC-32": "0" * 8,
    "Adler-32": "01000000",
    "File-Size-64": "0" * 16,
}


@pytest.fixture(params=sorted(ALGORITHMS))
def name(request: pytest.FixtureRequest) -> str:
    if str(request.param).startswith("Murmur"):
        pytest.importorskip("mmh3", reason="the extra omero is not installed")
    return str(request.param)


@pytest.mark.parametrize(("content", "expected"), [(b"abc", ABC), (b"", NOTHING)], ids=["abc", "nothing"])
def test_known_values(name: str, content: bytes, expected: dict[str, str]) -> None:
    hasher = ALGORITHMS[name]()
    hasher.update(content)

    assert hasher.hexdigest() == expected[name]


@pytest.mark.parametrize("block", [1, 3, 15, 16, 17, 1000])
def test_the_size_of_the_blocks_does_not_matter(name: str, block: int) -> None:
    content = hashlib.shake_128(b"any").digest(1003)
    whole, parts = ALGORITHMS[name](), ALGORITHMS[name]()
    whole.update(content)
    for at in range(0, len(content), block):
        parts.update(content[at : at + block])

    assert parts.hexdigest() == whole.hexdigest()


def test_everything_but_the_size_tells_contents_apart(name: str) -> None:
    one, other = ALGORITHMS[name](), ALGORITHMS[name]()
    one.update(b"one file")
    other.update(b"two file")

    assert (one.hexdigest() == other.hexdigest()) is (name in NO_PROOF)


def test_a_manifest_may_carry_each_of_them() -> None:
    assert MANIFEST_NAMES.keys() == ALGORITHMS.keys()
    assert set(MANIFEST_NAMES.values()) <= DIGEST_CHARS.keys()
    assert {name: len(value) for name, value in ABC.items()} == {
        name: DIGEST_CHARS[ours] for name, ours in MANIFEST_NAMES.items()
    }
