"""LeaderStream: a command stream that follows the leader, and sends again until a deadline.

It takes commands as a CommandStream does, so a `Ledger` works over either. A call goes straight to
the stream of the present leader; only one that comes back without an answer pays for more:

    call -> stream of the leader -> reply
              | surely not run, or outcome unknown
              v
            back off -> find the leader -> the same bytes, with the same command ids -> ...

What was sent with ids may be sent again whatever became of it: exactly once is the ledger's
promise. Without an id only what was surely not run is. A leader that stops answering without
closing its stream is noticed by a timer, which asks all nodes whether another one leads now.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from client_core.cluster import Cluster, Node
from client_core.command_ids import CommandIds, LedgerClock
from client_core.command_stream import CommandStream
from client_core.errors import (
    IdInFuture,
    NotLeader,
    OutcomeUnknown,
    Retryable,
    RingledgerClientError,
    StreamBusy,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.messages import FLAGS_AT, STATUS_AT, check_message, have_ids, is_linked
from client_core.records import (
    COMMAND_BYTES,
    REPLY_BYTES,
    CommandFlag,
    Reply,
    Status,
    unpack_replies,
)
from client_core.security import Security

FIRST_BACKOFF_S: Final = 0.02
BACKOFF_MAX_S: Final = 0.5
"""A call waits half to the whole of its pause, which doubles from the first to this."""

SEEK_PAUSE_MAX_S: Final = 0.1
"""While nobody leads: all calls of a client wait for one seeker, and a standby takes a second."""

STALL_S: Final = 0.5
"""A stream that owes answers and gives none for so long makes us ask who leads."""

_IN_FUTURE: Final = int(Status.COMMAND_ID_IN_FUTURE)


@dataclass(slots=True)
class ClientStats:
    """What this client had to do behind its callers' backs. Counts only rise."""

    retries: int = 0
    """Commands or messages sent again, or put off because nobody led."""
    leader_changes: int = 0
    """Streams opened after the first."""
    read_retries: int = 0
    """Queries asked again of another node, or later."""


