"""Commands for the measurements: made by the million, before the clock runs."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from cluster_core.record import COMMAND, DEFAULT_ASSET, CommandFlag, Operation

Commands = npt.NDArray[np.void]

KERNEL_BATCH: Final = 1_024
ROUND: Final = 1 << 20
"""Commands made at once: 64 MiB."""

NS_PER_COMMAND: Final = 125
"""Ledger time between two commands: 8 million a second."""

CHAIN: Final = 4
"""Commands in a chain of the mix."""

_FIRST_NS: Final = 1_764_000_000_000_000_000
_FUNDS: Final = 10**9
_AMOUNT_MAX: Final = 100
_TIMEOUT_S: Final = 3_600


def timestamp_at(sequence: int) -> int:
    """Ledger time, ns, of a batch that begins at this sequence."""
    return _FIRST_NS + sequence * NS_PER_COMMAND


def rounds(count: int) -> Iterator[int]:
    """Sizes of at most ROUND that add up to `count`."""
    for at in range(0, count, ROUND):
        yield min(ROUND, count - at)


def whole_batches(count: int) -> int:
    """`count`, rounded up to whole batches."""
    return -(-count // KERNEL_BATCH) * KERNEL_BATCH


class CommandSource:
    """Makes commands with fresh UUIDv7 ids; `first` is the sequence of the first of `count`."""

    def __init__(self, accounts: int, seed: int) -> None:
        self.accounts = accounts
        self._random = np.random.default_rng(seed)
        self._opened = 0
        self._resolved = 0

    def openings(self, first: int, count: int) -> tuple[int, Commands]:
        """CREATE_ACCOUNT."""
        commands = self._commands(Operation.CREATE_ACCOUNT, first, count)
        commands["asset"] = DEFAULT_ASSET
        return first, commands

    def deposits(self, first: int, count: int) -> tuple[int, Commands]:
        """DEPOSIT, one into each account when `first` is the number of accounts."""
        commands = self._commands(Operation.DEPOSIT, first, count)
        commands["credit_account"] = np.arange(first, first + count) % self.accounts + 1
        commands["amount"] = _FUNDS
        return first, commands

    def transfers(self, first: int, count: int) -> tuple[int, Commands]:
        """TRANSFER between uniformly random pairs of accounts."""
        commands = self._commands(Operation.TRANSFER, first, count)
        debit = self._random.integers(1, self.accounts + 1, count)
        credit = self._random.integers(1, self.accounts, count)
        commands["debit_account"] = debit
        commands["credit_account"] = credit + (credit >= debit)
        commands["amount"] = self._random.integers(1, _AMOUNT_MAX, count)
        return first, commands

    def holds(self, first: int, count: int) -> tuple[int, Commands]:
        """HOLD between random pairs; every second one expires, an hour or more later."""
        _, commands = self.transfers(first, count)
        self._make_holds(commands, np.arange(count))
        return first, commands

    def mix(self, first: int, count: int) -> tuple[int, Commands]:
        """Of 100 draws 60 transfers, 15 deposits, 10 holds, 10 captures or releases, 5 chains of 4.

        A chain's members are transfers; it ends at the latest with its batch of KERNEL_BATCH. The
        holds resolved are the oldest open ones, in random order: `holds` must have opened some.
        """
        _, commands = self.transfers(first, count)
        draws = self._random.choice(5, count, p=(0.60, 0.15, 0.10, 0.10, 0.05))
        draws = np.repeat(draws, np.where(draws == 4, CHAIN, 1))[:count]
        places = np.arange(count)
        linked = np.zeros(count, bool)
        members = np.flatnonzero(draws == 4)
        linked[members[np.arange(len(members)) % CHAIN < CHAIN - 1]] = True
        linked[places % KERNEL_BATCH == KERNEL_BATCH - 1] = False
        linked[-1] = False
        commands["flags"][linked] = CommandFlag.LINKED
        deposits = draws == 1
        commands["operation"][deposits] = Operation.DEPOSIT
        commands["debit_account"][deposits] = 0
        self._make_holds(commands, np.flatnonzero(draws == 2))
        self._resolve_holds(commands, np.flatnonzero(draws == 3))
        return first, commands

    def _make_holds(self, commands: Commands, places: npt.NDArray[np.intp]) -> None:
        commands["operation"][places] = Operation.HOLD
        timeouts = self._random.integers(_TIMEOUT_S, 2 * _TIMEOUT_S, len(places))
        commands["timeout_s"][places] = np.where(np.arange(len(places)) % 2 == 0, timeouts, 0)
        self._opened += len(places)

    def _resolve_holds(self, commands: Commands, places: npt.NDArray[np.intp]) -> None:
        oldest = np.arange(self._resolved, self._resolved + len(places)) + 1
        halves = (Operation.CAPTURE, Operation.RELEASE)
        for name in ("debit_account", "credit_account", "amount"):
            commands[name][places] = 0
        commands["operation"][places] = self._random.choice(halves, len(places))
        commands["reference"][places] = self._random.permutation(oldest)
        self._resolved += len(places)

    def _commands(self, operation: Operation, first: int, count: int) -> Commands:
        """COMMAND [n] with UUIDv7 ids (RFC 9562): 48 bits of ms, version, 12 and 62 random bits."""
        commands = np.zeros(count, COMMAND)
        commands["operation"] = operation
        milliseconds = (timestamp_at(first) + np.arange(count) * NS_PER_COMMAND) // 1_000_000
        high = self._random.integers(0, 1 << 12, count, np.uint64)
        high |= np.uint64(0x7000) | (milliseconds.astype(np.uint64) << np.uint64(16))
        low = self._random.integers(0, 1 << 62, count, np.uint64) | np.uint64(1 << 63)
        commands["id_0"], commands["id_1"] = high.byteswap(), low.byteswap()
        return commands
