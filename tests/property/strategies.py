"""Commands that reach every corner of the state machine, drawn by Hypothesis or by a seeded random.

Values lie on and beside the edges of the ledger they are drawn for: its balances, its number of
accounts, the newest id that its window evicted, the newest UUIDv7 that its time allows.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from hypothesis import strategies as st

from tests.reference import (
    COMMAND,
    CREATE_ACCOUNT,
    DEPOSIT,
    I64_MAX,
    NO_ID,
    REGISTER_ASSET,
    TRANSFER,
    WITHDRAW,
    Command,
    ReferenceLedger,
    is_uuid7,
)

I64_MIN: Final = -(2**63)
NS_PER_MS: Final = 1_000_000
MS_MAX: Final = 2**48 - 1

OPERATIONS: Final = (
    *(TRANSFER, TRANSFER, TRANSFER, DEPOSIT, DEPOSIT),
    *(WITHDRAW, WITHDRAW, CREATE_ACCOUNT, REGISTER_ASSET),
)
"""As often as they are drawn."""

UNKNOWN_ACCOUNTS: Final = (0, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1)
"""Also those that a conversion to 32 bits or to int64 would make known."""

UNKNOWN_ASSETS: Final = (0, 4_096, 4_097, 2**16 + 1, 2**31, 2**32 - 1)


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


def amounts(ledger: ReferenceLedger) -> st.SearchStrategy[int]:
    """Small amounts, and those on and beside what the ledger's totals still take."""
    edges = {I64_MIN, I64_MIN + 1, -1, 0, 1, 2**62, I64_MAX - 1, I64_MAX}
    for account in ledger.accounts:
        edges |= {account.posted + beside for beside in (-1, 0, 1)}
        edges |= {I64_MAX - account.credits_total + beside for beside in (-1, 0, 1)}
    for asset in ledger.assets.values():
        edges |= {I64_MAX + asset.external + beside for beside in (-1, 0, 1)}
    within = sorted(edge for edge in edges if I64_MIN <= edge <= I64_MAX)
    return st.integers(1, 9) | st.sampled_from(within)


def account_ids(ledger: ReferenceLedger) -> st.SearchStrategy[int]:
    """Mostly accounts that exist."""
    known = st.integers(1, max(len(ledger.accounts), 1))
    beside = (len(ledger.accounts) + 1, ledger.account_capacity, ledger.account_capacity + 1)
    return st.one_of(known, known, known, known, st.sampled_from(UNKNOWN_ACCOUNTS + beside))


def asset_numbers(ledger: ReferenceLedger) -> st.SearchStrategy[int]:
    """Registered ones, free ones, and impossible ones."""
    registered, free = st.sampled_from(sorted(ledger.assets)), st.sampled_from((2, 3, 4_095))
    return st.one_of(registered, registered, free, st.sampled_from(UNKNOWN_ASSETS))


def uuid7s(ledger: ReferenceLedger, timestamp_ns: int) -> st.SearchStrategy[bytes]:
    """UUIDv7s on and beside both edges of what the window lets in."""
    newest_ms = newest_id_ms(ledger, timestamp_ns)
    times_ms = st.one_of(
        st.integers(max(newest_ms - 3, 0), min(newest_ms + 1, MS_MAX)),
        st.sampled_from((0, max(newest_ms - 1_000, 0), newest_ms, MS_MAX)),
    )
    tails = st.integers(0, 3) | st.sampled_from((2**62 - 1, 2**62, 2**74 - 1))
    drawn = st.builds(uuid7, times_ms, tails)
    evicted = int.from_bytes(ledger.newest_evicted, "big")
    beside = [(evicted + step).to_bytes(16, "big") for step in (-1, 0, 1) if evicted + step > 0]
    near = [command_id for command_id in beside if evicted and is_uuid7(command_id)]
    return drawn | drawn | st.sampled_from(near) if near else drawn


@st.composite
def commands(
    draw: st.DrawFn, ledger: ReferenceLedger, timestamp_ns: int, history: Sequence[Command]
) -> Command:
    """One command, often an earlier one again, or an earlier id with other content."""
    if history and draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(history[-4:]) | st.sampled_from(history))
    fresh = uuid7s(ledger, timestamp_ns)
    earlier = [command.command_id for command in history] or [NO_ID]
    others = st.just(NO_ID) | st.sampled_from(NOT_V7) | st.sampled_from(earlier)
    ids = st.one_of(fresh, fresh, others)
    command = Command(
        command_id=draw(ids),
        operation=draw(st.sampled_from(OPERATIONS)),
        code=draw(st.sampled_from((0, 2, 2, 18, 19, 2**32 - 1))),
    )
    if command.operation == CREATE_ACCOUNT:
        references = st.sampled_from((0, 7, 2**63, 2**64 - 1))
        return command._replace(asset=draw(asset_numbers(ledger)), reference=draw(references))
    if command.operation == REGISTER_ASSET:
        symbols = st.sampled_from(SYMBOLS) | st.sampled_from(NOT_SYMBOLS)
        return command._replace(asset=draw(asset_numbers(ledger)), reference=draw(symbols))
    command = command._replace(amount=draw(amounts(ledger)))
    if command.operation in (WITHDRAW, TRANSFER):
        command = command._replace(debit_account=draw(account_ids(ledger)))
    if command.operation in (DEPOSIT, TRANSFER):
        command = command._replace(credit_account=draw(account_ids(ledger)))
    return command


@st.composite
def batches(
    draw: st.DrawFn,
    ledger: ReferenceLedger,
    timestamp_ns: int,
    history: Sequence[Command],
    max_commands: int = 8,
) -> list[Command]:
    """Commands for one batch at ledger time `timestamp_ns`; `history` was applied before."""
    batch: list[Command] = []
    for _ in range(draw(st.integers(0, max_commands))):
        batch.append(draw(commands(ledger, timestamp_ns, (*history[-40:], *batch))))
    return batch


def random_command(random: Random, accounts: int, newest_ms: int) -> Command:
    """A command with a fresh UUIDv7 of up to 20 ms before `newest_ms`; most of them succeed."""
    command_id = uuid7(max(newest_ms - random.randrange(20), 0), random.getrandbits(74))
    operations = (TRANSFER, DEPOSIT, WITHDRAW, CREATE_ACCOUNT)
    operation = random.choices(operations, (20, 8, 2, 1))[0]
    if operation == CREATE_ACCOUNT:
        asset = random.choices((1, 2, 3), (8, 1, 1))[0]
        return Command(
            command_id, operation=operation, asset=asset, reference=random.getrandbits(64)
        )
    amount = random.choices((0, random.randrange(1, 100), random.randrange(2**62)), (1, 38, 1))[0]
    debit, credit = random.randint(0, accounts + 1), random.randint(0, accounts + 1)
    return Command(
        command_id,
        debit_account=0 if operation == DEPOSIT else debit,
        credit_account=0 if operation == WITHDRAW else credit,
        amount=amount,
        operation=operation,
        code=random.getrandbits(32),
    )


def random_batch(
    random: Random, count: int, accounts: int, newest_ms: int, history: list[Command]
) -> list[Command]:
    """A batch of `count` commands, which join the `history`.

    One in twelve is a duplicate, a reused id, an id from the future or no id at all.
    """
    batch: list[Command] = []
    for _ in range(count):
        command = random_command(random, accounts, newest_ms)
        choice = random.randrange(48)
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
        history.append(command)
        batch.append(command)
    return batch