class LeaderStream:
    """Commands to whoever leads. For one event loop; `open` first, `close` in the end.

    `timeout_s` is each call's deadline over all its attempts. Then it raises OutcomeUnknown if an
    attempt may have been run, else the last attempt's Retryable: surely not run.
    """

    def __init__(
        self,
        cluster: Cluster,
        security: Security,
        stats: ClientStats,
        *,
        timeout_s: float,
        max_in_flight_commands: int,
    ) -> None:
        self._cluster = cluster
        self._security = security
        self._stats = stats
        self._timeout_s = timeout_s
        self._max_commands = max_in_flight_commands
        self._stream: CommandStream | None = None
        self._newest_before = -1
        self._told = ""
        self._opened = 0
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = True

    async def open(self, connect_timeout_s: float) -> None:
        """Wait for a node that answers, and connect to the leader if there is one.

        Raises Unavailable when no node answers within `connect_timeout_s`, Unauthenticated.
        """
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        deadline = self._time() + connect_timeout_s
        for pause in pauses():
            leader = await self._cluster.find_leader()
            times = [node.status.ledger_time_ns for node in self._cluster.nodes if node.status]
            if times:
                break
            if self._time() + pause >= deadline:
                raise Unavailable(_nobody_leads(self._cluster))
            await asyncio.sleep(pause)
        self._clock = LedgerClock(max(times))
        self.command_ids = CommandIds(self._clock)
        self._closed = False
        if leader is not None:
            await self._open_stream(leader)
        self._watchdog = self._loop.create_task(self._watch())

    async def close(self, drain_timeout_s: float = 5.0) -> None:
        """Take no more, give what is unanswered `drain_timeout_s`, and disconnect."""
        if self._closed:
            return
        self._closed = True
        self._watchdog.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close(drain_timeout_s)
        tasks = self._closing | {self._watchdog} | {self._connecting or self._watchdog}
        await asyncio.wait(tasks)

    @property
    def newest_sequence(self) -> int:
        """The highest sequence that was answered here; -1 before the first."""
        stream = self._stream
        now = -1 if stream is None else stream.newest_sequence
        return max(now, self._newest_before)

    async def submit(self, command: bytes, deadline_s: float | None = None) -> Reply:
        """Send one packed command until it is answered; its reply, refused or not, is the value.

        Raises ValueError for anything but 64 bytes or for a linked command, and what the class
        says.
        """
        if len(command) != COMMAND_BYTES:
            raise ValueError(f"a command is {COMMAND_BYTES} bytes, this is {len(command)}")
        if is_linked(command):
            raise ValueError("a linked command alone: send the whole chain by submit_many")
        deadline = self._time() + (self._timeout_s if deadline_s is None else deadline_s)
        stream = self._stream
        failure: RingledgerClientError
        if stream is None:
            failure = self._not_connected()
        else:
            try:
                reply: Reply = await stream.enqueue(command, 1, deadline, packed=False)
            except RingledgerClientError as error:
                failure = error
            else:
                if reply.status_number != _IN_FUTURE:
                    return reply
                failure = IdInFuture()
        answer: Reply = await self._send_again(command, 1, deadline, stream, failure, packed=False)
        return answer

    async def submit_many(self, packed: bytes, deadline_s: float | None = None) -> bytes:
        """Send 1 to 8,192 packed commands in one message, unsplit; their replies, packed.

        A chain whose id is ahead of ledger time is sent again, for nothing of it was run; elsewhere
        COMMAND_ID_IN_FUTURE is a value like other statuses. Raises as `submit` does.
        """
        count = check_message(packed)
        deadline = self._time() + (self._timeout_s if deadline_s is None else deadline_s)
        stream = self._stream
        failure: RingledgerClientError
        if stream is None:
            failure = self._not_connected()
        else:
            try:
                replies: bytes = await stream.enqueue(packed, count, deadline, packed=True)
            except RingledgerClientError as error:
                failure = error
            else:
                if not _only_early(packed, replies):
                    return replies
                failure = IdInFuture()
        answer: bytes = await self._send_again(
            packed, count, deadline, stream, failure, packed=True
        )
        return answer

    # What comes back without an answer

    async def _send_again(
        self,
        commands: bytes,
        count: int,
        deadline: float,
        stream: CommandStream | None,
        failure: RingledgerClientError,
        *,
        packed: bool,
    ) -> Any:
        """The same bytes again and again, until an answer, a fault or the deadline.

        The answer stays packed where `packed`, as in `CommandStream.enqueue`.
        """
        unknown: OutcomeUnknown | None = None
        for pause in pauses():
            if isinstance(failure, OutcomeUnknown):
                unknown = failure
            if self._is_final(failure, commands):
                raise _final(unknown, failure, commands)
            # before the stream is left: that time is up for one call says nothing about it
            if self._time() + pause >= deadline:
                raise _final(unknown, failure, commands)
            self._leave(stream, failure)
            self._stats.retries += 1
            await asyncio.sleep(pause)
            try:
                stream = await self._leader(deadline)
                answer = await stream.enqueue(commands, count, deadline, packed=packed)
            except RingledgerClientError as error:
                failure = error
                continue
            if not packed:
                if answer.status_number != _IN_FUTURE:
                    return answer
            elif not _only_early(commands, answer):
                return answer
            failure = IdInFuture()
        raise AssertionError("pauses never end")

    def _is_final(self, failure: RingledgerClientError, commands: bytes) -> bool:
        """Whether sending again is of no use, or not safe."""
        if self._closed or isinstance(failure, StreamBusy):
            return True
        if isinstance(failure, OutcomeUnknown):
            return not have_ids(commands)
        return not isinstance(failure, Retryable)

    def _leave(self, stream: CommandStream | None, failure: RingledgerClientError) -> None:
        """The stream that gave this failure is not the leader's any more, or is over."""
        if isinstance(failure, IdInFuture):
            return
        if isinstance(failure, NotLeader) and failure.leader:
            self._told = failure.leader
        if stream is not None and stream is self._stream:
            self._drop(stream, drain_timeout_s=5.0)

    def _drop(self, stream: CommandStream, drain_timeout_s: float) -> None:
        self._stream = None
        self._newest_before = max(self._newest_before, stream.newest_sequence)
        closing = self._loop.create_task(self._close_dropped(stream, drain_timeout_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_dropped(self, stream: CommandStream, drain_timeout_s: float) -> None:
        await stream.close(drain_timeout_s)
        # it may have been answered while it drained
        self._newest_before = max(self._newest_before, stream.newest_sequence)

    # The leader

    async def _leader(self, deadline: float) -> CommandStream:
        """The present leader's stream. Raises Unavailable at the deadline, Unauthenticated."""
        while (stream := self._stream) is None:
            if self._closed:
                raise StreamClosed("the client is closed")
            connecting = self._connecting
            if connecting is None or connecting.done():
                connecting = self._connecting = self._loop.create_task(self._connect())
                connecting.add_done_callback(mark_seen)
            # shielded by `wait`: the connection is everybody's
            done, _ = await asyncio.wait({connecting}, timeout=deadline - self._time())
            if not done:
                raise self._not_connected()
            if connecting.cancelled():
                raise StreamClosed("the client is closed")
            error = connecting.exception()
            if isinstance(error, Unauthenticated):
                # each its own: one that many callers raise would mix their tracebacks
                raise Unauthenticated(str(error))
            if error is not None:
                raise error
        return stream

    async def _connect(self) -> None:
        """Find the leader and open a stream to it; ends only when that is done, or hopeless."""
        for pause in pauses(SEEK_PAUSE_MAX_S):
            told, self._told = self._told, ""
            leader = await self._cluster.find_leader(told, hasty=True)
            if leader is not None and await self._open_stream(leader):
                return
            await asyncio.sleep(pause)

    async def _open_stream(self, leader: Node) -> bool:
        stream = CommandStream(
            leader.target,
            deadline_s=self._timeout_s,
            max_in_flight_commands=self._max_commands,
            connect_timeout_s=1.0,
            security=self._security,
            clock=self._clock,
        )
        try:
            await stream.__aenter__()
        except Unavailable:
            return False
        if self._closed:
            await stream.close(0)
            return False
        self._opened += 1
        self._stats.leader_changes = self._opened - 1
        self._stream = stream
        return True

    async def _watch(self) -> None:
        """Notice a leader that stopped answering without closing its stream: frozen, or cut off."""
        answered = -1
        watched: CommandStream | None = None
        while True:
            await asyncio.sleep(STALL_S)
            stream = self._stream
            stalled = (
                stream is not None
                and stream is watched
                and stream.has_unanswered
                and stream.answered_messages == answered
            )
            if stream is not None and stalled:
                await self._replace_stalled(stream)
            watched = stream
            answered = -1 if stream is None else stream.answered_messages

    async def _replace_stalled(self, stream: CommandStream) -> None:
        try:
            leader = await self._cluster.find_leader(hasty=True)
        except RingledgerClientError:
            return
        if leader is None or leader.status is None or stream is not self._stream:
            return
        if leader.status.epoch > stream.epoch:
            # its unanswered calls get OutcomeUnknown at once, and go to the new leader
            self._told = leader.target
            self._drop(stream, drain_timeout_s=0)

    def _not_connected(self) -> RingledgerClientError:
        if self._closed:
            return StreamClosed("the client is not open")
        return Unavailable(f"no leader: {_nobody_leads(self._cluster)}")


def mark_seen(task: asyncio.Task[Any]) -> None:
    """Its error is for those who wait for it; none may be left, and that is no news either."""
    if not task.cancelled():
        task.exception()


def pauses(longest_s: float = BACKOFF_MAX_S) -> "_Pauses":
    """Jittered pauses in seconds, doubling up to `longest_s`; they never end."""
    return _Pauses(random.random, longest_s)


class _Pauses:
    """Jittered pauses in seconds that double up to the longest; they never end."""

    def __init__(self, drawn: Callable[[], float], longest_s: float) -> None:
        self._drawn = drawn
        self._longest = FIRST_BACKOFF_S
        self._longest_s = longest_s

    def __iter__(self) -> "_Pauses":
        return self

    def __next__(self) -> float:
        pause = self._longest * (1 + self._drawn()) / 2
        self._longest = min(self._longest * 2, self._longest_s)
        return pause


def _only_early(commands: bytes, replies: bytes) -> bool:
    """Whether a message that is one command or one chain was only put off: an id is ahead of time.

    Then nothing of it was run. What isn't early is told by a few bytes, as nearly all are.
    """
    if _IN_FUTURE not in replies[STATUS_AT::REPLY_BYTES]:
        return False
    linked = commands[FLAGS_AT:-COMMAND_BYTES:COMMAND_BYTES]
    if not all(flags & CommandFlag.LINKED for flags in linked):
        return False
    put_off = {Status.COMMAND_ID_IN_FUTURE, Status.CHAIN_ID_REUSED}
    return {reply.status for reply in unpack_replies(replies)} <= put_off


def _final(
    unknown: OutcomeUnknown | None, failure: RingledgerClientError, commands: bytes
) -> RingledgerClientError:
    """What to tell the caller: once an attempt may have been run, it may have been run."""
    if unknown is None or unknown is failure:
        return failure
    return OutcomeUnknown(commands, f"{unknown}; then {failure}")


def _nobody_leads(cluster: Cluster) -> str:
    said = []
    for status in cluster.statuses()[:8]:
        role = f"{status.role}, its leader is {status.leader or 'unknown'}"
        said.append(f"{status.endpoint}: {role if status.reachable else status.error}")
    return "; ".join(said)
