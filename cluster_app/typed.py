"""Typed commands and replies of `ringledger.v1` to and from the packed records."""

from typing import Any

from cluster_core.errors import InvalidCommands
from cluster_core.record import COMMAND_FIELDS, Operation, ReplyFlag
from proto import ledger_pb2


def pack_command(index: int, command: ledger_pb2.Command) -> bytes:
    """64 bytes of one typed command. Raises InvalidCommands when it can't be one."""
    if len(command.command_id) not in (0, 16):
        raise InvalidCommands(index, "command_id must be 16 bytes, or empty")
    debit = credit = amount = reference = asset = 0
    code = command.code
    match command.WhichOneof("operation"):
        case "create_account":
            operation = Operation.CREATE_ACCOUNT
            asset = command.create_account.asset
            reference = command.create_account.reference
        case "deposit":
            operation = Operation.DEPOSIT
            credit, amount = command.deposit.credit_account, command.deposit.amount
        case "withdraw":
            operation = Operation.WITHDRAW
            debit, amount = command.withdraw.debit_account, command.withdraw.amount
        case "transfer":
            operation = Operation.TRANSFER
            debit, credit = (
                command.transfer.debit_account,
                command.transfer.credit_account,
            )
            amount = command.transfer.amount
        case "register_asset":
            operation = Operation.REGISTER_ASSET
            if code:
                raise InvalidCommands(index, "code is not used by REGISTER_ASSET: set decimals")
            asset, code = command.register_asset.asset, command.register_asset.decimals
            reference = _symbol(index, command.register_asset.symbol)
        case _:
            raise InvalidCommands(index, "no operation is set")
    return COMMAND_FIELDS.pack(
        command.command_id,
        debit,
        credit,
        amount,
        reference,
        asset,
        operation,
        0,
        0,
        code,
    )


def _symbol(index: int, symbol: str) -> int:
    encoded = symbol.encode()
    if len(encoded) > 8:
        raise InvalidCommands(index, "an asset's symbol has 1 to 8 characters of A-Z and 0-9")
    return int.from_bytes(encoded.ljust(8, b"\0"), "little")


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
