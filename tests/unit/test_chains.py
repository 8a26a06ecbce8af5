"""Chains: linked commands run all or not at all, and leave no trace when they don't."""

from random import Random
from typing import Final

import numpy as np
import pytest

from cluster_core.batch import LedgerParameters
from cluster_core.record import (
    COMMAND,
    MAX_CHAIN_COMMANDS,
    CommandFlag,
    Operation,
    ReplyFlag,
    Status,
)
from cluster_core.state_machine import StateMachine
from tests.compared_ledger import (
    NS_PER_S,
    START_NS,
    Ledger,
    capture,
    close,
    create,
    deposit,
    funded_ledger,
    hold,
    lock,
    register,
    release,
    set_limits,
    transfer,
    v7,
    withdraw,
)
from tests.property.strategies import symbol_number
from tests.reference import Command

ROOMY: Final = LedgerParameters(window_capacity=8, account_capacity=300, hold_capacity=8)
LINKED_FAILED: Final = int(Status.LINKED_FAILED)
OK: Final = int(Status.OK)


def chain(*commands: Command) -> list[Command]:
    """The commands, each linked to the next."""
    linked = [
        command._replace(flags=command.flags | CommandFlag.LINKED) for command in commands[:-1]
    ]
    return [*linked, commands[-1]]


def records_of(ledger: Ledger) -> list[bytes | None]:
    """All that a chain could leave behind, but the window."""
    machine = ledger.machine
    found = [machine.account(number) for number in range(1, 10)]
    found += [machine.asset(number) for number in range(1, 10)]
    found += [machine.hold(number) for number in range(1, 10)]
    counts = (machine.accounts, machine.open_holds, machine.next_hold, machine.next_expiry_ns)
    return [None if row is None else row.tobytes() for row in found] + [repr(counts).encode()]


def test_a_chain_of_good_commands_runs_each_of_them() -> None:
    ledger = funded_ledger(ROOMY)
    replies = ledger.run(
        *chain(create(), deposit(4, 50), hold(4, 1, 30), capture(1, 20), transfer(4, 2, 30)),
        withdraw(2, 1),
    )
    assert set(replies["status"].tolist()) == {OK}
    assert [ledger.account(number)["posted"] for number in (1, 2, 4)] == [120, 129, 0]


UNDONE: Final = {
    "transfers": [transfer(1, 2, 80), transfer(2, 1, 150), transfer(1, 2, 1)],
    "in and out": [deposit(1, 5), withdraw(1, 85), deposit(1, 1), withdraw(2, 70)],
    "accounts": [create(code=7), create(asset=2), deposit(4, 9), deposit(5, 9), transfer(4, 1, 9)],
    "assets": [register(3, 2, symbol_number(b"USD")), create(asset=3), deposit(4, 1), create(3)],
    "locks and limits": [lock(1, 3), set_limits(2, -5, 700), withdraw(2, 75), close(3)],
    "a hold opened": [hold(1, 2, 10, timeout_s=9), hold(1, 2, 10), hold(2, 1, 5, timeout_s=1)],
    "a hold opened and captured": [hold(1, 2, 10, timeout_s=9), capture(3, 4)],
    "a hold captured in parts": [
        capture(1, 3, CommandFlag.KEEP_REST_HELD),
        release(1, 1),
        capture(1),
    ],
    "a hold released, its place taken": [release(2), hold(1, 2, 7, timeout_s=2), release(1)],
    "nothing": [],
}


@pytest.mark.parametrize("name", UNDONE)
def test_a_failed_chain_leaves_everything_as_it_was(name: str) -> None:
    ledger = funded_ledger(ROOMY)
    ledger.run(hold(1, 2, 20), hold(2, 1, 30, timeout_s=60))
    before = records_of(ledger)
    members = [*UNDONE[name], transfer(1, 9, 1), deposit(1, 1)]
    statuses = ledger.statuses(*chain(*members))
    refused = len(UNDONE[name])
    assert statuses.pop(refused) == Status.CREDIT_ACCOUNT_NOT_FOUND
    assert set(statuses) == {LINKED_FAILED}
    assert records_of(ledger) == before
    good = [create(), deposit(4, 3), hold(1, 2, 1), capture(1), release(2), hold(4, 2, 3, 1)]
    assert set(ledger.statuses(*good)) == {OK}


