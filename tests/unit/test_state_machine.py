"""The state machine, case by case: each status, each structural fault, each reply's fields."""

from collections.abc import Sequence
from dataclasses import asdict, astuple
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from cluster_core.batch import LedgerParameters
from cluster_core.recent_commands import hash_id
from cluster_core.record import COMMAND, REPLY, Operation, ReplyFlag, Status
from cluster_core.state_machine import StateMachine, find_malformed
from tests import reference
from tests.property.strategies import (
    NOT_SYMBOLS,
    NS_PER_MS,
    UNKNOWN_ACCOUNTS,
    packed,
    random_batch,
    symbol_number,
    uuid7,
)
from tests.reference import Command, ReferenceLedger

START_MS: Final = 1_700_000_000_000
START_NS: Final = START_MS * NS_PER_MS
AMOUNT_MAX: Final = 2**63 - 1
PARAMETERS: Final = LedgerParameters(
    window_capacity=4, id_ahead_ns=1_000 * NS_PER_MS, account_capacity=4
)


def records(commands: Sequence[Command]) -> npt.NDArray[Any]:
    return np.frombuffer(packed(commands), COMMAND)


def create(asset: int = 1, command_id: bytes = reference.NO_ID, code: int = 0) -> Command:
    return Command(command_id, operation=Operation.CREATE_ACCOUNT, asset=asset, code=code)


def deposit(credit_account: int, amount: int, command_id: bytes = reference.NO_ID) -> Command:
    operation = Operation.DEPOSIT
    return Command(command_id, credit_account=credit_account, amount=amount, operation=operation)


def withdraw(debit_account: int, amount: int) -> Command:
    return Command(operation=Operation.WITHDRAW, debit_account=debit_account, amount=amount)


def transfer(debit_account: int, credit_account: int, amount: int) -> Command:
    return Command(
        reference.NO_ID, debit_account, credit_account, amount, operation=Operation.TRANSFER
    )


def register(asset: int, decimals: int = 2, symbol: int = symbol_number(b"EUR")) -> Command:
    operation = Operation.REGISTER_ASSET
    return Command(operation=operation, asset=asset, code=decimals, reference=symbol)


class Ledger:
    """A state machine that is compared with the oracle after each command it is given."""

    def __init__(self, parameters: LedgerParameters = PARAMETERS) -> None:
        self.machine = StateMachine(parameters)
        self.reference = ReferenceLedger(**asdict(parameters))

    def run(self, *commands: Command, timestamp_ns: int = START_NS) -> npt.NDArray[Any]:
        replies = self.machine.apply(records(commands), timestamp_ns)
        assert replies.dtype == REPLY
        assert replies.tobytes() == b"".join(self.reference.apply(packed(commands), timestamp_ns))
        assert self.machine.digest() == self.reference.digest()
        return replies

    def status(self, command: Command) -> Status:
        return Status(int(self.run(command)["status"][0]))

    def account(self, account_id: int) -> np.void:
        record = self.machine.account(account_id)
        assert record is not None
        return record


def funded_ledger() -> Ledger:
    """Accounts 1 and 2 of asset 1 with 100 each, account 3 of asset 2 with nothing."""
    ledger = Ledger()
    replies = ledger.run(
        register(2), create(), create(), create(asset=2), deposit(1, 100), deposit(2, 100)
    )
    assert set(replies["status"].tolist()) == {Status.OK}
    return ledger


def v7(ms: int, tail: int = 0) -> bytes:
    return uuid7(START_MS + ms, tail)


REFUSALS: Final[dict[Status, list[list[Command]]]] = {
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
    Status.AMOUNT_NOT_POSITIVE: [
        [command]
        for amount in (0, -1, -(2**63))
        for command in (deposit(9, amount), withdraw(9, amount), transfer(9, 9, amount))
    ],
    Status.SAME_ACCOUNT: [[transfer(1, 1, 1)], [transfer(9, 9, 1)], [transfer(0, 0, 1)]],
    Status.DEBIT_ACCOUNT_NOT_FOUND: [
        [command]
        for unknown in (4, *UNKNOWN_ACCOUNTS)
        for command in (withdraw(unknown, 1), transfer(unknown, 1, 1), transfer(unknown, 9, 1))
    ],
    Status.CREDIT_ACCOUNT_NOT_FOUND: [
        [command]
        for unknown in (4, *UNKNOWN_ACCOUNTS)
        for command in (deposit(unknown, 1), transfer(1, unknown, 1_000))
    ],
    Status.ASSETS_DIFFER: [[transfer(1, 3, 1)], [transfer(3, 1, 1_000)]],
    Status.INSUFFICIENT_FUNDS: [
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
    ],
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
}
"""Commands for a funded ledger; the last of each list is refused. Where a command could be refused
for several reasons, it shows which comes first."""


