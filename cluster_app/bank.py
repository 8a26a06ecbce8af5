"""The bank contract: existing clients' single-command streams, on the same engine.

Commands carry no id, so a command whose outcome is unknown ends the stream with an error that
never invites a retry. The correlation id is only echoed.

The contract's amount is unsigned: the balance of an overdrawn account is shown as 0. `active` is
false for a closed account.
"""

import struct
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from cluster_app.ingress import Ingress
from cluster_app.rpc import Context, Refusal, not_parsed
from cluster_app.state_view import StateView
from cluster_core.record import (
    AMOUNT_MAX,
    COMMAND_FIELDS,
    DEFAULT_ASSET,
    REPLY_BYTES,
    AccountState,
    Operation,
    Status,
)
from proto import balance_pb2

COMMAND_SERVICE: Final = "gc.garcol.bank.proto.BalanceCommandService"
QUERY_SERVICE: Final = "gc.garcol.bank.proto.BalanceQueryService"

_NO_ID: Final = bytes(16)
_REPLY: Final = struct.Struct("<QQqqqHHI")
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
DONE_TEXTS: Final = {
    Operation.CREATE_ACCOUNT: "0::Create balance success",
    Operation.DEPOSIT: "0::Deposit success",
    Operation.WITHDRAW: "0::Withdraw success",
    Operation.TRANSFER: "0::Transfer success",
}
"""Of a command that was done; a create's ends with `::` and the new id."""

REFUSED_TEXTS: Final = {status: f"{_BAD_REQUEST}::{status.name}" for status in Status} | {
    status: f"{_BAD_REQUEST}::{text}"
    for status, text in (
        (Status.AMOUNT_NOT_POSITIVE, "Amount must be greater than 0"),
        (Status.SAME_ACCOUNT, "FromId and ToId must be different"),
        (Status.INSUFFICIENT_FUNDS, "Insufficient balance"),
        (Status.BALANCE_OVERFLOW, f"Balance would exceed {AMOUNT_MAX}"),
        (Status.ACCOUNT_CAPACITY_REACHED, "No more balances can be created"),
        (Status.DEBIT_ACCOUNT_NOT_FOUND, "Balance {debit} not found"),
        (Status.CREDIT_ACCOUNT_NOT_FOUND, "Balance {credit} not found"),
    )
}
"""Of a refused one; `{debit}` and `{credit}` stand for account numbers."""

NOT_FOUND_TEXT: Final = f"{_NOT_FOUND}::Balance {{id}} not found"
"""Of a query."""
_TOO_MUCH: Final = f"Amount must be at most {AMOUNT_MAX}"

CORRELATION_ID_MAX: Final = 4_096
"""Characters; each unanswered command holds one."""
_TOO_LONG: Final = f"correlationId must have at most {CORRELATION_ID_MAX} characters"

Token = tuple[Operation, str, int, int]
"""What a reply's text needs: operation, correlation id, debit and credit account."""


