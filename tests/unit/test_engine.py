"""The engine on an event loop: when it takes what waits in a source, and who hears of a stop."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from cluster_app.engine import Engine
from cluster_core.journal import Delivery
from cluster_core.pipeline import FURTHER_BATCH_COMMANDS, Fate
from cluster_core.record import COMMAND_BYTES, MAX_MESSAGE_COMMANDS
from tests.held_leadership import Caller, Leadership, creates


class Waiting:
    """A source that looks as the native edge does: only when enough waits."""

    def __init__(self) -> None:
        self.route = Caller()
        self.messages: deque[tuple[bytes, Any]] = deque()
        self.engine: Engine | None = None
        self.looks = 0
        self._enough: float = 1

    def take(self, enough: int) -> tuple[bytes, Any] | None:
        self._enough = math.inf if self.messages else enough
        return self.messages.popleft() if self.messages else None

    def add(self, count: int, token: Any) -> None:
        self.messages.append((creates(count), token))
        if (
            self.engine
            and sum(len(packed) // COMMAND_BYTES for packed, _ in self.messages) >= self._enough
        ):
            self.looks += 1
            self.engine.look()

    @property
    def answered(self) -> list[Any]:
        return [token for token, _, _ in self.route.replies]


class Term:
    """An engine on a held term, with a source."""

    def __init__(
        self,
        capacity: int = 1 << 14,
        heartbeat_interval_s: float = 60.0,
        append_timeout_s: float = 60.0,
    ) -> None:
        self.term = Leadership(capacity)
        self.ended: list[str] = []
        self.engine = Engine(
            self.term.pipeline,
            heartbeat_interval_s=heartbeat_interval_s,
            append_timeout_s=append_timeout_s,
            on_stopped=self.ended.append,
        )
        self.source = Waiting()
        self.source.engine = self.engine
        self.engine.take_from(self.source)

    async def deliver(self, delivery: Delivery | None = None) -> None:
        """Report the oldest batch, as the journal's thread does, and let the engine act."""
        held = self.term.writer.held.popleft()
        self.engine.delivered(delivery or held)
        await asyncio.sleep(0)

    async def deliver_all(self) -> None:
        """Report what is in flight, and what is sealed meanwhile, to the last batch."""
        while self.term.writer.held:
            await self.deliver()

    @property
    def batches(self) -> int:
        """How many have been appended."""
        return len(self.term.writer.values)


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@on_loop
async def test_what_comes_while_a_batch_is_in_flight_is_taken_with_its_delivery() -> None:
    on = Term()
    on.source.add(1, "first")
    assert (on.batches, on.source.looks) == (1, 1)
    for n in range(10):
        on.source.add(1, n)
    assert (on.batches, on.source.looks) == (1, 1)
    assert len(on.source.messages) == 10
    await on.deliver()
    assert (on.batches, on.source.looks) == (2, 1)
    await on.deliver()
    assert on.source.answered == ["first", *range(10)]


@on_loop
async def test_enough_for_a_further_batch_is_taken_at_once() -> None:
    on = Term()
    on.source.add(1, "first")
    on.source.add(FURTHER_BATCH_COMMANDS - 1, "few")
    assert on.batches == 1
    on.source.add(1, "enough")
    assert (on.batches, on.source.looks) == (2, 2)


@on_loop
async def test_a_message_that_finds_no_room_keeps_its_place_and_is_taken_once_there_is() -> None:
    on = Term(capacity=1024)
    on.source.add(600, "a")
    on.source.add(600, "b")
    on.source.add(300, "c")
    assert on.batches == 1
    await on.deliver_all()
    assert on.source.answered == ["a", "b", "c"]
    assert on.term.state.applied == 1500


@on_loop
async def test_callers_and_the_source_find_room_in_the_order_of_their_coming() -> None:
    on = Term(capacity=1024)
    direct = Caller()
    direct.replies = on.source.route.replies  # one list of all that is answered
    await on.engine.submit(creates(1000), direct, "a")
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(on.engine.submit(creates(600), direct, "b"))]
    await asyncio.sleep(0)
    on.source.add(600, "c")
    on.source.add(10, "d")
    waiting.append(asyncio.ensure_future(on.engine.submit(creates(1), direct, "e")))
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    await on.deliver_all()
    await asyncio.gather(*waiting)
    assert on.source.answered == ["a", "b", "c", "e", "d"]