@pytest.mark.parametrize(
    "status", [status for status in Status if status != Status.OK], ids=lambda status: status.name
)
def test_each_refusal_is_reached_and_changes_no_balance(status: Status) -> None:
    for *before, refused in REFUSALS[status]:
        ledger = funded_ledger()
        for command in before:
            assert ledger.status(command) == Status.OK or status == Status.COMMAND_ID_REUSED
        accounts = [astuple(account) for account in ledger.reference.accounts]
        reply = ledger.run(refused)[0]
        assert Status(int(reply["status"])) == status
        assert reply["sequence"] == ledger.machine.applied - 1
        zero = ("entity", "amount", "debit_balance", "credit_balance", "flags", "reserved")
        assert not any(reply[name] for name in zero)
        assert [astuple(account) for account in ledger.reference.accounts] == accounts


@pytest.mark.parametrize(
    "command",
    [
        create(),
        create(asset=2),
        deposit(1, 1),
        deposit(1, AMOUNT_MAX - 200),
        withdraw(1, 100),
        transfer(1, 2, 100),
        register(3, symbol=symbol_number(b"A")),
        register(4_095, decimals=18, symbol=symbol_number(b"Z0123456")),
        deposit(1, 1, v7(1_000, tail=2**74 - 1)),
        deposit(1, 1, uuid7(0, 0)),
    ],
)
def test_a_command_on_the_edge_of_what_is_allowed_succeeds(command: Command) -> None:
    assert funded_ledger().status(command) == Status.OK


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


UNUSED: Final = {
    Operation.CREATE_ACCOUNT: ("debit_account", "credit_account", "amount"),
    Operation.DEPOSIT: ("debit_account", "reference", "asset"),
    Operation.WITHDRAW: ("credit_account", "reference", "asset"),
    Operation.TRANSFER: ("reference", "asset"),
    Operation.REGISTER_ASSET: ("debit_account", "credit_account", "amount"),
}


@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_a_field_that_the_operation_does_not_use_must_be_zero(operation: Operation) -> None:
    tops: dict[str, Any] = {"debit_account": 2**63, "credit_account": 2**63, "amount": -(2**63)}
    tops |= {"reference": 2**63, "asset": 2**31, "timeout_s": 2**31}
    plain = Command(v7(0), operation=operation, code=2**32 - 1)
    used = [name for name in tops if name not in (*UNUSED[operation], "timeout_s")]
    well_formed = plain._replace(**{name: tops[name] for name in used})
    assert find_malformed(records([plain, well_formed])) is None
    for name in (*UNUSED[operation], "timeout_s"):
        for value in (1, tops[name]):
            excess: dict[str, Any] = {name: value}
            malformed = find_malformed(records([plain, well_formed._replace(**excess)]))
            assert malformed is not None
            assert malformed[0] == 1
            assert name in malformed[1]
            assert operation.name in malformed[1]


@pytest.mark.parametrize("operation", [0, 6, 255, 257, 2**15, 2**16 - 1])
def test_an_unknown_operation_is_malformed(operation: int) -> None:
    malformed = find_malformed(records([create(), Command(operation=operation), Command()]))
    assert malformed == (1, f"unknown operation {operation}")


@pytest.mark.parametrize("bit", range(16))
def test_an_unknown_flag_is_malformed(bit: int) -> None:
    malformed = find_malformed(records([create()._replace(flags=1 << bit)]))
    assert malformed is not None
    assert malformed[0] == 0
    assert "unknown flag" in malformed[1]


def test_ids_that_share_a_place_or_all_hash_bits_of_the_table_stay_apart() -> None:
    """Probing wraps around the table's end; equal hash bits of two ids do not make them one."""
    capacity = 16
    parameters = LedgerParameters(window_capacity=capacity, id_ahead_ns=0, account_capacity=1)
    halves = np.random.default_rng(1).integers(1, 2**64, (2, 400_000), np.uint64)
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
        batch = random_batch(random, count, ledger.machine.accounts, newest_ms, history)
        for status in ledger.run(*batch, timestamp_ns=timestamp_ns)["status"].tolist():
            counts[status] = counts.get(status, 0) + 1
    assert counts[Status.OK] > 15_000
    assert min(counts[status] for status in (2, 3, 4)) > 100
    assert ledger.machine.window_entries > 20 * (1 << 10)
