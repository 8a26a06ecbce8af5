"""Reads that wait: behind a counted barrier, for a sequence, and never for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from cluster_app.consistency import FollowerReads, LeaderReads
from cluster_app.engine import Engine
from cluster_app.read_waits import READS_WAITING_MAX, Waited
from cluster_app.rpc import Refusal
from cluster_core.batch import Kind, open_batch
from cluster_core.journal import Delivery
from tests.held_leadership import Leadership

LONG_S = 30.0
SHORT_S = 0.02


class LeadingEngine(Engine):
    """An engine on a journal in memory whose deliveries the test reports by hand."""

    def __init__(self) -> None:
        self.leader = Leadership()
        self.ended: list[str] = []
        super().__init__(
            self.leader.pipeline,
            heartbeat_interval_s=3_600.0,
            append_timeout_s=3_600.0,
            on_stopped=self.ended.append,
        )

    @property
    def kinds(self) -> list[Kind]:
        """What was appended."""
        return [open_batch(value).kind for value in self.leader.writer.values]

    async def command(self) -> None:
        """Submit one command, without waiting for its reply."""
        await self.submit(self.leader.one_command(), self.leader.caller)

    async def deliver(self) -> None:
        """Wait for an append, report it, and let the loop take the report."""
        await until(lambda: bool(self.leader.writer.held))
        self.delivered(self.leader.writer.held.popleft())
        await turns()


@pytest.fixture
async def engine() -> AsyncIterator[LeadingEngine]:
    leading = LeadingEngine()
    yield leading
    leading.close()


async def turns() -> None:
    """Some turns of the loop: whatever is ready happens."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not holds():  # noqa: ASYNC110 - nothing there has an event to tell
            await asyncio.sleep(0)


def reading(engine: Engine, timeout_s: float = LONG_S) -> asyncio.Task[Waited]:
    return asyncio.ensure_future(engine.read_barrier(timeout_s))


async def test_a_read_that_arrives_while_a_batch_is_in_flight_is_not_served_by_it(
    engine: LeadingEngine,
) -> None:
    await engine.command()
    await turns()
    read = reading(engine)
    await engine.deliver()
    assert not read.done()
    await engine.deliver()
    assert await read is Waited.DONE
    assert engine.kinds == [Kind.COMMANDS, Kind.HEARTBEAT]


async def test_an_idle_leader_appends_one_heartbeat_for_many_readers(
    engine: LeadingEngine,
) -> None:
    first = [reading(engine) for _ in range(100)]
    await turns()
    later = [reading(engine) for _ in range(100)]
    await turns()
    await engine.deliver()
    assert [read.done() for read in first + later] == [True] * 100 + [False] * 100
    await engine.deliver()
    assert set(await asyncio.gather(*first, *later)) == {Waited.DONE}
    assert engine.kinds == [Kind.HEARTBEAT] * 2


async def test_commands_that_wait_are_the_barrier(engine: LeadingEngine) -> None:
    read = reading(engine)
    await engine.command()
    await engine.deliver()
    assert await read is Waited.DONE
    assert (engine.kinds, engine.applied) == ([Kind.COMMANDS], 1)


async def test_a_deposed_leader_answers_no_linearizable_read(engine: LeadingEngine) -> None:
    engine.leader.append_successor()
    read = reading(engine)
    await engine.deliver()
    assert await read is Waited.TERM_ENDED
    assert engine.deposed
    refusal = await LeaderReads(engine).barrier(LONG_S)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER")


async def test_a_failed_append_refuses_whatever_waits(engine: LeadingEngine) -> None:
    reads = LeaderReads(engine)
    waiting = [
        asyncio.ensure_future(reads.barrier(LONG_S)),
        asyncio.ensure_future(reads.beyond(5, LONG_S)),
    ]
    await turns()
    engine.delivered(Delivery(None, "disk full"))
    for refusal in await asyncio.gather(*waiting):
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LEADERSHIP_LOST")


