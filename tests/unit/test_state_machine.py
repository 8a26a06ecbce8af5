"""The state machine, case by case: each status and each reply's fields."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from random import Random
from typing import Final

import numpy as np
import pytest

from cluster_core.batch import LedgerParameters
from cluster_core.books import empty_books
from cluster_core.recent_commands import empty_window, hash_id
from cluster_core.record import CommandFlag, Operation, ReplyFlag, Status
from tests import reference
from tests.compared_ledger import (
    AMOUNT_MAX,
    NS_PER_S,
    PARAMETERS,
    START_NS,
    Ledger,
    capture,
    close,
    create,
    deposit,
    expecting,
    expire,
    funded_ledger,
    hold,
    lock,
    register,
    release,
    set_limits,
    transfer,
    unlock,
    v7,
    withdraw,
)
from tests.property.strategies import (
    NOT_SYMBOLS,
    NS_PER_MS,
    UNKNOWN_ACCOUNTS,
    random_batch,
    symbol_number,
    uuid7,
)
from tests.reference import Command

Steps = Sequence[Command | int]
"""Commands, and seconds that pass between them."""

CLOSED_4: Final = (create(), close(4))

REFUSALS: Final[dict[Status, list[Steps]]] = {
    Status.COMMAND_ID_REUSED: [
        [create(command_id=v7(0)), create(command_id=v7(0), code=1)],
        [deposit(9, 1, b"not a version 7!"), deposit(9, 2, b"not a version 7!")],
    ],
    Status.COMMAND_ID_TOO_OLD: [
        [*(deposit(1, 1, v7(ms)) for ms in range(5)), deposit(1, 1, v7(0))],
        [*(deposit(1, 1, v7(ms)) for ms in range(5)), deposit(1, 2, v7(-1, tail=2**74 - 1))],
        [*(deposit(1, 1, v7(ms)) for ms in (9, 1, 2, 3, 4)), deposit(1, 1, v7(8))],
    ],
    Status.COMMAND_ID_IN_FUTURE: [[deposit(1, 1, v7(1_001))], [deposit(1, 1, uuid7(2**48 - 1, 0))]],
    Status.HOLD_NOT_FOUND: [
        *([capture(unknown, -1)] for unknown in (1, *UNKNOWN_ACCOUNTS)),
        [hold(1, 2, 1), release(2, -1)],
        [hold(1, 2, 1), expire(2**32 + 1)],
    ],
    Status.HOLD_NOT_OPEN: [
        [hold(1, 2, 1), release(1), capture(1, -1)],
        [hold(1, 2, 1), capture(1), release(1, -1)],
        [hold(1, 2, 1, timeout_s=1), 1, expire(1), expire(1)],
        [hold(1, 2, 1, timeout_s=1), release(1), 1, capture(1)],
    ],
    Status.HOLD_EXPIRED: [[hold(1, 2, 1, timeout_s=1), 1, capture(1, -1)]],
    Status.HOLD_NOT_EXPIRED: [
        [hold(1, 2, 1), 10**9, expire(1)],
        [hold(1, 2, 1, timeout_s=2), 1, expire(1)],
    ],
    Status.AMOUNT_NOT_POSITIVE: [
        *(
            [command]
            for amount in (0, -1, -(2**63))
            for command in (deposit(9, amount), withdraw(9, amount), transfer(9, 9, amount))
        ),
        [hold(9, 9, 0)],
        [hold(1, 2, 1), lock(1, 1), capture(1, -1, CommandFlag.BALANCING)],
        [hold(1, 2, 1, timeout_s=1), 1, release(1, -(2**63))],
    ],
    Status.HOLD_EXCEEDED: [
        [*CLOSED_4, hold(1, 2, 5), lock(2, 3), capture(1, 6)],
        [hold(1, 2, 5), capture(1, 3, CommandFlag.KEEP_REST_HELD), capture(1, 3)],
        [hold(1, 2, 5), release(1, 3), release(1, AMOUNT_MAX)],
    ],
    Status.SAME_ACCOUNT: [
        [transfer(1, 1, 1)],
        [transfer(9, 9, 1)],
        [transfer(0, 0, 1)],
        [hold(1, 1, 1)],
    ],
    Status.DEBIT_ACCOUNT_NOT_FOUND: [
        [command]
        for unknown in (4, *UNKNOWN_ACCOUNTS)
        for command in (
            withdraw(unknown, 1),
            transfer(unknown, 1, 1),
            transfer(unknown, 9, 1),
            hold(unknown, 9, 1),
            lock(unknown, 0),
            close(unknown),
            set_limits(unknown, 1, 0),
        )
    ],
    Status.CREDIT_ACCOUNT_NOT_FOUND: [
        [command]
        for unknown in (4, *UNKNOWN_ACCOUNTS)
        for command in (deposit(unknown, 1), transfer(1, unknown, 1_000), hold(1, unknown, 1_000))
    ],
    Status.ASSETS_DIFFER: [
        [transfer(1, 3, 1)],
        [transfer(3, 1, 1_000)],
        [close(3), hold(1, 3, 1)],
    ],
    Status.DEBIT_ACCOUNT_CLOSED: [
        *([*CLOSED_4, command] for command in (withdraw(4, 1), transfer(4, 1, 1), hold(4, 1, 1))),
        *([*CLOSED_4, command] for command in (lock(4, 0), unlock(4, 0), close(4))),
        [*CLOSED_4, set_limits(4, 1, 0)],
        [*CLOSED_4, withdraw(1, 100), close(1), transfer(1, 4, 1)],
    ],
    Status.CREDIT_ACCOUNT_CLOSED: [
        [create(), lock(4, 3), close(4), expecting(9, deposit(4, 1))],
        [*CLOSED_4, lock(1, 3), transfer(1, 4, 1)],
        [*CLOSED_4, lock(1, 3), hold(1, 4, 1)],
        [create(), hold(1, 4, 1), close(4), lock(1, 1), capture(1)],
    ],
    Status.DEBIT_ACCOUNT_LOCKED: [
        [lock(1, 1), expecting(9, withdraw(1, 1))],
        [lock(1, 3), lock(2, 2), expecting(9, transfer(1, 2, 1))],
        [lock(1, 1), lock(2, 2), expecting(9, hold(1, 2, 1))],
        [hold(1, 2, 1), lock(1, 1), lock(2, 2), capture(1)],
    ],
    Status.CREDIT_ACCOUNT_LOCKED: [
        [lock(1, 3), unlock(1, 1), expecting(9, deposit(1, 1))],
        [lock(2, 2), lock(1, 2), expecting(9, transfer(1, 2, 1))],
        [lock(2, 2), expecting(9, hold(1, 2, 1))],
        [set_limits(2, 0, 100), hold(1, 2, 1), lock(2, 2), capture(1)],
    ],
    Status.VERSION_MISMATCH: [
        *([expecting(version, deposit(1, 1))] for version in (0, 1, 3, 2**32 + 2, 2**64 - 1)),
        [expecting(3, withdraw(1, 1_000))],
        [lock(1, 2), expecting(2, transfer(1, 2, 1_000))],
        [deposit(2, 1), expecting(3, hold(1, 2, 1_000))],
    ],
    Status.INSUFFICIENT_FUNDS: [
        [hold(1, 2, 101)],
        [hold(1, 2, 60), transfer(1, 2, 41)],
        [hold(1, 2, 60), hold(1, 2, 41)],
        [set_limits(1, 30), withdraw(1, 71)],
        [set_limits(1, -30), withdraw(1, 131)],
        [withdraw(1, 100), transfer(1, 2, 1, CommandFlag.BALANCING)],
        [withdraw(1, 101)],
        [transfer(1, 2, 101)],
        [withdraw(3, AMOUNT_MAX)],
    ],
    Status.BALANCE_OVERFLOW: [
        [deposit(1, AMOUNT_MAX)],
        [deposit(1, AMOUNT_MAX - 199)],
        [create(), deposit(4, AMOUNT_MAX - 199)],
        [withdraw(1, 50), withdraw(2, 100), deposit(1, AMOUNT_MAX - 99)],
        [withdraw(1, 100), deposit(1, AMOUNT_MAX - 100), withdraw(1, 1), transfer(2, 1, 1)],
        [set_limits(1, -AMOUNT_MAX), hold(1, 2, AMOUNT_MAX), hold(1, 2, 1)],
        [set_limits(1, -AMOUNT_MAX), hold(1, 2, AMOUNT_MAX), hold(2, 1, 1)],
        [
            *(hold(1, 2, 10), withdraw(1, 90), withdraw(2, 100), deposit(2, AMOUNT_MAX - 105)),
            *(set_limits(2, 0, AMOUNT_MAX - 104), capture(1)),
        ],
    ],
    Status.CEILING_EXCEEDED: [
        [set_limits(1, 0, 100), deposit(1, 1)],
        [set_limits(2, 0, 109), transfer(1, 2, 10)],
        [set_limits(2, 0, 109), hold(1, 2, 10), capture(1)],
        [withdraw(1, 100), set_limits(1, -5, 0), deposit(1, 1)],
    ],
    Status.HOLD_CAPACITY_REACHED: [[hold(1, 2, 1), hold(2, 1, 1), hold(1, 2, 1)]],
    Status.ASSET_NOT_FOUND: [
        [create(asset=number)] for number in (0, 3, 4_095, 4_096, 2**16 + 1, 2**32 - 1)
    ],
    Status.ACCOUNT_CAPACITY_REACHED: [[create(), create()], [create(asset=2), create(asset=2)]],
    Status.ASSET_NUMBER_OUT_OF_RANGE: [
        [register(number, decimals=19, symbol=0)] for number in (0, 4_096, 2**16 + 1, 2**32 - 1)
    ],
    Status.ASSET_DECIMALS_OUT_OF_RANGE: [
        [register(1, decimals, symbol=0)] for decimals in (19, 2**31, 2**32 - 1)
    ],
    Status.ASSET_SYMBOL_INVALID: [[register(1, symbol=symbol)] for symbol in NOT_SYMBOLS],
    Status.ASSET_EXISTS: [[register(1)], [register(2, symbol=symbol_number(b"USD"))]],
    Status.ASSET_SYMBOL_TAKEN: [[register(3)], [register(4_095, symbol=symbol_number(b"UNIT"))]],
    Status.LOCK_CODE_INVALID: [
        [command] for code in (0, 4, 7, 2**32 - 1) for command in (lock(1, code), unlock(1, code))
    ],
    Status.FLOOR_OUT_OF_RANGE: [[set_limits(1, -(2**63))], [set_limits(1, 1, -(2**63))]],
    Status.FLOOR_ABOVE_CEILING: [[set_limits(1, 101, 100)], [set_limits(1, 0, -1)]],
    Status.BALANCE_OUTSIDE_LIMITS: [
        [set_limits(1, 101)],
        [set_limits(1, 0, 99)],
        [hold(1, 2, 10), set_limits(1, 91)],
    ],
    Status.BALANCE_NOT_ZERO: [
        [close(1)],
        [hold(1, 2, 100), close(1)],
        [set_limits(1, -9), withdraw(1, 109), close(1)],
    ],
    Status.HOLDS_OPEN: [
        [create(asset=2), set_limits(3, -9), hold(3, 4, 9), close(3)],
        [hold(1, 2, 40), set_limits(1, -60), withdraw(1, 100), close(1)],
    ],
}
"""Commands for a funded ledger; the last of each list is refused. Where a command could be refused
for several reasons, it shows which comes first."""


@pytest.mark.parametrize("status", REFUSALS, ids=lambda status: status.name)
def test_each_refusal_is_reached_and_changes_no_balance(status: Status) -> None:
    for *before, refused in REFUSALS[status]:
        ledger, now_ns = funded_ledger(), START_NS
        for step in before:
            if isinstance(step, int):
                now_ns += step * NS_PER_S
                continue
            assert ledger.status(step, now_ns) == Status.OK or status == Status.COMMAND_ID_REUSED
        accounts = [astuple(account) for account in ledger.reference.accounts]
        assert isinstance(refused, Command)
        reply = ledger.run(refused, timestamp_ns=now_ns)[0]
        assert Status(int(reply["status"])) == status
        assert reply["sequence"] == ledger.machine.applied - 1
        zero = ("entity", "amount", "debit_balance", "credit_balance", "flags", "reserved")
        assert not any(reply[name] for name in zero)
        assert [astuple(account) for account in ledger.reference.accounts] == accounts


def test_no_refusal_is_left_out() -> None:
    chains_own = {Status.CHAIN_ID_REUSED, Status.LINKED_FAILED}
    assert set(REFUSALS) == set(Status) - chains_own - {Status.OK}


@pytest.mark.parametrize(
    "command",
    [
        create(),
        create(asset=2),
        deposit(1, 1),
        deposit(1, AMOUNT_MAX - 200),
        withdraw(1, 100),
        transfer(1, 2, 100),
        transfer(1, 2, 101, CommandFlag.BALANCING),
        expecting(2, transfer(1, 2, 100)),
        expecting(2, deposit(1, 1)),
        expecting(2, withdraw(1, 1)),
        expecting(2, hold(1, 2, 100)),
        hold(1, 2, 1, timeout_s=2**32 - 1),
        set_limits(1, -AMOUNT_MAX, 100),
        set_limits(1, 100, 100),
        set_limits(3, -AMOUNT_MAX, 0),
        set_limits(3, 0, AMOUNT_MAX),
        lock(1, 3),
        unlock(1, 3),
        close(3),
        register(3, symbol=symbol_number(b"A")),
        register(4_095, decimals=18, symbol=symbol_number(b"Z0123456")),
        deposit(1, 1, v7(1_000, tail=2**74 - 1)),
        deposit(1, 1, uuid7(0, 0)),
    ],
)
def test_a_command_on_the_edge_of_what_is_allowed_succeeds(command: Command) -> None:
    assert funded_ledger().status(command) == Status.OK


OVERDRAFTS: Final = (set_limits(1, -AMOUNT_MAX), set_limits(2, -AMOUNT_MAX))
MUCH_IN: Final = (withdraw(1, 100), deposit(1, AMOUNT_MAX - 102))
MUCH_OUT: Final = (*OVERDRAFTS, withdraw(1, AMOUNT_MAX - 2))


@pytest.mark.parametrize(
    "commands",
    [
        [*MUCH_IN, transfer(2, 1, 2), transfer(2, 1, 1)],
        [*MUCH_IN, deposit(1, 2), deposit(1, 1)],
        [hold(2, 1, 2), *MUCH_IN, capture(1), transfer(2, 1, 1)],
        [withdraw(2, 100), deposit(1, AMOUNT_MAX - 102), deposit(1, 2), deposit(1, 1)],
        [deposit(1, AMOUNT_MAX - 200), transfer(2, 1, 100), deposit(1, 1)],
        [*MUCH_OUT, transfer(1, 2, 2), transfer(1, 2, 1)],
        [*MUCH_OUT, withdraw(1, 2), withdraw(1, 1)],
        [*MUCH_OUT, hold(1, 2, 2), capture(1), withdraw(1, 1)],
        [*MUCH_OUT, withdraw(2, 202), withdraw(2, 1)],
        [deposit(1, AMOUNT_MAX - 202), deposit(2, 2), deposit(2, 1)],
        [*OVERDRAFTS, hold(1, 2, AMOUNT_MAX - 2), hold(2, 1, 2), hold(2, 1, 1)],
        [*OVERDRAFTS, hold(1, 2, AMOUNT_MAX - 2), hold(1, 2, 2), hold(1, 2, 1)],
    ],
)
def test_a_total_may_be_filled_to_the_last_unit_and_no_further(commands: list[Command]) -> None:
    ledger = funded_ledger(replace(PARAMETERS, hold_capacity=3))
    *filling, one_more = commands
    assert set(ledger.statuses(*filling)) == {Status.OK}
    assert ledger.status(one_more) == Status.BALANCE_OVERFLOW


def test_the_oracle_has_the_same_words_for_statuses_and_operations() -> None:
    assert {status.name: status.value for status in reference.Status} == {
        status.name: status.value for status in Status
    }
    assert all(getattr(reference, operation.name) == operation for operation in Operation)


def test_replies_tell_the_amount_and_both_balances_after_the_command() -> None:
    ledger = funded_ledger()
    replies = ledger.run(
        create(), deposit(1, 7), withdraw(2, 30), transfer(1, 2, 107), register(3, symbol=65)
    )
    assert [reply.item() for reply in replies] == [
        (6, 4, 0, 0, 0, Status.OK, 0, 0),
        (7, 0, 7, -207, 107, Status.OK, 0, 0),
        (8, 0, 30, 70, -177, Status.OK, 0, 0),
        (9, 0, 107, 0, 177, Status.OK, 0, 0),
        (10, 0, 0, 0, 0, Status.OK, 0, 0),
    ]


def test_each_operation_on_an_account_answers_with_its_balance_and_raises_its_version() -> None:
    ledger = funded_ledger()
    replies = ledger.run(
        lock(1, 3), unlock(1, 2), set_limits(1, -7, 500), unlock(1, 3), withdraw(1, 107), close(3)
    )
    assert [reply.item() for reply in replies] == [
        (6, 0, 0, 100, 0, Status.OK, 0, 0),
        (7, 0, 0, 100, 0, Status.OK, 0, 0),
        (8, 0, 0, 100, 0, Status.OK, 0, 0),
        (9, 0, 0, 100, 0, Status.OK, 0, 0),
        (10, 0, 107, -7, -93, Status.OK, 0, 0),
        (11, 0, 0, 0, 0, Status.OK, 0, 0),
    ]
    account = ledger.account(1)
    fields = ("posted", "floor", "ceiling", "state", "version", "last_sequence", "credits_total")
    assert [account[name] for name in fields] == [-7, -7, 500, 0, 7, 10, 100]
    assert ledger.account(3)["state"] == 4


def test_the_highest_asset_number_leaves_the_lower_ones_usable() -> None:
    ledger = funded_ledger()
    highest, middle = symbol_number(b"HIGH"), symbol_number(b"MIDDLE")
    assert ledger.status(register(4_095, symbol=highest)) == Status.OK
    assert ledger.status(register(3, symbol=highest)) == Status.ASSET_SYMBOL_TAKEN
    assert ledger.status(register(3, symbol=middle)) == Status.OK
    assert ledger.status(register(4_094, symbol=middle)) == Status.ASSET_SYMBOL_TAKEN
    assert ledger.machine.asset_numbers() == [1, 2, 3, 4_095]


def test_a_balancing_transfer_moves_what_there_is() -> None:
    ledger = funded_ledger()
    ledger.run(set_limits(1, -20), hold(1, 2, 50))
    for asked, moved in ((30, 30), (AMOUNT_MAX, 40)):
        reply = ledger.run(transfer(1, 2, asked, CommandFlag.BALANCING))[0]
        assert (reply["status"], reply["amount"]) == (Status.OK, moved)
    assert ledger.account(1)["posted"] == 30


def test_an_account_may_have_more_to_spend_than_an_amount_can_say() -> None:
    ledger = funded_ledger()
    ledger.run(withdraw(1, 100), withdraw(2, 100), deposit(1, AMOUNT_MAX - 100))
    ledger.run(set_limits(1, -AMOUNT_MAX))
    assert ledger.status(withdraw(1, AMOUNT_MAX)) == Status.BALANCE_OVERFLOW
    assert ledger.status(withdraw(1, AMOUNT_MAX - 100)) == Status.OK
    assert ledger.status(hold(1, 2, AMOUNT_MAX)) == Status.OK
    assert ledger.status(hold(1, 2, 1)) == Status.INSUFFICIENT_FUNDS


def test_a_new_account_holds_what_its_command_said() -> None:
    ledger = funded_ledger()
    command = create(asset=2, code=2**32 - 1)._replace(reference=2**64 - 1)
    ledger.run(command, timestamp_ns=START_NS + 5)
    account = ledger.account(4)
    fields = ("account_id", "asset", "reference", "code", "opened_ns", "last_sequence")
    assert [account[name] for name in fields] == [4, 2, 2**64 - 1, 2**32 - 1, START_NS + 5, 6]
    assert (account["posted"], account["floor"], account["ceiling"]) == (0, 0, AMOUNT_MAX)
    asset = ledger.machine.asset(2)
    assert asset is not None
    assert (asset["accounts"], asset["decimals"], asset["symbol"]) == (2, 2, symbol_number(b"EUR"))


def test_a_record_that_is_handed_out_holds_no_stray_bytes() -> None:
    ledger = funded_ledger()
    for account in ledger.reference.accounts:
        expected = reference.ACCOUNT.pack(*astuple(account))
        assert ledger.account(account.account_id).tobytes() == expected
    for number, asset in ledger.reference.assets.items():
        record = ledger.machine.asset(number)
        assert record is not None
        assert record.tobytes() == reference.ASSET.pack(*astuple(asset))


def test_a_record_that_is_handed_out_does_not_follow_later_changes() -> None:
    ledger = funded_ledger()
    account, asset = ledger.account(1), ledger.machine.asset(1)
    ledger.run(deposit(1, 1))
    assert asset is not None
    assert (account["posted"], asset["external"]) == (100, -200)


def test_a_duplicate_gets_the_first_reply_again_with_the_flag_and_changes_nothing() -> None:
    ledger = funded_ledger()
    first = ledger.run(deposit(1, 5, v7(0)))[0]
    ledger.run(deposit(1, 1))
    again = ledger.run(deposit(1, 5, v7(0)), timestamp_ns=START_NS + 10**12)[0]
    assert again["flags"] == ReplyFlag.DUPLICATE
    again["flags"] = 0
    assert again == first
    assert ledger.account(1)["posted"] == 106
    assert ledger.machine.applied == 9


def test_a_duplicate_of_a_refused_command_is_refused_as_at_first_though_it_would_succeed_now() -> (
    None
):
    ledger = funded_ledger()
    late = deposit(4, 5, v7(0))
    assert ledger.status(late) == Status.CREDIT_ACCOUNT_NOT_FOUND
    assert ledger.status(create()) == Status.OK
    assert ledger.status(late) == Status.CREDIT_ACCOUNT_NOT_FOUND


def test_the_same_command_twice_in_one_batch_runs_once() -> None:
    ledger = funded_ledger()
    replies = ledger.run(*[deposit(1, 5, v7(0))] * 3)
    assert replies["flags"].tolist() == [0, 1, 1]
    assert replies["sequence"].tolist() == [6, 6, 6]
    assert ledger.account(1)["posted"] == 105


def test_an_id_from_the_future_may_be_sent_again_when_its_time_has_come() -> None:
    ledger = funded_ledger()
    early = deposit(1, 1, v7(1_001))
    assert ledger.run(early)["status"] == [Status.COMMAND_ID_IN_FUTURE]
    later_ns = START_NS + NS_PER_MS - 1
    assert ledger.run(early, timestamp_ns=later_ns)["status"] == [Status.COMMAND_ID_IN_FUTURE]
    assert ledger.run(early, timestamp_ns=later_ns + 1)["status"] == [Status.OK]


def test_ids_that_are_no_uuid7_are_forgotten_with_the_window() -> None:
    ledger = funded_ledger()
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    statuses = ledger.run(*(deposit(1, 1, command_id) for command_id in (*ids, ids[0])))["status"]
    assert statuses.tolist() == [Status.OK] * 6
    assert ledger.account(1)["posted"] == 106


def test_commands_without_an_id_run_each_time_and_enter_no_window() -> None:
    ledger = funded_ledger()
    ledger.run(*[deposit(1, 1)] * 10)
    assert ledger.account(1)["posted"] == 110
    assert ledger.machine.window_entries == 0


def test_a_batch_without_commands_changes_nothing() -> None:
    ledger = funded_ledger()
    digest = ledger.machine.digest()
    assert len(ledger.run()) == 0
    assert ledger.machine.digest() == digest


@pytest.mark.parametrize(
    "filling", [[deposit(1, 7)], [transfer(2, 1, 7)], [hold(2, 1, 7), capture(1)]]
)
def test_an_account_may_be_filled_to_its_ceiling_and_no_further(filling: list[Command]) -> None:
    ledger = funded_ledger()
    assert set(ledger.statuses(set_limits(1, 0, 107), *filling)) == {Status.OK}
    for one_more in (deposit(1, 1), transfer(2, 1, 1)):
        assert ledger.status(one_more) == Status.CEILING_EXCEEDED


@pytest.mark.parametrize("shared", [None, 0, 1])
def test_ids_that_share_a_place_or_all_hash_bits_of_the_table_stay_apart(
    shared: int | None,
) -> None:
    """Probing wraps around the table's end; equal hash bits of two ids do not make them one.

    Nor do they if the ids have the half `shared` in common.
    """
    capacity = 16
    parameters = LedgerParameters(window_capacity=capacity, id_ahead_ns=0, account_capacity=1)
    halves = np.random.default_rng(1).integers(1, 2**64, (2, 400_000), np.uint64)
    if shared is not None:
        halves[shared] = 7
    hashes = getattr(hash_id, "py_func", hash_id)(halves[0], halves[1], np.uint64(0))
    upper = np.asarray(hashes >> np.uint64(32))
    order = np.argsort(upper, kind="stable")
    twins = np.flatnonzero(upper[order][1:] == upper[order][:-1])
    assert len(twins) > 4
    crowded = np.flatnonzero(hashes >> np.uint64(59) >= 30)[:60]
    rows = [*order[twins], *order[twins + 1], *crowded]
    random = Random(1)
    ledger = Ledger(parameters)
    ledger.run(create())
    ids = [halves[:, row].tobytes() for row in rows]
    for _ in range(200):
        sent = random.choices(ids, k=20)
        ledger.run(*(deposit(1, 1, command_id) for command_id in sent))
    assert ledger.machine.window_entries > 10 * capacity
    assert ledger.machine.window_entries < 4_000


@pytest.mark.parametrize("seed", [1, 2**63, 2**64 - 1])
def test_the_whole_seed_keys_the_hash_tables(seed: int) -> None:
    assert int(empty_window(PARAMETERS, seed).seed) == seed
    assert int(empty_books(PARAMETERS, seed).hold_seed) == seed


def test_fifty_thousand_commands_through_a_window_of_a_thousand_agree_with_the_oracle() -> None:
    ledger = Ledger(LedgerParameters(window_capacity=1 << 10, account_capacity=1_000))
    random, history = Random(3), list[Command]()
    ledger.run(register(2), *(create() for _ in range(50)))
    ledger.run(*(deposit(account + 1, 1_000_000) for account in range(50)))
    timestamp_ns = START_NS
    counts: dict[int, int] = {}
    while len(history) < 50_000:
        timestamp_ns += random.randrange(150 * NS_PER_MS)
        newest_ms = timestamp_ns // NS_PER_MS + 1_000
        count = random.choice((1, 2, 63, 64, 65, 500, 1_000))
        accounts, next_hold = ledger.machine.accounts, ledger.machine.next_hold
        batch = random_batch(random, count, accounts, newest_ms, history, next_hold)
        for status in ledger.run(*batch, timestamp_ns=timestamp_ns)["status"].tolist():
            counts[status] = counts.get(status, 0) + 1
    assert counts[Status.OK] > 4_000
    assert min(counts[status] for status in (2, 3, 4, 5, 6)) > 100
    assert ledger.machine.next_hold > 1_000
    assert ledger.machine.window_entries > 20 * (1 << 10)
