"""Clients that move money without a pause, keep what they were answered, and check it all."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from client_core import Client, LedgerReply
from client_core.errors import RingledgerClientError

DEADLINE_S = 60.0
_FUNDS = 1_000_000


class MovingMoney:
    """`callers` that transfer 1 from one account to another, each waiting for its own replies.

    `async with` it; every call must be answered within `DEADLINE_S`, or it is in `failed`.
    """

    def __init__(self, endpoints: list[str], callers: int = 16) -> None:
        self.ledger = Client(endpoints, timeout_s=DEADLINE_S, query_timeout_s=DEADLINE_S)
        self.replies: list[LedgerReply] = []
        self.failed: list[RingledgerClientError] = []
        self.longest_gap_s = 0.0
        self._answered_s = 0.0
        self._callers = callers
        self._stop = False
        self._running: asyncio.Future[list[None]] | None = None

    async def __aenter__(self) -> Self:
        await self.ledger.__aenter__()
        self._from = (await self.ledger.create_account()).entity
        self._to = (await self.ledger.create_account()).entity
        await self.ledger.deposit(self._from, _FUNDS)
        self._answered_s = time.monotonic()
        self._running = asyncio.gather(*(self._call() for _ in range(self._callers)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        if self._running is not None and not self._running.done():
            await asyncio.wait({self._running}, timeout=DEADLINE_S)
        await self.ledger.close()

    async def _call(self) -> None:
        while not self._stop:
            try:
                reply = await self.ledger.transfer(self._from, self._to, 1)
            except RingledgerClientError as error:
                self.failed.append(error)
                return
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - self._answered_s)
            self._answered_s = now
            self.replies.append(reply)
            await asyncio.sleep(0.001)

    def forget_gaps(self) -> None:
        """From now on `longest_gap_s` is measured anew; call it while answers come."""
        self.longest_gap_s = 0.0

    async def answers(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.replies) + count
        await until(lambda: len(self.replies) >= wanted or bool(self.failed))
        assert not self.failed, self.failed

    async def finish(self) -> None:
        """Every call was answered, each command ran exactly once, and no reply is wrong."""
        self._stop = True
        assert self._running is not None
        async with asyncio.timeout(2 * DEADLINE_S):
            await self._running
        assert not self.failed, self.failed
        total = len(self.replies)
        sequences = Counter(reply.sequence for reply in self.replies)
        assert len(sequences) == total
        in_order = sorted(self.replies, key=lambda reply: reply.sequence)
        assert [reply.credit_balance for reply in in_order] == [*range(1, total + 1)]
        receiver = await self.ledger.account(self._to)
        assert receiver.posted == receiver.credits_total == total
        assert (await self.ledger.account(self._from)).posted == _FUNDS - total


async def until(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    """Look again and again until it holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 polled with a deadline
            await asyncio.sleep(0.005)
