"""CommandStream: one gRPC stream to the leader, shared by all callers of this process.

A call costs one future. `send` puts it in line and wakes the writer, which runs after all callers
of this turn of the event loop: what they sent, and what came while the message before was being
written, is one message. The reader hands replies out in the order of the stream.

    send -> waiting -> [writer] -> unanswered -> [reader] -> the caller's future

When the stream ends, every call gets an error that says whether it may have been run
(`client_core.errors`); the next call opens a new stream.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf.message import DecodeError

from client_core.channel import get_status, open_channel
from client_core.command_ids import CommandIds, LedgerClock
from client_core.errors import (
    OutcomeUnknown,
    StreamBusy,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.messages import STATUS_AT, check_message, is_linked, newest_sequence
from client_core.records import (
    COMMAND_BYTES,
    MAX_MESSAGE_COMMANDS,
    REPLY_BYTES,
    Reply,
    Status,
    unpack_replies,
)
from client_core.security import PLAIN, Security
from client_core.stream_end import EndOfStream, StreamEnd
from client_core.wire import read_response, submit_header

SUBMIT_METHOD: Final = "/ringledger.v1.CommandService/Submit"
MAX_WAITING_COMMANDS: Final = 1 << 20
"""64 MiB in line; who sends more than the leader takes is told so instead of filling memory."""

_TIMER_GRAIN_S: Final = 0.01
"""Deadlines are looked at this often at most, so a call may end this much late."""

_IN_FUTURE: Final = int(Status.COMMAND_ID_IN_FUTURE)

_Future = asyncio.Future[Any]
_Call = tuple[bytes, _Future, float, bool]
"""Packed commands, future, deadline (loop time), and whether the answer is to stay packed."""


@dataclass(slots=True)
class _Message:
    """One message under way. `index` counts the messages of its stream from 0."""

    index: int
    calls: list[_Call]
    commands: int
    deadline: float
    singles: bool
    written: bool = True


class CommandStream:
    """Sends commands to one node: `async with CommandStream("127.0.0.1:9500") as stream`.

    `deadline_s` is the default of each call. At most `max_in_flight_commands` in
    `max_in_flight_messages` are unanswered at a time; further calls wait in line. For one event
    loop.
    """

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float = 10.0,
        max_in_flight_commands: int = 65_536,
        max_in_flight_messages: int = 256,
        connect_timeout_s: float = 5.0,
        drain_timeout_s: float = 5.0,
        security: Security = PLAIN,
        clock: LedgerClock | None = None,
    ) -> None:
        if max_in_flight_commands < MAX_MESSAGE_COMMANDS:
            raise ValueError(f"max_in_flight_commands: give {MAX_MESSAGE_COMMANDS} at least")
        if max_in_flight_messages < 1:
            raise ValueError("max_in_flight_messages: give 1 at least")
        self.target = target
        self.security = security
        self.epoch = 0
        """Of the node's newest status; it is the leader's own where the node leads."""
        self.newest_sequence = -1
        """The highest sequence answered on this stream; -1 before the first."""
        self.answered_messages = 0
        self._given_clock = clock
        self._deadline_s = deadline_s
        self._max_commands = max_in_flight_commands
        self._max_messages = max_in_flight_messages
        self._connect_timeout_s = connect_timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._waiting: deque[_Call] = deque()
        self._waiting_commands = 0
        self._unanswered: deque[_Message] = deque()
        self._in_flight_commands = 0
        self._idle: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._stream_over = False
        self._closed = True

    async def __aenter__(self) -> Self:
        """Connect and learn ledger time. Raises Unavailable when the node can't be reached."""
        self._loop = asyncio.get_running_loop()
        self._channel = open_channel(self.target, self.security)
        try:
            status = await get_status(self._channel, self._connect_timeout_s, self.security)
        except BaseException:
            await self._channel.close()
            raise
        self.epoch = status.epoch
        if self._given_clock is None:
            self._clock = LedgerClock(status.ledger_time_ns)
        else:
            self._clock = self._given_clock
            self._clock.observe(status.ledger_time_ns)
        self.command_ids = CommandIds(self._clock)
        self._closed = False
        self._task = self._loop.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to the node, for queries beside the stream. Open while the stream is."""
        return self._channel

    # The callers' side

    async def submit(self, command: bytes, deadline_s: float | None = None) -> Reply:
        """Send one packed command; its reply, refused or not, is the value.

        Raises ValueError for anything but 64 bytes, or for a command that is linked to a next
        one (`submit_many` takes a chain), and the errors of `client_core.errors`:
        OutcomeUnknown when it was sent and no answer came within the deadline.
        """
        return await self.send(command, deadline_s)

    def send(self, command: bytes, deadline_s: float | None = None) -> "asyncio.Future[Reply]":
        """Put one packed command in line; the future is what `submit` waits for.

        Raises ValueError, StreamClosed and StreamBusy at once.
        """
        if len(command) != COMMAND_BYTES:
            raise ValueError(f"a command is {COMMAND_BYTES} bytes, this is {len(command)}")
        if is_linked(command):
            raise ValueError("a linked command alone: send the whole chain by submit_many")
        return self.enqueue(command, 1, self._deadline(deadline_s), packed=False)

    async def submit_many(self, packed: bytes, deadline_s: float | None = None) -> bytes:
        """Send 1 to 8,192 packed commands in one message, unsplit; their replies, packed.

        Raises as `submit` does.
        """
        count = check_message(packed)
        replies: bytes = await self.enqueue(packed, count, self._deadline(deadline_s), packed=True)
        return replies

    @property
    def has_unanswered(self) -> bool:
        """Whether something was sent and not answered yet."""
        return bool(self._unanswered)

    async def close(self, drain_timeout_s: float | None = None) -> None:
        """Take no more, give what is unanswered `drain_timeout_s`, and disconnect. Idempotent."""
        if self._closed and self._task.done():
            return
        drain_s = self._drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        self._closed = True
        self._fail_waiting(_closed)
        self._wake_writer()
        hopeless = self._unanswered and not any(
            not future.done() for message in self._unanswered for _, future, _, _ in message.calls
        )
        await asyncio.wait({self._task}, timeout=0 if hopeless else drain_s)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._timer is not None:
            self._timer.cancel()
        await self._channel.close()

    def enqueue(
        self, commands: bytes, count: int, deadline: float, *, packed: bool
    ) -> "asyncio.Future[Any]":
        """Put well-formed commands in line, unsplit, until `deadline` (loop time).

        The future gets a Reply, or packed replies where `packed`. Raises StreamClosed, StreamBusy.
        """
        if self._closed:
            raise StreamClosed("the stream is not open")
        if self._waiting_commands + count > MAX_WAITING_COMMANDS:
            raise StreamBusy(f"{self._waiting_commands} commands wait already: send fewer at once")
        future: _Future = self._loop.create_future()
        self._waiting.append((commands, future, deadline, packed))
        self._waiting_commands += count
        if deadline < self._timer_at:
            self._arm_timer(deadline)
        if self._idle is not None:
            self._wake_writer()
        return future

    def _deadline(self, deadline_s: float | None) -> float:
        return self._loop.time() + (self._deadline_s if deadline_s is None else deadline_s)

    # The writer

    async def _run(self) -> None:
        """Stream after stream until closed; each is opened by the first call that needs it."""
        first = True
        try:
            while True:
                while not self._waiting and not self._closed:
                    await self._sleep()
                if self._closed:
                    return
                if first or await self._reconnect():
                    await self._run_stream()
                first = False
        finally:
            self._closed = True
            self._fail_waiting(_closed)

    async def _reconnect(self) -> bool:
        """Reach the node before anything is sent, so that a dead one costs no doubt."""
        try:
            status = await get_status(self._channel, self._connect_timeout_s, self.security)
        except (Unavailable, Unauthenticated) as error:
            self._fail_waiting(partial(type(error), str(error)))
            return False
        self.epoch = status.epoch
        self._clock.observe(status.ledger_time_ns)
        return True

    async def _run_stream(self) -> None:
        call: Any = self._channel.stream_stream(SUBMIT_METHOD)(metadata=self.security.metadata)
        self._stream_over = False
        reader = self._loop.create_task(self._read(call, EndOfStream(call)))
        try:
            await self._write(call)
            await asyncio.wait({reader})
        finally:
            call.cancel()
            await asyncio.wait({reader})

    async def _write(self, call: Any) -> None:
        index = 0
        while not self._stream_over:
            message = self._next_message(index)
            if message is not None:
                index += 1
                commands = b"".join([commands for commands, _, _, _ in message.calls])
                try:
                    await call.write(submit_header(len(commands)) + commands)
                except asyncio.InvalidStateError:
                    # Raised before anything is sent: the call is over, the reader knows why.
                    message.written = False
                    return
                except grpc.aio.AioRpcError:
                    return
            elif self._closed:
                await call.done_writing()
                return
            else:
                await self._sleep()

    def _next_message(self, index: int) -> _Message | None:
        """As many waiting calls as fit in; None when none waits or there is no room."""
        if len(self._unanswered) >= self._max_messages:
            return None
        waiting = self._waiting
        room = min(MAX_MESSAGE_COMMANDS, self._max_commands - self._in_flight_commands)
        calls: list[_Call] = []
        taken = 0
        earliest = math.inf
        singles = True
        while waiting:
            call = waiting[0]
            count = len(call[0]) // COMMAND_BYTES
            live = not call[1].done()
            if live and taken + count > room:
                break
            waiting.popleft()
            self._waiting_commands -= count
            if live:
                calls.append(call)
                taken += count
                earliest = min(earliest, call[2])
                singles = singles and not call[3]
        if not calls:
            return None
        message = _Message(index, calls, taken, earliest, singles)
        self._unanswered.append(message)
        self._in_flight_commands += taken
        return message

    async def _sleep(self) -> None:
        self._idle = self._loop.create_future()
        await self._idle

    def _wake_writer(self) -> None:
        if self._idle is not None:
            idle, self._idle = self._idle, None
            if not idle.done():
                idle.set_result(None)

    # The reader

    async def _read(self, call: Any, watch: EndOfStream) -> None:
        # By its iterator: `read()` drops what has arrived once a failed write has ended the call.
        end = StreamEnd(grpc.StatusCode.CANCELLED, "cancelled on this side", "", {})
        try:
            async for response in call:
                self._answer(response)
            end = await watch.read()
        except grpc.aio.AioRpcError:
            end = await watch.read()
        except (DecodeError, ValueError) as error:
            call.cancel()
            end = StreamEnd(grpc.StatusCode.UNKNOWN, f"unreadable response: {error}", "", {})
        finally:
            self._stream_over = True
            self._fail_unanswered(end)
            self._fail_waiting(end.error_for_unsent)
            self._wake_writer()

    def _answer(self, response: bytes) -> None:
        """Hand one message's replies out. Raises ValueError or DecodeError if they can't be."""
        replies, ledger_time_ns = read_response(response)
        if not self._unanswered:
            raise ValueError("a response without a message")
        message = self._unanswered[0]
        if len(replies) != message.commands * REPLY_BYTES:
            raise ValueError(f"{len(replies)} bytes of replies for {message.commands} commands")
        self._unanswered.popleft()
        self._in_flight_commands -= message.commands
        if _IN_FUTURE in replies[STATUS_AT::REPLY_BYTES].tobytes():
            self._clock.come_down(ledger_time_ns)
        self._clock.observe(ledger_time_ns)
        self.answered_messages += 1
        newest = newest_sequence(replies)
        self.newest_sequence = max(self.newest_sequence, newest)
        if message.singles:
            for (_, future, _, _), reply in zip(
                message.calls, unpack_replies(replies), strict=True
            ):
                if not future.done():
                    future.set_result(reply)
        else:
            _answer_mixed(message.calls, replies)
        if self._waiting:
            self._wake_writer()

    # How calls end without an answer

    def _arm_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """End what is past its deadline; a late reply then finds its future done."""
        now = self._loop.time()
        self._timer, self._timer_at = None, math.inf
        nearest = math.inf
        for _commands, future, deadline, _ in self._waiting:
            if deadline > now:
                nearest = min(nearest, deadline)
            elif not future.done():
                future.set_exception(StreamBusy("its deadline passed before it could be sent"))
        self._waiting = deque(call for call in self._waiting if not call[1].done())
        self._waiting_commands = sum(len(call[0]) for call in self._waiting) // COMMAND_BYTES
        for message in self._unanswered:
            if message.deadline <= now:
                message.deadline = _expire_calls(message.calls, now)
            nearest = min(nearest, message.deadline)
        if nearest < math.inf:
            self._arm_timer(max(nearest, now + _TIMER_GRAIN_S))

    def _fail_unanswered(self, end: StreamEnd) -> None:
        unanswered, self._unanswered = self._unanswered, deque()
        self._in_flight_commands = 0
        for message in unanswered:
            first_command = 0
            for commands, future, _, _ in message.calls:
                if not future.done():
                    future.set_exception(
                        end.error_for(message.index, first_command, commands)
                        if message.written
                        else end.error_for_unsent()
                    )
                first_command += len(commands) // COMMAND_BYTES

    def _fail_waiting(self, error: Callable[[], Exception]) -> None:
        """An exception for each: one that many callers raise would mix their tracebacks."""
        waiting, self._waiting = self._waiting, deque()
        self._waiting_commands = 0
        for _, future, _, _ in waiting:
            if not future.done():
                future.set_exception(error())


def _closed() -> StreamClosed:
    return StreamClosed("the stream was closed before this was sent")


def _answer_mixed(calls: list[_Call], replies: memoryview) -> None:
    start = 0
    for commands, future, _, packed in calls:
        end = start + len(commands) // COMMAND_BYTES * REPLY_BYTES
        part = replies[start:end]
        if not future.done():
            future.set_result(bytes(part) if packed else unpack_replies(part)[0])
        start = end


def _expire_calls(calls: list[_Call], now: float) -> float:
    """End the expired ones; the earliest deadline of the rest."""
    nearest = math.inf
    for commands, future, deadline, _ in calls:
        if future.done():
            continue
        if deadline > now:
            nearest = min(nearest, deadline)
        else:
            future.set_exception(OutcomeUnknown(commands, "no answer within its deadline"))
    return nearest
