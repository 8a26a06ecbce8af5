"""Reads that a command or an undone chain overtakes, and changes that nobody noted."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cluster_core import reading
from cluster_core.account_filter import LOCKED_STATES, AccountFilter
from cluster_core.reading import BooksReader, ReadBusy
from cluster_core.record import COMMAND, AccountState, CommandFlag, Operation
from cluster_core.shared_books import SharedMemory, open_shared_books
from cluster_core.state_machine import StateMachine
from tests.unit.test_reading import NOW_NS, PARAMETERS, command, run

ACCOUNTS = 40


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
        *[command(Operation.CREATE_ACCOUNT, asset=1)] * ACCOUNTS,
        command(Operation.DEPOSIT, credit_account=1, amount=100),
    )
    return machine


@pytest.fixture
def reader(shared: SharedMemory, machine: StateMachine) -> BooksReader:
    return BooksReader(open_shared_books(shared.books_fd, PARAMETERS, 7))


def test_a_hold_that_opens_right_behind_the_read_was_never_given_rather_than_closed(
    machine: StateMachine, reader: BooksReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_hold = reading._copy_hold

    def overtaken(*arguments: Any) -> Any:
        result = copy_hold(*arguments)
        run(machine, command(Operation.HOLD, debit_account=1, credit_account=2, amount=1))
        return result

    monkeypatch.setattr(reading, "_copy_hold", overtaken)
    applied = machine.applied
    assert reader.hold(1) == (None, False, applied)
    monkeypatch.undo()
    hold, given, _ = reader.hold(1)
    assert given
    assert hold is not None
    assert hold.tobytes() == machine.hold(1).tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("locked", [False, True])
def test_no_page_misses_an_account_for_what_an_undone_chain_did_to_it(
    machine: StateMachine, reader: BooksReader, locked: bool
) -> None:
    """Chains that lock (or unlock) all accounts and fail, as fast as the kernel goes."""
    before, during = Operation.UNLOCK, Operation.LOCK
    mask, any_of = int(AccountState.CLOSED) | LOCKED_STATES, 0
    if locked:
        before, during = during, before
        mask, any_of = int(AccountState.CLOSED), LOCKED_STATES
    run(machine, *[command(before, debit_account=n + 1, code=3) for n in range(ACCOUNTS)])
    chain = np.zeros(5 * ACCOUNTS, COMMAND)
    chain["operation"] = during
    chain["debit_account"] = np.arange(len(chain)) % ACCOUNTS + 1
    chain["code"] = 3
    chain["flags"][:-1] = CommandFlag.LINKED
    chain["debit_account"][-1] = 4_999
    batch = np.tile(chain, 20)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            machine.apply(batch, NOW_NS)

    writer = threading.Thread(target=write)
    writer.start()
    pages = 0
    wanted = AccountFilter(state_mask=mask, any_of=any_of)
    try:
        for _ in range(20_000):
            try:
                rows, _, _ = reader.page(0, 1_000, wanted)
            except ReadBusy:
                continue
            assert len(rows) == ACCOUNTS
            pages += 1
    finally:
        stop.set()
        writer.join()
    assert pages


def test_a_reader_sees_that_changes_were_not_noted_for_a_while(
    machine: StateMachine, reader: BooksReader
) -> None:
    assert reader.watching == 0
    machine.watch(True)
    first = reader.watching
    machine.watch(True)
    assert reader.watching == first > 0
    machine.watch(False)
    assert reader.watching == 0
    machine.watch(True)
    assert reader.watching not in (0, first)
