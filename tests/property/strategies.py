"""Commands that reach every corner of the state machine, drawn by Hypothesis or by a seeded random.

Most of them do something. Values lie on and beside the edges of the ledger they are drawn for: its
balances and limits, what its holds still reserve, its versions, the newest id that its window
evicted, the newest UUIDv7 that its time allows.
"""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from random import Random
from typing import Final

from hypothesis import strategies as st

from tests.reference import (
    BALANCING,
    CAPTURE,
    CLOSE,
    CLOSED,
    COMMAND,
    CREATE_ACCOUNT,
    DEPOSIT,
    EXPECT_VERSION,
    EXPIRE,
    HOLD,
    I64_MAX,
    I64_MIN,
    KEEP_REST_HELD,
    LINKED,
    LOCK,
    NO_ID,
    REGISTER_ASSET,
    RELEASE,
    SET_LIMITS,
    TRANSFER,
    UNLOCK,
    WITHDRAW,
    Account,
    Command,
    Hold,
    ReferenceLedger,
    is_uuid7,
    split_chains,
)

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
MS_MAX: Final = 2**48 - 1
MAX_TIMEOUT_S: Final = 2**32 - 1

OPERATIONS: Final = (
    *(TRANSFER, TRANSFER, TRANSFER, TRANSFER, DEPOSIT, DEPOSIT, DEPOSIT, WITHDRAW, WITHDRAW),
    *(HOLD, HOLD, HOLD, HOLD, HOLD, CAPTURE, CAPTURE, CAPTURE, RELEASE, RELEASE, EXPIRE, EXPIRE),
    *(LOCK, UNLOCK, UNLOCK, CLOSE, SET_LIMITS, SET_LIMITS, CREATE_ACCOUNT, REGISTER_ASSET),
)
"""As often as they are drawn."""

UNKNOWN_ACCOUNTS: Final = (0, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1)
"""Also those that a conversion to 32 bits or to int64 would make known."""

UNKNOWN_ASSETS: Final = (0, 4_096, 4_097, 2**16 + 1, 2**31, 2**32 - 1)
EXTREME_AMOUNTS: Final = (I64_MIN, I64_MIN + 1, -1, 0, 1, 2**62, I64_MAX - 1, I64_MAX)


def symbol_number(symbol: bytes) -> int:
    """A symbol as REGISTER_ASSET's reference holds it."""
    return int.from_bytes(symbol.ljust(8, b"\0"), "little")


SYMBOLS: Final = tuple(map(symbol_number, (b"UNIT", b"EUR", b"A", b"0", b"Z9", b"ABCDEFGH")))
NOT_SYMBOLS: Final = tuple(
    map(symbol_number, (b"", b"eur", b"E R", b"\0EUR", b"EUR\0X", b"EUR\0\0\0\0X", b"\xff" * 8))
) + tuple(symbol_number(b"A" + bytes([beside])) for beside in b"/:@[\xc1")
NOT_V7: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "01000000000000000000000000000000",
        "00000000000000000000000000000001",
        "00000000000000010000000000000000",
        "0190000000004000 8000000000000000",
        "ffffffffffff7fff 7fffffffffffffff",
        "ffffffffffff7fff ffffffffffffffff",
        "ffffffffffff6fff bfffffffffffffff",
        "ffffffffffffffff ffffffffffffffff",
    )
)
"""Other ids: some have version 7 with another variant, some the variant with another version."""


def uuid7(timestamp_ms: int, tail: int) -> bytes:
    """A UUIDv7 whose 74 free bits are `tail`."""
    high = timestamp_ms << 16 | 7 << 12 | tail >> 62
    low = 2 << 62 | tail & (1 << 62) - 1
    return (high << 64 | low).to_bytes(16, "big")


