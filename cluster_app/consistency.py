"""How new an answer must be: a read waits until this node may give it, or is refused.

A leader answers linearizable reads behind a counted barrier (ARCHITECTURE.md, "Who leads"). Any
node waits for a sequence: a leader is told of each batch, a follower looks again and again, for
its state is changed by another process.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import grpc

from cluster_app.engine import Engine
from cluster_app.read_waits import READS_WAITING_MAX, Waited
from cluster_app.rpc import Context, Refusal, not_leader
from proto import ledger_pb2

DEFAULT_WAIT_S: Final = 5.0
"""For a call without a deadline."""

WAIT_S_MAX: Final = 60.0
"""However late the call's own deadline is: its place is somebody else's then."""

_ANSWER_S: Final = 0.25
"""A refusal leaves so long before the call's deadline that its reason arrives in time."""

_LOOK_FIRST_S: Final = 0.001
_LOOK_MAX_S: Final = 0.02


class Reads(Protocol):
    """How one kind of node makes a read wait. Each returns None once it may be answered."""

    async def barrier(self, timeout_s: float) -> Refusal | None:
        """Wait until the state has all that was answered, by anybody, before this call."""

    async def beyond(self, sequence: int, timeout_s: float) -> Refusal | None:
        """Wait until the command of this sequence is applied."""


async def satisfy(consistency: ledger_pb2.Consistency, context: Context, reads: Reads) -> None:
    """Wait until the state is as new as the request demands; ends the call if it doesn't get so.

    The caller reads the state after this, without awaiting anything in between.
    """
    level = consistency.WhichOneof("level")
    if level is None:
        return
    refusal = None
    if level == "at_least_sequence":
        refusal = await reads.beyond(consistency.at_least_sequence, _timeout_s(context))
    elif consistency.linearizable:
        refusal = await reads.barrier(_timeout_s(context))
    if refusal is not None:
        await refusal.abort(context)


def _timeout_s(context: Context) -> float:
    # None without a deadline, whatever its stub says
    left_s = cast("float | None", context.time_remaining())
    if left_s is None:
        return DEFAULT_WAIT_S
    return min(left_s - min(_ANSWER_S, left_s / 10), WAIT_S_MAX)


class LeaderReads:
    """Reads at the leader: its engine knows when a batch has counted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def barrier(self, timeout_s: float) -> Refusal | None:
        """Wait for a counted batch that was sealed after this call."""
        if not self._engine.accepting:
            return not_leader("")
        waited = await self._engine.read_barrier(timeout_s)
        if waited is Waited.TOO_LATE:
            return Refusal(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the journal confirmed nothing new in {timeout_s:.3g} s: try again, "
                "or read without linearizable",
                "BARRIER_NOT_COUNTED",
            )
        return _refusal(waited)

    async def beyond(self, sequence: int, timeout_s: float) -> Refusal | None:
        """Wait for the batch that holds this command."""
        waited = await self._engine.applied_beyond(sequence, timeout_s)
        if waited is Waited.TOO_LATE:
            return _behind(self._engine.applied, sequence, 0.0)
        return _refusal(waited)


class FollowerReads:
    """Reads at a node that follows: `applied` is its state's, `leader` the address it knows.

    `lag_s` tells how old the newest state is, in seconds.
    """

    def __init__(
        self,
        applied: Callable[[], int],
        leader: Callable[[], str],
        lag_s: Callable[[], float],
    ) -> None:
        self._applied = applied
        self._leader = leader
        self._lag_s = lag_s
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Reads that wait for a sequence now."""
        return self._waiting

    async def barrier(self, timeout_s: float) -> Refusal | None:
        """Refused: somebody else may have been answered since."""
        return not_leader(self._leader())

    async def beyond(self, sequence: int, timeout_s: float) -> Refusal | None:
        """Look until the command is applied."""
        if self._applied() > sequence:
            return None
        if self._waiting >= READS_WAITING_MAX:
            return _refusal(Waited.TOO_MANY)
        self._waiting += 1
        try:
            return await self._look(sequence, timeout_s)
        finally:
            self._waiting -= 1

    async def _look(self, sequence: int, timeout_s: float) -> Refusal | None:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + timeout_s, _LOOK_FIRST_S
        while (applied := self._applied()) <= sequence:
            left_s = deadline - loop.time()
            if left_s <= 0:
                return _behind(applied, sequence, self._lag_s())
            await asyncio.sleep(min(left_s, pause_s))
            pause_s = min(2 * pause_s, _LOOK_MAX_S)
        return None


def _refusal(waited: Waited) -> Refusal | None:
    if waited is Waited.TERM_ENDED:
        return Refusal(
            grpc.StatusCode.UNAVAILABLE,
            "this node stopped leading while the read waited: ask the next leader",
            "LEADERSHIP_LOST",
        )
    if waited is Waited.TOO_MANY:
        return Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{READS_WAITING_MAX} reads wait here already, which is the limit: try again later",
            "READS_WAITING_LIMIT",
            {"limit": str(READS_WAITING_MAX)},
        )
    return None


def _behind(applied: int, wanted: int, lag_s: float) -> Refusal:
    return Refusal(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        f"this node has applied all below sequence {applied}, not yet {wanted}: wait longer, or "
        "ask the leader",
        "BEHIND",
        {"applied_sequence": str(applied), "wanted": str(wanted), "lag": f"{lag_s:.3f}"},
    )
