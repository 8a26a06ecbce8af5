"""Holds: reserved money, from opening to capture, release or expiry, and the store they lie in."""

from random import Random
from typing import Final

import numpy as np
import pytest

from cluster_core.batch import LedgerParameters
from cluster_core.record import CommandFlag, Status
from cluster_core.state_machine import StateMachine
from tests.compared_ledger import (
    AMOUNT_MAX,
    NS_PER_S,
    START_NS,
    Ledger,
    capture,
    create,
    deposit,
    expire,
    funded_ledger,
    hold,
    lock,
    records,
    release,
)

ROOMY: Final = LedgerParameters(window_capacity=4, account_capacity=4, hold_capacity=1 << 15)


def money(ledger: Ledger, account_id: int) -> tuple[int, int, int]:
    """Posted, held and open holds of an account."""
    account = ledger.account(account_id)
    return int(account["posted"]), int(account["held"]), int(account["open_holds"])


def test_a_hold_reserves_money_and_a_capture_moves_it() -> None:
    ledger = funded_ledger()
    opened, captured = ledger.run(hold(1, 2, 60), capture(1))
    assert opened.item() == (6, 1, 60, 100, 100, Status.OK, 0, 0)
    assert captured.item() == (7, 1, 60, 40, 160, Status.OK, 0, 0)
    assert (money(ledger, 1), money(ledger, 2)) == ((40, 0, 0), (160, 0, 0))


def test_an_open_hold_is_readable_as_it_was_opened() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 60)._replace(code=9), hold(2, 1, 5, timeout_s=3), timestamp_ns=START_NS)
    record = ledger.machine.hold(1)
    assert record is not None
    assert record.item() == (1, 1, 2, 60, 0, 6, 9, 1, 0, 0)
    timed = ledger.machine.hold(2)
    assert timed is not None
    assert timed.item() == (2, 2, 1, 5, START_NS + 3 * NS_PER_S, 7, 0, 1, 0, 0)
    asset = ledger.machine.asset(1)
    assert asset is not None
    assert (asset["held"], asset["open_holds"]) == (65, 2)
    assert (ledger.machine.open_holds, ledger.machine.next_hold) == (2, 3)
    assert [ledger.machine.hold(hold_id) for hold_id in (0, 3, 2**63, -1)] == [None] * 4


def test_a_partial_capture_gives_the_rest_back_unless_it_is_kept() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 60), hold(1, 2, 40))
    kept, whole = ledger.run(capture(1, 10, CommandFlag.KEEP_REST_HELD), capture(2, 15))
    assert (kept["amount"], whole["amount"]) == (10, 15)
    assert money(ledger, 1) == (75, 50, 1)
    assert ledger.status(capture(1, 50, CommandFlag.KEEP_REST_HELD)) == Status.OK
    assert ledger.status(capture(1)) == Status.HOLD_NOT_OPEN
    assert (money(ledger, 1), ledger.machine.open_holds) == ((25, 0, 0), 0)


def test_a_balancing_capture_takes_what_is_held() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 60))
    reply = ledger.run(capture(1, AMOUNT_MAX, CommandFlag.BALANCING))[0]
    assert (reply["status"], reply["amount"]) == (Status.OK, 60)


def test_a_release_works_in_parts_on_locked_accounts_and_past_the_holds_time() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 60, timeout_s=1), lock(1, 3), lock(2, 3))
    late_ns = START_NS + 5 * NS_PER_S
    part, rest = ledger.run(release(1, 20), release(1), timestamp_ns=late_ns)
    assert (part["entity"], part["amount"], part["debit_balance"]) == (1, 20, 100)
    assert (rest["entity"], rest["amount"], rest["credit_balance"]) == (1, 40, 100)
    assert money(ledger, 1) == (100, 0, 0)


def test_a_hold_expires_at_its_very_time_and_not_before() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 60, timeout_s=1))
    due_ns = START_NS + NS_PER_S
    assert ledger.status(expire(1), due_ns - 1) == Status.HOLD_NOT_EXPIRED
    assert ledger.status(capture(1, 1, CommandFlag.KEEP_REST_HELD), due_ns - 1) == Status.OK
    assert ledger.status(capture(1), due_ns) == Status.HOLD_EXPIRED
    reply = ledger.run(expire(1), timestamp_ns=due_ns)[0]
    assert (reply["status"], reply["entity"], reply["amount"]) == (Status.OK, 1, 59)
    assert money(ledger, 1) == (99, 0, 0)


def test_a_time_beyond_the_end_of_time_is_the_end_of_time() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 1, timeout_s=2), timestamp_ns=AMOUNT_MAX - NS_PER_S)
    assert ledger.machine.next_expiry_ns == AMOUNT_MAX


