"""What a transport and a worker process of its own say to each other: frames through a pipe.

A frame is one letter, the length, and the payload: MESSAGE is a JSON object, DATA is content. Paths are text in which bytes that
are not UTF-8 stand as lone surrogates; JSON keeps those.
"""

import json
import struct
from collections.abc import Mapping
from typing import BinaryIO

MESSAGE, DATA = b"J", b"D"
WINDOW = 4
"""Blocks of content that may be on their way to the worker before it has said that the first of them is written."""
_HEAD = struct.Struct(">cI")
_MAX = 64 << 20


class FrameError(Exception):
    """The other side is gone, or does not speak this language."""


def write_frame(stream: BinaryIO, kind: bytes, payload: bytes) -> None:
    """Send one frame. Raises OSError, ValueError (a closed stream)."""
    stream.write(_HEAD.pack(kind, len(payload)))
    stream.write(payload)
    stream.flush()


def write_message(stream: BinaryIO, message: Mapping[str, object]) -> None:
    """Send a MESSAGE."""
    write_frame(stream, MESSAGE, json.dumps(message).encode())


def read_frame(stream: BinaryIO) -> tuple[bytes, bytes]:
    """The kind and the payload of the next frame. Raises FrameError at the end of the stream."""
    kind, length = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if kind not in {MESSAGE, DATA} or length > _MAX:
        raise FrameError("not a frame")
    return kind, _exactly(stream, length)


def parsed(payload: bytes) -> dict[str, object]:
    """The object in a MESSAGE. Raises FrameError."""
    try:
        found = json.loads(payload)
    except ValueError as exc:
        raise FrameError("not a message") from exc
    if not isinstance(found, dict):
        raise FrameError("not a message")
    return found


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise FrameError("the other side is gone")
    return data
