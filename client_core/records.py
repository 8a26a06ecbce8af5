"""Packed records: 64-byte commands out, 48-byte replies in. Layouts in ARCHITECTURE.md.

COMMAND, 64 bytes          REPLY, 48 bytes           (little-endian, naturally aligned)
 0 command_id     16        0 sequence       u64  of the first execution
16 debit_account  u64       8 entity         u64  new account id, else 0
24 credit_account u64      16 amount         i64  moved, minor units
32 amount         i64      24 debit_balance  i64  after the command
40 reference      u64      32 credit_balance i64
48 asset          u32      40 status         u16
52 operation      u16      42 flags          u16  bit 0: duplicate
54 flags          u16      44 reserved       u32
56 timeout_s      u32
60 code           u32
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from client_core.errors import Refused

COMMAND_BYTES: Final = 64
REPLY_BYTES: Final = 48
COMMAND_ID_BYTES: Final = 16
MAX_MESSAGE_COMMANDS: Final = 8_192
"""A message is never split over batches, so a batch's limit is a message's."""

AMOUNT_MAX: Final = 2**63 - 1
DUPLICATE_FLAG: Final = 1

_COMMAND: Final = struct.Struct("<16sQQqQIHHII")
_REPLY: Final = struct.Struct("<QQqqqHHI")
_U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1
_MAX_ASSET: Final = 4_095
_MAX_DECIMALS: Final = 18
_MAX_SYMBOL_BYTES: Final = 8
_SYMBOL_CHARACTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

if _COMMAND.size != COMMAND_BYTES or _REPLY.size != REPLY_BYTES:
    raise ImportError("record layouts do not match the format")


class Operation(IntEnum):
    """What a command does."""

    CREATE_ACCOUNT = 1
    DEPOSIT = 2
    WITHDRAW = 3
    TRANSFER = 4
    REGISTER_ASSET = 5


class Status(IntEnum):
    """How a command ended. A number that a newer node sends becomes a `STATUS_<number>`."""

    OK = 1
    COMMAND_ID_REUSED = 2
    COMMAND_ID_TOO_OLD = 3
    COMMAND_ID_IN_FUTURE = 4
    AMOUNT_NOT_POSITIVE = 10
    SAME_ACCOUNT = 11
    DEBIT_ACCOUNT_NOT_FOUND = 12
    CREDIT_ACCOUNT_NOT_FOUND = 13
    ASSETS_DIFFER = 14
    INSUFFICIENT_FUNDS = 15
    BALANCE_OVERFLOW = 16
    ASSET_NOT_FOUND = 20
    ACCOUNT_CAPACITY_REACHED = 21
    ASSET_NUMBER_OUT_OF_RANGE = 22
    ASSET_DECIMALS_OUT_OF_RANGE = 23
    ASSET_SYMBOL_INVALID = 24
    ASSET_EXISTS = 25
    ASSET_SYMBOL_TAKEN = 26

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        if not isinstance(value, int):
            return None
        unknown = int.__new__(cls, value)
        unknown._name_ = f"STATUS_{value}"
        unknown._value_ = value
        return unknown


class _Statuses(dict[int, Status]):
    """Number to Status: a dict look-up costs a tenth of the enum's call."""

    def __missing__(self, number: int) -> Status:
        return Status(number)


_STATUSES: Final = _Statuses({int(status): status for status in Status})


class Reply(NamedTuple):
    """How one command ended. Balances are after the command, all in the asset's minor units.

    DEPOSIT's debit and WITHDRAW's credit balance are the asset's external account's. A refused
    command moved nothing: `entity`, `amount` and both balances are 0.
    """

    sequence: int
    entity: int
    amount: int
    debit_balance: int
    credit_balance: int
    status_number: int
    flags: int
    reserved: int

    @property
    def status(self) -> Status:
        """How it ended."""
        return _STATUSES[self.status_number]

    @property
    def accepted(self) -> bool:
        """True when the ledger did what was asked, now or at its first execution."""
        return self.status_number == Status.OK

    @property
    def duplicate(self) -> bool:
        """True when the command id had been executed before: this is its first reply again."""
        return bool(self.flags & DUPLICATE_FLAG)

    def raise_for_status(self) -> "Reply":
        """This reply, or Refused when its status is not OK."""
        if self.status_number != Status.OK:
            raise Refused(self.status, self)
        return self


