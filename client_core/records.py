"""Packed records: 64-byte commands out, 48-byte replies in. Layouts in ARCHITECTURE.md.

COMMAND, 64 bytes          REPLY, 48 bytes           (little-endian, naturally aligned)
 0 command_id     16        0 sequence       u64  of the first execution
16 debit_account  u64       8 entity         u64  account opened, or hold; else 0
24 credit_account u64      16 amount         i64  moved, minor units
32 amount         i64      24 debit_balance  i64  after the command
40 reference      u64      32 credit_balance i64
48 asset          u32      40 status         u16
52 operation      u16      42 flags          u16  bit 0: duplicate
54 flags          u16      44 reserved       u32
56 timeout_s      u32
60 code           u32

The functions below build one command each, 64 bytes, and raise ValueError for an argument that
no command can carry, TypeError for a command id that isn't bytes. `linked=True` ties a command to
the next one of its message: such a chain stands or falls together, and its last command is not
linked.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from client_core.errors import IdInFuture, OutcomeUnsettled, Refused

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
U64_MAX: Final = 2**64 - 1
_MAX_ASSET: Final = 4_095
_MAX_DECIMALS: Final = 18
NO_ID: Final = bytes(COMMAND_ID_BYTES)
"""A command with this id is no retry of another, whatever it holds."""

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
    HOLD = 6
    CAPTURE = 7
    RELEASE = 8
    LOCK = 10
    UNLOCK = 11
    CLOSE = 12
    SET_LIMITS = 13


class CommandFlag(IntFlag):
    """Bits of a command's flags."""

    LINKED = 1
    BALANCING = 2
    EXPECT_VERSION = 4
    KEEP_REST_HELD = 8


_LINKED: Final = int(CommandFlag.LINKED)
_BALANCING: Final = int(CommandFlag.BALANCING)
_EXPECT_VERSION_FLAG: Final = int(CommandFlag.EXPECT_VERSION)


class Side(IntFlag):
    """What a lock keeps from an account."""

    DEBITS = 1
    CREDITS = 2
    BOTH = 3


_EXPECT_VERSION: Final = frozenset(
    {Operation.DEPOSIT, Operation.WITHDRAW, Operation.TRANSFER, Operation.HOLD}
)
"""Where a version other than 0 in `reference` is one to check."""


class Status(IntEnum):
    """How a command ended, in the order of checking.

    A number that a newer node sends becomes a `STATUS_<number>`.
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

    @classmethod
    def _missing_(cls, value: object) -> "Status | None":
        if not isinstance(value, int):
            return None
        unknown = int.__new__(cls, value)
        unknown._name_ = f"STATUS_{value}"
        unknown._value_ = value
        return unknown


class Fields(NamedTuple):
    """A packed command's fields, in the record's order."""

    command_id: bytes
    debit_account: int
    credit_account: int
    amount: int
    reference: int
    asset: int
    operation: int
    flags: int
    timeout_s: int
    code: int


def unpack_fields(command: bytes) -> Fields:
    """The fields of one packed command, 64 bytes."""
    return Fields._make(_COMMAND.unpack(command))


_OK: Final = int(Status.OK)
_TRANSFER: Final = int(Operation.TRANSFER)


class _Statuses(dict[int, Status]):
    """Number to Status: a dict look-up costs a tenth of the enum's call."""

    def __missing__(self, number: int) -> Status:
        return Status(number)


_STATUSES: Final = _Statuses({int(status): status for status in Status})


class Reply(NamedTuple):
    """How one command ended. Balances are after the command, all in the asset's minor units.

    DEPOSIT's debit and WITHDRAW's credit balance are the asset's external account's. `entity` is
    the account that was opened, or the hold that was opened, captured or released. A refused
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

    def raise_for_status(self, command: bytes = b"") -> "Reply":
        """This reply, or an exception when its status is not OK: in general Refused.

        But COMMAND_ID_TOO_OLD is OutcomeUnsettled, which keeps `command`, the packed command that
        was answered; and COMMAND_ID_IN_FUTURE is IdInFuture.
        """
        if self.status_number == _OK:
            return self
        status = self.status
        if status is Status.COMMAND_ID_TOO_OLD:
            why = "COMMAND_ID_TOO_OLD: whether it was run before is no longer known"
            raise OutcomeUnsettled(command, [self], why)
        if status is Status.COMMAND_ID_IN_FUTURE:
            raise IdInFuture
        raise Refused(status, self)


def unpack_replies(packed: bytes | memoryview) -> list[Reply]:
    """Replies in order. Raises ValueError when `packed` is not a multiple of 48 bytes."""
    if len(packed) % REPLY_BYTES:
        raise ValueError(f"{len(packed)} bytes are no whole number of {REPLY_BYTES}-byte replies")
    return list(map(Reply._make, _REPLY.iter_unpack(packed)))


def create_account(
    command_id: bytes, *, asset: int = 1, reference: int = 0, code: int = 0, linked: bool = False
) -> bytes:
    """Open an account of `asset`; `reference` (u64) and `code` (u32) are yours.

    The new account's id is `Reply.entity`.
    """
    check_range("asset", asset, 1, _MAX_ASSET)
    check_range("reference", reference, 0, U64_MAX)
    return _pack(
        Operation.CREATE_ACCOUNT, command_id, code, linked, asset=asset, reference=reference
    )


def deposit(
    command_id: bytes,
    credit_account: int,
    amount: int,
    *,
    expected_version: int = 0,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Bring `amount` minor units in from outside.

    With `expected_version` only if the account has that version; 0 is any.
    """
    check_range("credit_account", credit_account, 1, U64_MAX)
    check_range("amount", amount, 1, AMOUNT_MAX)
    fields = {"credit": credit_account, "amount": amount} | _expecting(expected_version)
    return _pack(Operation.DEPOSIT, command_id, code, linked, **fields)


