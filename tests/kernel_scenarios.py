"""Recorded batches with what the oracle made of them: a quick judge of the kernel.

They are drawn once, always the same ones, and replayed against every mutant of the kernel
(`tests/mutation.py`). Recording needs Hypothesis and the oracle, replaying neither.
"""

from dataclasses import astuple
from random import Random
from typing import Final, NamedTuple

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND
from tests.property.strategies import (
    MAX_TIMEOUT_S,
    NS_PER_MS,
    NS_PER_S,
    batches,
    first_commands,
    next_times,
    packed,
    random_batch,
    uuid7,
)
from tests.reference import (
    CAPTURE,
    CREATE_ACCOUNT,
    DEPOSIT,
    HOLD,
    I64_MAX,
    NO_ID,
    RELEASE,
    Command,
    ReferenceLedger,
)

START_NS: Final = 1_700_000_000 * NS_PER_S
EXPIRED_LIMITS: Final = (0, 1, 3, 1_000)


class Step(NamedTuple):
    """One batch, and the oracle's replies, digest and expired holds (the earliest first)."""

    timestamp_ns: int
    commands: bytes
    replies: bytes
    digest: bytes
    expired: list[int]


class Scenario(NamedTuple):
    """A ledger's parameters, its hash seed, and the batches that it takes one after the other."""

    parameters: LedgerParameters
    hash_seed: int
    steps: list[Step]


class Recorder:
    """Gives batches to the oracle and keeps them with its answers."""

    def __init__(self, parameters: LedgerParameters, hash_seed: int, now_ns: int) -> None:
        self.reference = ReferenceLedger(*astuple(parameters))
        self.scenario = Scenario(parameters, hash_seed, [])
        self.now_ns = now_ns

    def run(self, batch: list[Command]) -> None:
        commands = packed(batch)
        replies = b"".join(self.reference.apply(commands, self.now_ns))
        past = [h for h in self.reference.holds.values() if 0 < h.expires_ns <= self.now_ns]
        past.sort(key=lambda hold: (hold.expires_ns, hold.hold_id))
        expired = [hold.hold_id for hold in past]
        digest = self.reference.digest()
        self.scenario.steps.append(Step(self.now_ns, commands, replies, digest, expired))


def record_scenarios() -> list[Scenario]:
    """All scenarios, those that find most in the least time first. Takes seconds."""
    scenarios = [long_batches(seed) for seed in range(2)]
    scenarios += [many_ids(seed) for seed in range(4)]
    scenarios += [many_holds(seed) for seed in range(2)]
    return scenarios + drawn_scenarios(examples=150, steps=8)


def drawn_scenarios(examples: int, steps: int) -> list[Scenario]:
    """Small ledgers under the property tests' own strategies."""
    recorded: list[Scenario] = []

    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def draw(data: st.DataObject) -> None:
        parameters = LedgerParameters(
            data.draw(st.sampled_from((2, 8, 16))),
            data.draw(st.sampled_from((0, NS_PER_MS - 1, NS_PER_S))),
            data.draw(st.sampled_from((6, 7, 10))),
            data.draw(st.sampled_from((1, 3, 8, 64))),
        )
        late_ns = I64_MAX - MAX_TIMEOUT_S * NS_PER_S
        now_ns = data.draw(st.sampled_from((START_NS, START_NS + 999_999, late_ns)))
        recorder = Recorder(parameters, data.draw(st.integers(0, 2**64 - 1)), now_ns)
        recorder.run(first_commands(6))
        history: list[Command] = []
        for _ in range(steps):
            recorder.now_ns = data.draw(next_times(recorder.reference, recorder.now_ns))
            batch = data.draw(batches(recorder.reference, recorder.now_ns, history))
            history += batch
            recorder.run(batch)
        recorded.append(recorder.scenario)

    draw()
    return recorded


def many_ids(seed: int) -> Scenario:
    """Few ids again and again through a small window; half are UUIDv7s, as old as their number."""
    parameters = LedgerParameters((2, 8, 16, 32)[seed % 4], 0, account_capacity=4, hold_capacity=1)
    random = Random(seed)
    recorder = Recorder(parameters, random.getrandbits(64), 50 * NS_PER_MS)
    recorder.run([Command(operation=CREATE_ACCOUNT, asset=1)])
    for _ in range(8):
        batch: list[Command] = []
        for number in random.choices(range(60), k=40):
            other_id = (number * 0x9E3779B97F4A7C15 + 1).to_bytes(16, "little")
            command_id = other_id if number % 2 else uuid7(number, number)
            batch.append(Command(command_id, credit_account=1, amount=1, operation=DEPOSIT))
        recorder.run(batch)
    return recorder.scenario


def many_holds(seed: int) -> Scenario:
    """Holds come and go in any order, by the dozen; many of them end at the same time."""
    random = Random(seed)
    parameters = LedgerParameters(4, account_capacity=2, hold_capacity=200)
    recorder = Recorder(parameters, random.getrandbits(64), START_NS)
    account = Command(operation=CREATE_ACCOUNT, asset=1)
    recorder.run([account, account, Command(NO_ID, 0, 1, 10**6, operation=DEPOSIT)])
    for turn in range(14):
        recorder.now_ns += random.randrange(3) * NS_PER_S
        opening = Command(NO_ID, 1, 2, 1, operation=HOLD)
        timeouts = [random.choice((0, 1, *range(2, 12))) for _ in range(random.randrange(50))]
        batch = [opening._replace(timeout_s=timeout_s) for timeout_s in timeouts]
        known = sorted(recorder.reference.holds)
        for hold_id in known if turn == 8 else random.sample(known, len(known) // 3):
            operation = random.choice((CAPTURE, RELEASE))
            batch.append(Command(operation=operation, reference=hold_id))
        recorder.run(batch)
    return recorder.scenario


def long_batches(seed: int) -> Scenario:
    """Random commands, chains of a hundred among them, in batches past the kernel's look-ahead."""
    random = Random(seed)
    parameters = LedgerParameters(64, id_ahead_ns=0, account_capacity=40, hold_capacity=20)
    recorder = Recorder(parameters, random.getrandbits(64), START_NS)
    recorder.run(first_commands(12, amount=100_000))
    history: list[Command] = []
    for _ in range(8):
        recorder.now_ns += random.randrange(5 * NS_PER_MS)
        reference = recorder.reference
        newest_ms = recorder.now_ns // NS_PER_MS
        accounts, next_hold = len(reference.accounts), reference.next_hold
        recorder.run(random_batch(random, 100, accounts, newest_ms, history, next_hold))
    return recorder.scenario


def replay(scenario: Scenario) -> None:
    """Run a scenario through the kernel. Raises AssertionError where it and the oracle differ."""
    from cluster_core.state_machine import StateMachine, find_malformed

    machine = StateMachine(scenario.parameters, hash_seed=scenario.hash_seed)
    for step in scenario.steps:
        commands = np.frombuffer(step.commands, COMMAND)
        assert find_malformed(commands, from_client=False) is None
        assert machine.apply(commands, step.timestamp_ns).tobytes() == step.replies
        assert machine.digest() == step.digest
        for limit in EXPIRED_LIMITS:
            expired = machine.expired_holds(step.timestamp_ns, limit).tolist()
            assert expired == step.expired[:limit]
