"""Reads of the books, in this process, beside a kernel that changes them."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cluster_core import reading
from cluster_core.account_filter import LOCKED_STATES, AccountFilter
from cluster_core.batch import LedgerParameters
from cluster_core.books import CHANGES_CAPACITY, TURN
from cluster_core.reading import MAX_READ_ACCOUNTS, BooksReader, ReadBusy
from cluster_core.record import COMMAND, AccountState, CommandFlag, Operation, Status
from cluster_core.shared_books import SharedMemory, open_shared_books
from cluster_core.state_machine import StateMachine

PARAMETERS = LedgerParameters(1 << 10, account_capacity=5_000, hold_capacity=1_000)
NOW_NS = 1_700_000_000_000_000_000


def command(operation: Operation, **fields: int) -> np.ndarray:
    one = np.zeros(1, COMMAND)
    one["operation"] = operation
    for name, value in fields.items():
        one[name] = value
    return one


def run(machine: StateMachine, *commands: np.ndarray) -> list[int]:
    replies = machine.apply(np.concatenate(commands), NOW_NS)
    return [int(status) for status in replies["status"]]


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    memory = SharedMemory()
    yield memory
    memory.close()


@pytest.fixture
def machine(shared: SharedMemory) -> StateMachine:
    machine = StateMachine(PARAMETERS, hash_seed=7, make_books=shared.make_books)
    run(
        machine,
        command(
            Operation.REGISTER_ASSET, asset=7, code=0, reference=int.from_bytes(b"GOLD", "little")
        ),
        *[
            command(Operation.CREATE_ACCOUNT, asset=1 + 6 * (n % 2), reference=n // 3, code=n % 5)
            for n in range(20)
        ],
        command(Operation.DEPOSIT, credit_account=1, amount=100),
        command(Operation.HOLD, debit_account=1, credit_account=3, amount=30),
    )
    return machine


@pytest.fixture
def reader(shared: SharedMemory, machine: StateMachine) -> BooksReader:
    return BooksReader(open_shared_books(shared.books_fd, PARAMETERS, 7))


def test_a_reader_of_the_shared_memory_sees_what_the_writer_has_applied(
    machine: StateMachine, reader: BooksReader
) -> None:
    account, applied = reader.account(1)
    assert account is not None
    assert applied == machine.applied == 23
    assert (account["posted"], account["held"]) == (100, 30)
    assert account.tobytes() == machine.books.accounts[1:2].tobytes()
    run(machine, command(Operation.WITHDRAW, debit_account=1, amount=5))
    account, applied = reader.account(1)
    assert account is not None
    assert (int(account["posted"]), applied) == (95, 24)


@pytest.mark.parametrize("account_id", [0, 21, 5_000, 5_001, 2**63, 2**64 - 1])
def test_an_unknown_account_is_none_and_takes_no_memory(
    reader: BooksReader, account_id: int
) -> None:
    assert reader.account(account_id) == (None, 23)


def test_many_accounts_come_in_the_order_asked_with_zeros_for_unknown_ones(
    reader: BooksReader,
) -> None:
    rows, _ = reader.accounts(np.array([3, 0, 1, 99, 3], np.uint64))
    assert rows["account_id"].tolist() == [3, 0, 1, 0, 3]
    assert reader.accounts(np.zeros(0, np.uint64))[0].shape == (0,)
    with pytest.raises(ValueError, match="at most 8192"):
        reader.accounts(np.zeros(MAX_READ_ACCOUNTS + 1, np.uint64))


def test_pages_go_through_all_accounts_once_and_filters_hold(
    machine: StateMachine, reader: BooksReader
) -> None:
    run(
        machine,
        command(Operation.LOCK, debit_account=2, code=1),
        command(Operation.LOCK, debit_account=4, code=3),
        command(Operation.CLOSE, debit_account=4),
        command(Operation.CLOSE, debit_account=6),
    )
    assert pages(reader, 6, AccountFilter()) == list(range(1, 21))
    assert pages(reader, 1, AccountFilter(asset=7)) == list(range(2, 21, 2))
    assert pages(reader, 3, AccountFilter(code=4)) == [5, 10, 15, 20]
    assert pages(reader, 3, AccountFilter(reference=2)) == [7, 8, 9]
    assert pages(reader, 3, AccountFilter(reference=2, asset=7)) == [8]
    closed, locked = int(AccountState.CLOSED), LOCKED_STATES
    assert pages(reader, 3, AccountFilter(state_mask=closed, state=closed)) == [4, 6]
    assert pages(reader, 3, AccountFilter(state_mask=closed, any_of=locked)) == [2]
    open_ones = pages(reader, 3, AccountFilter(state_mask=closed | locked))
    assert open_ones == [n for n in range(1, 21) if n not in (2, 4, 6)]
    assert pages(reader, 3, AccountFilter(reference=999)) == []
    assert reader.page(10**12, 5, AccountFilter())[1] == 0


def pages(reader: BooksReader, limit: int, wanted: AccountFilter) -> list[int]:
    ids, after = [], 0
    while True:
        rows, after, _ = reader.page(after, limit, wanted)
        assert len(rows) <= limit
        ids += rows["account_id"].tolist()
        if not after:
            return ids


def test_a_page_looks_at_a_bounded_number_of_accounts(
    machine: StateMachine, reader: BooksReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SCANNED_AT_ONCE", 8)
    rows, after, _ = reader.page(0, 5, AccountFilter(reference=6))
    assert (len(rows), after) == (0, 8)
    assert pages(reader, 5, AccountFilter(reference=6)) == [19, 20]


def test_an_open_hold_is_found_and_a_closed_one_is_told_from_one_never_given(
    machine: StateMachine, reader: BooksReader
) -> None:
    hold, given, _ = reader.hold(1)
    assert hold is not None
    assert given
    assert hold.tobytes() == machine.hold(1).tobytes()  # type: ignore[union-attr]
    assert reader.hold(2)[:2] == (None, False)
    run(machine, command(Operation.RELEASE, reference=1))
    assert reader.hold(1)[:2] == (None, True)


def test_every_one_of_many_holds_is_found(machine: StateMachine, reader: BooksReader) -> None:
    holds = [command(Operation.HOLD, debit_account=1, credit_account=3, amount=1)] * 60
    assert set(run(machine, *holds)) == {int(Status.OK)}
    for hold_id in range(1, 62):
        hold, _, _ = reader.hold(hold_id)
        assert hold is not None
        assert int(hold["hold_id"]) == hold_id


def test_assets_are_the_table_up_to_the_highest(reader: BooksReader) -> None:
    assets, applied = reader.assets()
    assert applied == 23
    assert assets["number"].nonzero()[0].tolist() == [1, 7]
    assert int(assets["held"][1]) == 30


def test_nothing_is_read_in_the_middle_of_a_turn(
    machine: StateMachine, reader: BooksReader
) -> None:
    machine.books.marks[TURN] += np.uint64(1)
    for read in (
        lambda: reader.account(1),
        lambda: reader.hold(1),
        reader.assets,
        reader.progress,
        lambda: reader.page(0, 10, AccountFilter()),
    ):
        with pytest.raises(ReadBusy):
            read()
    machine.books.marks[TURN] += np.uint64(1)
    assert reader.progress() == (23, 20, 2, 0)


def test_changes_are_the_accounts_as_each_command_left_them(
    machine: StateMachine, reader: BooksReader
) -> None:
    run(machine, command(Operation.DEPOSIT, credit_account=3, amount=1))
    machine.watch(True)
    assert reader.watching
    statuses = run(
        machine,
        command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=10),
        command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=1_000),
        command(Operation.CAPTURE, reference=1, amount=20),
        command(Operation.CREATE_ACCOUNT, asset=1),
        command(Operation.LOCK, debit_account=5, code=1),
        command(Operation.HOLD, debit_account=1, credit_account=3, amount=5),
        command(Operation.RELEASE, reference=2),
    )
    assert statuses == [1, int(Status.INSUFFICIENT_FUNDS), 1, 1, 1, 1, 1]
    _, _, _, made = reader.progress()
    watched = np.ones(100, np.uint8)
    rows = reader.changes(0, made, watched)
    assert rows is not None
    seen = list(
        zip(
            *(rows[n].tolist() for n in ("account_id", "last_sequence", "posted", "held")),
            strict=True,
        )
    )
    assert seen == [
        (1, 24, 90, 30),
        (3, 24, 11, 0),
        (1, 26, 70, 0),
        (3, 26, 31, 0),
        (21, 27, 0, 0),
        (5, 28, 0, 0),
        (1, 29, 70, 5),
        (1, 30, 70, 0),
    ]
    watched[:] = 0
    watched[3] = 1
    only = reader.changes(0, made, watched)
    assert only is not None
    assert only["account_id"].tolist() == [3, 3]
    machine.watch(False)
    run(machine, command(Operation.DEPOSIT, credit_account=3, amount=1))
    assert reader.progress()[3] == made


def test_an_undone_chain_leaves_no_change_and_a_whole_one_leaves_all(
    machine: StateMachine, reader: BooksReader
) -> None:
    machine.watch(True)
    linked = int(CommandFlag.LINKED)
    good = command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=10, flags=linked)
    bad = command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=1_000)
    run(machine, good, good, bad)
    assert reader.progress()[3] == 0
    run(machine, good, command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=10))
    rows = reader.changes(0, 4, np.ones(100, np.uint8))
    assert rows is not None
    assert rows["posted"].tolist() == [90, 10, 80, 20]


def test_changes_that_were_overwritten_are_never_given(
    machine: StateMachine, reader: BooksReader
) -> None:
    machine.watch(True)
    move = command(Operation.TRANSFER, debit_account=1, credit_account=3, amount=1)
    back = command(Operation.TRANSFER, debit_account=3, credit_account=1, amount=1)
    batch = np.concatenate([move, back] * 4_096)
    for _ in range(9):
        machine.apply(batch, NOW_NS)
    _, _, _, made = reader.progress()
    assert made > CHANGES_CAPACITY
    watched = np.ones(100, np.uint8)
    assert reader.changes(0, 100, watched) is None
    assert reader.changes(0, made, watched) is None
    newest = reader.changes(made - 1_000, made, watched)
    assert newest is not None
    assert len(newest) == 1_000


def test_reads_beside_a_writer_never_see_half_a_command_or_two_moments(
    machine: StateMachine, reader: BooksReader
) -> None:
    """Transfers and chains that fail, as fast as the kernel goes: the sum never moves."""
    accounts = np.arange(1, 21, 2, dtype=np.uint64)
    assert run(machine, command(Operation.DEPOSIT, credit_account=5, amount=1_000_000))[0] == 1
    total = 1_000_100
    random = np.random.default_rng(5)
    batch = np.zeros(2_000, COMMAND)
    batch["operation"] = Operation.TRANSFER
    batch["debit_account"] = random.choice(accounts, 2_000)
    batch["credit_account"] = random.choice(accounts, 2_000)
    batch["amount"] = random.integers(1, 500, 2_000)
    batch["flags"][:400:3] = CommandFlag.LINKED
    batch["amount"][1:400:3] = 10**15  # these chains are undone
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            machine.apply(batch, NOW_NS)

    writer = threading.Thread(target=write)
    writer.start()
    reads = busy = last = 0
    try:
        while reads < 3_000 and busy < 1_000_000:
            try:
                rows, applied = reader.accounts(accounts)
            except ReadBusy:
                busy += 1
                continue
            reads += 1
            assert int(rows["posted"].sum()) == total
            assert applied >= last
            last = applied
    finally:
        stop.set()
        writer.join()
    assert reads == 3_000


def test_a_read_never_shows_what_a_chain_did_before_it_was_undone(
    machine: StateMachine, reader: BooksReader
) -> None:
    """Only chains that fail: their versions are the old ones again, so nothing seems to move."""
    chain = np.zeros(500, COMMAND)
    chain["operation"] = Operation.TRANSFER
    chain["debit_account"], chain["credit_account"] = [1, 3] * 250, [3, 1] * 250
    chain["amount"] = 50
    chain["amount"][-1] = 10**15
    chain["flags"][:-1] = CommandFlag.LINKED
    batch = np.tile(chain, 16)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            machine.apply(batch, NOW_NS)

    writer = threading.Thread(target=write)
    writer.start()
    ids = np.ones(MAX_READ_ACCOUNTS, np.uint64)
    busy = 0
    try:
        for _ in range(2_000):
            try:
                rows, _ = reader.accounts(ids)
            except ReadBusy:
                busy += 1
                continue
            assert set(rows["posted"].tolist()) == {100}
    finally:
        stop.set()
        writer.join()
    assert busy < 2_000


def test_the_readers_memory_is_that_of_other_books_when_the_parameters_differ(
    shared: SharedMemory, machine: StateMachine
) -> None:
    with pytest.raises(ValueError, match="other books"):
        open_shared_books(shared.books_fd, LedgerParameters(account_capacity=1 << 20), 7)


def test_what_readers_want_is_seen_by_the_writer_and_forgotten_with_them(
    shared: SharedMemory,
) -> None:
    readers = shared.readers

    def wanted() -> tuple[bool, bool]:
        return readers.pause_wanted, readers.watched

    assert wanted() == (False, False)
    readers.want_pause(3, True)
    readers.watch(4, 2)
    assert wanted() == (True, True)
    readers.forget(3)
    assert wanted() == (False, True)
    readers.watch(4, 0)
    assert wanted() == (False, False)
