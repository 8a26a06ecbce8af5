"""The rules of the ledger in plain Python, a command at a time: exact, small, without a journal.

Statuses, their order, chains, holds and what an id does are those of ARCHITECTURE.md. Accounts,
assets and holds are values: a change puts a new one in the old one's place, so copies of the
tables undo a failed chain.
"""

import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from client_core.records import (
    AMOUNT_MAX,
    COMMAND_BYTES,
    NO_ID,
    CommandFlag,
    Fields,
    Operation,
    Reply,
    Side,
    Status,
    unpack_fields,
)
from client_core.testing.fake_history import FakeHistory
from client_core.testing.fake_values import (
    CLOSED,
    FakeAccount,
    FakeAsset,
    FakeHold,
    FakeRefusal,
    available,
    check_states,
    check_sums,
    check_version,
    is_uuid7,
    part_of,
    refuse_if,
)

MAX_ASSET: Final = 4_095
MAX_DECIMALS: Final = 18

_SYMBOL_CHARACTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_REPLY: Final = struct.Struct("<QQqqqHHI")
_NS_PER_S: Final = 10**9
_NS_PER_MS: Final = 10**6


@dataclass
class _Tables:
    accounts: dict[int, FakeAccount] = field(default_factory=dict)
    assets: dict[int, FakeAsset] = field(
        default_factory=lambda: {1: FakeAsset(1, 2, b"UNIT\0\0\0\0")}
    )
    holds: dict[int, FakeHold] = field(default_factory=dict)
    next_hold: int = 1

    def copy(self) -> "_Tables":
        return _Tables(self.accounts.copy(), self.assets.copy(), self.holds.copy(), self.next_hold)


