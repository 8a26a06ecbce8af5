"""The fake ledger's accounts, assets and holds, and the checks that look at nothing else."""

from dataclasses import dataclass
from typing import Final

from client_core.records import AMOUNT_MAX, CommandFlag, Fields, Operation, Side, Status

CLOSED: Final = 4
"""Bit of an account's state, above the two of its locks."""


@dataclass(frozen=True, slots=True)
class FakeAccount:
    """One account, minor units."""

    account_id: int
    asset: int
    reference: int
    code: int
    opened_ns: int
    last_sequence: int
    posted: int = 0
    held: int = 0
    floor: int = 0
    ceiling: int = AMOUNT_MAX
    version: int = 1
    credits_total: int = 0
    state: int = 0
    open_holds: int = 0


@dataclass(frozen=True, slots=True)
class FakeAsset:
    """One asset and its totals; `external` is minus the sum of its accounts."""

    number: int
    decimals: int
    symbol: bytes
    external: int = 0
    accounts: int = 0
    held: int = 0
    open_holds: int = 0


@dataclass(frozen=True, slots=True)
class FakeHold:
    """One open hold; `expires_ns` 0 is never."""

    hold_id: int
    debit_account: int
    credit_account: int
    remaining: int
    expires_ns: int
    opened_sequence: int
    code: int
    asset: int


class FakeRefusal(Exception):
    """A command failed a check; its caller gets the status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


def refuse_if(reason: object, status: Status) -> None:
    """Raise FakeRefusal with the status, if there is a reason."""
    if reason:
        raise FakeRefusal(status)


def available(account: FakeAccount) -> int:
    """What may be moved out or held now."""
    return account.posted - account.held - account.floor


def part_of(hold: FakeHold, command: Fields) -> int:
    """What a capture or release takes off a hold; 0 is all of it."""
    refuse_if(command.amount < 0, Status.AMOUNT_NOT_POSITIVE)
    amount = command.amount or hold.remaining
    if command.operation == Operation.CAPTURE and command.flags & CommandFlag.BALANCING:
        amount = min(amount, hold.remaining)
    refuse_if(amount > hold.remaining, Status.HOLD_EXCEEDED)
    return amount


def check_states(debit: FakeAccount | None, credit: FakeAccount | None) -> None:
    """Whether a side of the posting is closed or locked."""
    refuse_if(debit and debit.state & CLOSED, Status.DEBIT_ACCOUNT_CLOSED)
    refuse_if(credit and credit.state & CLOSED, Status.CREDIT_ACCOUNT_CLOSED)
    refuse_if(debit and debit.state & Side.DEBITS, Status.DEBIT_ACCOUNT_LOCKED)
    refuse_if(credit and credit.state & Side.CREDITS, Status.CREDIT_ACCOUNT_LOCKED)


def check_version(command: Fields, account: FakeAccount) -> None:
    """Whether the account has the version that was expected."""
    expected = command.flags & CommandFlag.EXPECT_VERSION
    refuse_if(expected and command.reference != account.version, Status.VERSION_MISMATCH)


def check_sums(amount: int, *sums: int) -> None:
    """None of the sums may pass 2^63 - 1 with the amount."""
    refuse_if(any(total + amount > AMOUNT_MAX for total in sums), Status.BALANCE_OVERFLOW)


def is_uuid7(command_id: bytes) -> bool:
    """Whether version and variant are those of a UUIDv7 (RFC 9562)."""
    return command_id[6] >> 4 == 7 and command_id[8] >> 6 == 2
