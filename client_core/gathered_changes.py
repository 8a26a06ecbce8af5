"""A Watch for eyes: of what changed within a moment, only the newest state of each account.

Reading a message costs a microsecond an account, making its Account twenty: who shows balances
five times a second makes five a second, not one for each of thousands of changes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from proto import ledger_pb2


async def gather(
    responses: AsyncGenerator[ledger_pb2.WatchResponse, None], gather_s: float
) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
    """The messages of `responses`, joined so that one comes each `gather_s` at most.

    The first after a pause comes at once. Raises what `responses` raises, and ends with it.
    """
    waiting: dict[int, ledger_pb2.Account] = {}
    joined = ledger_pb2.WatchResponse()
    has_some = asyncio.Event()

    async def take() -> None:
        async with aclosing(responses):
            async for response in responses:
                for account in response.accounts:
                    waiting[account.account_id] = account
                joined.applied_sequence = response.applied_sequence
                if response.HasField("missed_from_sequence"):
                    missed = response.missed_from_sequence
                    if joined.HasField("missed_from_sequence"):
                        missed = min(missed, joined.missed_from_sequence)
                    joined.missed_from_sequence = missed
                has_some.set()

    taking = asyncio.create_task(take())
    taking.add_done_callback(lambda _: has_some.set())
    try:
        while True:
            await has_some.wait()
            has_some.clear()
            if waiting:
                joined.accounts.extend(waiting.values())
                given, joined = joined, ledger_pb2.WatchResponse()
                waiting.clear()
                yield given
                await asyncio.sleep(gather_s)
            elif taking.done():
                await taking
                return
            if taking.done():
                has_some.set()
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
