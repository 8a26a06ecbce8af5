"""Load on the bank contract: long-lived streams, one command a message, replies in order."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc
import numpy as np

from client_app.bench_commands import AMOUNT_MOST, FUNDS, random_pairs
from client_app.bench_tally import BenchFailed, Progress, Tally
from client_core.records import Operation
from proto import balance_pb2

SEND_METHOD: Final = "/gc.garcol.bank.proto.BalanceCommandService/sendCommand"
CORRELATION_ID: Final = "random-uuid"
"""As existing load generators do: the same for every command."""

DISTINCT_COMMANDS: Final = 65_536
"""Random commands made and serialized before measuring, then sent round and round."""

PREPARE_IN_FLIGHT: Final = 16
_Request = tuple[bytes, int]
"""A BalanceCommand's bytes, and its amount."""
_OnReply = Callable[[balance_pb2.BaseResult], None]


class BankLoad:
    """`streams` streams, each with `in_flight` commands unanswered."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        operation: Operation,
        streams: int,
        in_flight: int,
        seed: int,
    ) -> None:
        open_stream: Any = channel.stream_stream(
            SEND_METHOD, response_deserializer=balance_pb2.BaseResult.FromString
        )
        self._calls: list[Any] = [open_stream() for _ in range(streams)]
        self._operation = operation
        self._in_flight = in_flight
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._accounts: list[int] = []
        self._pool: list[_Request] = []

    async def prepare(self, accounts: int, progress: Progress) -> Sequence[Tally]:
        created, funded = Tally(False, progress), Tally(True, progress)
        create = balance_pb2.BalanceCommand(
            createBalanceCommand=balance_pb2.CreateBalanceCommand(correlationId=CORRELATION_ID)
        ).SerializeToString()
        requests = itertools.repeat((create, 0), accounts)
        await self._exchange(requests, PREPARE_IN_FLIGHT, created, self._keep_account)
        created.check_all_accepted("creating accounts")
        funds = (_deposit(account, FUNDS) for account in self._accounts)
        await self._exchange(funds, PREPARE_IN_FLIGHT, funded)
        funded.check_all_accepted("funding accounts")
        self._pool = self._random_requests(DISTINCT_COMMANDS)
        return created, funded

    async def run(self, commands: int, tally: Tally) -> None:
        requests = itertools.islice(itertools.cycle(self._pool), commands)
        await self._exchange(requests, self._in_flight, tally)

    async def close(self) -> None:
        for call in self._calls:
            call.cancel()

    async def _exchange(
        self,
        requests: Iterator[_Request],
        in_flight: int,
        tally: Tally,
        on_reply: _OnReply | None = None,
    ) -> None:
        """Send all requests over all streams, each taking the next as it gets an answer."""
        try:
            async with asyncio.TaskGroup() as group:
                for call in self._calls:
                    group.create_task(_serve_stream(call, requests, in_flight, tally, on_reply))
        except* grpc.aio.AioRpcError as errors:
            error = errors.exceptions[0]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            told = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            raise BenchFailed(f"a stream ended: {told}") from errors

    def _keep_account(self, result: balance_pb2.BaseResult) -> None:
        """A created account's id ends the reply's text: `0::Create balance success::1`."""
        if not result.code:
            self._accounts.append(int(result.message.rsplit("::", 1)[1]))

    def _random_requests(self, count: int) -> list[_Request]:
        debit_indices, credit_indices = random_pairs(self._random, len(self._accounts), count)
        amounts = self._random.integers(1, AMOUNT_MOST + 1, count)
        accounts = self._accounts
        triples = zip(
            debit_indices.tolist(), credit_indices.tolist(), amounts.tolist(), strict=True
        )
        if self._operation is Operation.DEPOSIT:
            return [_deposit(accounts[credit], amount) for _, credit, amount in triples]
        return [
            _transfer(accounts[debit], accounts[credit], amount)
            for debit, credit, amount in triples
        ]


async def _serve_stream(
    call: Any,
    requests: Iterator[_Request],
    in_flight: int,
    tally: Tally,
    on_reply: _OnReply | None,
) -> None:
    """One stream: fill its window, then a new command for each reply."""
    sent: deque[tuple[int, int]] = deque()
    now_ns = time.perf_counter_ns
    for request, amount in itertools.islice(requests, in_flight):
        sent.append((amount, now_ns()))
        await call.write(request)
    while sent:
        result = await call.read()
        if result is grpc.aio.EOF:
            raise BenchFailed(f"a stream ended with {len(sent)} commands unanswered")
        amount, sent_ns = sent.popleft()
        refusal = f"{result.code}" if result.code else ""
        tally.add_outcome(refusal, amount, now_ns() - sent_ns)
        if on_reply is not None:
            on_reply(result)
        for request, next_amount in itertools.islice(requests, 1):
            sent.append((next_amount, now_ns()))
            await call.write(request)


def _deposit(account: int, amount: int) -> _Request:
    command = balance_pb2.DepositCommand(id=account, amount=amount, correlationId=CORRELATION_ID)
    return balance_pb2.BalanceCommand(depositCommand=command).SerializeToString(), amount


def _transfer(debit: int, credit: int, amount: int) -> _Request:
    command = balance_pb2.TransferCommand(
        fromId=debit, toId=credit, amount=amount, correlationId=CORRELATION_ID
    )
    return balance_pb2.BalanceCommand(transferCommand=command).SerializeToString(), amount
