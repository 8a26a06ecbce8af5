"""The native edge's command side, with Python's part done by hand: blocks, wakes, lost messages."""

import queue
import select
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cluster_app.settings import LeaderSettings
from cluster_core.record import COMMAND_BYTES, REPLY_BYTES
from proto import ledger_pb2
from tests.held_leadership import creates
from tests.server_process import poll_until

pytest.importorskip("cluster_app.edge._native", reason="the native edge isn't built")

DEADLINE_S = 20.0
SUBMIT = 1
"""This contract's number."""

COMMANDS = b"\0"
"""How a judgement begins that a message is commands."""

UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]


class Stream:
    """A Submit stream to an edge of its own."""

    def __init__(self, channel: grpc.Channel, edge: Any) -> None:
        self.edge = edge
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call: Any = channel.stream_stream("/ringledger.v1.CommandService/Submit")
        self.answers = call(iter(self._sent.get, None), timeout=DEADLINE_S)

    def send(self, commands: bytes) -> None:
        self._sent.put(ledger_pb2.SubmitRequest(commands=commands).SerializeToString())

    def end(self) -> None:
        self._sent.put(None)

    def is_woken(self, within_s: float) -> bool:
        """Whether Python's loop would look now."""
        readable, _, _ = select.select([self.edge.wake_descriptor], [], [], within_s)
        return bool(readable)

    def take(self, enough: int = 1) -> tuple[bytes, Any]:
        """The next block, once there is one."""
        deadline = time.monotonic() + DEADLINE_S
        while (block := self.edge.take(enough)) is None:
            assert self.is_woken(deadline - time.monotonic())
            self.edge.clear_wake()
        taken: tuple[bytes, Any] = block
        return taken

    def event(self) -> tuple[Any, ...]:
        """The next event, once there is one."""
        deadline = time.monotonic() + DEADLINE_S
        while not (events := self.edge.events()):
            assert self.is_woken(deadline - time.monotonic())
            self.edge.clear_wake()
        [event] = events
        told: tuple[Any, ...] = event
        return told


@pytest.fixture
def stream() -> Iterator[Stream]:
    from cluster_app.edge._native import Edge
    from cluster_app.edge.serving import edge_settings

    settings = edge_settings(LeaderSettings(), None, max_in_flight=10_000, max_streams=4)
    edge = Edge("127.0.0.1:0", False, settings)
    edge.refuse_commands(None)
    edge.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            opened = Stream(channel, edge)
            yield opened
            opened.end()
    finally:
        edge.stop(0.0)


def test_python_is_woken_once_enough_commands_wait(stream: Stream) -> None:
    assert stream.edge.take(3) is None
    stream.edge.clear_wake()
    stream.send(creates(1))
    stream.send(creates(1))
    assert not stream.is_woken(0.5)
    stream.send(creates(1))
    assert stream.is_woken(DEADLINE_S)
    stream.edge.clear_wake()
    records, routes = stream.edge.take(1)
    assert records == creates(3)
    stream.edge.reply(routes, memoryview(bytes(3 * REPLY_BYTES)), 7)
    assert [len(next(stream.answers)) > REPLY_BYTES for _ in range(3)] == [True] * 3


def test_fewer_than_enough_are_taken_by_whom_looks_and_no_wake_is_lost(stream: Stream) -> None:
    stream.send(creates(1))
    stream.take()
    assert stream.edge.take(100) is None
    stream.edge.clear_wake()
    stream.send(creates(2))
    assert not stream.is_woken(0.5)
    taken: list[bytes] = []

    def has_come() -> bool:
        block = stream.edge.take(1)
        taken.extend(block[:1] if block else ())
        return bool(taken)

    assert poll_until(has_come, DEADLINE_S)
    assert taken == [creates(2)]
    assert stream.edge.take(1) is None
    stream.send(creates(1))
    assert stream.take()[0] == creates(1)


def test_what_follows_a_lost_message_on_its_stream_is_not_run(stream: Stream) -> None:
    stream.send(creates(1))
    stream.send(b"\xff" * COMMAND_BYTES)  # Python judges it
    _, routes = stream.take()
    name, number, contract, index, _ = stream.event()
    assert (name, contract, index) == ("ask_message", SUBMIT, 1)
    stream.edge.fail(routes, False, "stopping")
    stream.edge.answer(number, COMMANDS + creates(1))
    name, number, contract, answered, not_run_from, reason = stream.event()
    assert (name, contract, answered, not_run_from, reason) == ("ask_lost", 1, 0, 0, "stopping")
    assert stream.edge.take(1) is None
    stream.edge.refuse(number, (UNAVAILABLE, "lost", []))
    with pytest.raises(grpc.RpcError, match="lost"):
        next(stream.answers)
