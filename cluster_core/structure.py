"""What a command must look like before it may be journaled, whatever its values.

Wrong structure is refused at ingress, with the whole message; wrong values are journaled and
answered with a status.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba.core import types

from cluster_core.compiled import array_type, kernel, records
from cluster_core.errors import InvalidCommands
from cluster_core.record import COMMAND, COMMAND_BYTES, MAX_MESSAGE_COMMANDS, Operation

_DEBIT, _CREDIT, _AMOUNT, _REFERENCE, _ASSET = 1, 2, 4, 8, 16
_FIELD_NAMES: Final = {
    _DEBIT: "debit_account",
    _CREDIT: "credit_account",
    _AMOUNT: "amount",
    _REFERENCE: "reference",
    _ASSET: "asset",
    32: "timeout_s",
}
_TIMEOUT: Final = 32

_USED_FIELDS: Final = {
    Operation.CREATE_ACCOUNT: _ASSET | _REFERENCE,
    Operation.DEPOSIT: _CREDIT | _AMOUNT,
    Operation.WITHDRAW: _DEBIT | _AMOUNT,
    Operation.TRANSFER: _DEBIT | _CREDIT | _AMOUNT,
    Operation.REGISTER_ASSET: _ASSET | _REFERENCE,
}
"""Besides command_id and code, which every operation may use."""

_USED: Final = np.array([_USED_FIELDS.get(number, -1) for number in range(6)], np.int64)  # type: ignore[call-overload]
_UNKNOWN_OPERATION: Final = -1
_UNKNOWN_FLAG: Final = -2


_RESULT: Any = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]


@kernel(_RESULT(array_type(COMMAND, readonly=True)))
def _first_malformed(commands: npt.NDArray[Any]) -> tuple[int, int]:
    """(index, what) of the first malformed command: a field bit or a negative code; or (-1, 0)."""
    for index in range(commands.shape[0]):
        command = commands[index]
        operation = np.int64(command.operation)
        if operation >= _USED.shape[0] or _USED[operation] < 0:
            return index, _UNKNOWN_OPERATION
        if command["flags"] != 0:
            return index, _UNKNOWN_FLAG
        filled = 0
        filled |= _DEBIT if command.debit_account != 0 else 0
        filled |= _CREDIT if command.credit_account != 0 else 0
        filled |= _AMOUNT if command.amount != 0 else 0
        filled |= _REFERENCE if command.reference != 0 else 0
        filled |= _ASSET if command.asset != 0 else 0
        filled |= _TIMEOUT if command.timeout_s != 0 else 0
        excess = filled & ~_USED[operation]
        if excess != 0:
            return index, excess & -excess
    return -1, 0


def find_malformed(commands: npt.NDArray[Any]) -> tuple[int, str] | None:
    """The first structurally wrong command of COMMAND [n] and what is wrong, or None."""
    index, what = _first_malformed(records(commands))
    if index < 0:
        return None
    if what == _UNKNOWN_OPERATION:
        return index, f"unknown operation {int(commands[index]['operation'])}"
    if what == _UNKNOWN_FLAG:
        return index, f"unknown flag in {int(commands[index]['flags']):#06x}"
    operation = Operation(int(commands[index]["operation"])).name
    return (
        index,
        f"field {_FIELD_NAMES[what]} is not used by {operation} and must be zero",
    )


def read_message(packed: bytes | memoryview) -> npt.NDArray[Any]:
    """View a client's message as COMMAND [n], without a copy.

    Raises InvalidCommands unless it holds 1 to 8,192 whole, well-formed commands.
    """
    count, rest = divmod(len(packed), COMMAND_BYTES)
    if rest:
        raise InvalidCommands(
            -1,
            f"{len(packed)} bytes are not a multiple of {COMMAND_BYTES}, a command's size",
        )
    if not 1 <= count <= MAX_MESSAGE_COMMANDS:
        raise InvalidCommands(
            -1,
            f"a message holds 1 to {MAX_MESSAGE_COMMANDS} commands, this one {count}",
        )
    commands = np.frombuffer(packed, COMMAND)
    malformed = find_malformed(commands)
    if malformed is not None:
        raise InvalidCommands(*malformed)
    return commands
