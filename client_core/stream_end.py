"""How a command stream ended, and what that means for a message that has no answer.

A node says why in a google.rpc.ErrorInfo. Without one (connection broken, cancelled, a fault)
nothing is known about what was sent.

grpc.aio needs care here: a write that fails because the node has just ended the call overwrites
the node's status by a local INTERNAL one (grpc/grpc issue 36066). So each status is caught by a
callback, the node's is kept, and where only the local one came the node's is waited for, briefly.
It may stay lost: then the outcome of what was sent is unknown to this client, and a retry with the
same ids tells.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from client_core.channel import denied_or_unavailable
from client_core.errors import (
    InvalidRequest,
    NotLeader,
    OutcomeUnknown,
    RingledgerClientError,
    Unauthenticated,
    Unavailable,
)

_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = "ringledger"
_STATUS_WAIT_S: Final = 0.5
"""For the node's own status, when a failed write has hidden it: it is already on this machine."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Why a stream ended; `reason` and `metadata` are empty unless the node said so itself."""

    code: grpc.StatusCode
    details: str
    reason: str
    metadata: Mapping[str, str]

    def error_for(self, message_index: int, first_command: int, commands: bytes) -> Exception:
        """The error of one unanswered call.

        `message_index` counts the stream's messages from 0; `first_command` is the call's place
        in its message; `commands` are its packed commands.
        """
        if self.reason == "NOT_LEADER":
            return NotLeader(self.metadata.get("leader", ""), str(self))
        if self.reason == "STREAM_LIMIT" or self.is_denied:
            # refused before anything was read
            return self.error_for_unsent()
        if self.reason == "LEADERSHIP_LOST":
            not_run_from = self._number("not_run_from_message")
            if not_run_from is not None and message_index >= not_run_from:
                return NotLeader(self.metadata.get("leader", ""), str(self))
        if self.reason in ("INVALID_COMMANDS", "IN_FLIGHT_LIMIT"):
            message = self._number("message")
            if message is not None and message_index == message:
                return self._invalid(first_command, commands)
            if message is not None and message_index > message:
                return Unavailable(f"the stream ended before this was run: {self}")
        return OutcomeUnknown(commands, f"the stream ended before the answer: {self}")

    def error_for_unsent(self) -> RingledgerClientError:
        """The error of a call that never left this process."""
        if self.reason in ("NOT_LEADER", "LEADERSHIP_LOST"):
            return NotLeader(self.metadata.get("leader", ""), str(self))
        if self.is_denied:
            return denied_or_unavailable(self.code, self.details)
        return Unavailable(f"the stream ended before this was sent: {self}")

    @property
    def is_denied(self) -> bool:
        """Whether the node let this client in at all."""
        return isinstance(denied_or_unavailable(self.code, self.details), Unauthenticated)

    def _invalid(self, first_command: int, commands: bytes) -> Exception:
        """A message may hold many callers' commands: only the wrong one's caller is to blame."""
        wrong = self._number("command")
        if wrong is None or wrong < 0 or 0 <= wrong - first_command < len(commands) // 64:
            return InvalidRequest(str(self))
        return Unavailable(f"another caller's command, in the same message, was refused: {self}")

    def _number(self, key: str) -> int | None:
        try:
            return int(self.metadata[key])
        except (KeyError, ValueError):
            return None

    def __str__(self) -> str:
        return f"{self.code.name}: {self.details}"


class EndOfStream:
    """Watches one call for its status. Create it right after the call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._end: StreamEnd | None = None
        self._own = asyncio.Event()
        call.add_done_callback(self._catch)

    def _catch(self, _: object) -> None:
        # Comes with each status that grpc sets: the node's, and the local one of a failed write,
        # before or after it. The status is there, so grpc's coroutines return without suspending;
        # a task would run only after a failing write may have overwritten it.
        if self._own.is_set():
            return
        self._end = stream_end(
            _at_once(self._call.code()),
            _at_once(self._call.details()),
            _at_once(self._call.trailing_metadata()),
        )
        if self._end.code is not grpc.StatusCode.INTERNAL or self._end.reason:
            self._own.set()

    async def read(self) -> StreamEnd:
        """The node's own status if it can be had, else the local one. The call is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_WAIT_S):
                await self._own.wait()
        if self._end is None:
            raise RuntimeError("the call isn't over")
        return self._end


def stream_end(code: grpc.StatusCode, details: str | None, trailing: Any) -> StreamEnd:
    """A call's code, text and trailing metadata, with the node's own reason if it gave one."""
    for key, value in trailing or ():
        if key == _DETAILS_KEY:
            with contextlib.suppress(DecodeError):  # not a node's: it gives no reason then
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info) and info.domain == _DOMAIN:
                        return StreamEnd(code, details or "", info.reason, dict(info.metadata))
    return StreamEnd(code, details or "", "", {})


def _at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that doesn't suspend."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: Value = end.value
        return value
    coroutine.close()
    raise RuntimeError("a finished call's status was not at hand")
