"""The packed SMB messages that can be looked at without a server."""

import struct

import pytest

from transport.smb_messages import dating


@pytest.mark.parametrize(
    ("mtime_ns", "filetime"),
    [
        (0, 116_444_736_000_000_000),
        (10_413_792_000 * 10**9, 116_444_736_000_000_000 + 104_137_920_000_000_000),
        (-20_000_000_000 * 10**9, 0),  # before 1601, which SMB cannot say: the time stays as it is
        (10**9 << 60, (1 << 63) - 1),
    ],
)
def test_a_time_beyond_what_smb_can_say_is_no_fault(mtime_ns: int, filetime: int) -> None:
    assert struct.pack("<Q", filetime) in dating(b"\1" * 16, mtime_ns).body
