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
from cluster_core.record import (
    COMMAND,
    COMMAND_BYTES,
    MAX_CHAIN_COMMANDS,
    MAX_MESSAGE_COMMANDS,
    CommandFlag,
    Operation,
)

_DEBIT, _CREDIT, _AMOUNT, _REFERENCE, _ASSET, _TIMEOUT, _CODE = 1, 2, 4, 8, 16, 32, 64
_FIELD_NAMES: Final = {
    _DEBIT: "debit_account",
    _CREDIT: "credit_account",
    _AMOUNT: "amount",
    _REFERENCE: "reference",
    _ASSET: "asset",
    _TIMEOUT: "timeout_s",
    _CODE: "code",
}
_LINKED: Final = int(CommandFlag.LINKED)
_BALANCING: Final = int(CommandFlag.BALANCING)
_EXPECT_VERSION: Final = int(CommandFlag.EXPECT_VERSION)
_KEEP_REST_HELD: Final = int(CommandFlag.KEEP_REST_HELD)

_USED_FIELDS: Final = {
    Operation.CREATE_ACCOUNT: _ASSET | _REFERENCE | _CODE,
    Operation.DEPOSIT: _CREDIT | _AMOUNT | _CODE,
    Operation.WITHDRAW: _DEBIT | _AMOUNT | _CODE,
    Operation.TRANSFER: _DEBIT | _CREDIT | _AMOUNT | _CODE,
    Operation.REGISTER_ASSET: _ASSET | _REFERENCE | _CODE,
    Operation.HOLD: _DEBIT | _CREDIT | _AMOUNT | _TIMEOUT | _CODE,
    Operation.CAPTURE: _REFERENCE | _AMOUNT | _CODE,
    Operation.RELEASE: _REFERENCE | _AMOUNT | _CODE,
    Operation.EXPIRE: _REFERENCE,
    Operation.LOCK: _DEBIT | _CODE,
    Operation.UNLOCK: _DEBIT | _CODE,
    Operation.CLOSE: _DEBIT | _CODE,
    Operation.SET_LIMITS: _DEBIT | _AMOUNT | _REFERENCE | _CODE,
}
"""Besides command_id, which every operation may use. EXPECT_VERSION adds the reference."""

_USED_FLAGS: Final = {
    **dict.fromkeys(Operation, _LINKED),
    Operation.DEPOSIT: _LINKED | _EXPECT_VERSION,
    Operation.WITHDRAW: _LINKED | _EXPECT_VERSION,
    Operation.TRANSFER: _LINKED | _BALANCING | _EXPECT_VERSION,
    Operation.HOLD: _LINKED | _EXPECT_VERSION,
    Operation.CAPTURE: _LINKED | _BALANCING | _KEEP_REST_HELD,
    Operation.EXPIRE: 0,
}

_OPERATIONS: Final = range(max(Operation) + 1)
_FIELDS: Final = np.array([_USED_FIELDS.get(number, -1) for number in _OPERATIONS], np.int64)  # type: ignore[call-overload]
_FLAGS: Final = np.array([_USED_FLAGS.get(number, 0) for number in _OPERATIONS], np.int64)  # type: ignore[call-overload]

_EXPIRE: Final = int(Operation.EXPIRE)
_UNKNOWN_OPERATION: Final = -1
_UNKNOWN_FLAG: Final = -2
_LEADERS_OWN: Final = -3
_CHAIN_TOO_LONG: Final = -4
_CHAIN_OPEN: Final = -5

_RESULT: Any = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]


@kernel(_RESULT(array_type(COMMAND, readonly=True), types.boolean))
def _first_malformed(commands: npt.NDArray[Any], from_client: bool) -> tuple[int, int]:
    """(index, what) of the first malformed command: a field bit or a negative code; or (-1, 0)."""
    linked = 0
    for index in range(commands.shape[0]):
        command = commands[index]
        operation = np.int64(command.operation)
        if operation >= _FIELDS.shape[0] or _FIELDS[operation] < 0:
            return index, _UNKNOWN_OPERATION
        if from_client and operation == _EXPIRE:
            return index, _LEADERS_OWN
        flags = np.int64(command["flags"])
        if flags & ~_FLAGS[operation] != 0:
            return index, _UNKNOWN_FLAG
        filled = 0
        filled |= _DEBIT if command.debit_account != 0 else 0
        filled |= _CREDIT if command.credit_account != 0 else 0
        filled |= _AMOUNT if command.amount != 0 else 0
        filled |= _REFERENCE if command.reference != 0 else 0
        filled |= _ASSET if command.asset != 0 else 0
        filled |= _TIMEOUT if command.timeout_s != 0 else 0
        filled |= _CODE if command.code != 0 else 0
        used = _FIELDS[operation]
        if flags & _EXPECT_VERSION != 0:
            used |= _REFERENCE
        excess = filled & ~used
        if excess != 0:
            return index, excess & -excess
        if linked == MAX_CHAIN_COMMANDS:
            return index, _CHAIN_TOO_LONG
        linked = linked + 1 if flags & _LINKED != 0 else 0
    if linked != 0:
        return commands.shape[0] - 1, _CHAIN_OPEN
    return -1, 0


def client_operations() -> tuple[list[int], list[int]]:
    """By operation number: the bits of the fields that it uses, -1 for none that a client may
    send, and the flags that it takes. For a check elsewhere that follows these rules.
    """
    fields = _FIELDS.tolist()
    fields[_EXPIRE] = -1
    return fields, _FLAGS.tolist()


def find_malformed(commands: npt.NDArray[Any], *, from_client: bool) -> tuple[int, str] | None:
    """The first structurally wrong command of COMMAND [n] and what is wrong, or None.

    `from_client` refuses what only a leader may write. A chain must end in these commands.
    """
    index, what = _first_malformed(records(commands), from_client)
    if index < 0:
        return None
    operation, flags = int(commands[index]["operation"]), int(commands[index]["flags"])
    if what == _UNKNOWN_OPERATION:
        return index, f"unknown operation {operation}"
    name = Operation(operation).name
    if what == _LEADERS_OWN:
        return index, f"operation {name} is the leader's own"
    if what == _UNKNOWN_FLAG:
        return index, f"{name} does not use all of the flags {flags:#06x}: unknown flag"
    if what == _CHAIN_TOO_LONG:
        return index, f"a chain has at most {MAX_CHAIN_COMMANDS} commands"
    if what == _CHAIN_OPEN:
        return index, "the last command is LINKED: a chain must end in its message"
    return index, f"field {_FIELD_NAMES[what]} is not used by {name} and must be zero"


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
    malformed = find_malformed(commands, from_client=True)
    if malformed is not None:
        raise InvalidCommands(*malformed)
    return commands
