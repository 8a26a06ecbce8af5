"""The compiled state machine does what the oracle does, whatever it is given.

Every example runs three ledgers: the oracle, the kernel with the same batches, and the kernel
with another hash seed and the same commands cut into other batches.
"""

from collections import Counter
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND, Operation, ReplyFlag, Status
from cluster_core.state_machine import StateMachine, find_malformed
from tests.property.strategies import NS_PER_MS, batches, packed, uuid7
from tests.reference import (
    CREATE_ACCOUNT,
    DEPOSIT,
    I64_MAX,
    REGISTER_ASSET,
    REPLY,
    TRANSFER,
    WITHDRAW,
    Command,
    ReferenceLedger,
    Reply,
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
EUR: Final = int.from_bytes(b"EUR", "little")


def as_records(commands: list[Command]) -> npt.NDArray[Any]:
    return np.frombuffer(packed(commands), COMMAND)


def assert_same_record(record: np.void | None, expected: dict[str, Any] | None) -> None:
    """Compare by field; fields that the oracle has no word for must be zero."""
    if record is None or expected is None:
        assert (record, expected) == (None, None)
        return
    symbol = expected.get("symbol")
    if symbol is not None:
        expected = expected | {"symbol": int.from_bytes(symbol, "little")}
    names = record.dtype.names or ()
    values = {name: record[name].item() for name in names if not name.startswith("reserved")}
    assert values == dict.fromkeys(values, 0) | expected


class TwoLedgers(RuleBasedStateMachine):
    """Feeds kernel and oracle the same batches and compares everything after each."""

    @initialize(
        parameters=st.builds(
            LedgerParameters,
            window_capacity=st.sampled_from((2, 4, 8, 16)),
            id_ahead_ns=st.sampled_from((0, 1, NS_PER_MS - 1, NS_PER_MS, 1_000 * NS_PER_MS)),
            account_capacity=st.sampled_from((1, 3, 6, 6)),
        ),
        start_ns=st.sampled_from((0, 1, 1_700_000_000_000_000_000, 1_700_000_000_000_999_999)),
        seeds=st.tuples(U64, U64),
        accounts=st.integers(0, 4),
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
        register = Command(operation=REGISTER_ASSET, asset=2, reference=EUR)
        create = [
            Command(operation=CREATE_ACCOUNT, asset=2 if number % 3 == 2 else 1)
            for number in range(accounts)
        ]
        fund = [
            Command(operation=DEPOSIT, credit_account=number + 1, amount=50)
            for number in range(accounts)
        ]
        self.apply([register, *create, *fund], cut=0)

    @rule(data=st.data(), step_ns=st.sampled_from((0, 0, 1, NS_PER_MS, 1_000 * NS_PER_MS)))
    def apply_a_batch(self, data: st.DataObject, step_ns: int) -> None:
        if step_ns:
            self.flush_recut()
        self.now_ns += step_ns
        batch = data.draw(batches(self.reference, self.now_ns, self.history), label="batch")
        self.apply(batch, cut=data.draw(st.integers(0, len(batch)), label="cut"))

    @precondition(lambda self: bool(self.history))
    @rule(count=st.integers(1, 8))
    def send_the_newest_commands_again(self, count: int) -> None:
        self.apply(self.history[-count:], cut=0)

    @precondition(lambda self: bool(self.reference.accounts))
    @rule(data=st.data(), room=st.integers(0, 3), beside=st.integers(0, 1))
    def fill_a_credits_total(self, data: st.DataObject, room: int, beside: int) -> None:
        """Leave an account room for `room` more credits; transfer it that, or one more."""
        drawn = st.sampled_from(self.reference.accounts)
        account, other = data.draw(drawn, label="account"), data.draw(drawn, label="other")
        external = self.reference.assets[account.asset].external
        amount = I64_MAX - max(account.credits_total, -external) - room
        full, source = account.account_id, other.account_id
        batch = [
            Command(operation=DEPOSIT, credit_account=full, amount=amount),
            Command(operation=WITHDRAW, debit_account=full, amount=amount),
            Command(operation=DEPOSIT, credit_account=source, amount=room + beside),
        ]
        transfer = Command(operation=TRANSFER, debit_account=source, credit_account=full)
        batch.append(transfer._replace(amount=room + beside))
        self.apply(batch, cut=2)

    def teardown(self) -> None:
        if hasattr(self, "machine"):  # an example may end before it began
            self.flush_recut()

    def apply(self, batch: list[Command], cut: int) -> None:
        assert find_malformed(as_records(batch)) is None
        versions = [account.version for account in self.reference.accounts]
        before = [self.machine.account(number + 1) for number in range(len(versions))]
        expected = self.reference.apply(packed(batch), self.now_ns)
        replies = self.machine.apply(as_records(batch), self.now_ns)
        assert [reply.tobytes() for reply in replies] == expected
        self.replies += b"".join(expected)
        self.history += batch
        self.recut_apply(self.recut_waiting + batch[:cut])
        self.recut_waiting = batch[cut:]
        self.assert_same_state()
        self.assert_zero_sums()
        self.assert_only_successes_changed(batch, expected, before)

    def recut_apply(self, commands: list[Command]) -> None:
        replies = self.recut.apply(as_records(commands), self.now_ns)
        self.recut_replies += replies.tobytes()

    def flush_recut(self) -> None:
        """All of this ledger time's commands are applied: the other cut must not show."""
        self.recut_apply(self.recut_waiting)
        self.recut_waiting = []
        assert self.recut_replies == self.replies
        assert self.recut.digest() == self.machine.digest()

    def assert_same_state(self) -> None:
        assert self.machine.applied == self.reference.applied
        assert self.machine.accounts == len(self.reference.accounts)
        for account in self.reference.accounts:
            assert_same_record(self.machine.account(account.account_id), asdict(account))
        for account_id in (0, self.machine.accounts + 1, 2**63, 2**64 - 1):
            assert self.machine.account(account_id) is None
        for number in (0, 1, 2, 3, 4, 4_095, 4_096, 2**32 - 1):
            asset = self.reference.assets.get(number)
            assert_same_record(self.machine.asset(number), asdict(asset) if asset else None)
        assert self.machine.digest() == self.reference.digest()

    def assert_zero_sums(self) -> None:
        """Double entry: per asset, all accounts and the external one sum to zero."""
        posted: Counter[int] = Counter()
        for account_id in range(1, self.machine.accounts + 1):
            account = self.machine.account(account_id)
            assert account is not None
            posted[int(account["asset"])] += int(account["posted"])
        for number in self.reference.assets:
            asset = self.machine.asset(number)
            assert asset is not None
            assert posted[number] + int(asset["external"]) == 0

    def assert_only_successes_changed(
        self, batch: list[Command], replies: list[bytes], before: list[np.void | None]
    ) -> None:
        """Each success moves its accounts' versions by one; nothing else touches an account."""
        changes: Counter[int] = Counter()
        for command, packed_reply in zip(batch, replies, strict=True):
            reply = Reply._make(REPLY.unpack(packed_reply))
            if reply.status == Status.OK and not reply.flags & ReplyFlag.DUPLICATE:
                if command.operation == Operation.CREATE_ACCOUNT:
                    changes[reply.entity] += 1
                changes.update({command.debit_account, command.credit_account} - {0})
        for account_id in range(1, self.machine.accounts + 1):
            now = self.machine.account(account_id)
            assert now is not None
            was = before[account_id - 1] if account_id <= len(before) else None
            version = 0 if was is None else int(was["version"])
            assert int(now["version"]) == version + changes[account_id]
            if not changes[account_id]:
                assert now == was


TwoLedgers.TestCase.settings = settings(REPEATABLE, max_examples=400, stateful_step_count=15)
TestTwoLedgers = TwoLedgers.TestCase


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
    machine = StateMachine(LedgerParameters(window_capacity, 0, 4), hash_seed=hash_seed)
    reference = ReferenceLedger(window_capacity, 0, 4)
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