async def test_a_clean_stop_serves_the_reads_that_wait_and_refuses_later_ones(
    engine: LeadingEngine,
) -> None:
    read = reading(engine)
    future = asyncio.ensure_future(engine.applied_beyond(5, LONG_S))
    await turns()
    draining = asyncio.ensure_future(engine.drain(LONG_S))
    await turns()
    assert await engine.read_barrier(LONG_S) is Waited.TERM_ENDED
    await engine.deliver()
    assert await read is Waited.DONE
    await engine.deliver()
    assert await draining
    assert await future is Waited.TERM_ENDED
    assert engine.kinds == [Kind.HEARTBEAT, Kind.EPOCH_END]


async def test_a_barrier_that_does_not_count_in_time_is_refused(engine: LeadingEngine) -> None:
    refusal = await LeaderReads(engine).barrier(SHORT_S)
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refusal.reason == "BARRIER_NOT_COUNTED"


async def test_a_read_waits_for_a_sequence_until_it_is_applied(engine: LeadingEngine) -> None:
    reads = LeaderReads(engine)
    second = asyncio.ensure_future(reads.beyond(1, LONG_S))
    first = asyncio.ensure_future(reads.beyond(0, LONG_S))
    await engine.command()
    await turns()
    assert not first.done()
    await engine.deliver()
    assert await first is None
    assert not second.done()
    await engine.command()
    await engine.deliver()
    assert await second is None
    assert await reads.beyond(0, 0.0) is None
    assert engine.kinds == [Kind.COMMANDS] * 2


def told_behind(refusal: Refusal | None) -> dict[str, str]:
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "BEHIND")
    return refusal.metadata


async def test_a_sequence_that_does_not_come_in_time_says_how_far_this_node_is(
    engine: LeadingEngine,
) -> None:
    refusal = await LeaderReads(engine).beyond(2**64 - 1, SHORT_S)
    assert told_behind(refusal) == {
        "applied_sequence": "0",
        "wanted": str(2**64 - 1),
        "lag": "0.000",
    }


async def test_reads_that_wait_are_bounded_and_those_given_up_make_room(
    engine: LeadingEngine,
) -> None:
    reads = LeaderReads(engine)
    waiting = [
        asyncio.ensure_future(reads.beyond(sequence, LONG_S))
        for sequence in range(READS_WAITING_MAX)
    ] + [asyncio.ensure_future(reads.barrier(LONG_S)) for _ in range(READS_WAITING_MAX)]
    await turns()
    for refusal in (await reads.beyond(7, LONG_S), await reads.barrier(LONG_S)):
        assert refusal is not None
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.metadata == {"limit": str(READS_WAITING_MAX)}
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    told_behind(await reads.beyond(7, SHORT_S))
    assert engine.kinds == [Kind.HEARTBEAT]


async def test_a_follower_looks_until_the_sequence_is_applied() -> None:
    applied = iter(range(10))
    newest = 0

    def look() -> int:
        nonlocal newest
        newest = next(applied)
        return newest

    reads = FollowerReads(look, lambda: "", lambda: 0.0)
    assert await reads.beyond(6, LONG_S) is None
    assert newest == 7


async def test_a_follower_that_stays_behind_says_how_far_and_how_old_it_is() -> None:
    reads = FollowerReads(lambda: 41, lambda: "", lambda: 1.25)
    assert await reads.beyond(40, 0.0) is None
    assert told_behind(await reads.beyond(41, SHORT_S)) == {
        "applied_sequence": "41",
        "wanted": "41",
        "lag": "1.250",
    }


async def test_a_follower_lets_only_so_many_wait() -> None:
    reads = FollowerReads(lambda: 0, lambda: "", lambda: 0.0)
    waiting = [asyncio.ensure_future(reads.beyond(0, LONG_S)) for _ in range(READS_WAITING_MAX)]
    await turns()
    refusal = await reads.beyond(0, LONG_S)
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    told_behind(await reads.beyond(0, SHORT_S))


async def test_a_follower_sends_linearizable_reads_to_the_leader() -> None:
    refusal = await FollowerReads(lambda: 0, lambda: "10.0.0.7:9500", lambda: 0.0).barrier(LONG_S)
    assert refusal is not None
    assert (refusal.reason, refusal.metadata) == ("NOT_LEADER", {"leader": "10.0.0.7:9500"})
