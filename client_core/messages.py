"""Messages: packed records next to each other, as they are sent and answered together."""

import struct
from collections.abc import Sequence
from typing import Final

from client_core.records import (
    COMMAND_BYTES,
    COMMAND_ID_BYTES,
    DUPLICATE_FLAG,
    MAX_MESSAGE_COMMANDS,
    NO_ID,
    REPLY_BYTES,
    CommandFlag,
)

FLAGS_AT: Final = 54
"""The byte of a command that holds all flags there are."""

STATUS_AT: Final = 40
"""The byte of a reply that holds its status."""

_REPLY_FLAGS_AT: Final = 42
_U64: Final = struct.Struct("<Q")
_LINKED: Final = int(CommandFlag.LINKED)


def newest_sequence(packed: bytes | memoryview) -> int:
    """The highest sequence among one message's replies, packed; -1 for none.

    Commands of a message have rising sequences and duplicates older ones, so the last reply that
    is no duplicate has the highest: nearly always the very last.
    """
    newest = -1
    for at in range(len(packed) - REPLY_BYTES, -1, -REPLY_BYTES):
        (sequence,) = _U64.unpack_from(packed, at)
        newest = max(newest, sequence)
        if not packed[at + _REPLY_FLAGS_AT] & DUPLICATE_FLAG:
            break
    return newest


def check_message(packed: bytes) -> int:
    """How many commands a message has. Raises ValueError when it can't be sent as one."""
    count, rest = divmod(len(packed), COMMAND_BYTES)
    if rest or not 1 <= count <= MAX_MESSAGE_COMMANDS:
        raise ValueError(
            f"{len(packed)} bytes: give 1 to {MAX_MESSAGE_COMMANDS} commands of "
            f"{COMMAND_BYTES} bytes"
        )
    # other callers' commands follow in the same message: a chain must not reach for them
    if is_linked(packed[-COMMAND_BYTES:]):
        raise ValueError("the last command is linked: a chain must end in its message")
    return count


def have_ids(packed: bytes) -> bool:
    """Whether every one of the packed commands has an id: only then sending again is safe."""
    return all(
        packed[at : at + COMMAND_ID_BYTES] != NO_ID for at in range(0, len(packed), COMMAND_BYTES)
    )


def is_linked(command: bytes) -> bool:
    """Whether a packed command is tied to the next one."""
    return bool(command[FLAGS_AT] & _LINKED)


def link(commands: Sequence[bytes]) -> bytes:
    """Packed commands as one chain: all linked but the last.

    Linking again what was linked gives the same bytes, so a chain can be sent again as it was.
    """
    packed = bytearray(b"".join(commands))
    for flags_at in range(FLAGS_AT, len(packed) - COMMAND_BYTES, COMMAND_BYTES):
        packed[flags_at] |= _LINKED
    return bytes(packed)
