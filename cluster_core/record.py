"""The fixed-size records: what travels unchanged from a client's message to the kernel.

All integers are little-endian and naturally aligned; sizes are checked at import and the bytes
are pinned by `tests/unit/golden`.

COMMAND, 64 bytes          REPLY, 48 bytes              ACCOUNT, 128 bytes
 0 command_id     16        0 sequence       u64          0 posted        i64
16 debit_account  u64       8 entity         u64          8 held          i64
24 credit_account u64      16 amount         i64         16 floor         i64
32 amount         i64      24 debit_balance  i64         24 ceiling       i64
40 reference      u64      32 credit_balance i64         32 version       u64
48 asset          u32      40 status         u16         40 last_sequence u64
52 operation      u16      42 flags          u16         48 credits_total i64
54 flags          u16      44 reserved       u32         56 asset         u32
56 timeout_s      u32                                    60 state         u16
60 code           u32                                    62 reserved      u16
                                                         64 account_id    u64
ASSET, 64 bytes                                          72 reference     u64
 0 number         u32                                    80 opened_ns     i64
 4 decimals       u32                                    88 code          u32
 8 symbol         8                                      92 open_holds    u32
16 external       i64                                    96 reserved      32
24 accounts       u64
32 held           i64
40 open_holds     u64
48 reserved       16

HOLD, 64 bytes
 0 hold_id        u64      24 remaining      i64         48 code          u32
 8 debit_account  u64      32 expires_ns     i64         52 asset         u32
16 credit_account u64      40 opened_sequence u64        56 next          u32
                                                         60 heap_place    u32

ACCOUNT's first 64 bytes are one cache line: all that a transfer touches. The debits total is
not stored: it is `credits_total - posted`. A HOLD that never expires has `expires_ns` 0; its last
8 bytes are links of the process that keeps it, zero wherever it is handed out.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

COMMAND: Final = np.dtype(
    {
        "names": [
            "id_0",
            "id_1",
            "debit_account",
            "credit_account",
            "amount",
            "reference",
            "asset",
            "operation",
            "flags",
            "timeout_s",
            "code",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<u8",
            "<i8",
            "<u8",
            "<u4",
            "<u2",
            "<u2",
            "<u4",
            "<u4",
        ],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 52, 54, 56, 60],
        "itemsize": 64,
    }
)
"""`id_0` and `id_1` are the command id's first and last 8 bytes, each read as little-endian."""

REPLY: Final = np.dtype(
    {
        "names": [
            "sequence",
            "entity",
            "amount",
            "debit_balance",
            "credit_balance",
            "status",
            "flags",
            "reserved",
        ],
        "formats": ["<u8", "<u8", "<i8", "<i8", "<i8", "<u2", "<u2", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 42, 44],
        "itemsize": 48,
    }
)

ACCOUNT: Final = np.dtype(
    {
        "names": [
            "posted",
            "held",
            "floor",
            "ceiling",
            "version",
            "last_sequence",
            "credits_total",
            "asset",
            "state",
            "account_id",
            "reference",
            "opened_ns",
            "code",
            "open_holds",
        ],
        "formats": [
            "<i8",
            "<i8",
            "<i8",
            "<i8",
            "<u8",
            "<u8",
            "<i8",
            "<u4",
            "<u2",
            "<u8",
            "<u8",
            "<i8",
            "<u4",
            "<u4",
        ],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56, 60, 64, 72, 80, 88, 92],
        "itemsize": 128,
    }
)

ASSET: Final = np.dtype(
    {
        "names": [
            "number",
            "decimals",
            "symbol",
            "external",
            "accounts",
            "held",
            "open_holds",
        ],
        "formats": ["<u4", "<u4", "<u8", "<i8", "<u8", "<i8", "<u8"],
        "offsets": [0, 4, 8, 16, 24, 32, 40],
        "itemsize": 64,
    }
)

HOLD: Final = np.dtype(
    {
        "names": [
            "hold_id",
            "debit_account",
            "credit_account",
            "remaining",
            "expires_ns",
            "opened_sequence",
            "code",
            "asset",
            "next",
            "heap_place",
        ],
        "formats": [
            "<u8",
            "<u8",
            "<u8",
            "<i8",
            "<i8",
            "<u8",
            "<u4",
            "<u4",
            "<u4",
            "<u4",
        ],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 52, 56, 60],
        "itemsize": 64,
    }
)

COMMAND_FIELDS: Final = struct.Struct("<16sQQqQIHHII")
"""COMMAND for one command at a time: the id whole, then the fields in the drawing's order."""

COMMAND_BYTES: Final = 64
REPLY_BYTES: Final = 48
ACCOUNT_BYTES: Final = 128
ASSET_BYTES: Final = 64
HOLD_BYTES: Final = 64
HOLD_STATE_BYTES: Final = 56
"""A hold's bytes that are state; the links behind them are not."""

