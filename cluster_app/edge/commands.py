"""Commands from the native edge: blocks into the engine, replies back to the calls that asked."""

from typing import Any, Final

from google.protobuf.message import DecodeError

from cluster_app.bank import BankCodec
from cluster_app.edge._native import Edge, Routes
from cluster_app.edge.calls import worded
from cluster_app.engine import Engine
from cluster_app.ingress import Ingress, NativeCodec, StreamCodec
from cluster_app.rpc import Refusal, not_leader, not_parsed
from cluster_core.pipeline import Fate
from proto import ledger_pb2

_BANK: Final = 0
_EXECUTE: Final = 2
_COMMANDS: Final = b"\0"
_ANSWER: Final = b"\1"


class BlockRoute:
    """The way back of every block; the token is its routes."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def replied(self, token: Routes, replies: memoryview, ledger_time_ns: int) -> None:
        """Hand a block's replies over (Route)."""
        self._edge.reply(token, replies, ledger_time_ns)

    def failed(self, token: Routes, fate: Fate, reason: str) -> None:
        """A block will have no replies (Route)."""
        self._edge.fail(token, fate is Fate.UNKNOWN, reason)


class NativeIngress(Ingress):
    """A node's command side behind the native edge.

    What the edge doesn't serve itself (`ExecuteBatch`) comes in as it does everywhere.
    """

    def __init__(self, edge: Edge, *, max_in_flight: int, max_streams: int) -> None:
        super().__init__(max_in_flight=max_in_flight, max_streams=max_streams)
        self._edge = edge
        self.route: Final = BlockRoute(edge)
        self._codecs: tuple[StreamCodec, StreamCodec] = (BankCodec(), NativeCodec())
        self._told: str | None = ""

    @property
    def open_streams(self) -> int:
        """Command streams that are open now."""
        return self._edge.open_streams

    def lead(self, engine: Engine, address: str) -> None:
        super().lead(engine, address)
        self._told = None
        self._edge.refuse_commands(None)
        engine.take_from(self)

    def follow(self, leader: str) -> None:
        led = self._engine is not None
        super().follow(leader)
        if led:  # nothing waits but after a term that was left by a fault
            self.wake()
        if leader != self._told:
            self._told = leader
            self._edge.refuse_commands(worded(not_leader(leader)))

    def end_streams(self, reason: str) -> None:
        super().end_streams(reason)
        self._edge.end_streams(reason)

    def wake(self) -> None:
        """Commands may wait in the edge. Between two terms they are refused."""
        if self._engine is not None:
            self._engine.look()
        else:
            while waiting := self._edge.take(1):
                self.route.failed(waiting[1], Fate.NOT_RUN, "this node stands by")

    def take(self, enough: int) -> tuple[bytes, Any] | None:
        """The next block and its routes (Source)."""
        return self._edge.take(enough)

    def judge_message(self, contract: int, index: int, message: bytes) -> bytes | Refusal:
        """What a message is that the edge doesn't take by itself: commands, or an answer."""
        if contract == _EXECUTE:
            return self._judge_execute(message)
        judged = self.judge(self._codecs[contract], message, index)
        if isinstance(judged, Refusal):
            return judged
        if isinstance(judged, bytes):
            return _ANSWER + judged
        packed, token = judged
        text = token[1].encode() if contract == _BANK else b""
        return _COMMANDS + bytes(packed) + text

    def _judge_execute(self, message: bytes) -> bytes | Refusal:
        try:
            request = ledger_pb2.ExecuteRequest.FromString(message)
        except DecodeError:
            return not_parsed(ledger_pb2.ExecuteRequest)
        packed = self.pack([request.command])
        return packed if isinstance(packed, Refusal) else _COMMANDS + packed

    def lost(self, contract: int, answered: int, not_run_from: int, reason: str) -> Any:
        """How a call of a contract ends with the term."""
        codec = self._codecs[0 if contract == _BANK else 1]
        return codec.lost(answered, not_run_from, reason)
