"""A state machine that is compared with the oracle after each batch, and commands to give it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND, REPLY, CommandFlag, Operation, Status
from cluster_core.state_machine import StateMachine
from tests import reference
from tests.property.strategies import NS_PER_MS, packed, symbol_number, uuid7
from tests.reference import Command, ReferenceLedger

START_MS: Final = 1_700_000_000_000
START_NS: Final = START_MS * NS_PER_MS
NS_PER_S: Final = 1_000 * NS_PER_MS
AMOUNT_MAX: Final = 2**63 - 1
PARAMETERS: Final = LedgerParameters(
    window_capacity=4, id_ahead_ns=1_000 * NS_PER_MS, account_capacity=4, hold_capacity=2
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


def transfer(debit_account: int, credit_account: int, amount: int, flags: int = 0) -> Command:
    operation = Operation.TRANSFER
    return Command(
        reference.NO_ID, debit_account, credit_account, amount, operation=operation, flags=flags
    )


def register(asset: int, decimals: int = 2, symbol: int = symbol_number(b"EUR")) -> Command:
    operation = Operation.REGISTER_ASSET
    return Command(operation=operation, asset=asset, code=decimals, reference=symbol)


def hold(debit_account: int, credit_account: int, amount: int, timeout_s: int = 0) -> Command:
    command = Command(reference.NO_ID, debit_account, credit_account, amount)
    return command._replace(operation=Operation.HOLD, timeout_s=timeout_s)


def capture(hold_id: int, amount: int = 0, flags: int = 0) -> Command:
    return Command(operation=Operation.CAPTURE, reference=hold_id, amount=amount, flags=flags)


def release(hold_id: int, amount: int = 0) -> Command:
    return Command(operation=Operation.RELEASE, reference=hold_id, amount=amount)


def expire(hold_id: int) -> Command:
    return Command(operation=Operation.EXPIRE, reference=hold_id)


def lock(account: int, code: int) -> Command:
    return Command(operation=Operation.LOCK, debit_account=account, code=code)


def unlock(account: int, code: int) -> Command:
    return Command(operation=Operation.UNLOCK, debit_account=account, code=code)


def close(account: int) -> Command:
    return Command(operation=Operation.CLOSE, debit_account=account)


def set_limits(account: int, floor: int, ceiling: int = AMOUNT_MAX) -> Command:
    command = Command(operation=Operation.SET_LIMITS, debit_account=account, amount=floor)
    return command._replace(reference=ceiling % 2**64)


def expecting(version: int, command: Command) -> Command:
    """The command, if the account has this version."""
    return command._replace(reference=version, flags=command.flags | CommandFlag.EXPECT_VERSION)


def v7(ms: int, tail: int = 0) -> bytes:
    return uuid7(START_MS + ms, tail)


class Ledger:
    """A state machine that is compared with the oracle after each batch it is given."""

    def __init__(self, parameters: LedgerParameters = PARAMETERS, hash_seed: int = 0) -> None:
        self.machine = StateMachine(parameters, hash_seed=hash_seed)
        self.reference = ReferenceLedger(**asdict(parameters))

    def run(self, *commands: Command, timestamp_ns: int = START_NS) -> npt.NDArray[Any]:
        replies = self.machine.apply(records(commands), timestamp_ns)
        assert replies.dtype == REPLY
        assert replies.tobytes() == b"".join(self.reference.apply(packed(commands), timestamp_ns))
        assert self.machine.digest() == self.reference.digest()
        return replies

    def status(self, command: Command, timestamp_ns: int = START_NS) -> Status:
        return Status(int(self.run(command, timestamp_ns=timestamp_ns)["status"][0]))

    def statuses(self, *commands: Command, timestamp_ns: int = START_NS) -> list[int]:
        numbers: list[int] = self.run(*commands, timestamp_ns=timestamp_ns)["status"].tolist()
        return numbers

    def account(self, account_id: int) -> np.void:
        record = self.machine.account(account_id)
        assert record is not None
        return record


def funded_ledger(parameters: LedgerParameters = PARAMETERS, hash_seed: int = 0) -> Ledger:
    """Accounts 1 and 2 of asset 1 with 100 each, account 3 of asset 2 with nothing."""
    ledger = Ledger(parameters, hash_seed)
    replies = ledger.run(
        register(2), create(), create(), create(asset=2), deposit(1, 100), deposit(2, 100)
    )
    assert set(replies["status"].tolist()) == {Status.OK}
    return ledger