def newest_id_ms(ledger: ReferenceLedger, timestamp_ns: int) -> int:
    """The newest UUIDv7 time, ms, that a batch of ledger time `timestamp_ns` lets in."""
    return min((timestamp_ns + ledger.id_ahead_ns) // NS_PER_MS, MS_MAX)


def packed(commands: Sequence[Command]) -> bytes:
    """The commands' bytes, 64 each."""
    return b"".join(COMMAND.pack(*command) for command in commands)


def linked(commands: Sequence[Command]) -> list[Command]:
    """The commands as one chain: all but the last are LINKED, which EXPIRE cannot be."""
    *others, last = commands
    members = [command._replace(flags=command.flags | LINKED) for command in others]
    members = [m._replace(operation=RELEASE) if m.operation == EXPIRE else m for m in members]
    return [*members, last._replace(flags=last.flags & ~LINKED)]


def twin_of(ledger: ReferenceLedger) -> ReferenceLedger:
    """A ledger of its own that begins in the same state."""
    twin = copy(ledger)
    twin.accounts, twin.assets = ledger.accounts.copy(), ledger.assets.copy()
    twin.holds, twin.window = ledger.holds.copy(), ledger.window.copy()
    return twin


class Drawing:
    """Draws single commands for one state of a ledger, at ledger time `timestamp_ns`.

    A careful one keeps off all edges, so that nearly every command succeeds.
    """

    def __init__(
        self, draw: st.DrawFn, ledger: ReferenceLedger, timestamp_ns: int, *, careful: bool = False
    ) -> None:
        self.draw = draw
        self.ledger = ledger
        self.timestamp_ns = timestamp_ns
        self.careful = careful

    def kind(self, count: int) -> int:
        """0 .. count - 1: the higher, the odder."""
        return 0 if self.careful else self.draw(st.integers(0, count - 1))

    def one_in(self, count: int) -> bool:
        return self.kind(count) == count - 1

    def one_of(self, *values: int) -> int:
        return self.draw(st.sampled_from(values))

    def command_id(self, history: Sequence[Command]) -> bytes:
        """Mostly a new id; none; an earlier one; one on an edge of what the window lets in."""
        newest_ms = newest_id_ms(self.ledger, self.timestamp_ns)
        kind = self.kind(16)
        if kind < 9:
            return uuid7(newest_ms, self.ledger.applied)
        if kind < 12 or (kind < 13 and not history):
            return NO_ID
        if kind < 13:
            return self.draw(st.sampled_from(history)).command_id
        if kind < 14:
            return self.draw(st.sampled_from(NOT_V7))
        evicted = int.from_bytes(self.ledger.newest_evicted, "big")
        beside = [(evicted + step).to_bytes(16, "big") for step in (-1, 0, 1) if evicted + step > 0]
        near = [command_id for command_id in beside if evicted and is_uuid7(command_id)]
        if near and kind < 15:
            return self.draw(st.sampled_from(near))
        timestamp_ms = self.one_of(newest_ms, newest_ms - 1, newest_ms + 1, newest_ms - 1_000, 0)
        tail = self.one_of(0, 1, 2**62 - 1, 2**62, 2**74 - 1)
        return uuid7(min(max(timestamp_ms, 0), MS_MAX), tail)

    def amount(self, most: int, *edges: int) -> int:
        """Mostly a small one, up to `most`; one on or beside the edges; an extreme of an i64."""
        kind = self.kind(16)
        if kind < 12 or (kind < 15 and not edges):
            return self.draw(st.integers(1, min(max(most, 1), 9)))
        if kind == 15:
            return self.one_of(*EXTREME_AMOUNTS)
        amount = self.one_of(*edges) + self.one_of(0, -1, 1)
        return min(max(amount, I64_MIN), I64_MAX)

    def account_id(self, likely: Sequence[Account]) -> int:
        """Mostly that of a likely account, at times of any other, or of none."""
        count, kind = len(self.ledger.accounts), self.kind(16)
        if likely and kind < 14:
            return self.draw(st.sampled_from(likely)).account_id
        if count and kind < 15:
            return self.draw(st.integers(1, count))
        return self.one_of(count + 1, self.ledger.account_capacity + 1, *UNKNOWN_ACCOUNTS)

    def hold_id(self) -> int:
        """Mostly an open one; a resolved one; an unknown one."""
        next_hold, kind = self.ledger.next_hold, self.kind(16)
        past = [number for number, hold in self.ledger.holds.items() if self._is_past(hold)]
        if past and kind % 2:
            return self.one_of(*past)
        if self.ledger.holds and kind < 12:
            return self.one_of(*self.ledger.holds)
        if kind < 15:
            return self.draw(st.integers(max(next_hold - 20, 0), next_hold))
        return self.one_of(next_hold + 1, *UNKNOWN_ACCOUNTS)

    def _is_past(self, hold: Hold) -> bool:
        return 0 < hold.expires_ns <= self.timestamp_ns

    def asset_number(self) -> int:
        if self.one_in(8):
            return self.one_of(2, 3, 4_095, *UNKNOWN_ASSETS)
        return self.one_of(*self.ledger.assets)

    def version(self, account: Account | None) -> int:
        if account is None or self.one_in(6):
            return self.one_of(0, 1, 2**63, 2**64 - 1)
        return max(account.version + (self.one_of(-1, 1) if self.one_in(4) else 0), 0)

    def find(self, account_id: int) -> Account | None:
        accounts = self.ledger.accounts
        return accounts[account_id - 1] if 1 <= account_id <= len(accounts) else None

    def edges(self, debit: Account | None, credit: Account | None) -> list[int]:
        """The amounts beyond which a check would refuse to move or hold them."""
        edges: list[int] = []
        for account in (debit, credit):
            if account is not None:
                asset = self.ledger.assets[account.asset]
                outside = asset.external if account is debit else -asset.external
                edges += [I64_MAX - outside, I64_MAX - asset.held]
        if debit is not None:
            edges += [*[debit.available] * 4, I64_MAX - debit.debits_total]
        if credit is not None:
            edges += [*[credit.ceiling - credit.posted] * 2, I64_MAX - credit.credits_total]
        return edges

    def command(self, operation: int) -> Command:
        """A well-formed command without an id and without LINKED.

        Mostly of the operation asked for, or of another if that one has nothing to work on.
        """
        if not self.one_in(8):
            operation = self._operation_with_work(operation)
        code = 2 if self.kind(2) else self.one_of(0, 18, 19, 2**32 - 1)
        plain = Command(operation=operation, code=code)
        if operation == CREATE_ACCOUNT:
            reference = self.one_of(0, 7, 2**63, 2**64 - 1)
            return plain._replace(asset=self.asset_number(), reference=reference)
        if operation == REGISTER_ASSET:
            number = self.asset_number() if self.one_in(3) else self.one_of(2, 3, 4_095)
            symbol = self.one_of(*(NOT_SYMBOLS if self.one_in(4) else SYMBOLS))
            return plain._replace(asset=number, reference=symbol, code=code if code == 19 else 2)
        if operation in (DEPOSIT, WITHDRAW, TRANSFER, HOLD):
            return self._posting(plain)
        if operation in (CAPTURE, RELEASE, EXPIRE):
            return self._of_hold(plain)
        return self._of_account(plain)

    def _operation_with_work(self, operation: int) -> int:
        ledger, accounts = self.ledger, len(self.ledger.accounts)
        if operation in (CAPTURE, RELEASE, EXPIRE) and not ledger.holds:
            operation = HOLD
        if operation == HOLD and len(ledger.holds) == ledger.hold_capacity and self.kind(2):
            return RELEASE
        if operation == CLOSE and not any(map(may_close, ledger.accounts)):
            operation = WITHDRAW
        if accounts < 2 and operation not in (DEPOSIT, REGISTER_ASSET):
            operation = CREATE_ACCOUNT
        full = operation == CREATE_ACCOUNT and accounts == ledger.account_capacity
        return DEPOSIT if full else operation

    def _posting(self, command: Command) -> Command:
        accounts, operation = self.ledger.accounts, command.operation
        debit_id = credit_id = 0
        barred = self.one_in(8)  # prefer accounts that are locked or closed
        if operation != DEPOSIT:
            likely = [account for account in accounts if bool(account.state) == barred]
            crowds = Counter(account.asset for account in likely)
            rich = [account for account in likely if account.available > 0 or barred]
            debit_id = self.account_id([a for a in rich if crowds[a.asset] > 1] or rich)
        debit = self.find(debit_id)
        if operation != WITHDRAW:
            fitting = [a for a in accounts if debit is None or a.asset == debit.asset]
            others = [account for account in fitting if account is not debit]
            credit_id = self.account_id([a for a in others if bool(a.state) == barred] or others)
        credit = self.find(credit_id)
        edges = self.edges(debit, credit) if debit or self.one_in(3) else []
        amount = self.amount(debit.available if debit else 9, *edges)
        command = command._replace(debit_account=debit_id, credit_account=credit_id, amount=amount)
        if operation == TRANSFER and self.one_in(4):
            command = command._replace(flags=BALANCING)
        if self.one_in(5):
            version = self.version(credit if operation == DEPOSIT else debit)
            command = command._replace(flags=command.flags | EXPECT_VERSION, reference=version)
        timeout_s = self.one_of(0, 0, 1, 1, 2, MAX_TIMEOUT_S) if operation == HOLD else 0
        return command._replace(timeout_s=timeout_s)

    def _of_hold(self, command: Command) -> Command:
        command = command._replace(reference=self.hold_id())
        if command.operation == EXPIRE:
            return command._replace(code=0)
        hold = self.ledger.holds.get(command.reference)
        remaining = hold.remaining if hold else 0
        edges = [remaining] * 4
        if hold and command.operation == CAPTURE:
            flags = (BALANCING, KEEP_REST_HELD, BALANCING | KEEP_REST_HELD)
            edges += self.edges(self.find(hold.debit_account), self.find(hold.credit_account))
            command = command._replace(flags=self.one_of(0, 0, *flags))
        amount = self.amount(remaining, *edges) if self.draw(st.booleans()) else 0
        return command._replace(amount=amount)

    def _of_account(self, command: Command) -> Command:
        accounts, operation = self.ledger.accounts, command.operation
        if operation == UNLOCK:
            accounts = [account for account in accounts if account.state in (1, 2, 3)] or accounts
        if operation == CLOSE:
            accounts = [account for account in accounts if may_close(account)] or accounts
        account_id = self.account_id([a for a in accounts if a.state < CLOSED] or accounts)
        command = command._replace(debit_account=account_id)
        if operation in (LOCK, UNLOCK):
            invalid = self.one_in(5)
            return command._replace(
                code=self.one_of(*((0, 4, 2**32 - 1) if invalid else (1, 2, 3)))
            )
        if operation == CLOSE:
            return command
        account = self.find(account_id) or Account()
        free, posted = account.posted - account.held, account.posted
        floor, ceiling = min(free, self.one_of(0, 0, -9, -I64_MAX)), I64_MAX
        if self.one_in(3):
            floor = min(self.one_of(free, free + 1, posted, 1, I64_MIN), I64_MAX)
        if self.one_in(2):
            ceiling = self.one_of(posted, posted - 1, posted + 9, floor, floor - 1, -1, I64_MIN)
        return command._replace(amount=floor, reference=ceiling % 2**64)


def may_close(account: Account) -> bool:
    return account.posted == 0 and account.state < CLOSED


@st.composite
def chains(
    draw: st.DrawFn,
    ledger: ReferenceLedger,
    timestamp_ns: int,
    history: Sequence[Command] = (),
    operations: Sequence[int] = OPERATIONS,
    lengths: Sequence[int] = (1, 1, 1, 1, 1, 1, 2, 3, 6),
) -> list[Command]:
    """One command or some linked ones, at times earlier ones again or with an earlier id.

    A later member is drawn for what the earlier ones leave behind: it may capture their hold.
    """
    if history and draw(st.integers(0, 9)) == 9:
        return draw(st.sampled_from(list(split_chains(history))))
    length = draw(st.sampled_from(lengths))
    careful = length > 1 and draw(st.integers(0, 3)) < 3
    ahead, members = twin_of(ledger), list[Command]()
    for place in range(length):
        last_of_chain = place == length - 1
        drawing = Drawing(draw, ahead, timestamp_ns, careful=careful and not last_of_chain)
        command = drawing.command(draw(st.sampled_from(operations)))
        if last_of_chain or draw(st.booleans()):
            command = command._replace(command_id=drawing.command_id((*history, *members)))
        members.append(command)
        ahead.apply(packed([command._replace(command_id=NO_ID)]), timestamp_ns)
    return linked(members)


@st.composite
def batches(
    draw: st.DrawFn,
    ledger: ReferenceLedger,
    timestamp_ns: int,
    history: Sequence[Command],
    max_chains: int = 8,
) -> list[Command]:
    """Chains for one batch at ledger time `timestamp_ns`; `history` was applied before."""
    batch: list[Command] = []
    ahead = twin_of(ledger)
    for _ in range(max_chains - draw(st.integers(0, max_chains))):
        chain = draw(chains(ahead, timestamp_ns, (*history[-40:], *batch)))
        ahead.apply(packed(chain), timestamp_ns)
        batch += chain
    return batch


def cuts(batch: Sequence[Command]) -> list[int]:
    """Where a batch may be cut: before and behind each of its chains."""
    return [0, *(n + 1 for n, command in enumerate(batch) if not command.flags & LINKED)]


def next_times(ledger: ReferenceLedger, now_ns: int) -> st.SearchStrategy[int]:
    """Now, a little later, or the moment at which a hold's time comes, or the one before it."""
    ends_ns = [hold.expires_ns for hold in ledger.holds.values() if hold.expires_ns]
    soon_ns = [end_ns for end_ns in ends_ns if now_ns < end_ns <= now_ns + 3 * NS_PER_S]
    steps = [now_ns + step for step in (0, 0, 0, 1, NS_PER_MS, NS_PER_S)]
    return st.sampled_from([*steps, *soon_ns, *(end_ns - 1 for end_ns in soon_ns)])


def first_commands(accounts: int, amount: int = 50) -> list[Command]:
    """A second asset; accounts of both, most of them with money, one with an overdraft."""
    commands = [Command(operation=REGISTER_ASSET, asset=2, reference=symbol_number(b"EUR"))]
    for account_id in range(1, accounts + 1):
        asset = 2 if account_id % 3 == 0 else 1
        commands.append(Command(operation=CREATE_ACCOUNT, asset=asset))
        if account_id == 2:
            overdraft = Command(operation=SET_LIMITS, debit_account=2, amount=-amount)
            commands.append(overdraft._replace(reference=I64_MAX))
        elif account_id != 5:
            commands.append(Command(NO_ID, 0, account_id, amount, operation=DEPOSIT))
    return commands


def random_command(
    random: Random, accounts: int, newest_ms: int, next_hold: int = 1, *, plain: bool = False
) -> Command:
    """A command with a fresh UUIDv7 of up to 20 ms before `newest_ms`; most of them succeed.

    A plain one moves small amounts between the first few accounts, which stay open and unlocked.
    """
    command_id = uuid7(max(newest_ms - random.randrange(20), 0), random.getrandbits(74))
    operations, weights = [TRANSFER, DEPOSIT, HOLD], [20, 10, 5]
    if not plain:
        operations += [CREATE_ACCOUNT, WITHDRAW, CAPTURE, RELEASE, EXPIRE]
        operations += [LOCK, UNLOCK, CLOSE, SET_LIMITS]
        weights += [1, 2, 5, 2, 2, 1, 2, 1, 1]
    operation = random.choices(operations, weights)[0]
    code = 0 if operation == EXPIRE else random.getrandbits(32)
    command = Command(command_id, operation=operation, code=code)
    if operation == CREATE_ACCOUNT:
        asset = random.choices((1, 2, 3), (8, 1, 1))[0]
        return command._replace(asset=asset, reference=random.getrandbits(64))
    if operation in (CAPTURE, RELEASE, EXPIRE):
        amount = 0 if operation == EXPIRE else random.choice((0, 0, 1, 5))
        flags = random.choice((0, 0, KEEP_REST_HELD, BALANCING)) if operation == CAPTURE else 0
        hold_id = random.randint(max(next_hold - 40, 0), next_hold + 2)
        return command._replace(reference=hold_id, amount=amount, flags=flags)
    if operation in (LOCK, UNLOCK, CLOSE, SET_LIMITS):
        command = command._replace(debit_account=random.randint(10, max(accounts, 10)))
        if operation != SET_LIMITS:
            return command._replace(code=random.choice((0, 1, 2, 3)))
        ceiling = random.choice((I64_MAX, I64_MAX, 2**40))
        return command._replace(amount=random.choice((0, -500)), reference=ceiling)
    debit, credit = random.randint(0, accounts + 1), random.randint(0, accounts + 1)
    amount = random.choices((0, random.randrange(1, 100), random.randrange(2**62)), (1, 38, 1))[0]
    if plain:
        debit, amount = random.randint(1, 6), random.randrange(1, 100)
        credit = debit + 3
    return command._replace(
        debit_account=0 if operation == DEPOSIT else debit,
        credit_account=0 if operation == WITHDRAW else credit,
        amount=amount,
        timeout_s=random.choice((0, 1, 1, 60)) if operation == HOLD else 0,
    )


def chain_at(history: Sequence[Command], index: int) -> list[Command]:
    """The whole chain that a command of the history stands in."""
    first = last = index
    while first and history[first - 1].flags & LINKED:
        first -= 1
    while history[last].flags & LINKED:
        last += 1
    return list(history[first : last + 1])


def random_batch(
    random: Random,
    count: int,
    accounts: int,
    newest_ms: int,
    history: list[Command],
    next_hold: int = 1,
) -> list[Command]:
    """A batch of `count` commands, which join the `history`.

    One in twelve is a duplicate, a reused id, an id from the future or no id at all. One in six
    begins a chain, one in sixty a chain of more commands than the kernel looks ahead.
    """
    batch: list[Command] = []
    while len(batch) < count:
        kind, room = random.randrange(60), count - len(batch)
        length = min(70 if kind == 0 else random.choice((2, 3, 5)) if kind <= 10 else 1, room)
        members: list[Command] = []
        for _ in range(length):
            command = random_command(random, accounts, newest_ms, next_hold, plain=kind <= 2)
            choice = random.randrange(48 * length)
            if history and choice == 0:
                command = random.choice(history)
            elif history and choice == 1:
                command = random.choice(history[-500:])
            elif history and choice == 2:
                command = command._replace(command_id=random.choice(history[-500:]).command_id)
            elif choice == 3:
                ahead_ms = random.choice((newest_ms, newest_ms + 1, newest_ms + 60_000))
                command = command._replace(command_id=uuid7(ahead_ms, random.getrandbits(74)))
            elif choice == 4:
                command = command._replace(command_id=NO_ID)
            members.append(command)
        if history and kind == 59:
            members = chain_at(history, random.randrange(len(history)))[-room:]
        batch += linked(members)
    history += batch
    return batch