def test_all_but_the_refused_member_say_that_the_chain_failed_and_nothing_else() -> None:
    ledger = funded_ledger(ROOMY)
    replies = ledger.run(*chain(create(), transfer(1, 2, 5), withdraw(2, 500), deposit(1, 1)))
    zeros = (0, 0, 0, 0)
    assert [reply.item() for reply in replies] == [
        (6, *zeros, LINKED_FAILED, 0, 0),
        (7, *zeros, LINKED_FAILED, 0, 0),
        (8, *zeros, Status.INSUFFICIENT_FUNDS, 0, 0),
        (9, *zeros, LINKED_FAILED, 0, 0),
    ]


@pytest.mark.parametrize("number", [0, 4_096, 2**32 - 1])
def test_a_chain_may_name_an_asset_that_there_can_never_be(number: int) -> None:
    ledger = funded_ledger(ROOMY)
    refused = {
        create(number): Status.ASSET_NOT_FOUND,
        register(number): Status.ASSET_NUMBER_OUT_OF_RANGE,
    }
    for command, status in refused.items():
        statuses = ledger.statuses(*chain(deposit(1, 1), command, deposit(1, 1)))
        assert statuses == [LINKED_FAILED, status, LINKED_FAILED]
    assert ledger.account(1)["posted"] == 100


def test_one_failed_chain_does_not_touch_the_commands_and_chains_around_it() -> None:
    ledger = funded_ledger(ROOMY)
    statuses = ledger.statuses(
        deposit(1, 1),
        *chain(deposit(1, 10), deposit(9, 1)),
        *chain(deposit(1, 100), deposit(2, 1)),
        deposit(1, 1_000),
    )
    assert statuses == [OK, LINKED_FAILED, Status.CREDIT_ACCOUNT_NOT_FOUND, OK, OK, OK]
    assert ledger.account(1)["posted"] == 1_201


def test_a_failed_chain_sent_again_gets_its_first_replies_though_it_would_succeed_now() -> None:
    ledger = funded_ledger(ROOMY)
    failed = chain(deposit(1, 5, v7(0)), deposit(4, 5, v7(1)))
    first = ledger.run(*failed)
    assert ledger.status(create()) == OK
    again = ledger.run(*failed)
    assert again["flags"].tolist() == [ReplyFlag.DUPLICATE] * 2
    assert again["status"].tolist() == first["status"].tolist()
    assert again["sequence"].tolist() == [6, 7]
    assert ledger.machine.window_entries == 2


def test_one_known_id_stops_the_whole_chain_and_nothing_enters_the_window() -> None:
    ledger = funded_ledger(ROOMY)
    ledger.run(*chain(deposit(1, 5, v7(0)), deposit(2, 1)))
    early = deposit(1, 1, v7(5_000))
    known, reused, new = deposit(1, 5, v7(0)), deposit(1, 6, v7(0)), deposit(1, 1, v7(9))
    replies = ledger.run(*chain(deposit(2, 1), known, reused, new, early))
    assert replies["status"].tolist() == [
        Status.CHAIN_ID_REUSED,
        OK,
        Status.COMMAND_ID_REUSED,
        Status.CHAIN_ID_REUSED,
        Status.COMMAND_ID_IN_FUTURE,
    ]
    assert replies["flags"].tolist() == [0, ReplyFlag.DUPLICATE, 0, 0, 0]
    assert ledger.machine.window_entries == 1
    assert ledger.status(deposit(1, 1, v7(9))) == OK


def test_an_id_twice_in_one_chain_stops_it_and_may_be_used_afterwards() -> None:
    ledger = funded_ledger(ROOMY)
    for first, second in ((0, 1), (1, 0)):
        twice = chain(deposit(1, 1, v7(first)), deposit(2, 1, v7(second)), deposit(1, 1, v7(0)))
        statuses = ledger.statuses(*twice, deposit(1, 1), deposit(1, 1))
        assert statuses == [Status.CHAIN_ID_REUSED] * 3 + [OK] * 2
    assert ledger.machine.window_entries == 0
    assert ledger.statuses(*chain(deposit(1, 1, v7(0)), deposit(2, 1, v7(1)))) == [OK, OK]


def test_ids_of_a_chain_that_share_a_half_are_not_the_same() -> None:
    """Among 250 some are also neighbours in the table that finds doubled ones."""
    random, ledger = Random(1), funded_ledger(ROOMY)
    for first, second in ((8, 0), (0, 8)):
        ids = (b"\xff" * first + random.randbytes(8) + b"\xff" * second for _ in range(250))
        commands = [deposit(1, 1, command_id) for command_id in ids]
        assert set(ledger.statuses(*chain(*commands))) == {OK}


