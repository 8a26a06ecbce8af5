"""The oracle: the whole state machine in plain Python integers, to be read in ten minutes.

It imports nothing of cluster_core, knows nothing of speed, and says once more, independently,
what every command does. Tests feed it and the kernel the same batches and compare replies,
records and digests byte by byte. Byte layouts are those drawn in cluster_core/record.py.

Accounts, assets and holds are values: a change puts a new one in the old one's place. So a copy of
the tables is a copy of the state, and a failed chain is undone by putting the copies back.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from enum import IntEnum
from typing import Final, NamedTuple

from blake3 import blake3

COMMAND: Final = struct.Struct("<16sQQqQIHHII")
REPLY: Final = struct.Struct("<QQqqqHH4x")
ACCOUNT: Final = struct.Struct("<qqqqQQqIH2xQQqII32x")
ASSET: Final = struct.Struct("<II8sqQqQ16x")
OPEN_HOLD: Final = struct.Struct("<QQQqqQII")  # without the 8 bytes that are a process's own

CREATE_ACCOUNT, DEPOSIT, WITHDRAW, TRANSFER, REGISTER_ASSET = 1, 2, 3, 4, 5
HOLD, CAPTURE, RELEASE, EXPIRE, LOCK, UNLOCK, CLOSE, SET_LIMITS = 6, 7, 8, 9, 10, 11, 12, 13
LINKED, BALANCING, EXPECT_VERSION, KEEP_REST_HELD = 1, 2, 4, 8  # bits of Command.flags
DEBITS, CREDITS, CLOSED = 1, 2, 4  # bits of Account.state; the first two are LOCK's codes too
DUPLICATE: Final = 1  # bit of Reply.flags
NO_ID: Final = bytes(16)
I64_MIN, I64_MAX = -(2**63), 2**63 - 1
MAX_ASSETS, MAX_DECIMALS = 4_096, 18
SYMBOL_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Status(IntEnum):
    """How a command ended, in the order of checking."""

    OK = 1
    COMMAND_ID_REUSED, COMMAND_ID_TOO_OLD, COMMAND_ID_IN_FUTURE = 2, 3, 4
    CHAIN_ID_REUSED, LINKED_FAILED = 5, 6
    HOLD_NOT_FOUND, HOLD_NOT_OPEN, HOLD_EXPIRED, HOLD_NOT_EXPIRED = 41, 42, 43, 44
    AMOUNT_NOT_POSITIVE, HOLD_EXCEEDED, SAME_ACCOUNT = 10, 45, 11
    DEBIT_ACCOUNT_NOT_FOUND, CREDIT_ACCOUNT_NOT_FOUND, ASSETS_DIFFER = 12, 13, 14
    DEBIT_ACCOUNT_CLOSED, CREDIT_ACCOUNT_CLOSED = 30, 31
    DEBIT_ACCOUNT_LOCKED, CREDIT_ACCOUNT_LOCKED, VERSION_MISMATCH = 32, 33, 34
    INSUFFICIENT_FUNDS, BALANCE_OVERFLOW, CEILING_EXCEEDED = 15, 16, 17
    HOLD_CAPACITY_REACHED = 40
    ASSET_NOT_FOUND, ACCOUNT_CAPACITY_REACHED = 20, 21
    ASSET_NUMBER_OUT_OF_RANGE, ASSET_DECIMALS_OUT_OF_RANGE, ASSET_SYMBOL_INVALID = 22, 23, 24
    ASSET_EXISTS, ASSET_SYMBOL_TAKEN = 25, 26
    LOCK_CODE_INVALID, FLOOR_OUT_OF_RANGE, FLOOR_ABOVE_CEILING = 50, 51, 52
    BALANCE_OUTSIDE_LIMITS, BALANCE_NOT_ZERO, HOLDS_OPEN = 53, 54, 55


class Refused(Exception):
    """A command failed a check. Only this file sees it: callers get its status."""


def refuse_if(reason: object, status: Status) -> None:
    if reason:
        raise Refused(status)


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
    status: int = Status.OK
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """One account, in the record's order. Amounts are minor units of its asset."""

    posted: int = 0
    held: int = 0
    floor: int = 0
    ceiling: int = I64_MAX
    version: int = 1
    last_sequence: int = 0
    credits_total: int = 0
    asset: int = 0
    state: int = 0
    account_id: int = 0
    reference: int = 0
    opened_ns: int = 0
    code: int = 0
    open_holds: int = 0

    @property
    def available(self) -> int:
        """What may still be moved out or held; up to 2^64 - 2."""
        return self.posted - self.held - self.floor

    @property
    def debits_total(self) -> int:
        return self.credits_total - self.posted


