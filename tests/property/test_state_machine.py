"""The compiled state machine does what the oracle does, whatever it is given.

Every example runs three ledgers: the oracle, the kernel with the same batches, and the kernel
with another hash seed and the same commands cut into other batches.
"""

from dataclasses import asdict, astuple
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND
from cluster_core.state_machine import StateMachine, find_malformed
from tests.property.strategies import (
    MAX_TIMEOUT_S,
    NS_PER_MS,
    NS_PER_S,
    UNKNOWN_ACCOUNTS,
    batches,
    cuts,
    first_commands,
    next_times,
    packed,
    random_batch,
    uuid7,
)
from tests.reference import (
    ACCOUNT,
    ASSET,
    CAPTURE,
    CREATE_ACCOUNT,
    DEPOSIT,
    HOLD,
    I64_MAX,
    NO_ID,
    OPEN_HOLD,
    SET_LIMITS,
    TRANSFER,
    WITHDRAW,
    Command,
    ReferenceLedger,
)

REPEATABLE: Final = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""The same examples on every machine; only the counts differ from test to test."""

U64: Final = st.integers(0, 2**64 - 1)
START_NS: Final = 1_700_000_000 * NS_PER_S
LAST_TIMEOUT_NS: Final = I64_MAX - MAX_TIMEOUT_S * NS_PER_S
"""From here on the longest timeout would end past the last i64: it is cut off there."""


def as_records(commands: list[Command]) -> npt.NDArray[Any]:
    return np.frombuffer(packed(commands), COMMAND)


def assert_same_state(machine: StateMachine, reference: ReferenceLedger) -> None:
    """Compare scalars, every account, asset and hold, and the digest."""
    assert machine.applied == reference.applied
    assert machine.accounts == len(reference.accounts)
    assert machine.next_hold == reference.next_hold
    assert machine.open_holds == len(reference.holds)
    for account in reference.accounts:
        assert_same_bytes(machine.account(account.account_id), ACCOUNT.pack(*astuple(account)))
    for account_id in (0, machine.accounts + 1, 2**63, 2**64 - 1):
        assert machine.account(account_id) is None
    for number in (0, 1, 2, 3, 4, 4_095, 4_096, 2**32 - 1):
        asset = reference.assets.get(number)
        assert_same_bytes(machine.asset(number), ASSET.pack(*astuple(asset)) if asset else None)
    for hold_id in (*range(1, machine.next_hold + 2), *UNKNOWN_ACCOUNTS):
        hold = reference.holds.get(hold_id)
        expected = OPEN_HOLD.pack(*astuple(hold)) + bytes(8) if hold else None
        assert_same_bytes(machine.hold(hold_id), expected)
    assert machine.digest() == reference.digest()


def assert_same_bytes(record: np.void | None, expected: bytes | None) -> None:
    assert (None if record is None else record.tobytes()) == expected


@st.composite
def full_totals(draw: st.DrawFn, ledger: ReferenceLedger) -> list[Command]:
    """Leave a total room for 0 to 3 more, then move or hold just that, or one more.

    An account's credits total; its debits total, which passes its credits by an overdraft alone;
    or what is held of an asset.
    """
    drawn = st.sampled_from(ledger.accounts)
    account, other = draw(drawn), draw(drawn)
    room, beside = draw(st.integers(0, 3)), draw(st.integers(0, 1))
    asset, kind = ledger.assets[account.asset], draw(st.integers(0, 2))
    full, source, last = account.account_id, other.account_id, room + beside
    fund = Command(operation=DEPOSIT, credit_account=source, amount=last)
    overdraft = Command(operation=SET_LIMITS, debit_account=full, reference=I64_MAX)
    if kind == 2:
        hold = Command(NO_ID, full, source, I64_MAX - asset.held - room, operation=HOLD)
        rest = Command(NO_ID, source, full, last, operation=HOLD)
        return [overdraft._replace(amount=-I64_MAX), fund, hold, rest]
    amount = I64_MAX - max(account.credits_total, -asset.external) - room
    deposit = Command(operation=DEPOSIT, credit_account=full, amount=amount)
    withdraw = Command(operation=WITHDRAW, debit_account=full, amount=amount)
    if kind == 1:
        last = min(account.posted + last, I64_MAX)
        rest = withdraw._replace(amount=last)
        move = Command(NO_ID, full, source, last, operation=draw(st.sampled_from((TRANSFER, HOLD))))
        capture = Command(operation=CAPTURE, reference=ledger.next_hold)
        ending = draw(st.sampled_from(([rest], [move, capture])))
        return [overdraft._replace(amount=-9), deposit, withdraw, *ending]
    return [deposit, withdraw, fund, Command(NO_ID, source, full, last, operation=TRANSFER)]


class TwoLedgers(RuleBasedStateMachine):
    """Feeds kernel and oracle the same batches and compares everything after each."""

    @initialize(
        parameters=st.builds(
            LedgerParameters,
            window_capacity=st.sampled_from((2, 8, 16, 64)),
            id_ahead_ns=st.sampled_from((0, 1, NS_PER_MS - 1, NS_PER_MS, NS_PER_S)),
            account_capacity=st.sampled_from((1, 6, 7, 10)),
            hold_capacity=st.sampled_from((1, 3, 8, 64)),
        ),
        start_ns=st.sampled_from((0, 1, START_NS, START_NS + 999_999, LAST_TIMEOUT_NS)),
        seeds=st.tuples(U64, U64),
        accounts=st.sampled_from((0, 3, 6, 6)),
    )
    def open_ledgers(
        self, parameters: LedgerParameters, start_ns: int, seeds: tuple[int, int], accounts: int
    ) -> None:
        self.reference = ReferenceLedger(**asdict(parameters))
        self.machine = StateMachine(parameters, hash_seed=seeds[0])
        self.recut = StateMachine(parameters, hash_seed=seeds[1])
        self.recut_waiting: list[Command] = []
        self.replies = self.recut_replies = b""
        self.history: list[Command] = []
        self.now_ns = start_ns
        self.apply(first_commands(accounts), cut=0)

    @rule(data=st.data(), kind=st.integers(0, 11))
    def apply_a_batch(self, data: st.DataObject, kind: int) -> None:
        now_ns = data.draw(next_times(self.reference, self.now_ns), label="now_ns")
        if now_ns != self.now_ns:
            self.flush_recut()
        self.now_ns = now_ns
        if kind < 10 or not self.reference.accounts:
            batch = data.draw(batches(self.reference, now_ns, self.history), label="batch")
        elif kind < 11:
            batch = self.history[-data.draw(st.integers(1, 8), label="sent again") :]
        else:
            batch = data.draw(full_totals(self.reference), label="full")
        self.apply(batch, cut=data.draw(st.sampled_from(cuts(batch)), label="cut"))

    def teardown(self) -> None:
        if hasattr(self, "machine"):  # an example may end before it began
            self.flush_recut()

    def apply(self, batch: list[Command], cut: int) -> None:
        assert find_malformed(as_records(batch), from_client=False) is None
        expected = self.reference.apply(packed(batch), self.now_ns)
        replies = self.machine.apply(as_records(batch), self.now_ns)
        assert [reply.tobytes() for reply in replies] == expected
        self.replies += b"".join(expected)
        self.history += batch
        self.recut_apply(self.recut_waiting + batch[:cut])
        self.recut_waiting = batch[cut:]
        assert_same_state(self.machine, self.reference)

    def recut_apply(self, commands: list[Command]) -> None:
        replies = self.recut.apply(as_records(commands), self.now_ns)
        self.recut_replies += replies.tobytes()

    def flush_recut(self) -> None:
        """All of this ledger time's commands are applied: the other cut must not show."""
        self.recut_apply(self.recut_waiting)
        self.recut_waiting = []
        assert self.recut_replies == self.replies
        assert self.recut.digest() == self.machine.digest()


