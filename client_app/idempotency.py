"""Idempotency keys: which command a request is, however often it is sent.

The command id is a hash of caller, route and key, so nobody reaches another caller's commands, and
one key may serve several routes. All that has to be remembered the ledger remembers: after
a restart of this program, or through another one of it, the same key finds the same command.

    key a UUIDv7    unix_ms 48 | 7 | hash 12 | 2 | hash 61 + member   exactly once for ever
    any other key   hash 48    | 8 | hash 12 | 2 | hash 61 + member   as long as the window lasts

The first keeps the key's own time; the second is a UUIDv8, which the ledger takes for no time at
all (RFC 9562). The members of a batch rise: the ledger never takes one for older than those before.
"""

import re
import struct
from hashlib import blake2b
from typing import Final

from client_app.problems import Problem

KEY_MAX: Final = 255
"""Characters of an Idempotency-Key."""

_KEY: Final = re.compile(rb"[!-~]{1,255}")
_UUIDV7: Final = re.compile(
    r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)
_ID_BYTES: Final = 16
_HALVES: Final = struct.Struct(">QQ")
_VERSION_BITS: Final = 0xF000
_UUIDV7_BITS: Final = 0x7000
_UUIDV8: Final = 0x8000
_VARIANT: Final = 1 << 63
_HASH_12: Final = 0xFFF
_HASH_61: Final = (1 << 61) - 1
"""One bit less than there is room for: members never reach the variant."""


class IdempotencyKey:
    """One caller's key on one route. `text` is what the caller sends to ask again."""

    __slots__ = ("_counter", "_head", "text")

    def __init__(self, caller: str, route: str, text: str) -> None:
        self.text = text
        match = _UUIDV7.fullmatch(text)
        # the same UUID in capitals is the same key
        key = text if match is None else text.lower()
        # no part can hold the separator: names, routes and keys are printable
        digest = blake2b(f"{caller}\0{route}\0{key}".encode(), digest_size=_ID_BYTES).digest()
        high, low = _HALVES.unpack(digest)
        if match is None:
            high = high & ~_VERSION_BITS | _UUIDV8
        else:
            high = int(match[1] + match[2], 16) << 16 | _UUIDV7_BITS | high & _HASH_12
        self._head = high
        self._counter = _VARIANT | low & _HASH_61

    def command_id(self, member: int = 0) -> bytes:
        """The 16 bytes that name the command, or member 1, 2, ... of a batch."""
        return _HALVES.pack(self._head, self._counter + member)


def read_key(header: bytes) -> str:
    """The key of an Idempotency-Key header, with or without quotes. Raises Problem."""
    text = header[1:-1] if len(header) > 2 and header[:1] == header[-1:] == b'"' else header
    if _KEY.fullmatch(text) is None:
        raise Problem(
            400,
            "IDEMPOTENCY_KEY_INVALID",
            f"Idempotency-Key must be 1 to {KEY_MAX} printable ASCII characters without spaces: "
            "best a UUIDv7",
        )
    return text.decode("ascii")


def key_of(command_id: bytes) -> str:
    """A key made of a fresh command id, a UUIDv7: for a request that came without one."""
    text = command_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
