"""Calls that the native edge passes on: grpc.aio's handlers serve them without knowing.

A handler sees a context that reads, writes, aborts and tells the time left as grpc.aio's does; its
messages travel through the extension, one when one is wanted.
"""

import asyncio
import base64
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NoReturn, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from cluster_app.edge._native import Edge
from cluster_app.rpc import Context, Refusal

Worded = tuple[int, str, list[tuple[str, str]]]
"""A refusal on its way out: status code, message, further trailers as they are sent."""

Trailers = Sequence[tuple[str, str | bytes]]


def worded(refusal: Refusal) -> Worded:
    """A refusal as the extension sends it."""
    return _worded(refusal.code, refusal.message, (refusal.details(),))


def _worded(code: grpc.StatusCode, message: str, trailers: Trailers = ()) -> Worded:
    number: int = code.value[0]
    return number, message, [(name, _sent(value)) for name, value in trailers]


def _sent(value: str | bytes) -> str:
    """A trailer's value as it travels."""
    if isinstance(value, bytes):
        return base64.b64encode(value).rstrip(b"=").decode()
    return value


class Aborted(grpc.aio.AbortError):
    """A handler has ended its call so."""

    def __init__(self, sent: Worded) -> None:
        super().__init__(sent[1])
        self.worded: Final = sent


class _Aborting:
    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()
    ) -> NoReturn:
        """End the call (grpc.aio.ServicerContext)."""
        raise Aborted(_worded(code, details, trailing_metadata))


class QuestionContext(_Aborting):
    """A context for what answers one question: it can only refuse."""

    def as_context(self) -> Context:
        """What handlers take."""
        return cast("Context", self)


class Call(_Aborting):
    """One call: the part of grpc.aio's ServicerContext that handlers use."""

    def __init__(
        self,
        edge: Edge,
        number: int,
        handler: Any,
        timeout_s: float | None,
        first: bytes | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._edge = edge
        self._number = number
        self._handler = handler
        self._deadline = None if timeout_s is None else loop.time() + timeout_s
        self._message: asyncio.Future[bytes | None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._first = first
        self._at_end = False
        self._is_late = False
        self._sent: Worded | None = None
        self._task = loop.create_task(self._serve())
        self._timer = loop.call_at(self._deadline, self._late) if self._deadline else None
        self._task.add_done_callback(self._end)

    # what the edge tells

    def take_message(self, message: bytes | None) -> None:
        """The message that was wanted; None at the end of the client's side."""
        if self._message is not None and not self._message.done():
            self._message.set_result(message)

    def go_on(self) -> None:
        """There is room for messages again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def cancel(self) -> None:
        """The client has gone."""
        self._task.cancel()

    def when_over(self, forget: Callable[[], object]) -> None:
        """Call `forget` once this call has ended, in whatever way."""
        self._task.add_done_callback(lambda _: forget())

    def _late(self) -> None:
        self._is_late = True
        self._task.cancel()

    # what handlers use

    async def read(self) -> Any:
        """The next message, grpc.aio.EOF after the last one."""
        if self._at_end:
            return grpc.aio.EOF
        message, self._first = self._first, None
        if message is None:
            self._message = asyncio.get_running_loop().create_future()
            self._edge.want_message(self._number)
            message = await self._message
        if message is None:
            self._at_end = True
            return grpc.aio.EOF
        parse = self._handler.request_deserializer
        if parse is None:
            return message
        try:
            return parse(message)
        except DecodeError:
            # health and reflection: whoever sends what is none must not fill the log
            await self.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request can't be parsed")

    async def write(self, message: Any) -> None:
        """Send a message; waits while the client has too much to take."""
        serialize = self._handler.response_serializer
        data = message if serialize is None else serialize(message)
        self._room = asyncio.get_running_loop().create_future()
        if not self._edge.write(self._number, data):
            await self._room

    def time_remaining(self) -> float | None:
        """Seconds until the call's deadline, None without one."""
        if self._deadline is None:
            return None
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)

    def invocation_metadata(self) -> tuple[()]:
        """None of it is passed on: who may call has been decided."""
        return ()

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    # the call's life

    async def _serve(self) -> None:
        try:
            await self._run()
        except Aborted as end:
            self._sent = end.worded
        except Exception as fault:  # noqa: BLE001 - any is this call's own
            structlog.get_logger().exception("call_failed")
            self._sent = _worded(grpc.StatusCode.UNKNOWN, f"Unexpected {type(fault)}: {fault}")

    def _end(self, task: asyncio.Task[None]) -> None:
        # not in `_serve`: a call that is cancelled at once never gets there, and the edge counts
        # a call until it is told of its end
        if self._timer is not None:
            self._timer.cancel()
        if task.cancelled() and self._is_late:
            self._sent = _worded(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        elif task.cancelled():
            self._sent = _worded(grpc.StatusCode.CANCELLED, "")
        self._edge.finish(self._number, self._sent)

    async def _run(self) -> None:
        handler = self._handler
        behaviour = (
            handler.stream_stream
            or handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
        )
        request: Any = self._requests()
        if not handler.request_streaming:
            request = await self.read()
            if request is grpc.aio.EOF:
                await self.abort(grpc.StatusCode.INTERNAL, "the call holds no message")
        if inspect.isasyncgenfunction(behaviour):
            async for response in behaviour(request, self):
                await self.write(response)
            return
        answer = await behaviour(request, self)
        if not handler.response_streaming:
            await self.write(answer)
