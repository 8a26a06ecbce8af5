"""The oracle: the whole state machine in plain Python integers, to be read in ten minutes.

It imports nothing of cluster_core, knows nothing of speed, and says once more, independently,
what every command does. Tests feed it and the kernel the same batches and compare replies,
records and digests byte by byte. Byte layouts are those drawn in cluster_core/record.py.
"""

import struct
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from blake3 import blake3

COMMAND: Final = struct.Struct("<16sQQqQIHHII")
REPLY: Final = struct.Struct("<QQqqqHH4x")
ACCOUNT: Final = struct.Struct("<q16xqQQqI4xQQqI36x")
ASSET: Final = struct.Struct("<II8sqQ32x")

CREATE_ACCOUNT, DEPOSIT, WITHDRAW, TRANSFER, REGISTER_ASSET = 1, 2, 3, 4, 5
DUPLICATE: Final = 1
NO_ID: Final = bytes(16)
I64_MAX: Final = 2**63 - 1
MAX_ASSETS: Final = 4_096
MAX_DECIMALS: Final = 18
SYMBOL_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Status(IntEnum):
    """How a command ended."""

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


class Command(NamedTuple):
    """One command, its fields in the record's order: `COMMAND.pack(*command)` is its bytes."""

    command_id: bytes = NO_ID
    debit_account: int = 0
    credit_account: int = 0
    amount: int = 0
    reference: int = 0
    asset: int = 0
    operation: int = 0
    flags: int = 0
    timeout_s: int = 0
    code: int = 0


class Reply(NamedTuple):
    """One reply, in the record's order. Of a refusal only status and sequence are not zero."""

    sequence: int = 0
    entity: int = 0
    amount: int = 0
    debit_balance: int = 0
    credit_balance: int = 0
    status: int = 0
    flags: int = 0


@dataclass(slots=True)
class Account:
    """One account, in the record's order. Amounts are minor units of its asset."""

    posted: int = 0
    ceiling: int = I64_MAX
    version: int = 1
    last_sequence: int = 0
    credits_total: int = 0
    asset: int = 0
    account_id: int = 0
    reference: int = 0
    opened_ns: int = 0
    code: int = 0

    def change(self, *, debit: int = 0, credit: int = 0, sequence: int) -> None:
        self.posted += credit - debit
        self.credits_total += credit
        self.version += 1
        self.last_sequence = sequence


@dataclass(slots=True)
class Asset:
    """One asset. `external` is what the outside world holds: minus the sum of all accounts."""

    number: int
    decimals: int
    symbol: bytes
    external: int = 0
    accounts: int = 0