@on_loop
async def test_a_caller_that_gives_up_leaves_the_line_and_holds_nobody_up() -> None:
    on = Term(capacity=1024)
    direct = Caller()
    await on.engine.submit(creates(1000), direct, "a")
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(on.engine.submit(creates(600), direct, "gone"))
    await asyncio.sleep(0)
    on.source.add(600, "b")
    waiting.cancel()
    await on.deliver_all()
    assert waiting.cancelled()
    assert [token for token, _, _ in direct.replies] == ["a"]
    assert (on.source.answered, direct.fates) == (["b"], [])
    assert on.term.state.applied == 1600


@on_loop
async def test_after_a_stop_what_waits_was_not_run_and_what_is_in_flight_is_unknown() -> None:
    on = Term(capacity=1024)
    direct = Caller()
    on.source.add(600, "in flight")
    waiting = asyncio.ensure_future(on.engine.submit(creates(600), direct, "waits"))
    await asyncio.sleep(0)
    on.source.add(600, "no room")
    on.source.add(1, "waits")
    await on.deliver(Delivery(None, "the broker is gone"))
    assert on.source.route.fates == [
        ("in flight", Fate.UNKNOWN),
        ("no room", Fate.NOT_RUN),
        ("waits", Fate.NOT_RUN),
    ]
    await waiting
    assert direct.fates == [("waits", Fate.NOT_RUN)]
    assert on.ended == ["the broker is gone"]
    on.source.add(1, "late")
    assert on.source.route.fates[3:] == [("late", Fate.NOT_RUN)]


@on_loop
async def test_a_journal_that_refuses_while_messages_are_taken_ends_the_term_for_all() -> None:
    on = Term()
    on.term.writer.close()
    for token in "abc":
        on.source.messages.append((creates(MAX_MESSAGE_COMMANDS), token))
    on.engine.look()
    assert len(on.ended) == 1
    assert on.source.route.fates == [
        ("a", Fate.UNKNOWN),
        ("b", Fate.NOT_RUN),
        ("c", Fate.NOT_RUN),
    ]


@on_loop
async def test_a_fault_while_messages_are_taken_ends_the_term_for_all() -> None:
    on = Term()
    on.source.messages += [(b"x" * COMMAND_BYTES * (1 << 15), "too many"), (creates(1), "next")]
    on.engine.look()
    assert on.engine.is_doubtful
    assert on.ended[0].startswith("fault in the engine")
    assert on.source.route.fates == [("too many", Fate.NOT_RUN), ("next", Fate.NOT_RUN)]


@on_loop
async def test_what_waits_when_a_term_is_drained_is_run() -> None:
    on = Term()
    on.source.add(1, "a")
    on.source.add(1, "waits")
    assert len(on.source.messages) == 1
    drained = asyncio.ensure_future(on.engine.drain(30.0))
    await asyncio.sleep(0)
    on.source.add(1, "late")
    while not drained.done():
        await on.deliver_all()
        await asyncio.sleep(0.001)
    assert await drained
    assert on.source.answered == ["a", "waits"]
    assert on.source.route.fates == [("late", Fate.NOT_RUN)]


@on_loop
async def test_a_drain_that_is_given_up_goes_on_with_what_comes_next() -> None:
    on = Term()
    on.source.add(1, "a")
    assert not await on.engine.drain(0.01, or_go_on=True)
    assert on.engine.accepting
    on.source.add(1, "b")
    await on.deliver_all()
    assert on.source.answered == ["a", "b"]
    assert on.source.route.fates == []


@on_loop
async def test_drains_that_are_given_up_do_not_hide_a_silent_journal() -> None:
    on = Term(heartbeat_interval_s=0.01, append_timeout_s=0.2)
    on.source.add(1, "a")
    async with asyncio.timeout(30):
        while not on.ended:
            await on.engine.drain(0.05, or_go_on=True)
    assert on.ended == ["the journal reported nothing for 0 s"]
    assert on.source.route.fates == [("a", Fate.UNKNOWN)]


@on_loop
async def test_a_closed_term_leaves_the_source_to_the_next() -> None:
    on = Term()
    assert not await on.engine.drain(0.0)
    on.engine.close()
    on.source.engine = None
    on.source.add(1, "for the next")
    on.engine.look()
    assert len(on.source.messages) == 1
