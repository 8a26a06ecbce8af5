"""The fake ledger that users test against answers as the oracle does."""

from random import Random

import pytest

from client_core.testing import FakeLedger
from client_core.testing.fake_history import FakeEntry
from cluster_core.batch import LedgerParameters
from tests.expected_history import ExpectedHistory
from tests.property.strategies import NS_PER_MS, NS_PER_S, first_commands, packed, random_batch
from tests.reference import ACCOUNT, EXPIRE, LINKED, Command, ReferenceLedger

START_NS = 1_700_000_000 * NS_PER_S
BATCHES = 60


def without_expiries(batch: list[Command]) -> list[Command]:
    """EXPIRE is the leader's own: no client sends it."""
    kept = [command for command in batch if command.operation != EXPIRE]
    if kept:
        kept[-1] = kept[-1]._replace(flags=kept[-1].flags & ~LINKED)
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_every_reply_and_account_is_the_oracles(seed: int) -> None:
    random, now_ns = Random(seed), START_NS
    window = random.choice((8, 64, 4_096))
    oracle = ReferenceLedger(window, NS_PER_S, 1 << 20)
    fake = FakeLedger(window_capacity=window, account_capacity=1 << 20, clock_ns=lambda: START_NS)
    history: list[Command] = []
    batch = first_commands(20, amount=100_000)
    for _ in range(BATCHES):
        if batch:
            assert fake.apply(packed(batch), now_ns) == b"".join(
                oracle.apply(packed(batch), now_ns)
            )
        now_ns += random.randrange(NS_PER_S)
        drawn = random_batch(
            random,
            40,
            len(oracle.accounts),
            now_ns // NS_PER_MS + 1_000,
            history,
            next_hold=oracle.next_hold,
        )
        batch = without_expiries(drawn)
    assert fake.applied == oracle.applied
    assert sorted(fake.holds) == sorted(oracle.holds)
    for mine, theirs in zip(fake.accounts.values(), oracle.accounts, strict=True):
        for name in ("posted", "held", "floor", "ceiling", "version", "state", "open_holds"):
            assert getattr(mine, name) == getattr(theirs, name), name
    assert ACCOUNT.size == 128


@pytest.mark.parametrize("seed", range(4))
def test_every_entry_of_its_history_is_the_oracles(seed: int) -> None:
    random, now_ns = Random(seed), START_NS
    expected = ExpectedHistory(LedgerParameters(4_096, NS_PER_S, 1 << 20))
    fake = FakeLedger(window_capacity=4_096, account_capacity=1 << 20, clock_ns=lambda: START_NS)
    history: list[Command] = []
    batch = first_commands(20, amount=100_000)
    for _ in range(BATCHES):
        if batch:
            fake.apply(packed(batch), now_ns)
            expected.apply(packed(batch), now_ns)
        now_ns += random.randrange(NS_PER_S)
        ids_end_ms = now_ns // NS_PER_MS + 1_000
        accounts, holds = len(expected.ledger.accounts), expected.ledger.next_hold
        drawn = random_batch(random, 40, accounts, ids_end_ms, history, next_hold=holds)
        batch = without_expiries(drawn)
    assert len(fake.history.entries) == len(expected.entries) > 100
    for mine, theirs in zip(fake.history.entries, expected.entries, strict=True):
        assert (mine.hold_id, mine.sequence) == (theirs.hold, theirs.sequence)
        for name in FakeEntry.__slots__:
            if name != "hold_id":
                assert getattr(mine, name) == getattr(theirs, name), name
