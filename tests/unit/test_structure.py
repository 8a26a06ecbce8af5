"""What is refused before it is journaled: wrong fields, flags, operations and chains."""

from typing import Any, Final

import numpy as np
import pytest

from cluster_core.errors import InvalidCommands
from cluster_core.record import (
    COMMAND,
    MAX_CHAIN_COMMANDS,
    MAX_MESSAGE_COMMANDS,
    CommandFlag,
    Operation,
)
from cluster_core.structure import find_malformed, read_message
from tests.compared_ledger import capture, create, deposit, expire, hold, records, transfer, v7
from tests.property.strategies import packed
from tests.reference import Command

LINKED: Final = int(CommandFlag.LINKED)

UNUSED: Final = {
    Operation.CREATE_ACCOUNT: ("debit_account", "credit_account", "amount", "timeout_s"),
    Operation.DEPOSIT: ("debit_account", "reference", "asset", "timeout_s"),
    Operation.WITHDRAW: ("credit_account", "reference", "asset", "timeout_s"),
    Operation.TRANSFER: ("reference", "asset", "timeout_s"),
    Operation.REGISTER_ASSET: ("debit_account", "credit_account", "amount", "timeout_s"),
    Operation.HOLD: ("reference", "asset"),
    Operation.CAPTURE: ("debit_account", "credit_account", "asset", "timeout_s"),
    Operation.RELEASE: ("debit_account", "credit_account", "asset", "timeout_s"),
    Operation.EXPIRE: ("debit_account", "credit_account", "amount", "asset", "timeout_s", "code"),
    Operation.LOCK: ("credit_account", "amount", "reference", "asset", "timeout_s"),
    Operation.UNLOCK: ("credit_account", "amount", "reference", "asset", "timeout_s"),
    Operation.CLOSE: ("credit_account", "amount", "reference", "asset", "timeout_s"),
    Operation.SET_LIMITS: ("credit_account", "asset", "timeout_s"),
}


@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
def test_a_field_that_the_operation_does_not_use_must_be_zero(operation: Operation) -> None:
    tops: dict[str, Any] = {"debit_account": 2**63, "credit_account": 2**63, "amount": -(2**63)}
    tops |= {"reference": 2**63, "asset": 2**31, "timeout_s": 2**31, "code": 2**31}
    plain = Command(v7(0), operation=operation)
    used = [name for name in tops if name not in UNUSED[operation]]
    well_formed = plain._replace(**{name: tops[name] for name in used})
    assert find_malformed(records([plain, well_formed]), from_client=False) is None
    for name in UNUSED[operation]:
        for value in (1, tops[name]):
            excess: dict[str, Any] = {name: value}
            malformed = find_malformed(
                records([plain, well_formed._replace(**excess)]), from_client=False
            )
            assert malformed is not None
            assert malformed[0] == 1
            assert name in malformed[1]
            assert operation.name in malformed[1]


@pytest.mark.parametrize("operation", [0, 14, 255, 257, 2**15, 2**16 - 1])
def test_an_unknown_operation_is_malformed(operation: int) -> None:
    malformed = find_malformed(
        records([create(), Command(operation=operation), Command()]), from_client=True
    )
    assert malformed == (1, f"unknown operation {operation}")


FLAGS: Final = {
    **dict.fromkeys(Operation, LINKED),
    Operation.EXPIRE: 0,
    Operation.DEPOSIT: 1 | 4,
    Operation.WITHDRAW: 1 | 4,
    Operation.TRANSFER: 1 | 2 | 4,
    Operation.HOLD: 1 | 4,
    Operation.CAPTURE: 1 | 2 | 8,
}


@pytest.mark.parametrize("operation", Operation, ids=lambda operation: operation.name)
@pytest.mark.parametrize("bit", range(16))
def test_each_operation_takes_its_own_flags_only(operation: Operation, bit: int) -> None:
    command = Command(operation=operation, flags=1 << bit)
    malformed = find_malformed(records([command, create()]), from_client=False)
    if FLAGS[operation] & 1 << bit:
        assert malformed is None
    else:
        assert malformed is not None
        assert malformed[0] == 0
        assert f"{1 << bit:#06x}: unknown flag" in malformed[1]


@pytest.mark.parametrize("command", [deposit(1, 1), transfer(1, 2, 1), hold(1, 2, 1)], ids=repr)
def test_a_version_stands_only_where_it_is_expected(command: Command) -> None:
    with_version = command._replace(reference=7)
    assert find_malformed(records([with_version]), from_client=True) is not None
    expecting = with_version._replace(flags=int(CommandFlag.EXPECT_VERSION))
    assert find_malformed(records([expecting]), from_client=True) is None


def test_an_expiry_is_the_leaders_own() -> None:
    commands = records([capture(1), expire(1)])
    assert find_malformed(commands, from_client=False) is None
    assert find_malformed(commands, from_client=True) == (1, "operation EXPIRE is the leader's own")
    with pytest.raises(InvalidCommands, match="command 1: operation EXPIRE is the leader's own"):
        read_message(packed([capture(1), expire(1)]))


def test_a_chain_ends_in_its_message() -> None:
    linked, plain = create()._replace(flags=LINKED), create()
    assert find_malformed(records([linked, linked, plain, linked, plain]), from_client=True) is None
    for open_chain in ([linked], [plain, linked], [linked, plain, linked, linked]):
        index, reason = find_malformed(records(open_chain), from_client=True) or (-1, "")
        assert index == len(open_chain) - 1
        assert reason == "the last command is LINKED: a chain must end in its message"


def test_a_chain_may_fill_a_message_and_no_more() -> None:
    commands = np.zeros(MAX_CHAIN_COMMANDS + 1, COMMAND)
    commands["operation"] = Operation.CREATE_ACCOUNT
    commands["flags"][:-2] = LINKED
    assert find_malformed(commands, from_client=True) is None
    commands["flags"][-2] = LINKED
    assert find_malformed(commands, from_client=True) == (
        MAX_CHAIN_COMMANDS,
        "a chain has at most 8192 commands",
    )


def test_a_message_holds_one_to_8192_whole_commands() -> None:
    command = packed([create()])
    for count in (1, MAX_MESSAGE_COMMANDS):
        assert read_message(command * count).tobytes() == command * count
    refused = {
        b"": "a message holds 1 to 8192 commands, this one 0",
        command * (MAX_MESSAGE_COMMANDS + 1): "a message holds 1 to 8192 commands, this one 8193",
        command[:-1]: "63 bytes are not a multiple of 64, a command's size",
        command + b"\1": "65 bytes are not a multiple of 64, a command's size",
    }
    for message, reason in refused.items():
        with pytest.raises(InvalidCommands, match=f"^{reason}$") as raised:
            read_message(message)
        assert raised.value.index == -1