def unpack_replies(packed: bytes | memoryview) -> list[Reply]:
    """Replies in order. Raises ValueError when `packed` is not a multiple of 48 bytes."""
    if len(packed) % REPLY_BYTES:
        raise ValueError(f"{len(packed)} bytes are no whole number of {REPLY_BYTES}-byte replies")
    return list(map(Reply._make, _REPLY.iter_unpack(packed)))


def create_account(
    command_id: bytes, *, asset: int = 1, reference: int = 0, code: int = 0
) -> bytes:
    """64 bytes that open an account of `asset`; `reference` (u64) and `code` (u32) are yours.

    The new account's id is `Reply.entity`. Raises ValueError for anything out of range.
    """
    _check("asset", asset, 1, _MAX_ASSET)
    _check("reference", reference, 0, _U64_MAX)
    return _pack(Operation.CREATE_ACCOUNT, command_id, code, asset=asset, reference=reference)


def deposit(command_id: bytes, credit_account: int, amount: int, *, code: int = 0) -> bytes:
    """64 bytes that bring `amount` minor units in from outside. Raises ValueError."""
    _check("credit_account", credit_account, 1, _U64_MAX)
    _check("amount", amount, 1, AMOUNT_MAX)
    return _pack(Operation.DEPOSIT, command_id, code, credit=credit_account, amount=amount)


def withdraw(command_id: bytes, debit_account: int, amount: int, *, code: int = 0) -> bytes:
    """64 bytes that take `amount` minor units out of the ledger. Raises ValueError."""
    _check("debit_account", debit_account, 1, _U64_MAX)
    _check("amount", amount, 1, AMOUNT_MAX)
    return _pack(Operation.WITHDRAW, command_id, code, debit=debit_account, amount=amount)


def transfer(
    command_id: bytes, debit_account: int, credit_account: int, amount: int, *, code: int = 0
) -> bytes:
    """64 bytes that move `amount` minor units between two accounts. Raises ValueError."""
    _check("debit_account", debit_account, 1, _U64_MAX)
    _check("credit_account", credit_account, 1, _U64_MAX)
    if debit_account == credit_account:
        raise ValueError(f"debit and credit account are both {debit_account}: name two accounts")
    _check("amount", amount, 1, AMOUNT_MAX)
    return _pack(
        Operation.TRANSFER,
        command_id,
        code,
        debit=debit_account,
        credit=credit_account,
        amount=amount,
    )


def register_asset(command_id: bytes, *, asset: int, symbol: str, decimals: int) -> bytes:
    """64 bytes that register asset number 1 .. 4095 with 0 .. 18 decimals. Raises ValueError."""
    _check("asset", asset, 1, _MAX_ASSET)
    _check("decimals", decimals, 0, _MAX_DECIMALS)
    text = symbol.encode()
    if not 1 <= len(text) <= _MAX_SYMBOL_BYTES or not _SYMBOL_CHARACTERS.issuperset(text):
        raise ValueError(f"symbol is {symbol!r}: use 1 to 8 characters of A-Z and 0-9")
    reference = int.from_bytes(text, "little")
    return _pack(Operation.REGISTER_ASSET, command_id, decimals, asset=asset, reference=reference)


def _pack(
    operation: Operation,
    command_id: bytes,
    code: int,
    *,
    debit: int = 0,
    credit: int = 0,
    amount: int = 0,
    reference: int = 0,
    asset: int = 0,
) -> bytes:
    if len(command_id) != COMMAND_ID_BYTES:
        raise ValueError(
            f"command_id is {len(command_id)} bytes: give 16, from CommandIds.next_id() or "
            "uuid.UUID.bytes (16 zero bytes: no protection against running twice)"
        )
    _check("code", code, 0, _U32_MAX)
    return _COMMAND.pack(command_id, debit, credit, amount, reference, asset, operation, 0, 0, code)


def _check(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}: give an integer in {least} .. {most}")
