"""The envelope of SubmitRequest and SubmitResponse, without a message object for each.

At 4,000 messages of 64 KiB a second the generated classes cost two more copies each way. What is
not the one shape that a node writes goes to the generated class, so nothing is misread.
"""

from typing import Final

from client_core.records import REPLY_BYTES
from proto import ledger_pb2

_COMMANDS_TAG: Final = b"\x0a"
"""Field 1, length-delimited: `commands` and `replies` alike."""
_TIME_TAG: Final = 0x10
"""Field 2, varint: `ledger_time_ns`."""
_MORE: Final = 0x80


def submit_header(size_bytes: int) -> bytes:
    """What precedes `size_bytes` of packed commands in a SubmitRequest's bytes."""
    header = bytearray(_COMMANDS_TAG)
    while size_bytes >= _MORE:
        header.append(size_bytes & 0x7F | _MORE)
        size_bytes >>= 7
    header.append(size_bytes)
    return bytes(header)


def read_response(data: bytes) -> tuple[memoryview, int]:
    """(packed replies, ledger time in ns) of a SubmitResponse's bytes.

    Raises google.protobuf.message.DecodeError for bytes that are no SubmitResponse and
    ValueError when the replies are no whole number of records.
    """
    replies, ledger_time_ns = _read_usual(data) or _read_any(data)
    if len(replies) % REPLY_BYTES:
        raise ValueError(f"{len(replies)} bytes are no whole number of replies")
    return replies, ledger_time_ns


def _read_usual(data: bytes) -> tuple[memoryview, int] | None:
    """Exactly fields 1 and 2, in this order and to the last byte; None for any other shape."""
    try:
        if data[0] != _COMMANDS_TAG[0]:
            return None
        size, start = _read_varint(data, 1)
        end = start + size
        if data[end] != _TIME_TAG:
            return None
        ledger_time_ns, after = _read_varint(data, end + 1)
    except IndexError:
        return None
    if after != len(data):
        return None
    return memoryview(data)[start:end], ledger_time_ns


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, index after it). A ledger time is positive, so 63 bits do."""
    value = data[at]
    at += 1
    if value < _MORE:
        return value, at
    value &= 0x7F
    for shift in range(7, 63, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, at
    raise IndexError("a varint of more than 63 bits")


def _read_any(data: bytes) -> tuple[memoryview, int]:
    response = ledger_pb2.SubmitResponse.FromString(data)
    return memoryview(response.replies), response.ledger_time_ns
