"""The audit's check of the books: sound ones have no fault, and each kind of fault is named."""

from dataclasses import replace

import pytest

from cluster_app.audited_books import check_books
from cluster_core.record import AccountState
from cluster_core.state_machine import StateMachine
from tests.compared_ledger import (
    PARAMETERS,
    START_NS,
    create,
    deposit,
    funded_ledger,
    hold,
    records,
    release,
    transfer,
)
from tests.property.strategies import symbol_number


def state_with_holds() -> StateMachine:
    """Accounts 1 and 2 hold money for each other; account 4 holds nothing."""
    ledger = funded_ledger()
    ledger.run(create(), hold(1, 2, 30), hold(2, 1, 20, timeout_s=5), transfer(1, 2, 5))
    return ledger.machine


def test_sound_books_have_no_fault() -> None:
    assert check_books(state_with_holds()) == []
    assert check_books(funded_ledger().machine) == []


@pytest.mark.parametrize(
    ("array", "row", "field", "value", "faults"),
    [
        ("accounts", 1, "posted", 96, ["asset 1: sum of posted + external is 1, not 0"]),
        (
            "accounts",
            2,
            "held",
            21,
            [
                "asset 1: sum of held is 51, not 50",
                "account 2: held is 21, by its open holds 20",
            ],
        ),
        ("accounts", 1, "floor", 66, ["account 1: posted - held is below the floor"]),
        ("accounts", 1, "floor", 96, ["account 1: posted - held is below the floor"]),
        ("accounts", 1, "ceiling", 94, ["account 1: posted is above the ceiling"]),
        ("accounts", 2, "credits_total", 104, ["account 2: a lifetime total is out of range"]),
        ("accounts", 4, "account_id", 3, ["account 4: account_id is not its place"]),
        (
            "accounts",
            3,
            "asset",
            77,
            ["account 3: asset is not registered", "asset 2: accounts is 0, not 1"],
        ),
        (
            "accounts",
            2,
            "open_holds",
            2,
            [
                "asset 1: open holds of its accounts is 3, not 2",
                "account 2: open_holds is 2, by its open holds 1",
            ],
        ),
        ("assets", 1, "external", -201, ["asset 1: sum of posted + external is -1, not 0"]),
        ("assets", 2, "accounts", 2, ["asset 2: accounts is 1, not 2"]),
        (
            "holds",
            1,
            "remaining",
            31,
            [
                "asset 1: sum of what its open holds hold is 51, not 50",
                "account 1: held is 30, by its open holds 31",
            ],
        ),
        ("holds", 1, "credit_account", 9, ["hold 1: its credit account does not exist"]),
        ("accounts", 1, "state", 8, ["account 1: state has unknown bits"]),
        ("accounts", 3, "version", 0, ["account 3: version is zero"]),
        ("accounts", 3, "last_sequence", 10, ["account 3: last_sequence is not applied yet"]),
        (
            "accounts",
            1,
            "state",
            AccountState.CLOSED,
            [
                "account 1: it is closed and not empty",
                "account 1: it is closed and has open holds",
            ],
        ),
        ("accounts", 3, "state", AccountState.CLOSED | AccountState.DEBITS_LOCKED, []),
        ("holds", 1, "credit_account", 1, ["hold 1: its two accounts are one"]),
        ("holds", 1, "credit_account", 3, ["hold 1: its credit account is of another asset"]),
        (
            "holds",
            1,
            "expires_ns",
            -1,
            [
                "hold 1: its time is negative",
                "ledger: timed_holds is 1, there are 2",
                "hold 1: the heap does not lead to it",
            ],
        ),
        ("holds", 1, "heap_place", 1, ["hold 1: the heap does not lead to it"]),
        ("holds", 2, "heap_place", 2**32 - 1, ["hold 2: the heap does not lead to it"]),
        ("holds", 1, "opened_sequence", 10, ["hold 1: it is not opened yet"]),
        ("ledger", 0, "open_holds", 3, ["ledger: open_holds is 3, there are 2"]),
        (
            "ledger",
            0,
            "timed_holds",
            0,
            ["ledger: timed_holds is 0, there are 1", "hold 2: the heap does not lead to it"],
        ),
        ("assets", 2, "decimals", 19, ["asset 2: decimals are over 18"]),
        ("assets", 2, "symbol", symbol_number(b"UNIT"), ["asset 2: symbol is another asset's too"]),
    ],
)
def test_books_that_do_not_add_up_are_named(
    array: str, row: int, field: str, value: int, faults: list[str]
) -> None:
    state = state_with_holds()
    getattr(state._books, array)[field][row] = value
    assert check_books(state) == faults


def test_sums_beyond_64_bits_are_exact() -> None:
    state = funded_ledger().machine
    most = 2**63 - 1
    for account in (1, 2):
        state._books.accounts["posted"][account] = most
        state._books.accounts["credits_total"][account] = most
    [fault] = check_books(state)
    assert fault == f"asset 1: sum of posted + external is {2 * most - 200}, not 0"


def test_holds_that_their_ids_do_not_lead_to_are_named() -> None:
    state = state_with_holds()
    state._books.hold_heads[:] = 0
    assert check_books(state) == ["hold 1: its id does not lead to it"]
    state._books.hold_heads[:] = 1  # both buckets begin with hold 1, and it leads nowhere
    state._books.holds["next"][1] = 0
    assert check_books(state) == ["hold 2: its id does not lead to it"]
    state._books.holds["next"][1] = 1  # a circle ends the search too
    assert check_books(state) == ["hold 2: its id does not lead to it"]


@pytest.mark.parametrize("hash_seed", [0, 2**64 - 1])
def test_every_one_of_many_holds_is_found_by_its_id(hash_seed: int) -> None:
    parameters = replace(PARAMETERS, hold_capacity=4_096)
    machine = StateMachine(parameters, hash_seed=hash_seed)
    machine.apply(records([create(), create(), deposit(1, 10_000)]), START_NS)
    for timeout_s in (0, 9):
        machine.apply(records([hold(1, 2, 1, timeout_s)] * 1_500), START_NS)
    machine.apply(records([release(hold_id) for hold_id in range(5, 3_000, 7)]), START_NS)
    assert machine.open_holds > 2_000
    assert check_books(machine) == []