@dataclass(frozen=True, slots=True)
class Asset:
    """One asset. `external` is what the outside world holds: minus the sum of all accounts."""

    number: int
    decimals: int
    symbol: bytes
    external: int = 0
    accounts: int = 0
    held: int = 0
    open_holds: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """One open hold, in the record's order. It reserves money of its debit account only."""

    hold_id: int
    debit_account: int
    credit_account: int
    remaining: int
    expires_ns: int  # 0: never
    opened_sequence: int
    code: int
    asset: int


@dataclass
class ReferenceLedger:
    """The ledger's state, and `apply`, the one thing that changes it."""

    window_capacity: int
    id_ahead_ns: int
    account_capacity: int
    hold_capacity: int = 1 << 22

    def __post_init__(self) -> None:
        self.applied = 0
        self.accounts: list[Account] = []  # account 1 first
        self.assets = {1: Asset(1, 2, b"UNIT\0\0\0\0")}
        self.holds: dict[int, Hold] = {}  # the open ones
        self.next_hold = 1
        self.newest_evicted = NO_ID
        self.window_entries = 0
        self.window: dict[bytes, tuple[int, Reply]] = {}  # id: fingerprint, reply; oldest first

    def apply(self, packed: bytes, timestamp_ns: int) -> list[bytes]:
        """Apply well-formed commands of 64 bytes; returns one 48-byte reply for each."""
        self._now_ns, replies = timestamp_ns, list[Reply]()
        for chain in split_chains(map(Command._make, COMMAND.iter_unpack(packed))):
            replies += self._apply_chain(chain)
        return [REPLY.pack(*reply) for reply in replies]

    def digest(self) -> bytes:
        """BLAKE3 over the whole state, 32 bytes."""
        capacities = (self.account_capacity, self.hold_capacity)
        highest = max(self.assets)
        counts = (self.applied, len(self.accounts), highest, self.next_hold, self.window_entries)
        numbers = (self.window_capacity, self.id_ahead_ns, *capacities, *counts)
        parts = [b"RLSTATE1", struct.pack("<9Q", *numbers), self.newest_evicted]
        parts += [ACCOUNT.pack(*astuple(account)) for account in self.accounts]
        for number in range(1, highest + 1):
            asset = self.assets.get(number)
            parts.append(ASSET.pack(*astuple(asset)) if asset else bytes(64))
        parts.append(struct.pack("<Q", len(self.holds)))
        parts += [OPEN_HOLD.pack(*astuple(hold)) for _, hold in sorted(self.holds.items())]
        entries = deque(self.window.items())
        entries.rotate(
            self.window_entries % self.window_capacity
        )  # entry n lies in slot n % capacity
        parts += [command_id for command_id, _ in entries]
        parts += [struct.pack("<Q", first_print) for _, (first_print, _) in entries]
        parts += [REPLY.pack(*first_reply) for _, (_, first_reply) in entries]
        return blake3(b"".join(parts)).digest()

    # Chains and ids. A command that is linked to no other is a chain of one.
    def _apply_chain(self, chain: Sequence[Command]) -> list[Reply]:
        first = self.applied
        self.applied += len(chain)
        early = [self._judge_id(command) for command in chain]
        ids = [command.command_id for command in chain if command.command_id != NO_ID]
        new = not any(early) and len(set(ids)) == len(ids)
        reused = Reply(status=Status.CHAIN_ID_REUSED)
        replies = self._run_chain(chain, first) if new else [reply or reused for reply in early]
        for place, command in enumerate(chain):
            if not replies[place].flags & DUPLICATE:
                replies[place] = replies[place]._replace(sequence=first + place)
            if new and command.command_id != NO_ID:
                self._remember(command, replies[place])
        return replies

    def _judge_id(self, command: Command) -> Reply | None:
        """The reply that the id alone decides and the window never keeps; None: it is new."""
        command_id = command.command_id
        if command_id == NO_ID:
            return None
        if command_id in self.window:
            first_print, first_reply = self.window[command_id]
            if first_print != fingerprint(command):
                return Reply(status=Status.COMMAND_ID_REUSED)
            return first_reply._replace(flags=DUPLICATE)
        if is_uuid7(command_id):
            if self.newest_evicted != NO_ID and command_id <= self.newest_evicted:
                return Reply(status=Status.COMMAND_ID_TOO_OLD)
            id_ms = int.from_bytes(command_id[:6], "big")
            if id_ms > (self._now_ns + self.id_ahead_ns) // 1_000_000:
                return Reply(status=Status.COMMAND_ID_IN_FUTURE)
        return None

    def _run_chain(self, chain: Sequence[Command], first: int) -> list[Reply]:
        """All members' replies; a refused one undoes those before it. It changed nothing itself."""
        before = (self.accounts, self.assets, self.holds, self.next_hold)
        if len(chain) > 1:
            before = (self.accounts.copy(), self.assets.copy(), self.holds.copy(), self.next_hold)
        replies: list[Reply] = []
        try:
            for place, command in enumerate(chain):
                self._sequence = first + place
                replies.append(self._run(command))
        except Refused as refused:
            self.accounts, self.assets, self.holds, self.next_hold = before
            failed = [Reply(status=Status.LINKED_FAILED)] * len(chain)
            failed[len(replies)] = Reply(status=refused.args[0])
            return failed
        return replies

    def _remember(self, command: Command, reply: Reply) -> None:
        """Enter the window; the oldest entry leaves a full one."""
        if len(self.window) == self.window_capacity:
            oldest_id = next(iter(self.window))
            del self.window[oldest_id]
            if is_uuid7(oldest_id):
                self.newest_evicted = max(self.newest_evicted, oldest_id)
        self.window[command.command_id] = (fingerprint(command), reply)
        self.window_entries += 1

    def _run(self, command: Command) -> Reply:
        """Check the command's values, then change the state. Raises Refused."""
        operations = (
            *(self._create_account, self._deposit, self._withdraw, self._transfer),
            *(self._register_asset, self._hold, self._capture, self._release, self._expire),
            *(self._lock, self._lock, self._close, self._set_limits),
        )
        return operations[command.operation - 1](command)

    # Assets and accounts.
    def _register_asset(self, command: Command) -> Reply:
        symbol = command.reference.to_bytes(8, "little")
        text, taken = symbol.rstrip(b"\0"), {asset.symbol for asset in self.assets.values()}
        refuse_if(not 1 <= command.asset < MAX_ASSETS, Status.ASSET_NUMBER_OUT_OF_RANGE)
        refuse_if(command.code > MAX_DECIMALS, Status.ASSET_DECIMALS_OUT_OF_RANGE)
        refuse_if(not text or set(text) - set(SYMBOL_CHARACTERS), Status.ASSET_SYMBOL_INVALID)
        refuse_if(command.asset in self.assets, Status.ASSET_EXISTS)
        refuse_if(symbol in taken, Status.ASSET_SYMBOL_TAKEN)
        self.assets[command.asset] = Asset(command.asset, command.code, symbol)
        return Reply()

    def _create_account(self, command: Command) -> Reply:
        refuse_if(command.asset not in self.assets, Status.ASSET_NOT_FOUND)
        refuse_if(len(self.accounts) == self.account_capacity, Status.ACCOUNT_CAPACITY_REACHED)
        opened = {"account_id": len(self.accounts) + 1, "opened_ns": self._now_ns}
        given = {"asset": command.asset, "reference": command.reference, "code": command.code}
        account = Account(**opened, **given, last_sequence=self._sequence)
        asset = self.assets[command.asset]
        self.accounts.append(account)
        self.assets[asset.number] = replace(asset, accounts=asset.accounts + 1)
        return Reply(entity=account.account_id)

    def _lock(self, command: Command) -> Reply:
        account = self._open_account(command)
        refuse_if(command.code not in (1, 2, 3), Status.LOCK_CODE_INVALID)
        others = account.state & ~command.code
        self._change(account, state=others | (command.code if command.operation == LOCK else 0))
        return Reply(debit_balance=account.posted)

    def _close(self, command: Command) -> Reply:
        account = self._open_account(command)
        refuse_if(account.posted != 0, Status.BALANCE_NOT_ZERO)
        refuse_if(account.open_holds, Status.HOLDS_OPEN)
        self._change(account, state=account.state | CLOSED)
        return Reply()

    def _set_limits(self, command: Command) -> Reply:
        account = self._open_account(command)
        floor, ceiling = command.amount, command.reference
        ceiling -= 2**64 if ceiling > I64_MAX else 0
        refuse_if(I64_MIN in (floor, ceiling), Status.FLOOR_OUT_OF_RANGE)
        refuse_if(floor > ceiling, Status.FLOOR_ABOVE_CEILING)
        outside = account.posted - account.held < floor or account.posted > ceiling
        refuse_if(outside, Status.BALANCE_OUTSIDE_LIMITS)
        self._change(account, floor=floor, ceiling=ceiling)
        return Reply(debit_balance=account.posted)

    # Money.
    def _deposit(self, command: Command) -> Reply:
        amount = command.amount
        refuse_if(amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        credit = self._find(command.credit_account, Status.CREDIT_ACCOUNT_NOT_FOUND)
        check_states(None, credit)
        check_version(command, credit)
        asset = self.assets[credit.asset]
        check_overflow(amount, credit.posted, credit.credits_total, -asset.external)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        self.assets[asset.number] = replace(asset, external=asset.external - amount)
        self._credit(credit, amount)
        return Reply(0, 0, amount, asset.external - amount, credit.posted + amount)

    def _withdraw(self, command: Command) -> Reply:
        amount = command.amount
        refuse_if(amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        debit = self._find(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        check_states(debit, None)
        check_version(command, debit)
        refuse_if(amount > debit.available, Status.INSUFFICIENT_FUNDS)
        asset = self.assets[debit.asset]
        check_overflow(amount, debit.debits_total, asset.external)
        self.assets[asset.number] = replace(asset, external=asset.external + amount)
        self._change(debit, posted=debit.posted - amount)
        return Reply(0, 0, amount, debit.posted - amount, asset.external + amount)

    def _transfer(self, command: Command) -> Reply:
        debit, credit = self._two_accounts(command)
        amount = command.amount
        if command.flags & BALANCING:
            amount = min(amount, debit.available)
        refuse_if(amount == 0 or amount > debit.available, Status.INSUFFICIENT_FUNDS)
        check_overflow(amount, credit.posted, credit.credits_total, debit.debits_total)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        self._change(debit, posted=debit.posted - amount)
        self._credit(credit, amount)
        return Reply(0, 0, amount, debit.posted - amount, credit.posted + amount)

    def _hold(self, command: Command) -> Reply:
        debit, credit = self._two_accounts(command)
        amount, asset = command.amount, self.assets[debit.asset]
        refuse_if(amount > debit.available, Status.INSUFFICIENT_FUNDS)
        check_overflow(amount, asset.held, debit.held)
        refuse_if(len(self.holds) == self.hold_capacity, Status.HOLD_CAPACITY_REACHED)
        later_ns = min(self._now_ns + command.timeout_s * 10**9, I64_MAX)
        terms = (debit.account_id, credit.account_id, amount, later_ns if command.timeout_s else 0)
        hold = Hold(self.next_hold, *terms, self._sequence, command.code, asset.number)
        self.holds[hold.hold_id] = hold
        self.next_hold += 1
        held, open_holds = asset.held + amount, asset.open_holds + 1
        self.assets[asset.number] = replace(asset, held=held, open_holds=open_holds)
        self._change(debit, held=debit.held + amount, open_holds=debit.open_holds + 1)
        return Reply(0, hold.hold_id, amount, debit.posted, credit.posted)

    def _capture(self, command: Command) -> Reply:
        hold = self._open_hold(command)
        refuse_if(self._is_past(hold), Status.HOLD_EXPIRED)
        amount = amount_of(hold, command)
        debit, credit = self._accounts_of(hold)
        check_states(debit, credit)
        check_overflow(amount, credit.posted, credit.credits_total, debit.debits_total)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        freed = amount if command.flags & KEEP_REST_HELD else hold.remaining
        self._free(hold, freed, captured=amount)
        self._credit(credit, amount)
        return Reply(0, hold.hold_id, amount, debit.posted - amount, credit.posted + amount)

    def _release(self, command: Command) -> Reply:
        hold = self._open_hold(command)
        amount = amount_of(hold, command)
        self._free(hold, amount)
        debit, credit = self._accounts_of(hold)
        return Reply(0, hold.hold_id, amount, debit.posted, credit.posted)

    def _expire(self, command: Command) -> Reply:
        hold = self._open_hold(command)
        refuse_if(not self._is_past(hold), Status.HOLD_NOT_EXPIRED)
        return self._release(command)  # its amount is zero: all

    # What several operations look up, check or change.
    def _find(self, account_id: int, status: Status) -> Account:
        refuse_if(not 1 <= account_id <= len(self.accounts), status)
        return self.accounts[account_id - 1]

    def _open_account(self, command: Command) -> Account:
        """The account that LOCK, UNLOCK, CLOSE and SET_LIMITS change."""
        account = self._find(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        refuse_if(account.state & CLOSED, Status.DEBIT_ACCOUNT_CLOSED)
        return account

    def _two_accounts(self, command: Command) -> tuple[Account, Account]:
        """What TRANSFER and HOLD check alike, from the amount up to the version."""
        refuse_if(command.amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        refuse_if(command.debit_account == command.credit_account, Status.SAME_ACCOUNT)
        debit = self._find(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        credit = self._find(command.credit_account, Status.CREDIT_ACCOUNT_NOT_FOUND)
        refuse_if(debit.asset != credit.asset, Status.ASSETS_DIFFER)
        check_states(debit, credit)
        check_version(command, debit)
        return debit, credit

    def _open_hold(self, command: Command) -> Hold:
        refuse_if(not 1 <= command.reference < self.next_hold, Status.HOLD_NOT_FOUND)
        refuse_if(command.reference not in self.holds, Status.HOLD_NOT_OPEN)
        return self.holds[command.reference]

    def _is_past(self, hold: Hold) -> bool:
        return hold.expires_ns != 0 and self._now_ns >= hold.expires_ns

    def _accounts_of(self, hold: Hold) -> tuple[Account, Account]:
        return self.accounts[hold.debit_account - 1], self.accounts[hold.credit_account - 1]

    def _change(self, account: Account, **fields: int) -> None:
        fields |= {"version": account.version + 1, "last_sequence": self._sequence}
        self.accounts[account.account_id - 1] = replace(account, **fields)

    def _credit(self, account: Account, amount: int) -> None:
        posted, credits_total = account.posted + amount, account.credits_total + amount
        self._change(account, posted=posted, credits_total=credits_total)

    def _free(self, hold: Hold, freed: int, captured: int = 0) -> None:
        """A hold lets `freed` go, of which `captured` leaves the debit account as well."""
        resolved = int(freed == hold.remaining)
        self.holds[hold.hold_id] = replace(hold, remaining=hold.remaining - freed)
        if resolved:
            del self.holds[hold.hold_id]
        asset, debit = self.assets[hold.asset], self.accounts[hold.debit_account - 1]
        held, open_holds = asset.held - freed, asset.open_holds - resolved
        self.assets[hold.asset] = replace(asset, held=held, open_holds=open_holds)
        held, open_holds = debit.held - freed, debit.open_holds - resolved
        self._change(debit, posted=debit.posted - captured, held=held, open_holds=open_holds)


def split_chains(commands: Iterable[Command]) -> Iterator[list[Command]]:
    """Runs of LINKED commands, each with the command that ends it."""
    chain: list[Command] = []
    for command in commands:
        chain.append(command)
        if not command.flags & LINKED:
            yield chain
            chain = []
    if chain:
        raise ValueError("the last command is LINKED: this is no well-formed batch")


def check_states(debit: Account | None, credit: Account | None) -> None:
    """Whether the accounts that money moves between are closed or locked."""
    refuse_if(debit and debit.state & CLOSED, Status.DEBIT_ACCOUNT_CLOSED)
    refuse_if(credit and credit.state & CLOSED, Status.CREDIT_ACCOUNT_CLOSED)
    refuse_if(debit and debit.state & DEBITS, Status.DEBIT_ACCOUNT_LOCKED)
    refuse_if(credit and credit.state & CREDITS, Status.CREDIT_ACCOUNT_LOCKED)


def check_version(command: Command, account: Account) -> None:
    other = command.flags & EXPECT_VERSION and command.reference != account.version
    refuse_if(other, Status.VERSION_MISMATCH)


def check_overflow(amount: int, *totals: int) -> None:
    """None of them may pass 2^63 - 1 when the amount is added."""
    refuse_if(any(total + amount > I64_MAX for total in totals), Status.BALANCE_OVERFLOW)


def amount_of(hold: Hold, command: Command) -> int:
    """What CAPTURE or RELEASE takes off a hold: 0 stands for all that is held."""
    refuse_if(command.amount < 0, Status.AMOUNT_NOT_POSITIVE)
    amount = command.amount or hold.remaining
    if command.operation == CAPTURE and command.flags & BALANCING:
        amount = min(amount, hold.remaining)
    refuse_if(amount > hold.remaining, Status.HOLD_EXCEEDED)
    return amount


def is_uuid7(command_id: bytes) -> bool:
    """Whether version and variant are those of a UUIDv7 (RFC 9562)."""
    return command_id[6] >> 4 == 7 and command_id[8] >> 6 == 2


def fingerprint(command: Command) -> int:
    """64-bit fingerprint of all of a command but its id."""
    mixed = 0x9E3779B97F4A7C15
    for word in struct.unpack("<6Q", COMMAND.pack(*command)[16:]):
        mixed = (mixed ^ word) * 0xFF51AFD7ED558CCD % 2**64
        mixed ^= mixed >> 32
    return mixed
