"""What query services read from: the books, in this process or another, and the node's progress."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import grpc

from cluster_app.lag import Lag
from cluster_app.rpc import Context, Refusal
from cluster_core.reader_rule import Position
from cluster_core.reading import BooksReader, ReadBusy

Answer = TypeVar("Answer")

_QUICK_TRIES: Final = 20
"""Tries while the writer has been asked to pause: it does so after the batch that it is in."""

_BUSY_S_MAX: Final = 2.0


@dataclass(frozen=True)
class Progress:
    """How far a node has come: its position, the leader's address ("" for none), its lag.

    A leader has commands in flight and the ring's capacity, a learner its stored snapshot:
    (taken_ns, applied). `cannot_lead_because` is a standby's.
    """

    position: Position = field(default_factory=Position)
    leader: str = ""
    lag: Lag = field(default_factory=Lag)
    in_flight_commands: int = 0
    ring_capacity: int = 0
    snapshot: tuple[int, int] = (0, 0)
    cannot_lead_because: str = ""


class StateView:
    """Reads for one event loop.

    `want_pause` asks the writer to wait between two batches; `set_watchers` tells it how many
    streams watch, so that it notes changes. `progress` is the node's newest.
    """

    def __init__(
        self,
        reader: BooksReader,
        progress: Callable[[], Progress],
        *,
        set_watchers: Callable[[int], None],
        want_pause: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.reader = reader
        self.progress = progress
        self.set_watchers = set_watchers
        self._want_pause = want_pause
        self._waiting = 0

    async def read(self, read: Callable[[], Answer], context: Context) -> Answer:
        """What `read` gives, tried again while the books change under it; else ends the call."""
        try:
            return read()
        except ReadBusy:
            answer = await self.read_patiently(read)
        if answer is None:
            await Refusal(
                grpc.StatusCode.UNAVAILABLE,
                f"the state was changed all the time for {_BUSY_S_MAX:.0f} s: try again",
                "READ_BUSY",
            ).abort(context)
            raise AssertionError("abort raises")
        return answer

    async def read_patiently(self, read: Callable[[], Answer]) -> Answer | None:
        """`read` with the writer's help; None when even that took too long."""
        loop = asyncio.get_running_loop()
        deadline, tries = loop.time() + _BUSY_S_MAX, 0
        self._waiting += 1
        self._want_pause(True)
        try:
            while True:
                try:
                    return read()
                except ReadBusy:
                    tries += 1
                if loop.time() > deadline:
                    return None
                await asyncio.sleep(0.0 if tries < _QUICK_TRIES else 0.001)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._want_pause(False)
