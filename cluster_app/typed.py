"""Typed commands and replies of `ringledger.v1` to and from the packed records."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.unknown_fields import (  # type: ignore[import-not-found]
    UnknownFieldSet,
)

from cluster_core.errors import InvalidCommands
from cluster_core.record import (
    AMOUNT_MAX,
    COMMAND_FIELDS,
    MAX_MESSAGE_COMMANDS,
    AccountState,
    CommandFlag,
    Operation,
    ReplyFlag,
)
from proto import ledger_pb2

_U64_MASK: Final = 2**64 - 1


class _Fields(NamedTuple):
    """A COMMAND's fields besides id, LINKED and the user's code.

    `code` is None where the user's own stands there.
    """

    operation: Operation
    debit: int = 0
    credit: int = 0
    amount: int = 0
    reference: int = 0
    asset: int = 0
    flags: int = 0
    timeout_s: int = 0
    code: int | None = None


def pack_commands(commands: Sequence[ledger_pb2.Command], *, atomic: bool) -> bytes:
    """Pack one call's typed commands, 64 bytes each; `atomic` links them into one chain.

    Raises InvalidCommands when there are none or too many, or one can't be a command.
    """
    if not 1 <= len(commands) <= MAX_MESSAGE_COMMANDS:
        raise InvalidCommands(
            -1, f"{len(commands)} commands: a call holds 1 to {MAX_MESSAGE_COMMANDS}"
        )
    last = len(commands) - 1
    return b"".join(
        pack_command(index, command, linked=atomic and index < last)
        for index, command in enumerate(commands)
    )


def pack_command(index: int, command: ledger_pb2.Command, *, linked: bool = False) -> bytes:
    """64 bytes of one typed command. Raises InvalidCommands when it can't be one."""
    if len(command.command_id) not in (0, 16):
        raise InvalidCommands(index, "command_id must be 16 bytes, or empty")
    name = command.WhichOneof("operation")
    if name is None:
        raise InvalidCommands(index, "no operation is set")
    operation = getattr(command, name)
    # a newer client's wish that was dropped in silence could move money otherwise than it meant
    if len(UnknownFieldSet(command)) or len(UnknownFieldSet(operation)):
        raise InvalidCommands(index, "it has fields that this node does not know: use a newer node")
    try:
        fields = _READERS[name](operation)
    except ValueError as error:
        raise InvalidCommands(index, str(error)) from None
    code = command.code
    if fields.code is not None:
        if code:
            raise InvalidCommands(
                index, f"code is not used by {fields.operation.name}: leave it zero"
            )
        code = fields.code
    return COMMAND_FIELDS.pack(
        command.command_id,
        fields.debit,
        fields.credit,
        fields.amount,
        fields.reference,
        fields.asset,
        fields.operation,
        fields.flags | (CommandFlag.LINKED if linked else 0),
        fields.timeout_s,
        code,
    )


def _create_account(command: ledger_pb2.CreateAccount) -> _Fields:
    return _Fields(Operation.CREATE_ACCOUNT, asset=command.asset, reference=command.reference)


def _deposit(command: ledger_pb2.Deposit) -> _Fields:
    return _Fields(
        Operation.DEPOSIT,
        credit=command.credit_account,
        amount=command.amount,
        reference=command.expected_version,
        flags=_expecting(command.expected_version),
    )


def _withdraw(command: ledger_pb2.Withdraw) -> _Fields:
    return _Fields(
        Operation.WITHDRAW,
        debit=command.debit_account,
        amount=command.amount,
        reference=command.expected_version,
        flags=_expecting(command.expected_version),
    )


def _transfer(command: ledger_pb2.Transfer) -> _Fields:
    return _Fields(
        Operation.TRANSFER,
        debit=command.debit_account,
        credit=command.credit_account,
        amount=command.amount,
        reference=command.expected_version,
        flags=_expecting(command.expected_version) | _balancing(command.balancing),
    )


def _register_asset(command: ledger_pb2.RegisterAsset) -> _Fields:
    symbol = command.symbol.encode()
    # packed, NUL is padding: two texts would be one symbol
    if len(symbol) > 8 or b"\0" in symbol:
        raise ValueError("an asset's symbol has 1 to 8 characters of A-Z and 0-9")
    return _Fields(
        Operation.REGISTER_ASSET,
        asset=command.asset,
        reference=int.from_bytes(symbol.ljust(8, b"\0"), "little"),
        code=command.decimals,
    )


def _hold(command: ledger_pb2.Hold) -> _Fields:
    return _Fields(
        Operation.HOLD,
        debit=command.debit_account,
        credit=command.credit_account,
        amount=command.amount,
        reference=command.expected_version,
        flags=_expecting(command.expected_version),
        timeout_s=command.timeout_s,
    )


