"""Commands for the bench, made a message at a time: no Python per command."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client_app.bench_tally import BENCH_ASSET
from client_core.command_ids import CommandIds
from client_core.records import COMMAND_BYTES, Operation
from client_core.wire import submit_header

FUNDS: Final = 1_000_000_000
"""Of each account, in minor units: a million transfers of the largest amount."""

AMOUNT_MOST: Final = 1_000
_SINGLES_MADE_AT_ONCE: Final = 64
"""Few, so that single commands' ids are fresh when they are sent."""

COMMAND: Final = np.dtype(
    {
        "names": [
            "command_id",
            "debit_account",
            "credit_account",
            "amount",
            "reference",
            "asset",
            "operation",
        ],
        "formats": [(">u8", 2), "<u8", "<u8", "<i8", "<u8", "<u4", "<u2"],
        "offsets": [0, 16, 24, 32, 40, 48, 52],
        "itemsize": COMMAND_BYTES,
    }
)
"""A packed command's fields that the bench fills; the others stay zero."""


@dataclass(frozen=True, slots=True)
class Message:
    """A SubmitRequest's bytes, and the amounts (int64 [n]) that its replies must show."""

    request: bytes
    amounts: NDArray[np.int64]
    header_bytes: int

    @property
    def count(self) -> int:
        """Commands in it."""
        return len(self.amounts)

    @property
    def commands(self) -> bytes:
        """The packed commands without their envelope."""
        return self.request[self.header_bytes :]


class CommandMaker:
    """Makes messages with fresh UUIDv7 ids; random pairs come from `seed`."""

    def __init__(self, ids: CommandIds, seed: int) -> None:
        self._ids = ids
        self._random = np.random.Generator(np.random.SFC64(seed))

    def creates(self, total: int, batch: int) -> Iterator[Message]:
        """`total` CREATE_ACCOUNT commands in messages of `batch`."""
        for first in range(0, total, batch):
            count = min(batch, total - first)
            buffer, commands = self._blank(count, Operation.CREATE_ACCOUNT)
            commands["asset"] = BENCH_ASSET
            commands["reference"] = np.arange(first + 1, first + count + 1)
            yield _message(buffer, np.zeros(count, np.int64))

    def funds(self, accounts: NDArray[np.uint64], batch: int) -> Iterator[Message]:
        """One deposit of FUNDS for each account."""
        for first in range(0, len(accounts), batch):
            chosen = accounts[first : first + batch]
            buffer, commands = self._blank(len(chosen), Operation.DEPOSIT)
            commands["credit_account"] = chosen
            amounts = np.full(len(chosen), FUNDS, np.int64)
            commands["amount"] = amounts
            yield _message(buffer, amounts)

    def random(
        self, operation: Operation, accounts: NDArray[np.uint64], total: int, batch: int
    ) -> Iterator[Message]:
        """`total` deposits or transfers between uniformly random distinct accounts."""
        for first in range(0, total, batch):
            count = min(batch, total - first)
            buffer, commands = self._blank(count, operation)
            debit, credit = random_pairs(self._random, len(accounts), count)
            if operation is Operation.TRANSFER:
                commands["debit_account"] = accounts[debit]
            commands["credit_account"] = accounts[credit]
            amounts = self._random.integers(1, AMOUNT_MOST + 1, count, np.int64)
            commands["amount"] = amounts
            yield _message(buffer, amounts)

    def singles(
        self, operation: Operation, accounts: NDArray[np.uint64], total: int
    ) -> Iterator[tuple[bytes, int]]:
        """The same, one command at a time: (64 bytes, amount)."""
        for message in self.random(operation, accounts, total, _SINGLES_MADE_AT_ONCE):
            packed = message.commands
            for index, amount in enumerate(message.amounts.tolist()):
                start = index * COMMAND_BYTES
                yield packed[start : start + COMMAND_BYTES], amount

    def _blank(self, count: int, operation: Operation) -> tuple[NDArray[np.uint8], Any]:
        """(a buffer with room for the envelope's header, its COMMAND [count] part)."""
        buffer = np.zeros((count + 1) * COMMAND_BYTES, np.uint8)
        commands = buffer[COMMAND_BYTES:].view(COMMAND)
        commands["command_id"] = self._ids.take(count)
        commands["operation"] = operation
        return buffer, commands


def random_pairs(
    random: np.random.Generator, accounts: int, count: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """`count` uniformly random pairs of distinct indices below `accounts`."""
    debit = random.integers(0, accounts, count, np.uint32)
    credit = random.integers(0, accounts - 1, count, np.uint32)
    credit += credit >= debit
    return debit, credit


def _message(buffer: NDArray[np.uint8], amounts: NDArray[np.int64]) -> Message:
    header = submit_header(len(buffer) - COMMAND_BYTES)
    start = COMMAND_BYTES - len(header)
    buffer[start:COMMAND_BYTES] = np.frombuffer(header, np.uint8)
    return Message(buffer[start:].tobytes(), amounts, len(header))
