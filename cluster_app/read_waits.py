"""Reads that wait for a number to rise: a counted batch, or an applied sequence."""

import asyncio
from bisect import bisect_left, insort
from enum import Enum, auto
from itertools import count
from typing import Final

READS_WAITING_MAX: Final = 512
"""Of each kind, on one node: half of the calls that a server takes beside its streams, so that
those which ask for what never comes leave room for the others."""

_Entry = tuple[int, int, "asyncio.Future[Waited]"]


class Waited(Enum):
    """How a wait ended."""

    DONE = auto()
    TOO_LATE = auto()
    TERM_ENDED = auto()
    TOO_MANY = auto()
    """It didn't even begin."""


class ReadWaits:
    """Reads sorted by the number they wait for. It costs nothing while nobody waits."""

    def __init__(self) -> None:
        self._waiting: list[_Entry] = []
        self._tickets = count()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """True when no other read may wait."""
        return len(self._waiting) >= READS_WAITING_MAX

    async def wait(self, number: int, timeout_s: float) -> Waited:
        """Wait until `number` is reached: DONE, TOO_LATE, or TERM_ENDED."""
        loop = asyncio.get_running_loop()
        ticket = next(self._tickets)
        future: asyncio.Future[Waited] = loop.create_future()
        insort(self._waiting, (number, ticket, future))
        timer = loop.call_later(max(timeout_s, 0.0), _resolve, future, Waited.TOO_LATE)
        try:
            return await future
        finally:
            timer.cancel()
            index = bisect_left(self._waiting, (number, ticket), key=lambda entry: entry[:2])
            if self._waiting[index : index + 1] and self._waiting[index][1] == ticket:
                del self._waiting[index]

    def reached(self, number: int) -> None:
        """Wake those who wait for `number` or less."""
        waiting = self._waiting
        end = bisect_left(waiting, number + 1, key=lambda entry: entry[0])
        for _, _, future in waiting[:end]:
            _resolve(future, Waited.DONE)
        del waiting[:end]

    def end(self) -> None:
        """Tell all who wait that it will never be reached here."""
        for _, _, future in self._waiting:
            _resolve(future, Waited.TERM_ENDED)
        self._waiting.clear()


def _resolve(future: "asyncio.Future[Waited]", waited: Waited) -> None:
    if not future.done():
        future.set_result(waited)
