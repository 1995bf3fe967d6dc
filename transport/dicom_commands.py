"""DICOM command sets: what is asked and answered over an association (PS3.7 section 6.3 and annex E)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

# Fields of a command set (group 0000) that are used here, by element.
AFFECTED_CLASS, REQUESTED_CLASS = 0x0002, 0x0003
FIELD, MESSAGE_ID, ANSWERED_ID = 0x0100, 0x0110, 0x0120
PRIORITY, DATA_SET, STATUS, COMMENT = 0x0700, 0x0800, 0x0900, 0x0902
AFFECTED_INSTANCE, REQUESTED_INSTANCE = 0x1000, 0x1001
EVENT_TYPE, ACTION_TYPE = 0x1002, 0x1008

NO_DATA, WITH_DATA = 0x0101, 0x0001
MEDIUM = 0x0000

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_GET_RQ, C_GET_RSP = 0x0010, 0x8010
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
N_EVENT_RQ, N_EVENT_RSP = 0x0100, 0x8100
N_ACTION_RQ, N_ACTION_RSP = 0x0130, 0x8130

_ANSWER = 0x8000
_ELEMENT = struct.Struct("<HHL")
_NUMBER = struct.Struct("<HHLH")
LONGEST_COMMAND = 1 << 16


class WireError(Exception):
    """A conversation that did not go on; the text says why."""


class Broken(WireError):
    """The connection was lost or aborted, or the peer fell silent, or said what is not DICOM."""


@dataclass(frozen=True, slots=True)
class Message:
    """A command set that came: element → raw value. When `has_data`, its data set must be read next (`Association.data`)."""

    context: int
    command: Mapping[int, bytes]

    @property
    def field(self) -> int:
        """Which command it is."""
        return self.number(FIELD)

    @property
    def status(self) -> int:
        """Status of an answer."""
        return self.number(STATUS)

    @property
    def has_data(self) -> bool:
        """Whether a data set follows."""
        return self.number(DATA_SET) != NO_DATA

    def number(self, element: int) -> int:
        """A 16-bit value; 0xFFFF when it is absent or odd, which no status of success looks like."""
        raw = self.command.get(element, b"")
        return raw[0] | raw[1] << 8 if len(raw) == 2 else 0xFFFF

    def text(self, element: int) -> str:
        """A UID or a comment, without its padding."""
        return self.command.get(element, b"").decode("latin-1").strip(" \0")


def encode_command(fields: Mapping[int, int | str]) -> bytes:
    """A command set: implicit VR little endian, ascending, with its group length."""
    body = b"".join(
        _NUMBER.pack(0, element, 2, value) if isinstance(value, int) else _text(element, value)
        for element, value in sorted(fields.items())
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def request(field: int, number: int, fields: Mapping[int, int | str], *, has_data: bool = False) -> bytes:
    """The command set of a request: `field` says which, `number` is its message id, `fields` what it has of its own."""
    general = {FIELD: field, MESSAGE_ID: number, DATA_SET: WITH_DATA if has_data else NO_DATA}
    return encode_command({**general, **fields})


def answer(message: Message, status: int, fields: Mapping[int, int | str] | None = None) -> bytes:
    """The command set of the answer to a request, without a data set. It repeats which class and instance it is about."""
    repeated = {
        element: message.text(element) for element in (AFFECTED_CLASS, AFFECTED_INSTANCE) if element in message.command
    }
    general = {
        FIELD: message.field | _ANSWER,
        ANSWERED_ID: message.number(MESSAGE_ID),
        DATA_SET: NO_DATA,
        STATUS: status,
    }
    return encode_command({**repeated, **general, **(fields or {})})


def decode_command(raw: bytes) -> dict[int, bytes]:
    """Element → value. Raises Broken for what is no command set."""
    found, position, end = {}, 0, len(raw)
    while position < end:
        if position + 8 > end:
            raise Broken("a command that ends too early")
        group, element, length = _ELEMENT.unpack_from(raw, position)
        position += 8 + length
        if group or position > end:
            raise Broken("a command that is none")
        found[element] = raw[position - length : position]
    return found


def _text(element: int, value: str) -> bytes:
    raw = value.encode("ascii") + b"\0" * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(raw)) + raw
