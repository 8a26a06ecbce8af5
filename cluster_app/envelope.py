"""The envelope of Submit's messages, without a message object and its copies.

A SubmitRequest of one field, as every client writes it, is read in place; any other shape goes
to the generated class, so nothing is misread. (Protocol Buffers encoding: tag, length, bytes.)
"""

from typing import Final

from google.protobuf.message import DecodeError

from proto import ledger_pb2

_BYTES_FIELD_1: Final = 0x0A
_VARINT_FIELD_2: Final = b"\x10"
_LENGTH_BYTES_MAX: Final = 5


def read_request(data: bytes) -> bytes | memoryview:
    """The packed commands of a serialized SubmitRequest. Raises DecodeError when it is none."""
    if data and data[0] == _BYTES_FIELD_1:
        length = 0
        for index in range(1, min(len(data), 1 + _LENGTH_BYTES_MAX)):
            length |= (data[index] & 0x7F) << 7 * (index - 1)
            if data[index] < 0x80:
                if length == len(data) - index - 1:
                    return memoryview(data)[index + 1 :]
                break
    request = ledger_pb2.SubmitRequest()
    if request.ParseFromString(data) != len(data):
        raise DecodeError("not a SubmitRequest")
    return request.commands


def write_response(replies: memoryview, ledger_time_ns: int) -> bytes:
    """A serialized SubmitResponse. `ledger_time_ns` is not negative."""
    return b"".join(
        (
            b"\x0a",
            _varint(len(replies)),
            replies,
            _VARINT_FIELD_2,
            _varint(ledger_time_ns),
        )
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
