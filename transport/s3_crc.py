"""The CRC-32 of a whole from the CRC-32 of its parts, without reading anything again; zlib can, and Python does not show it.

A CRC is linear: zero bytes appended to what was read act on it as a 32 x 32 matrix over {0, 1}, kept here as its 32 columns.
"""

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320
Matrix = tuple[int, ...]


def joined(before: int, after: int, after_bytes: int) -> int:
    """The CRC-32 of two pieces in a row, of which the second has `after_bytes` bytes."""
    return _times(_zeros(after_bytes), before) ^ after if after_bytes else before


@lru_cache(maxsize=64)
def _power(exponent: int) -> Matrix:
    """What 2^`exponent` zero bits do."""
    if exponent == 0:
        return (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    half = _power(exponent - 1)
    return tuple(_times(half, column) for column in half)


@lru_cache(maxsize=64)
def _zeros(count: int) -> Matrix:
    """What `count` zero bytes do. There are two sizes of parts in an object: all but the last, and the last."""
    bits = 8 * count
    whole: Matrix = tuple(1 << bit for bit in range(32))
    exponent = 0
    while bits >> exponent:
        if bits >> exponent & 1:
            whole = tuple(_times(_power(exponent), column) for column in whole)
        exponent += 1
    return whole


def _times(matrix: Matrix, vector: int) -> int:
    result = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            result ^= column
        vector >>= 1
    return result
