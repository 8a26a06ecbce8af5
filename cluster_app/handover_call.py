"""The leader's side of a planned hand-over: asked by an admin call, done at the end of the term."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from cluster_app.errors import UsageError
from cluster_app.leadership import Leadership
from cluster_app.rpc import Context, Refusal, invalid, not_leader
from cluster_app.settings import split_address
from proto import ledger_pb2

BEHIND_OFFSETS_MAX: Final = 2_048
"""A standby that is so many batches behind would keep everybody waiting. A busy leader writes some
thousand a second, and the standby was asked a moment ago."""

_ADDRESS_BYTES_MAX: Final = 255


@dataclass
class Asked:
    """A hand-over under way; `done` gives None once the epoch was ended in good order."""

    standby: str
    done: "asyncio.Future[Refusal | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class HandOvers:
    """Takes the call on the server's side, and the leader's wait for one on the other."""

    def __init__(self) -> None:
        self._leadership: Leadership | None = None
        self._asked: asyncio.Future[Asked] | None = None

    async def until_asked(self, leadership: Leadership, stop: asyncio.Event) -> Asked | None:
        """Wait for the term's end: None for a stop, or when it ended by itself."""
        self._asked = asyncio.get_running_loop().create_future()
        self._leadership = leadership
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait(
                (stopping, leadership.stopped, self._asked), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()
        return self._asked.result() if self._asked.done() else None

    def ended(self, leadership: Leadership, *, drained: bool) -> None:
        """The term is over: tell who asked."""
        asked, self._asked, self._leadership = self._asked, None, None
        if asked is None or not asked.done():
            return
        lost = Refusal(
            grpc.StatusCode.UNAVAILABLE,
            f"this node stopped leading before it had handed over: {leadership.reason}",
            "LEADERSHIP_LOST",
        )
        asked.result().done.set_result(None if drained else lost)

    def given_up(self, asked: Asked, leadership: Leadership) -> None:
        """What was in flight was not answered in time, and the term goes on: tell who asked."""
        refusal = Refusal(
            grpc.StatusCode.ABORTED,
            f"the journal did not take what was in flight in {leadership.drain_timeout_s:g} s, so "
            "the hand-over was given up and this node goes on leading: look at the journal's "
            "brokers or disk, then ask again",
            "HAND_OVER_GIVEN_UP",
        )
        structlog.get_logger().warning(
            "hand-over given up", standby=asked.standby, reason=refusal.message
        )
        asked.done.set_result(refusal)

    async def serve(
        self, request: ledger_pb2.HandOverRequest, context: Context
    ) -> ledger_pb2.HandOverResponse:
        """`ClusterService.HandOver`: checks, asks, and waits for the term's end."""
        leadership, asked = self._leadership, self._asked
        if leadership is None or asked is None or asked.done() or leadership.stopped.done():
            await not_leader("").abort(context)
            raise AssertionError("abort raises")
        refusal = _refuse(request, leadership)
        if refusal is not None:
            await refusal.abort(context)
        structlog.get_logger().info("handing over", standby=request.standby)
        mine = Asked(request.standby)
        asked.set_result(mine)
        refusal = await asyncio.shield(mine.done)
        if refusal is not None:
            await refusal.abort(context)
        counted = leadership.pipeline.counted
        return ledger_pb2.HandOverResponse(
            epoch=leadership.epoch, applied_sequence=counted.next_sequence
        )


def _refuse(request: ledger_pb2.HandOverRequest, leadership: Leadership) -> Refusal | None:
    """Why this request is not followed; None when it is."""
    if len(request.standby.encode()) > _ADDRESS_BYTES_MAX:
        return invalid(f"standby is over {_ADDRESS_BYTES_MAX} bytes")
    try:
        split_address(request.standby, "standby")
    except UsageError:
        return invalid("standby must be HOST:PORT: the address that the standby's status tells")
    behind = leadership.pipeline.counted.next_offset - request.standby_next_offset
    if behind < -BEHIND_OFFSETS_MAX:
        return invalid(
            f"standby_next_offset is {-behind} beyond what the leader knows: it must be what the "
            "standby's status told a moment ago"
        )
    if behind <= BEHIND_OFFSETS_MAX:
        return None
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"the standby at {request.standby} is {behind} batches behind: wait until it has caught "
        "up, then ask again",
        "STANDBY_BEHIND",
        {"behind": str(behind), "limit": str(BEHIND_OFFSETS_MAX)},
    )