TwoLedgers.TestCase.settings = settings(REPEATABLE, max_examples=400, stateful_step_count=12)
TestTwoLedgers = pytest.mark.timeout(600)(TwoLedgers.TestCase)  # a failure is shrunk at length


@settings(REPEATABLE, max_examples=300)
@given(
    numbers=st.lists(st.integers(0, 60), min_size=40, max_size=300),
    window_capacity=st.sampled_from((2, 8, 16, 32)),
    hash_seed=U64,
    v7_share=st.integers(0, 60),
)
def test_a_small_window_under_a_long_stream_of_ids_keeps_what_the_oracle_keeps(
    numbers: list[int], window_capacity: int, hash_seed: int, v7_share: int
) -> None:
    """Below `v7_share` the id is a UUIDv7 whose age is its number, so evictions make it too old."""
    parameters = LedgerParameters(window_capacity, 0, account_capacity=4, hold_capacity=1)
    machine = StateMachine(parameters, hash_seed=hash_seed)
    reference = ReferenceLedger(**asdict(parameters))
    batch = [Command(operation=CREATE_ACCOUNT, asset=1)]
    for number in numbers:
        other_id = (number * 0x9E3779B97F4A7C15 + 1).to_bytes(16, "little")
        command_id = uuid7(number, number) if number < v7_share else other_id
        batch.append(Command(command_id, credit_account=1, amount=1, operation=DEPOSIT))
    for start in range(0, len(batch), 50):
        part, timestamp_ns = batch[start : start + 50], 50 * NS_PER_MS
        replies = machine.apply(as_records(part), timestamp_ns)
        assert replies.tobytes() == b"".join(reference.apply(packed(part), timestamp_ns))
        assert machine.digest() == reference.digest()


@settings(REPEATABLE, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    window_capacity=st.sampled_from((512, 1_024)),
    hold_capacity=st.sampled_from((60, 800)),
    hash_seeds=st.tuples(U64, U64),
)
def test_long_batches_with_chains_of_a_hundred_give_what_the_oracle_gives_however_they_are_cut(
    seed: int, window_capacity: int, hold_capacity: int, hash_seeds: tuple[int, int]
) -> None:
    """Chains begin and end anywhere in the stretches of 64 commands that the kernel looks ahead."""
    parameters = LedgerParameters(window_capacity, NS_PER_S, 100, hold_capacity)
    machine = StateMachine(parameters, hash_seed=hash_seeds[0])
    recut = StateMachine(parameters, hash_seed=hash_seeds[1])
    reference = ReferenceLedger(**asdict(parameters))
    random, now_ns, history = Random(seed), START_NS, list[Command]()
    batch = first_commands(40, amount=100_000)
    for _ in range(6):
        expected = b"".join(reference.apply(packed(batch), now_ns))
        assert machine.apply(as_records(batch), now_ns).tobytes() == expected
        ends = sorted({*random.choices(cuts(batch), k=3), len(batch)})
        parts = [batch[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        replies = [recut.apply(as_records(part), now_ns).tobytes() for part in parts]
        assert b"".join(replies) == expected
        assert_same_state(machine, reference)
        assert recut.digest() == machine.digest()
        now_ns += random.randrange(NS_PER_S)
        newest_ms = now_ns // NS_PER_MS + 1_000
        batch = random_batch(
            random, 300, machine.accounts, newest_ms, history, next_hold=machine.next_hold
        )