def _capture(command: ledger_pb2.Capture) -> _Fields:
    keep = CommandFlag.KEEP_REST_HELD if command.keep_rest_held else 0
    return _Fields(
        Operation.CAPTURE,
        amount=command.amount,
        reference=command.hold_id,
        flags=keep | _balancing(command.balancing),
    )


def _release(command: ledger_pb2.Release) -> _Fields:
    return _Fields(Operation.RELEASE, amount=command.amount, reference=command.hold_id)


def _lock(command: ledger_pb2.Lock) -> _Fields:
    return _Fields(Operation.LOCK, debit=command.account, code=_sides(command))


def _unlock(command: ledger_pb2.Unlock) -> _Fields:
    return _Fields(Operation.UNLOCK, debit=command.account, code=_sides(command))


def _close(command: ledger_pb2.Close) -> _Fields:
    return _Fields(Operation.CLOSE, debit=command.account)


def _set_limits(command: ledger_pb2.SetLimits) -> _Fields:
    ceiling = command.ceiling if command.HasField("ceiling") else AMOUNT_MAX
    return _Fields(
        Operation.SET_LIMITS,
        debit=command.account,
        amount=command.floor,
        reference=ceiling & _U64_MASK,
    )


_READERS: Final[dict[str, Callable[[Any], _Fields]]] = {
    "create_account": _create_account,
    "deposit": _deposit,
    "withdraw": _withdraw,
    "transfer": _transfer,
    "register_asset": _register_asset,
    "hold": _hold,
    "capture": _capture,
    "release": _release,
    "lock": _lock,
    "unlock": _unlock,
    "close": _close,
    "set_limits": _set_limits,
}
"""By the name in Command.operation. EXPIRE is the leader's own and no part of the contract."""


def _expecting(version: int) -> int:
    return CommandFlag.EXPECT_VERSION if version else 0


def _balancing(asked: bool) -> int:
    return CommandFlag.BALANCING if asked else 0


def _sides(command: ledger_pb2.Lock | ledger_pb2.Unlock) -> int:
    debits = AccountState.DEBITS_LOCKED if command.debits else 0
    return debits | (AccountState.CREDITS_LOCKED if command.credits else 0)


def read_reply(reply: Any) -> ledger_pb2.Reply:
    """The typed form of one REPLY record."""
    return ledger_pb2.Reply(
        status=ledger_pb2.Status.Name(int(reply["status"])),
        sequence=int(reply["sequence"]),
        entity=int(reply["entity"]),
        amount=int(reply["amount"]),
        debit_balance=int(reply["debit_balance"]),
        credit_balance=int(reply["credit_balance"]),
        duplicate=bool(int(reply["flags"]) & ReplyFlag.DUPLICATE),
    )


def read_account(account: Any) -> ledger_pb2.Account:
    """The typed form of one ACCOUNT record."""
    posted, held, floor = (int(account[name]) for name in ("posted", "held", "floor"))
    credits_total, state = int(account["credits_total"]), int(account["state"])
    return ledger_pb2.Account(
        account_id=int(account["account_id"]),
        asset=int(account["asset"]),
        posted=posted,
        held=held,
        debits_total=credits_total - posted,
        credits_total=credits_total,
        version=int(account["version"]),
        last_sequence=int(account["last_sequence"]),
        reference=int(account["reference"]),
        code=int(account["code"]),
        opened_ns=int(account["opened_ns"]),
        floor=floor,
        ceiling=int(account["ceiling"]),
        open_holds=int(account["open_holds"]),
        debits_locked=bool(state & AccountState.DEBITS_LOCKED),
        credits_locked=bool(state & AccountState.CREDITS_LOCKED),
        closed=bool(state & AccountState.CLOSED),
        available=posted - held - floor,
    )


def read_hold(hold: Any) -> ledger_pb2.OpenHold:
    """The typed form of one HOLD record."""
    names = (field.name for field in ledger_pb2.OpenHold.DESCRIPTOR.fields)
    return ledger_pb2.OpenHold(**{name: int(hold[name]) for name in names})


def read_asset(asset: Any) -> ledger_pb2.Asset:
    """The typed form of one ASSET record, with its totals."""
    return ledger_pb2.Asset(
        asset=int(asset["number"]),
        decimals=int(asset["decimals"]),
        symbol=int(asset["symbol"]).to_bytes(8, "little").rstrip(b"\0").decode("ascii"),
        posted_total=-int(asset["external"]),
        accounts=int(asset["accounts"]),
        held_total=int(asset["held"]),
        open_holds=int(asset["open_holds"]),
    )