class FakeLedger:
    """Accounts, holds, assets and the window of recent ids; several FakeNodes may share one.

    `window_capacity` ids are remembered; `clock_ns` is ledger time's source, for tests of expiry.
    """

    def __init__(
        self,
        *,
        window_capacity: int = 1 << 16,
        id_ahead_ns: int = _NS_PER_S,
        account_capacity: int = 1 << 24,
        hold_capacity: int = 1 << 22,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.window_capacity = window_capacity
        self.id_ahead_ns = id_ahead_ns
        self.account_capacity = account_capacity
        self.hold_capacity = hold_capacity
        self.ledger_id = secrets.token_bytes(32)
        self.applied = 0
        self.time_ns = clock_ns()
        self.changed = threading.Condition()
        """Held while the ledger changes or is read; notified after each message."""
        self.changes: list[FakeAccount] = []
        """Accounts as commands left them, in their order, since the start."""
        self.history = FakeHistory()
        """What history knows: every command that was done."""
        self._clock_ns = clock_ns
        self._tables = _Tables()
        self._window: dict[bytes, tuple[bytes, Reply]] = {}
        self._newest_evicted = NO_ID
        self._touched: list[FakeAccount] = []

    @property
    def accounts(self) -> dict[int, FakeAccount]:
        """By id."""
        return self._tables.accounts

    @property
    def assets(self) -> dict[int, FakeAsset]:
        """By number."""
        return self._tables.assets

    @property
    def holds(self) -> dict[int, FakeHold]:
        """The open ones, by id."""
        return self._tables.holds

    @property
    def next_hold(self) -> int:
        """The id of the hold that is opened next."""
        return self._tables.next_hold

    def apply(self, packed: bytes, timestamp_ns: int | None = None) -> bytes:
        """Run one well-formed message of packed commands; its replies, packed."""
        with self.changed:
            now_ns = self._clock_ns() if timestamp_ns is None else timestamp_ns
            self.time_ns = max(self.time_ns, now_ns)
            if timestamp_ns is None:
                self._expire()
            replies: list[Reply] = []
            for chain in _chains(packed):
                replies += self._run_chain(chain)
            self.changed.notify_all()
        return b"".join(_REPLY.pack(*reply) for reply in replies)

    # Ids and chains

    def _run_chain(self, chain: list[bytes]) -> list[Reply]:
        first = self.applied
        self.applied += len(chain)
        early = [self._judge_id(command) for command in chain]
        ids = [command[:16] for command in chain if command[:16] != NO_ID]
        if any(early) or len(set(ids)) != len(ids):
            reused = _reply(Status.CHAIN_ID_REUSED)
            replies = [reply or reused for reply in early]
            is_new = False
        else:
            replies = self._run_all(chain, first)
            is_new = True
        for place, command in enumerate(chain):
            if not replies[place].duplicate:
                replies[place] = replies[place]._replace(sequence=first + place)
            if is_new and command[:16] != NO_ID:
                self._remember(command, replies[place])
            if is_new and replies[place].status == Status.OK:
                self.history.add(
                    first + place,
                    self.time_ns,
                    unpack_fields(command),
                    replies[place],
                    self.accounts,
                )
        return replies

    def _judge_id(self, command: bytes) -> Reply | None:
        """What the id alone decides; None for a new one."""
        command_id = command[:16]
        if command_id == NO_ID:
            return None
        if command_id in self._window:
            content, reply = self._window[command_id]
            if content != command[16:]:
                return _reply(Status.COMMAND_ID_REUSED)
            return reply._replace(flags=1)
        if is_uuid7(command_id):
            if self._newest_evicted != NO_ID and command_id <= self._newest_evicted:
                return _reply(Status.COMMAND_ID_TOO_OLD)
            id_ms = int.from_bytes(command_id[:6], "big")
            if id_ms > (self.time_ns + self.id_ahead_ns) // _NS_PER_MS:
                return _reply(Status.COMMAND_ID_IN_FUTURE)
        return None

    def _remember(self, command: bytes, reply: Reply) -> None:
        if len(self._window) >= self.window_capacity:
            oldest = next(iter(self._window))
            del self._window[oldest]
            if is_uuid7(oldest):
                self._newest_evicted = max(self._newest_evicted, oldest)
        self._window[command[:16]] = (command[16:], reply)

    def _run_all(self, chain: list[bytes], first: int) -> list[Reply]:
        before = self._tables.copy() if len(chain) > 1 else self._tables
        self._touched = []
        replies: list[Reply] = []
        try:
            for place, command in enumerate(chain):
                self._sequence = first + place
                replies.append(self._run(unpack_fields(command)))
        except FakeRefusal as refused:
            self._tables = before
            failed = [_reply(Status.LINKED_FAILED)] * len(chain)
            failed[len(replies)] = _reply(refused.status)
            return failed
        self.changes += self._touched
        return replies

    def _run(self, command: Fields) -> Reply:
        """Every check, then the change. Raises FakeRefusal."""
        match command.operation:
            case Operation.CREATE_ACCOUNT:
                return self._create_account(command)
            case Operation.REGISTER_ASSET:
                return self._register_asset(command)
            case Operation.DEPOSIT:
                return self._deposit(command)
            case Operation.WITHDRAW:
                return self._withdraw(command)
            case Operation.TRANSFER:
                return self._transfer(command)
            case Operation.HOLD:
                return self._hold(command)
            case Operation.CAPTURE:
                return self._capture(command)
            case Operation.RELEASE:
                return self._release(command)
            case Operation.LOCK | Operation.UNLOCK:
                return self._lock(command)
            case Operation.CLOSE:
                return self._close(command)
            case Operation.SET_LIMITS:
                return self._set_limits(command)
        raise ValueError(f"operation {command.operation}: the fake ledger doesn't know it")

    # Accounts and assets

    def _create_account(self, command: Fields) -> Reply:
        refuse_if(command.asset not in self.assets, Status.ASSET_NOT_FOUND)
        account_id = len(self.accounts) + 1
        refuse_if(account_id > self.account_capacity, Status.ACCOUNT_CAPACITY_REACHED)
        account = FakeAccount(
            account_id,
            command.asset,
            command.reference,
            command.code,
            self.time_ns,
            self._sequence,
        )
        self.accounts[account_id] = account
        self._touched.append(account)
        asset = self.assets[command.asset]
        self.assets[asset.number] = replace(asset, accounts=asset.accounts + 1)
        return _reply(entity=account_id)

    def _register_asset(self, command: Fields) -> Reply:
        symbol = command.reference.to_bytes(8, "little")
        text = symbol.rstrip(b"\0")
        refuse_if(not 1 <= command.asset <= MAX_ASSET, Status.ASSET_NUMBER_OUT_OF_RANGE)
        refuse_if(command.code > MAX_DECIMALS, Status.ASSET_DECIMALS_OUT_OF_RANGE)
        refuse_if(not text or not _SYMBOL_CHARACTERS.issuperset(text), Status.ASSET_SYMBOL_INVALID)
        refuse_if(command.asset in self.assets, Status.ASSET_EXISTS)
        taken = any(asset.symbol == symbol for asset in self.assets.values())
        refuse_if(taken, Status.ASSET_SYMBOL_TAKEN)
        self.assets[command.asset] = FakeAsset(command.asset, command.code, symbol)
        return _reply()

    def _lock(self, command: Fields) -> Reply:
        account = self._changeable(command)
        refuse_if(not Side.DEBITS <= command.code <= Side.BOTH, Status.LOCK_CODE_INVALID)
        state = account.state & ~command.code
        if command.operation == Operation.LOCK:
            state |= command.code
        self._change(account, state=state)
        return _reply(debit_balance=account.posted)

    def _close(self, command: Fields) -> Reply:
        account = self._changeable(command)
        refuse_if(account.posted, Status.BALANCE_NOT_ZERO)
        refuse_if(account.open_holds, Status.HOLDS_OPEN)
        self._change(account, state=account.state | CLOSED)
        return _reply()

    def _set_limits(self, command: Fields) -> Reply:
        account = self._changeable(command)
        floor, ceiling = command.amount, command.reference
        if ceiling > AMOUNT_MAX:
            ceiling -= 2**64
        refuse_if(min(floor, ceiling) < -AMOUNT_MAX, Status.FLOOR_OUT_OF_RANGE)
        refuse_if(floor > ceiling, Status.FLOOR_ABOVE_CEILING)
        below = account.posted - account.held < floor
        refuse_if(below or account.posted > ceiling, Status.BALANCE_OUTSIDE_LIMITS)
        self._change(account, floor=floor, ceiling=ceiling)
        return _reply(debit_balance=account.posted)

    # Money

    def _deposit(self, command: Fields) -> Reply:
        amount = command.amount
        refuse_if(amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        credit = self._account(command.credit_account, Status.CREDIT_ACCOUNT_NOT_FOUND)
        check_states(None, credit)
        check_version(command, credit)
        asset = self.assets[credit.asset]
        check_sums(amount, credit.posted, credit.credits_total, -asset.external)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        self.assets[asset.number] = replace(asset, external=asset.external - amount)
        self._credit(credit, amount)
        return _reply(Status.OK, 0, amount, asset.external - amount, credit.posted + amount)

    def _withdraw(self, command: Fields) -> Reply:
        amount = command.amount
        refuse_if(amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        debit = self._account(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        check_states(debit, None)
        check_version(command, debit)
        refuse_if(amount > available(debit), Status.INSUFFICIENT_FUNDS)
        asset = self.assets[debit.asset]
        check_sums(amount, debit.credits_total - debit.posted, asset.external)
        self.assets[asset.number] = replace(asset, external=asset.external + amount)
        self._change(debit, posted=debit.posted - amount)
        return _reply(Status.OK, 0, amount, debit.posted - amount, asset.external + amount)

    def _transfer(self, command: Fields) -> Reply:
        debit, credit = self._two_accounts(command)
        amount = command.amount
        if command.flags & CommandFlag.BALANCING:
            amount = min(amount, available(debit))
        refuse_if(not 0 < amount <= available(debit), Status.INSUFFICIENT_FUNDS)
        debits_total = debit.credits_total - debit.posted
        check_sums(amount, credit.posted, credit.credits_total, debits_total)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        self._change(debit, posted=debit.posted - amount)
        self._credit(credit, amount)
        return _reply(Status.OK, 0, amount, debit.posted - amount, credit.posted + amount)

    def _hold(self, command: Fields) -> Reply:
        debit, credit = self._two_accounts(command)
        amount, asset = command.amount, self.assets[debit.asset]
        refuse_if(amount > available(debit), Status.INSUFFICIENT_FUNDS)
        check_sums(amount, asset.held, debit.held)
        refuse_if(len(self.holds) >= self.hold_capacity, Status.HOLD_CAPACITY_REACHED)
        end_ns = min(self.time_ns + command.timeout_s * _NS_PER_S, AMOUNT_MAX)
        hold = FakeHold(
            self.next_hold,
            debit.account_id,
            credit.account_id,
            amount,
            end_ns if command.timeout_s else 0,
            self._sequence,
            command.code,
            asset.number,
        )
        self.holds[hold.hold_id] = hold
        self._tables.next_hold += 1
        self.assets[asset.number] = replace(
            asset, held=asset.held + amount, open_holds=asset.open_holds + 1
        )
        self._change(debit, held=debit.held + amount, open_holds=debit.open_holds + 1)
        return _reply(Status.OK, hold.hold_id, amount, debit.posted, credit.posted)

    def _capture(self, command: Fields) -> Reply:
        hold = self._open_hold(command.reference)
        refuse_if(self._is_past(hold), Status.HOLD_EXPIRED)
        amount = part_of(hold, command)
        debit, credit = self.accounts[hold.debit_account], self.accounts[hold.credit_account]
        check_states(debit, credit)
        debits_total = debit.credits_total - debit.posted
        check_sums(amount, credit.posted, credit.credits_total, debits_total)
        refuse_if(credit.posted + amount > credit.ceiling, Status.CEILING_EXCEEDED)
        keep = command.flags & CommandFlag.KEEP_REST_HELD
        self._free(hold, amount if keep else hold.remaining, captured=amount)
        self._credit(credit, amount)
        return _reply(
            Status.OK, hold.hold_id, amount, debit.posted - amount, credit.posted + amount
        )

    def _release(self, command: Fields) -> Reply:
        hold = self._open_hold(command.reference)
        amount = part_of(hold, command)
        self._free(hold, amount)
        debit, credit = self.accounts[hold.debit_account], self.accounts[hold.credit_account]
        return _reply(Status.OK, hold.hold_id, amount, debit.posted, credit.posted)

    def _expire(self) -> None:
        """Free what is past its time, as a leader does by commands of its own."""
        for hold in [hold for hold in self.holds.values() if self._is_past(hold)]:
            self._sequence = self.applied
            self.applied += 1
            self._touched = []
            self._free(hold, hold.remaining)
            self.changes += self._touched
            self.history.add_expired(self._sequence, self.time_ns, hold, self.accounts)

    # What several operations look up, check or change

    def _account(self, account_id: int, missing: Status) -> FakeAccount:
        refuse_if(account_id not in self.accounts, missing)
        return self.accounts[account_id]

    def _changeable(self, command: Fields) -> FakeAccount:
        account = self._account(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        refuse_if(account.state & CLOSED, Status.DEBIT_ACCOUNT_CLOSED)
        return account

    def _two_accounts(self, command: Fields) -> tuple[FakeAccount, FakeAccount]:
        refuse_if(command.amount <= 0, Status.AMOUNT_NOT_POSITIVE)
        refuse_if(command.debit_account == command.credit_account, Status.SAME_ACCOUNT)
        debit = self._account(command.debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        credit = self._account(command.credit_account, Status.CREDIT_ACCOUNT_NOT_FOUND)
        refuse_if(debit.asset != credit.asset, Status.ASSETS_DIFFER)
        check_states(debit, credit)
        check_version(command, debit)
        return debit, credit

    def _open_hold(self, hold_id: int) -> FakeHold:
        refuse_if(not 1 <= hold_id < self.next_hold, Status.HOLD_NOT_FOUND)
        refuse_if(hold_id not in self.holds, Status.HOLD_NOT_OPEN)
        return self.holds[hold_id]

    def _is_past(self, hold: FakeHold) -> bool:
        return 0 < hold.expires_ns <= self.time_ns

    def _change(self, account: FakeAccount, **fields: int) -> None:
        changed = replace(
            account, version=account.version + 1, last_sequence=self._sequence, **fields
        )
        self.accounts[account.account_id] = changed
        self._touched.append(changed)

    def _credit(self, account: FakeAccount, amount: int) -> None:
        self._change(
            account, posted=account.posted + amount, credits_total=account.credits_total + amount
        )

    def _free(self, hold: FakeHold, freed: int, captured: int = 0) -> None:
        """A hold lets `freed` go, of which `captured` leaves its debit account."""
        resolved = int(freed == hold.remaining)
        if resolved:
            del self.holds[hold.hold_id]
        else:
            self.holds[hold.hold_id] = replace(hold, remaining=hold.remaining - freed)
        asset, debit = self.assets[hold.asset], self.accounts[hold.debit_account]
        self.assets[hold.asset] = replace(
            asset, held=asset.held - freed, open_holds=asset.open_holds - resolved
        )
        self._change(
            debit,
            posted=debit.posted - captured,
            held=debit.held - freed,
            open_holds=debit.open_holds - resolved,
        )


def _reply(
    status: Status = Status.OK,
    entity: int = 0,
    amount: int = 0,
    debit_balance: int = 0,
    credit_balance: int = 0,
) -> Reply:
    return Reply(0, entity, amount, debit_balance, credit_balance, int(status), 0, 0)


def _chains(packed: bytes) -> Iterator[list[bytes]]:
    chain: list[bytes] = []
    for at in range(0, len(packed), COMMAND_BYTES):
        chain.append(packed[at : at + COMMAND_BYTES])
        if not unpack_fields(chain[-1]).flags & CommandFlag.LINKED:
            yield chain
            chain = []
