"""Load on `ringledger.v1`: messages in flight, concurrent callers, or an open loop."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from client_app.bench_commands import CommandMaker, Message
from client_app.bench_tally import REPLY, BenchFailed, Progress, Tally
from client_core.command_ids import CommandIds, LedgerClock
from client_core.command_stream import SUBMIT_METHOD, CommandStream
from client_core.records import Operation, Reply
from client_core.wire import read_response

PREPARE_BATCH: Final = 4_096
PREPARE_IN_FLIGHT: Final = 4
DEADLINE_S: Final = 60.0
"""Of a single command: an open loop past what the node can do shows as latency, not as errors."""

_TICK_S: Final = 0.001
"""The event loop's timers are no finer; what is due within a tick goes out together."""
_NS_PER_S: Final = 1_000_000_000


class MessageLoad:
    """Messages of `batch` commands on one stream, `in_flight` of them unanswered."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        ledger_time_ns: int,
        operation: Operation,
        batch: int,
        in_flight: int,
        seed: int,
    ) -> None:
        self._channel = channel
        self._operation = operation
        self._batch = batch
        self._in_flight = in_flight
        self._clock = LedgerClock(ledger_time_ns)
        self._maker = CommandMaker(CommandIds(self._clock), seed)
        self.accounts: NDArray[np.uint64] = np.empty(0, np.uint64)

    async def prepare(self, accounts: int, progress: Progress) -> Sequence[Tally]:
        created, funded = Tally(False, progress), Tally(True, progress)
        messages = self._maker.creates(accounts, PREPARE_BATCH)
        ids = [
            replies["entity"].copy()
            async for replies in self._exchange(messages, PREPARE_IN_FLIGHT, created)
        ]
        created.check_all_accepted("creating accounts")
        self.accounts = np.concatenate(ids)
        messages = self._maker.funds(self.accounts, PREPARE_BATCH)
        async for _ in self._exchange(messages, PREPARE_IN_FLIGHT, funded):
            pass
        funded.check_all_accepted("funding accounts")
        return created, funded

    async def run(self, commands: int, tally: Tally) -> None:
        messages = self._maker.random(self._operation, self.accounts, commands, self._batch)
        async for _ in self._exchange(messages, self._in_flight, tally):
            pass

    async def close(self) -> None:
        """Nothing is kept open between phases."""

    async def _exchange(self, messages: Iterator[Message], in_flight: int, tally: Tally) -> Any:
        """Send all messages, count and yield each one's replies (REPLY [n])."""
        call: Any = self._channel.stream_stream(SUBMIT_METHOD)()
        sent: deque[tuple[Message, int]] = deque()
        slots = asyncio.Semaphore(in_flight)
        writer = asyncio.create_task(_write_messages(call, messages, sent, slots))
        try:
            async for response in call:
                now_ns = time.perf_counter_ns()
                packed, ledger_time_ns = read_response(response)
                message, sent_ns = sent.popleft()
                slots.release()
                self._clock.observe(ledger_time_ns)
                replies = np.frombuffer(packed, REPLY)
                if len(replies) != message.count:
                    raise BenchFailed(f"{len(replies)} replies to {message.count} commands")
                tally.add_message(replies, message.amounts, now_ns - sent_ns)
                yield replies
            await writer
        except grpc.aio.AioRpcError as error:
            raise BenchFailed(
                f"the stream ended: {error.code().name}: {error.details()}"
            ) from error
        finally:
            writer.cancel()
            call.cancel()
        if sent:
            raise BenchFailed(f"the stream ended with {len(sent)} messages unanswered")


class SingleLoad:
    """Single commands through CommandStream: `callers` at once, or `rate` a second."""

    def __init__(
        self,
        setup: MessageLoad,
        stream: CommandStream,
        operation: Operation,
        callers: int,
        rate: float,
        seed: int,
    ) -> None:
        self._setup = setup
        self._stream = stream
        self._operation = operation
        self._callers = callers
        self._rate = rate
        self._maker = CommandMaker(stream.command_ids, seed)

    async def prepare(self, accounts: int, progress: Progress) -> Sequence[Tally]:
        return await self._setup.prepare(accounts, progress)

    async def run(self, commands: int, tally: Tally) -> None:
        singles = self._maker.singles(self._operation, self._setup.accounts, commands)
        if self._rate:
            await self._open_loop(singles, commands, tally)
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._callers):
                    group.create_task(self._call_on(singles, tally))

    async def close(self) -> None:
        await self._stream.close()

    async def _call_on(self, singles: Iterator[tuple[bytes, int]], tally: Tally) -> None:
        """One caller: the next command as soon as the last one is answered."""
        submit, now_ns = self._stream.submit, time.perf_counter_ns
        for command, amount in singles:
            sent_ns = now_ns()
            reply = await submit(command, DEADLINE_S)
            tally.add_reply(reply, amount, now_ns() - sent_ns)

    async def _open_loop(
        self, singles: Iterator[tuple[bytes, int]], total: int, tally: Tally
    ) -> None:
        """Send when it is due whatever the answers do; latency counts from when it was due."""
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gap_ns = _NS_PER_S / self._rate
        start_ns = time.perf_counter_ns()
        sent = 0
        while sent < total and not finished.done():
            due = min(total, int((time.perf_counter_ns() - start_ns) / gap_ns) + 1)
            while sent < due:
                command, amount = next(singles)
                due_ns = start_ns + int(sent * gap_ns)
                sent += 1
                self._stream.send(command, DEADLINE_S).add_done_callback(
                    partial(_count, tally, total, amount, due_ns, finished)
                )
            wait_s = (start_ns + sent * gap_ns - time.perf_counter_ns()) / _NS_PER_S
            await asyncio.sleep(max(wait_s, _TICK_S) if wait_s > 0 else 0)
        await finished


def _count(
    tally: Tally,
    total: int,
    amount: int,
    due_ns: int,
    finished: "asyncio.Future[None]",
    answered: "asyncio.Future[Reply]",
) -> None:
    now_ns = time.perf_counter_ns()
    error = answered.exception()
    if error is None:
        try:
            tally.add_reply(answered.result(), amount, now_ns - due_ns)
        except BenchFailed as failed:
            error = failed
    if finished.done():
        return
    if error is not None:
        finished.set_exception(error)
    elif tally.commands == total:
        finished.set_result(None)


async def _write_messages(
    call: Any,
    messages: Iterator[Message],
    sent: deque[tuple[Message, int]],
    slots: asyncio.Semaphore,
) -> None:
    """The next message is made before a slot is free, so that making it costs no latency."""
    try:
        for message in messages:
            await slots.acquire()
            sent.append((message, time.perf_counter_ns()))
            await call.write(message.request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the reading side meets the end of the stream and knows why
