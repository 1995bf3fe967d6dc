"""The CRC-32 of a whole from that of its parts, against zlib's own."""

import zlib

import pytest

from lading.testing import trees
from transport.s3_crc import joined


@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (5, 0), (0, 7), (1000, 70_001), (3, 1 << 20)])
def test_two_pieces_are_joined(sizes) -> None:
    before, after = (trees.noise(seed, size) for seed, size in enumerate(sizes))

    assert joined(zlib.crc32(before), zlib.crc32(after), len(after)) == zlib.crc32(before + after)


def test_many_pieces_are_joined_in_order() -> None:
    pieces = [trees.noise(seed, 1000 if seed < 9 else 17) for seed in range(10)]

    whole = 0
    for piece in pieces:
        whole = joined(whole, zlib.crc32(piece), len(piece))

    assert whole == zlib.crc32(b"".join(pieces))