def withdraw(
    command_id: bytes,
    debit_account: int,
    amount: int,
    *,
    expected_version: int = 0,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Take `amount` minor units out of the ledger; `expected_version` as in `deposit`."""
    check_range("debit_account", debit_account, 1, U64_MAX)
    check_range("amount", amount, 1, AMOUNT_MAX)
    fields = {"debit": debit_account, "amount": amount} | _expecting(expected_version)
    return _pack(Operation.WITHDRAW, command_id, code, linked, **fields)


def transfer(
    command_id: bytes,
    debit_account: int,
    credit_account: int,
    amount: int,
    *,
    balancing: bool = False,
    expected_version: int = 0,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Move `amount` minor units between two accounts.

    `balancing` moves what is available, up to the amount. `expected_version` is the debit
    account's.
    """
    # packed here and not by `_pack`: it is what is sent most, and a tenth of a call's time
    _check_id(command_id)
    check_range("code", code, 0, _U32_MAX)
    check_range("expected_version", expected_version, 0, U64_MAX)
    _check_two_accounts(debit_account, credit_account, amount)
    flags = (_BALANCING if balancing else 0) | (_LINKED if linked else 0)
    if expected_version:
        flags |= _EXPECT_VERSION_FLAG
    accounts = (debit_account, credit_account)
    return _COMMAND.pack(
        command_id, *accounts, amount, expected_version, 0, _TRANSFER, flags, 0, code
    )


def hold(
    command_id: bytes,
    debit_account: int,
    credit_account: int,
    amount: int,
    *,
    timeout_s: int = 0,
    expected_version: int = 0,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Reserve `amount` minor units of the debit account, to be captured into the credit account.

    The hold's id is `Reply.entity`. It is released by itself after `timeout_s` seconds of ledger
    time (u32); 0 is never.
    """
    check_range("timeout_s", timeout_s, 0, _U32_MAX)
    fields = _two_accounts(debit_account, credit_account, amount) | _expecting(expected_version)
    return _pack(Operation.HOLD, command_id, code, linked, timeout_s=timeout_s, **fields)


def capture(
    command_id: bytes,
    hold_id: int,
    amount: int = 0,
    *,
    balancing: bool = False,
    keep_rest_held: bool = False,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Move `amount` minor units of what a hold reserved, and free the rest; 0 is all of it.

    `balancing` moves what is held, up to the amount. With `keep_rest_held` the rest stays held.
    """
    check_range("hold_id", hold_id, 1, U64_MAX)
    check_range("amount", amount, 0, AMOUNT_MAX)
    flags = CommandFlag.BALANCING if balancing else 0
    flags |= CommandFlag.KEEP_REST_HELD if keep_rest_held else 0
    fields = {"reference": hold_id, "amount": amount}
    return _pack(Operation.CAPTURE, command_id, code, linked, flags, **fields)


def release(
    command_id: bytes, hold_id: int, amount: int = 0, *, code: int = 0, linked: bool = False
) -> bytes:
    """Free `amount` minor units of what a hold reserved; 0 is all of it."""
    check_range("hold_id", hold_id, 1, U64_MAX)
    check_range("amount", amount, 0, AMOUNT_MAX)
    fields = {"reference": hold_id, "amount": amount}
    return _pack(Operation.RELEASE, command_id, code, linked, **fields)


def lock(command_id: bytes, account: int, side: Side = Side.BOTH, *, linked: bool = False) -> bytes:
    """Lock an account against debits, credits or both; what is locked already stays so."""
    return _pack_lock(Operation.LOCK, command_id, account, side, linked)


def unlock(
    command_id: bytes, account: int, side: Side = Side.BOTH, *, linked: bool = False
) -> bytes:
    """Take an account's locks off again."""
    return _pack_lock(Operation.UNLOCK, command_id, account, side, linked)


def close_account(command_id: bytes, account: int, *, code: int = 0, linked: bool = False) -> bytes:
    """Close an account for ever. Its balance must be zero and none of its holds open."""
    check_range("account", account, 1, U64_MAX)
    return _pack(Operation.CLOSE, command_id, code, linked, debit=account)


def set_limits(
    command_id: bytes,
    account: int,
    *,
    floor: int = 0,
    ceiling: int = AMOUNT_MAX,
    code: int = 0,
    linked: bool = False,
) -> bytes:
    """Set the least that posted - held, and the most that posted may be, in minor units.

    Below zero the floor is a credit line.
    """
    check_range("account", account, 1, U64_MAX)
    check_range("floor", floor, -AMOUNT_MAX, AMOUNT_MAX)
    check_range("ceiling", ceiling, -AMOUNT_MAX, AMOUNT_MAX)
    if floor > ceiling:
        raise ValueError(f"floor {floor} is above ceiling {ceiling}: exchange them")
    fields = {"debit": account, "amount": floor, "reference": ceiling & U64_MAX}
    return _pack(Operation.SET_LIMITS, command_id, code, linked, **fields)


def register_asset(
    command_id: bytes, *, asset: int, symbol: str, decimals: int, linked: bool = False
) -> bytes:
    """Register asset number 1 .. 4095 with 0 .. 18 decimals."""
    check_range("asset", asset, 1, _MAX_ASSET)
    check_range("decimals", decimals, 0, _MAX_DECIMALS)
    text = symbol.encode()
    if not 1 <= len(text) <= _MAX_SYMBOL_BYTES or not _SYMBOL_CHARACTERS.issuperset(text):
        raise ValueError(f"symbol is {symbol!r}: use 1 to 8 characters of A-Z and 0-9")
    reference = int.from_bytes(text, "little")
    return _pack(
        Operation.REGISTER_ASSET, command_id, decimals, linked, asset=asset, reference=reference
    )


def _two_accounts(debit_account: int, credit_account: int, amount: int) -> dict[str, int]:
    _check_two_accounts(debit_account, credit_account, amount)
    return {"debit": debit_account, "credit": credit_account, "amount": amount}


def _check_two_accounts(debit_account: int, credit_account: int, amount: int) -> None:
    check_range("debit_account", debit_account, 1, U64_MAX)
    check_range("credit_account", credit_account, 1, U64_MAX)
    if debit_account == credit_account:
        raise ValueError(f"debit and credit account are both {debit_account}: name two accounts")
    check_range("amount", amount, 1, AMOUNT_MAX)


def _expecting(version: int) -> dict[str, int]:
    check_range("expected_version", version, 0, U64_MAX)
    return {"reference": version}


def _pack_lock(
    operation: Operation, command_id: bytes, account: int, side: Side, linked: bool
) -> bytes:
    check_range("account", account, 1, U64_MAX)
    check_range("side", side, Side.DEBITS, Side.BOTH)
    return _pack(operation, command_id, side, linked, debit=account)


def _pack(
    operation: Operation,
    command_id: bytes,
    code: int,
    linked: bool,
    flags: int = 0,
    *,
    debit: int = 0,
    credit: int = 0,
    amount: int = 0,
    reference: int = 0,
    asset: int = 0,
    timeout_s: int = 0,
) -> bytes:
    _check_id(command_id)
    check_range("code", code, 0, _U32_MAX)
    if linked:
        flags |= CommandFlag.LINKED
    if reference and operation in _EXPECT_VERSION:
        flags |= CommandFlag.EXPECT_VERSION
    return _COMMAND.pack(
        command_id, debit, credit, amount, reference, asset, operation, flags, timeout_s, code
    )


def _check_id(command_id: bytes) -> None:
    if not isinstance(command_id, bytes):
        raise TypeError(
            f"command_id is a {type(command_id).__name__}: give 16 bytes, from "
            "CommandIds.next_id() or uuid.UUID.bytes"
        )
    if len(command_id) != COMMAND_ID_BYTES:
        raise ValueError(
            f"command_id is {len(command_id)} bytes: give 16, from CommandIds.next_id() or "
            "uuid.UUID.bytes (16 zero bytes: no protection against running twice)"
        )


def check_range(name: str, value: object, least: int, most: int) -> None:
    """Raises ValueError, naming the argument, for anything but an integer in least .. most."""
    if value.__class__ is int and least <= value <= most:
        return
    # True is an int to Python, but nobody means account 1 by it
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}: give an integer in {least} .. {most}")