for _dtype, _size in (
    (COMMAND, COMMAND_BYTES),
    (COMMAND, COMMAND_FIELDS.size),
    (REPLY, REPLY_BYTES),
    (ACCOUNT, ACCOUNT_BYTES),
    (ASSET, ASSET_BYTES),
    (HOLD, HOLD_BYTES),
):
    if _dtype.itemsize != _size:
        raise ImportError(f"record layout is {_dtype.itemsize} bytes, the format says {_size}")

MAX_MESSAGE_COMMANDS: Final = 8_192
"""Commands in one client message and in one batch: 512 KiB, below Kafka's default of 1 MB."""

MAX_CHAIN_COMMANDS: Final = MAX_MESSAGE_COMMANDS
"""A chain ends in its message, so it may fill one; what it may touch is set aside for undoing."""

AMOUNT_MAX: Final = 2**63 - 1
EXTERNAL_ACCOUNT: Final = 0
"""The account number of an asset's external side; it lives in the asset table."""

MAX_ASSETS: Final = 4_096
"""Asset numbers are 1 .. MAX_ASSETS - 1; the table is scanned for a symbol, so it stays small."""

MAX_ASSET_DECIMALS: Final = 18
DEFAULT_ASSET: Final = 1
DEFAULT_ASSET_DECIMALS: Final = 2
DEFAULT_ASSET_SYMBOL: Final = b"UNIT"


class Operation(IntEnum):
    """What a command does. Numbers are part of the journal format and never reused."""

    CREATE_ACCOUNT = 1
    DEPOSIT = 2
    WITHDRAW = 3
    TRANSFER = 4
    REGISTER_ASSET = 5
    HOLD = 6
    CAPTURE = 7
    RELEASE = 8
    EXPIRE = 9
    LOCK = 10
    UNLOCK = 11
    CLOSE = 12
    SET_LIMITS = 13


class CommandFlag(IntFlag):
    """Bits of COMMAND.flags."""

    LINKED = 1
    """This command and the next stand or fall together."""
    BALANCING = 2
    """Move what there is, up to the amount."""
    EXPECT_VERSION = 4
    """`reference` is the version that the account must have."""
    KEEP_REST_HELD = 8
    """What a capture leaves of its hold stays held."""


class AccountState(IntFlag):
    """Bits of ACCOUNT.state."""

    DEBITS_LOCKED = 1
    CREDITS_LOCKED = 2
    CLOSED = 4


class ReplyFlag(IntFlag):
    """Bits of REPLY.flags."""

    DUPLICATE = 1


class Status(IntEnum):
    """How a command ended, in the order in which the kernel checks.

    Zero is no status, so that a zeroed reply is never taken for success.
    """

    OK = 1
    COMMAND_ID_REUSED = 2
    COMMAND_ID_TOO_OLD = 3
    COMMAND_ID_IN_FUTURE = 4
    CHAIN_ID_REUSED = 5
    LINKED_FAILED = 6
    HOLD_NOT_FOUND = 41
    HOLD_NOT_OPEN = 42
    HOLD_EXPIRED = 43
    HOLD_NOT_EXPIRED = 44
    AMOUNT_NOT_POSITIVE = 10
    HOLD_EXCEEDED = 45
    SAME_ACCOUNT = 11
    DEBIT_ACCOUNT_NOT_FOUND = 12
    CREDIT_ACCOUNT_NOT_FOUND = 13
    ASSETS_DIFFER = 14
    DEBIT_ACCOUNT_CLOSED = 30
    CREDIT_ACCOUNT_CLOSED = 31
    DEBIT_ACCOUNT_LOCKED = 32
    CREDIT_ACCOUNT_LOCKED = 33
    VERSION_MISMATCH = 34
    INSUFFICIENT_FUNDS = 15
    BALANCE_OVERFLOW = 16
    CEILING_EXCEEDED = 17
    HOLD_CAPACITY_REACHED = 40
    ASSET_NOT_FOUND = 20
    ACCOUNT_CAPACITY_REACHED = 21
    ASSET_NUMBER_OUT_OF_RANGE = 22
    ASSET_DECIMALS_OUT_OF_RANGE = 23
    ASSET_SYMBOL_INVALID = 24
    ASSET_EXISTS = 25
    ASSET_SYMBOL_TAKEN = 26
    LOCK_CODE_INVALID = 50
    FLOOR_OUT_OF_RANGE = 51
    FLOOR_ABOVE_CEILING = 52
    BALANCE_OUTSIDE_LIMITS = 53
    BALANCE_NOT_ZERO = 54
    HOLDS_OPEN = 55