class BankCodec:
    """`BalanceCommandService/sendCommand`: one command a message."""

    def decode(self, serialized: bytes, index: int) -> Any:
        """One packed command and its token, or the refusal's message."""
        try:
            request = balance_pb2.BalanceCommand.FromString(serialized)
        except DecodeError:
            return not_parsed(balance_pb2.BalanceCommand)
        debit = credit = amount = asset = 0
        match request.WhichOneof("type"):
            case "depositCommand":
                command: Any = request.depositCommand
                operation = Operation.DEPOSIT
                credit, amount = command.id, command.amount
            case "withdrawCommand":
                command = request.withdrawCommand
                operation = Operation.WITHDRAW
                debit, amount = command.id, command.amount
            case "transferCommand":
                command = request.transferCommand
                operation = Operation.TRANSFER
                debit, credit, amount = command.fromId, command.toId, command.amount
            case "createBalanceCommand":
                command = request.createBalanceCommand
                operation = Operation.CREATE_ACCOUNT
                asset = DEFAULT_ASSET
            case _:
                return _result(_BAD_REQUEST, "Invalid command", "")
        if len(command.correlationId) > CORRELATION_ID_MAX:
            return _result(_BAD_REQUEST, f"{_BAD_REQUEST}::{_TOO_LONG}", "")
        if amount > AMOUNT_MAX:
            return _result(_BAD_REQUEST, f"{_BAD_REQUEST}::{_TOO_MUCH}", command.correlationId)
        packed = COMMAND_FIELDS.pack(_NO_ID, debit, credit, amount, 0, asset, operation, 0, 0, 0)
        return packed, (operation, command.correlationId, debit, credit)

    def encode(self, token: Token, replies: memoryview, ledger_time_ns: int) -> bytes:
        """A serialized BaseResult."""
        operation, correlation_id, debit, credit = token
        _, entity, _, _, _, status, _, _ = _REPLY.unpack_from(replies)
        if status == Status.OK:
            created = f"::{entity}" if operation is Operation.CREATE_ACCOUNT else ""
            return _result(0, DONE_TEXTS[operation] + created, correlation_id)
        text = REFUSED_TEXTS[Status(status)]
        if "{" in text:
            text = text.format(debit=debit, credit=credit)
        return _result(_BAD_REQUEST, text, correlation_id)

    def lost(self, answered: int, not_run_from: int, reason: str) -> Refusal:
        """Without ids nothing may be sent again unless surely nothing was run."""
        unknown = not_run_from - answered
        if unknown:
            return Refusal(
                grpc.StatusCode.UNKNOWN,
                f"this node stopped leading ({reason}): the outcome of {unknown} commands is "
                "unknown; do not send them again, look at the balances first",
                "OUTCOME_UNKNOWN",
                {"not_run_from_message": str(not_run_from)},
            )
        return Refusal(
            grpc.StatusCode.UNAVAILABLE,
            f"this node stopped leading ({reason}): commands without a reply were not run",
            "LEADERSHIP_LOST",
            {"not_run_from_message": str(not_run_from)},
        )


def _result(code: int, message: str, correlation_id: str) -> bytes:
    return balance_pb2.BaseResult(
        code=code, message=message, correlationId=correlation_id
    ).SerializeToString()


class BankCommandService:
    """`gc.garcol.bank.proto.BalanceCommandService`."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._codec = BankCodec()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            COMMAND_SERVICE,
            {"sendCommand": grpc.stream_stream_rpc_method_handler(self.send_command, None, None)},
        )

    async def send_command(self, _: Any, context: Context) -> None:
        """Serve one stream of single commands."""
        await self._ingress.serve_stream(context, self._codec)


class BankQueryService:
    """`gc.garcol.bank.proto.BalanceQueryService`."""

    def __init__(self, view: StateView) -> None:
        self._view = view
        self._decimals: dict[int, int] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        """Handlers for a server."""
        return grpc.method_handlers_generic_handler(
            QUERY_SERVICE,
            {"sendQuery": grpc.stream_stream_rpc_method_handler(self.send_query, None, None)},
        )

    async def send_query(self, _: Any, context: Context) -> None:
        """Answer each query of one stream in order, before the next is read."""
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(await self.answer(request, context))

    async def answer(self, serialized: bytes, context: Context) -> bytes:
        """The answer to one query, both serialized."""
        try:
            request = balance_pb2.BalanceQuery.FromString(serialized)
        except DecodeError:
            await not_parsed(balance_pb2.BalanceQuery).abort(context)
        result = balance_pb2.BalanceQueryResult()
        if not request.HasField("singleBalanceQuery"):
            result.baseResult.code = _BAD_REQUEST
            result.baseResult.message = "Invalid query"
            return result.SerializeToString()
        query = request.singleBalanceQuery
        account, _ = await self._view.read(lambda: self._view.reader.account(query.id), context)
        if account is None:
            result.baseResult.code = _NOT_FOUND
            result.baseResult.message = NOT_FOUND_TEXT.format(id=query.id)
            result.baseResult.correlationId = query.correlationId
            return result.SerializeToString()
        single = result.singleBalanceResult
        single.id = query.id
        single.amount = max(int(account["posted"]), 0)
        single.precision = await self._precision(int(account["asset"]), context)
        single.active = not int(account["state"]) & AccountState.CLOSED
        single.correlationId = query.correlationId
        return result.SerializeToString()

    async def _precision(self, asset: int, context: Context) -> int:
        """Decimals of an asset, which never change."""
        if asset not in self._decimals:
            assets, _ = await self._view.read(self._view.reader.assets, context)
            self._decimals[asset] = int(assets["decimals"][asset])
        return self._decimals[asset]


if _REPLY.size != REPLY_BYTES:
    raise ImportError("the bank contract reads another reply than the records say")