def test_an_id_may_stand_again_in_the_next_chain_of_the_batch() -> None:
    ledger = funded_ledger(ROOMY)
    pair = chain(deposit(1, 1, v7(0)), deposit(2, 1, v7(1)))
    replies = ledger.run(*pair, *pair)
    assert replies["flags"].tolist() == [0, 0, 1, 1]
    assert ledger.account(1)["posted"] == 101


def test_members_without_an_id_may_stand_beside_each_other() -> None:
    ledger = funded_ledger(ROOMY)
    assert ledger.statuses(*chain(*[deposit(1, 1)] * 3)) == [OK] * 3
    assert ledger.machine.window_entries == 0


def test_a_chain_larger_than_the_window_leaves_its_newest_ids_in_it() -> None:
    ledger = funded_ledger(ROOMY)
    members = chain(*(deposit(1, 1, v7(ms)) for ms in range(20)))
    assert set(ledger.statuses(*members)) == {OK}
    assert ledger.status(members[12]._replace(flags=0)) == Status.COMMAND_ID_REUSED
    assert ledger.status(members[11]._replace(flags=0)) == Status.COMMAND_ID_TOO_OLD


@pytest.mark.parametrize("length", [2, 63, 64, 65, 129, 250])
@pytest.mark.parametrize("before", [0, 1, 63])
def test_a_chain_may_cross_what_the_kernel_looks_ahead(length: int, before: int) -> None:
    ledger = funded_ledger(ROOMY)
    ids = (v7(0, tail) for tail in range(3 * length))
    plain = [deposit(1, 1)] * before
    bad = [*(deposit(1, 1, next(ids)) for _ in range(length - 1)), deposit(9, 1, next(ids))]
    good = [deposit(1, 1, next(ids)) for _ in range(length)]
    statuses = ledger.statuses(*plain, *chain(*bad), *plain, *chain(*good), *plain)
    refused = [LINKED_FAILED] * (length - 1) + [int(Status.CREDIT_ACCOUNT_NOT_FOUND)]
    assert statuses == [OK] * before + refused + [OK] * (length + 2 * before)


@pytest.mark.parametrize("refused_at", [0, MAX_CHAIN_COMMANDS // 2, MAX_CHAIN_COMMANDS - 1])
def test_the_longest_chain_is_undone_wherever_it_fails(refused_at: int) -> None:
    capacity = 2 * MAX_CHAIN_COMMANDS
    machine = StateMachine(LedgerParameters(1 << 14, account_capacity=capacity))
    commands = np.zeros(MAX_CHAIN_COMMANDS, COMMAND)
    commands["operation"] = Operation.CREATE_ACCOUNT
    commands["asset"] = 1
    machine.apply(commands, START_NS)
    accounts = np.arange(1, MAX_CHAIN_COMMANDS + 1)
    deposits = commands.copy()
    deposits["operation"], deposits["asset"], deposits["amount"] = Operation.DEPOSIT, 0, 5
    deposits["credit_account"] = accounts
    machine.apply(deposits, START_NS)
    before = [machine.account(number) for number in (1, 4_000, MAX_CHAIN_COMMANDS)]
    transfers = deposits.copy()
    transfers["operation"] = Operation.TRANSFER
    transfers["debit_account"], transfers["amount"] = accounts % MAX_CHAIN_COMMANDS + 1, 3
    transfers["id_0"] = accounts
    transfers["flags"][:-1] = CommandFlag.LINKED
    transfers["asset"] = 0
    refused = transfers.copy()
    refused["amount"][refused_at] = 1_000
    replies = machine.apply(refused, START_NS)
    assert replies["status"][refused_at] == Status.INSUFFICIENT_FUNDS
    assert np.count_nonzero(replies["status"] == LINKED_FAILED) == MAX_CHAIN_COMMANDS - 1
    assert [machine.account(number) for number in (1, 4_000, MAX_CHAIN_COMMANDS)] == before
    transfers["id_1"] = 1
    assert set(machine.apply(transfers, START_NS)["status"].tolist()) == {OK}


def test_a_chains_hold_that_was_undone_never_expires() -> None:
    ledger = funded_ledger(ROOMY)
    ledger.run(*chain(hold(1, 2, 5, timeout_s=1), deposit(9, 1)))
    late_ns = START_NS + 9 * NS_PER_S
    assert ledger.machine.expired_holds(late_ns, 10).tolist() == []
    assert ledger.status(capture(1), late_ns) == Status.HOLD_NOT_FOUND
    assert ledger.run(hold(1, 2, 6), timestamp_ns=late_ns)[0]["entity"] == 1