def test_expired_holds_are_named_the_earliest_first_and_up_to_a_limit() -> None:
    ledger = funded_ledger(ROOMY)
    assert ledger.machine.next_expiry_ns is None
    ledger.run(*(hold(1, 2, 1, timeout_s) for timeout_s in (5, 0, 3, 9, 3, 1)))
    machine = ledger.machine
    assert machine.next_expiry_ns == START_NS + NS_PER_S
    digest = machine.digest()
    at = START_NS + 5 * NS_PER_S
    assert machine.expired_holds(at, 10).tolist() == [6, 3, 5, 1]
    assert machine.expired_holds(at - 1, 10).tolist() == [6, 3, 5]
    assert machine.expired_holds(at, 2).tolist() == [6, 3]
    assert machine.expired_holds(at, 0).tolist() == []
    assert machine.expired_holds(START_NS, 10).tolist() == []
    assert machine.digest() == digest
    ledger.run(expire(6), release(3), capture(1), timestamp_ns=at - 1)
    assert machine.next_expiry_ns == START_NS + 3 * NS_PER_S
    assert machine.expired_holds(2**63 - 1, 10).tolist() == [5, 4]


@pytest.mark.parametrize("seed", range(3))
def test_expired_holds_are_in_order_whatever_their_times_and_the_limit(seed: int) -> None:
    machine, random = StateMachine(ROOMY), Random(seed)
    timeouts = dict(enumerate((random.randrange(1, 60) for _ in range(150)), 1))
    commands = [create(), create(), deposit(1, 150)]
    commands += [hold(1, 2, 1, timeout_s) for timeout_s in timeouts.values()]
    for hold_id in random.sample(sorted(timeouts), 30):
        commands.append(release(hold_id))
        del timeouts[hold_id]
    assert set(machine.apply(records(commands), START_NS)["status"].tolist()) == {Status.OK}
    order = sorted(timeouts, key=lambda hold_id: (timeouts[hold_id], hold_id))
    for seconds in range(0, 61, 5):
        due = [hold_id for hold_id in order if timeouts[hold_id] <= seconds]
        for limit in (1, 2, 3, 10, 50, 1_000):
            at_ns = START_NS + seconds * NS_PER_S
            assert machine.expired_holds(at_ns, limit).tolist() == due[:limit]


def test_a_resolved_hold_makes_room_for_another_with_a_new_id() -> None:
    ledger = funded_ledger()
    ledger.run(hold(1, 2, 1), hold(1, 2, 2))
    assert ledger.status(hold(1, 2, 3)) == Status.HOLD_CAPACITY_REACHED
    ledger.run(release(1))
    assert ledger.run(hold(1, 2, 3))[0]["entity"] == 3
    assert ledger.status(capture(1)) == Status.HOLD_NOT_OPEN
    assert ledger.status(hold(1, 2, 3)) == Status.HOLD_CAPACITY_REACHED


@pytest.mark.parametrize("hash_seed", [0, 1, 2**64 - 1])
def test_thousands_of_holds_come_and_go_in_any_order(hash_seed: int) -> None:
    """The store grows, is emptied and is filled again; a plain dict says what must be in it."""
    machine = StateMachine(ROOMY, hash_seed=hash_seed)
    machine.apply(records([create(), create(), deposit(1, 10**9)]), START_NS)
    random, open_ids, expiries = Random(7), set[int](), dict[int, int]()
    for round_number in range(60):
        opening = random.randrange(600) if round_number % 20 < 12 else 0
        closing = random.sample(sorted(open_ids), min(len(open_ids), random.randrange(500)))
        if round_number == 39:
            closing = sorted(open_ids)
        timeouts = [random.choice((0, 50, random.randrange(100, 200))) for _ in range(opening)]
        first = machine.next_hold
        commands = [hold(1, 2, 1, timeout_s) for timeout_s in timeouts]
        commands += [release(hold_id) for hold_id in closing]
        replies = machine.apply(records(commands), START_NS + round_number)
        assert set(replies["status"].tolist()) <= {Status.OK}
        open_ids |= set(range(first, first + opening))
        for hold_id, timeout_s in enumerate(timeouts, first):
            if timeout_s:
                expiries[hold_id] = START_NS + round_number + timeout_s * NS_PER_S
        for hold_id in closing:
            open_ids.remove(hold_id)
            expiries.pop(hold_id, None)
        assert machine.open_holds == len(open_ids)
        due = sorted(expiries, key=lambda hold_id: (expiries[hold_id], hold_id))
        assert machine.expired_holds(2**63 - 1, 1 << 20).tolist() == due
        assert machine.next_expiry_ns == (expiries[due[0]] if due else None)
    assert {i for i in range(machine.next_hold + 1) if machine.hold(i) is not None} == open_ids
    assert machine.next_hold > 8_000


def test_neither_seed_nor_slots_show_in_the_digest() -> None:
    one, other = StateMachine(ROOMY, hash_seed=1), StateMachine(ROOMY, hash_seed=2)
    commands = [create(), create(), deposit(1, 1_000), *(hold(1, 2, 1, 9) for _ in range(500))]
    commands += [release(hold_id) for hold_id in np.random.default_rng(1).permutation(400) + 1]
    commands += [hold(1, 2, 2) for _ in range(50)]
    for machine in (one, other):
        machine.apply(records(commands), START_NS)
    assert one.digest() == other.digest()
