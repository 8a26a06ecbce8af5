"""A gathered Watch gives the newest state of each account, and loses none."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from client_core.errors import Unavailable
from client_core.gathered_changes import gather
from proto import ledger_pb2

LONG_S = 30.0


def change(sequence: int, *accounts: int, missed: int | None = None) -> ledger_pb2.WatchResponse:
    response = ledger_pb2.WatchResponse(applied_sequence=sequence)
    for account in accounts:
        response.accounts.add(account_id=account, version=sequence)
    if missed is not None:
        response.missed_from_sequence = missed
    return response


class Changes:
    """A Watch that tells what it is given."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ledger_pb2.WatchResponse | Exception | None] = asyncio.Queue()
        self.closed = False

    async def stream(self) -> AsyncGenerator[ledger_pb2.WatchResponse, None]:
        try:
            while (told := await self.queue.get()) is not None:
                if isinstance(told, Exception):
                    raise told
                yield told
        finally:
            self.closed = True

    def tell(self, *told: ledger_pb2.WatchResponse | Exception | None) -> None:
        for one in told:
            self.queue.put_nowait(one)


async def test_what_changed_meanwhile_comes_once_as_it_is_now() -> None:
    changes = Changes()
    gathered = gather(changes.stream(), 0.01)
    changes.tell(change(1, 1, 2))
    assert [account.account_id for account in (await anext(gathered)).accounts] == [1, 2]
    changes.tell(change(2, 1, missed=7), change(3, 1, 2, missed=5), change(4, 1))
    told = await anext(gathered)
    assert {account.account_id: account.version for account in told.accounts} == {1: 4, 2: 3}
    assert (told.applied_sequence, told.missed_from_sequence) == (4, 5)
    changes.tell(change(5, 2))
    assert not (await anext(gathered)).HasField("missed_from_sequence")
    await gathered.aclose()
    assert changes.closed


async def test_the_first_change_after_a_pause_comes_at_once() -> None:
    changes = Changes()
    gathered = gather(changes.stream(), LONG_S)
    changes.tell(change(1, 1))
    async with asyncio.timeout(LONG_S / 2):
        assert (await anext(gathered)).applied_sequence == 1
    await gathered.aclose()


async def test_an_error_comes_after_what_was_told_before_it() -> None:
    changes = Changes()
    gathered = gather(changes.stream(), 0.0)
    changes.tell(change(1, 1), Unavailable("gone"))
    assert (await anext(gathered)).applied_sequence == 1
    with pytest.raises(Unavailable):
        await anext(gathered)


async def test_it_ends_with_its_stream() -> None:
    changes = Changes()
    changes.tell(change(1, 1), None)
    told = [one async for one in gather(changes.stream(), 0.0)]
    assert [one.applied_sequence for one in told] == [1]