class ReferenceLedger:
    """The ledger's state, and `apply`, the one thing that changes it."""

    def __init__(self, window_capacity: int, id_ahead_ns: int, account_capacity: int) -> None:
        self.window_capacity = window_capacity
        self.id_ahead_ns = id_ahead_ns
        self.account_capacity = account_capacity
        self.applied = 0
        self.accounts: list[Account] = []  # account 1 first
        self.assets = {1: Asset(1, 2, b"UNIT\0\0\0\0")}
        self.newest_evicted = NO_ID
        self.window_entries = 0
        self._window: list[tuple[bytes, int, Reply]] = []  # id, fingerprint, first reply
        self._slots: dict[bytes, int] = {}

    def apply(self, commands: bytes | Iterable[bytes], timestamp_ns: int) -> list[bytes]:
        """Apply well-formed commands of 64 bytes; returns one 48-byte reply for each."""
        packed = commands if isinstance(commands, bytes) else b"".join(commands)
        rows = [packed[start : start + 64] for start in range(0, len(packed), 64)]
        return [REPLY.pack(*self._apply_one(row, timestamp_ns)) for row in rows]

    def account(self, account_id: int) -> Account | None:
        return self.accounts[account_id - 1] if 1 <= account_id <= len(self.accounts) else None

    def digest(self) -> bytes:
        """BLAKE3 over the whole state, 32 bytes."""
        parameters = (self.window_capacity, self.id_ahead_ns, self.account_capacity)
        highest = max(self.assets)
        counts = (self.applied, len(self.accounts), highest, self.window_entries)
        parts = [b"RLSTATE1", struct.pack("<7Q", *parameters, *counts), self.newest_evicted]
        parts += [ACCOUNT.pack(*astuple(account)) for account in self.accounts]
        for number in range(1, highest + 1):
            asset = self.assets.get(number)
            parts.append(ASSET.pack(*astuple(asset)) if asset else bytes(64))
        parts += [command_id for command_id, _, _ in self._window]
        parts += [struct.pack("<Q", first_print) for _, first_print, _ in self._window]
        parts += [REPLY.pack(*first_reply) for _, _, first_reply in self._window]
        return blake3(b"".join(parts)).digest()

    def _apply_one(self, packed: bytes, timestamp_ns: int) -> Reply:
        sequence = self.applied
        self.applied += 1
        command = Command._make(COMMAND.unpack(packed))
        early = self._judge_id(command, fingerprint(packed), timestamp_ns)
        if early is not None:
            return early if early.flags & DUPLICATE else early._replace(sequence=sequence)
        execute = {
            CREATE_ACCOUNT: self._create_account,
            DEPOSIT: self._deposit,
            WITHDRAW: self._withdraw,
            TRANSFER: self._transfer,
            REGISTER_ASSET: self._register_asset,
        }[command.operation]
        reply = execute(command, sequence, timestamp_ns)._replace(sequence=sequence)
        if command.command_id != NO_ID:
            self._remember(command.command_id, fingerprint(packed), reply)
        return reply

    def _judge_id(self, command: Command, print_: int, timestamp_ns: int) -> Reply | None:
        """The reply that the id alone decides and the window never keeps; None: execute."""
        command_id = command.command_id
        if command_id == NO_ID:
            return None
        if command_id in self._slots:
            _, first_print, first_reply = self._window[self._slots[command_id]]
            if first_print != print_:
                return Reply(status=Status.COMMAND_ID_REUSED)
            return first_reply._replace(flags=DUPLICATE)
        if is_uuid7(command_id):
            if self.newest_evicted != NO_ID and command_id <= self.newest_evicted:
                return Reply(status=Status.COMMAND_ID_TOO_OLD)
            id_ms = int.from_bytes(command_id[:6], "big")
            if id_ms > (timestamp_ns + self.id_ahead_ns) // 1_000_000:
                return Reply(status=Status.COMMAND_ID_IN_FUTURE)
        return None

    def _remember(self, command_id: bytes, print_: int, reply: Reply) -> None:
        """Enter the window; the oldest entry leaves a full one."""
        slot = self.window_entries % self.window_capacity
        if self.window_entries >= self.window_capacity:
            oldest_id = self._window[slot][0]
            del self._slots[oldest_id]
            if is_uuid7(oldest_id):
                self.newest_evicted = max(self.newest_evicted, oldest_id)
        self._window[slot : slot + 1] = [(command_id, print_, reply)]
        self._slots[command_id] = slot
        self.window_entries += 1

    def _create_account(self, command: Command, sequence: int, timestamp_ns: int) -> Reply:
        if command.asset not in self.assets:
            return Reply(status=Status.ASSET_NOT_FOUND)
        if len(self.accounts) == self.account_capacity:
            return Reply(status=Status.ACCOUNT_CAPACITY_REACHED)
        account = Account(asset=command.asset, reference=command.reference, code=command.code)
        account.account_id = len(self.accounts) + 1
        account.opened_ns = timestamp_ns
        account.last_sequence = sequence
        self.accounts.append(account)
        self.assets[command.asset].accounts += 1
        return Reply(entity=account.account_id, status=Status.OK)

    def _deposit(self, command: Command, sequence: int, _timestamp_ns: int) -> Reply:
        amount = command.amount
        if amount <= 0:
            return Reply(status=Status.AMOUNT_NOT_POSITIVE)
        credit = self.account(command.credit_account)
        if credit is None:
            return Reply(status=Status.CREDIT_ACCOUNT_NOT_FOUND)
        asset = self.assets[credit.asset]
        if overflow(credit.posted + amount, credit.credits_total + amount, asset.external - amount):
            return Reply(status=Status.BALANCE_OVERFLOW)
        credit.change(credit=amount, sequence=sequence)
        asset.external -= amount
        return Reply(0, 0, amount, asset.external, credit.posted, Status.OK)

    def _withdraw(self, command: Command, sequence: int, _timestamp_ns: int) -> Reply:
        amount = command.amount
        if amount <= 0:
            return Reply(status=Status.AMOUNT_NOT_POSITIVE)
        debit = self.account(command.debit_account)
        if debit is None:
            return Reply(status=Status.DEBIT_ACCOUNT_NOT_FOUND)
        if debit.posted < amount:
            return Reply(status=Status.INSUFFICIENT_FUNDS)
        asset = self.assets[debit.asset]
        debits_total = debit.credits_total - debit.posted
        if overflow(debits_total + amount, asset.external + amount):
            return Reply(status=Status.BALANCE_OVERFLOW)
        debit.change(debit=amount, sequence=sequence)
        asset.external += amount
        return Reply(0, 0, amount, debit.posted, asset.external, Status.OK)

    def _transfer(self, command: Command, sequence: int, _timestamp_ns: int) -> Reply:
        amount = command.amount
        if amount <= 0:
            return Reply(status=Status.AMOUNT_NOT_POSITIVE)
        if command.debit_account == command.credit_account:
            return Reply(status=Status.SAME_ACCOUNT)
        debit = self.account(command.debit_account)
        if debit is None:
            return Reply(status=Status.DEBIT_ACCOUNT_NOT_FOUND)
        credit = self.account(command.credit_account)
        if credit is None:
            return Reply(status=Status.CREDIT_ACCOUNT_NOT_FOUND)
        if debit.asset != credit.asset:
            return Reply(status=Status.ASSETS_DIFFER)
        if debit.posted < amount:
            return Reply(status=Status.INSUFFICIENT_FUNDS)
        debits_total = debit.credits_total - debit.posted
        if overflow(credit.posted + amount, credit.credits_total + amount, debits_total + amount):
            return Reply(status=Status.BALANCE_OVERFLOW)
        debit.change(debit=amount, sequence=sequence)
        credit.change(credit=amount, sequence=sequence)
        return Reply(0, 0, amount, debit.posted, credit.posted, Status.OK)

    def _register_asset(self, command: Command, _sequence: int, _timestamp_ns: int) -> Reply:
        symbol = command.reference.to_bytes(8, "little")
        text = symbol.rstrip(b"\0")
        if not 1 <= command.asset < MAX_ASSETS:
            return Reply(status=Status.ASSET_NUMBER_OUT_OF_RANGE)
        if command.code > MAX_DECIMALS:
            return Reply(status=Status.ASSET_DECIMALS_OUT_OF_RANGE)
        if not text or any(character not in SYMBOL_CHARACTERS for character in text):
            return Reply(status=Status.ASSET_SYMBOL_INVALID)
        if command.asset in self.assets:
            return Reply(status=Status.ASSET_EXISTS)
        if any(asset.symbol == symbol for asset in self.assets.values()):
            return Reply(status=Status.ASSET_SYMBOL_TAKEN)
        self.assets[command.asset] = Asset(command.asset, command.code, symbol)
        return Reply(status=Status.OK)


def overflow(*totals: int) -> bool:
    """Whether one of them leaves -(2^63 - 1) .. 2^63 - 1."""
    return any(abs(total) > I64_MAX for total in totals)


def is_uuid7(command_id: bytes) -> bool:
    """Whether version and variant are those of a UUIDv7 (RFC 9562)."""
    return command_id[6] >> 4 == 7 and command_id[8] >> 6 == 2


def fingerprint(packed: bytes) -> int:
    """64-bit fingerprint of all of a command but its id."""
    mixed = 0x9E3779B97F4A7C15
    for word in struct.unpack("<6Q", packed[16:]):
        mixed = (mixed ^ word) * 0xFF51AFD7ED558CCD % 2**64
        mixed ^= mixed >> 32
    return mixed
