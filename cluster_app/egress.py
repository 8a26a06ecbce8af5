"""Egress: replies go from the reply ring into the streams that asked.

A `StreamRoute` belongs to one stream. Replies are turned into the stream's messages while the
engine hands them over, and written in order by at most one task, which lives only while there is
something to write. What a vanished client does not take is dropped, at nobody else's cost.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc

from cluster_app.rpc import Context, Refusal
from cluster_core.pipeline import Fate
from cluster_core.record import REPLY_BYTES

OUTBOX_BYTES_MAX: Final = 4 << 20
"""Replies that a stream's client has not taken; beyond it the stream is not read."""


class Codec(Protocol):
    """How one contract words replies and failures: the native stream and the bank stream."""

    def encode(self, token: Any, replies: memoryview, ledger_time_ns: int) -> bytes:
        """One response message, serialized."""

    def lost(self, answered: int, not_run_from: int, reason: str) -> Refusal:
        """How the stream ends when the leadership does: messages below `answered` have their
        reply, those from `not_run_from` on did nothing, the outcome between is unknown.
        """


class StreamRoute:
    """One stream's way back: an outbox, its writer, and the count of what is unanswered."""

    def __init__(self, context: Context, codec: Codec, max_in_flight: int) -> None:
        self._context = context
        self._codec = codec
        self._max_in_flight = max_in_flight
        self._outbox: deque[tuple[bytes, int]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None
        self._in_flight = 0
        self._outbox_bytes = 0
        self._unanswered = 0
        self._answered = 0
        self._unknown = 0
        self._lost_because = ""
        self._end: Refusal | None = None
        self._closed = False

    # towards the engine

    def taken(self, count: int) -> None:
        """A message of `count` commands of this stream is being submitted."""
        self._in_flight += count
        self._unanswered += 1

    def replied(self, token: Any, replies: memoryview, ledger_time_ns: int) -> None:
        """Queue one message's response (Route)."""
        self._unanswered -= 1
        self._answered += 1
        count = len(replies) // REPLY_BYTES
        if self._closed:
            self._in_flight -= count
            return
        self.send(self._codec.encode(token, replies, ledger_time_ns), count)

    def failed(self, token: Any, fate: Fate, reason: str) -> None:
        """One message will have no reply: the stream ends once none is awaited (Route)."""
        self._unanswered -= 1
        self._unknown += fate is Fate.UNKNOWN
        self.end_of_term(reason)

    # towards the stream

    def send(self, message: bytes, count: int) -> None:
        """Queue a message that answers `count` commands, 0 for one that needed none."""
        self._outbox.append((message, count))
        self._outbox_bytes += len(message)
        self._write_soon()

    def end(self, refusal: Refusal) -> None:
        """End the stream with an error, after everything that is queued or awaited."""
        self._end = refusal
        self._write_soon()

    def end_of_term(self, reason: str) -> None:
        """The leadership is over: end the stream likewise, and say what was run."""
        self._lost_because = reason
        self._write_soon()

    def _write_soon(self) -> None:
        if self._writer is None and not self._closed:
            self._writer = asyncio.create_task(self._write())

    def _refusal(self) -> Refusal | None:
        """How the stream is to end now, if it is."""
        if self._unanswered:
            return None
        if self._lost_because and (self._unknown or self._end is None):
            return self._codec.lost(
                self._answered, self._answered + self._unknown, self._lost_because
            )
        return self._end

    async def _write(self) -> None:
        try:
            while self._outbox and not self._closed:
                message, count = self._outbox.popleft()
                await self._context.write(message)
                self._in_flight -= count
                self._outbox_bytes -= len(message)
                self._notify()
            refusal = self._refusal()
            if refusal is not None and not self._closed:
                self._closed = True
                await refusal.abort(self._context)
        except grpc.aio.AbortError:
            pass
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - grpc raises many kinds here
            # the client vanished: its replies are nobody's
            self.close()
        finally:
            self._writer = None
            self._notify()

    def _notify(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed

    async def room(self) -> None:
        """Wait until the stream may be read again: it awaits few enough replies."""
        if not self._has_room():
            await self._wait(lambda: self._has_room() or self._closed)

    def _has_room(self) -> bool:
        return self._in_flight < self._max_in_flight and self._outbox_bytes < OUTBOX_BYTES_MAX

    async def drained(self) -> None:
        """Wait until every submitted command is answered and written, or the stream is over."""
        await self._wait(lambda: self._closed or (self._in_flight == 0 and self._writer is None))

    @property
    def over(self) -> bool:
        """True once the stream has ended or is about to end with an error."""
        return self._closed or self._end is not None or bool(self._lost_because)

    def close(self) -> None:
        """The stream is gone: drop what is still to come."""
        self._closed = True
        self._outbox.clear()


class CallRoute:
    """The way back of one unary call: a future with (replies, ledger time)."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[bytes, int]] = asyncio.get_running_loop().create_future()
        self.fate: Fate | None = None
        self.reason = ""

    def replied(self, token: Any, replies: memoryview, ledger_time_ns: int) -> None:
        """Resolve the call (Route)."""
        if not self.answer.done():
            self.answer.set_result((bytes(replies), ledger_time_ns))

    def failed(self, token: Any, fate: Fate, reason: str) -> None:
        """End the call without an answer (Route)."""
        self.fate, self.reason = fate, reason
        if not self.answer.done():
            self.answer.cancel()
