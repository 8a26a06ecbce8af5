"""Many callers' look-ups of single accounts as few queries, each of many accounts."""

import asyncio
from collections import deque
from typing import Final

from client_core.answers import ACCOUNT_BYTES, asset_number
from client_core.consistency import Consistency
from client_core.errors import (
    Behind,
    InvalidRequest,
    NotFound,
    NotServed,
    RingledgerClientError,
    StreamClosed,
    Unauthenticated,
    Unavailable,
)
from client_core.queries import GET_ACCOUNTS, Reader
from client_core.records import MAX_MESSAGE_COMMANDS, U64_MAX
from proto import ledger_pb2

MAX_QUERY_ACCOUNTS: Final = MAX_MESSAGE_COMMANDS
QUERIES_AT_ONCE: Final = 2
"""While so many are under way, further look-ups gather for the next one."""

_KEEP_KIND: Final = (Behind, InvalidRequest, NotServed, StreamClosed, Unauthenticated)

_Answer = tuple[bytes, int]
"""(packed ACCOUNT, applied sequence)."""
_LookUp = tuple[int, "asyncio.Future[_Answer]"]


class AccountLookUps:
    """`get` for one account; those of one turn of the loop, and of one consistency, go together."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._waiting: dict[Consistency | None, deque[_LookUp]] = {}
        self._under_way: dict[Consistency | None, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, account_id: int, consistency: Consistency | None) -> _Answer:
        """The account's packed record. Raises NotFound and what the reader raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Answer] = loop.create_future()
        waiting = self._waiting.get(consistency)
        if waiting is None:
            waiting = self._waiting[consistency] = deque()
        if not waiting:
            loop.call_soon(self._start, consistency)
        waiting.append((account_id, future))
        return await future

    async def get_many(
        self, ids: bytes, consistency: Consistency | None
    ) -> ledger_pb2.GetAccountsResponse:
        """Packed ids (u64 each) to packed accounts, all as of one moment, as one query."""
        request = ledger_pb2.GetAccountsRequest(account_ids=ids)
        answer: ledger_pb2.GetAccountsResponse = await self._reader.ask(
            GET_ACCOUNTS, request, consistency
        )
        if len(answer.accounts) != len(ids) // 8 * ACCOUNT_BYTES:
            raise Unavailable(
                f"a node answered {len(answer.accounts)} bytes to {len(ids) // 8} ids"
            )
        return answer

    def _start(self, consistency: Consistency | None) -> None:
        waiting = self._waiting.get(consistency)
        under_way = self._under_way.get(consistency, 0)
        if not waiting:
            if not under_way:
                # levels name sequences: kept for ever they would pile up
                self._waiting.pop(consistency, None)
                self._under_way.pop(consistency, None)
            return
        if under_way >= QUERIES_AT_ONCE:
            return
        taken = [
            look_up
            for _ in range(min(len(waiting), MAX_QUERY_ACCOUNTS))
            if not (look_up := waiting.popleft())[1].done()
        ]
        self._under_way[consistency] = under_way + 1
        task = asyncio.get_running_loop().create_task(self._run(consistency, taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, consistency: Consistency | None, look_ups: list[_LookUp]) -> None:
        try:
            if look_ups:
                await self._answer(consistency, look_ups)
        finally:
            self._under_way[consistency] -= 1
            for _, future in look_ups:
                if not future.done():
                    future.set_exception(Unavailable("the look-up was given up"))
            self._start(consistency)

    async def _answer(self, consistency: Consistency | None, look_ups: list[_LookUp]) -> None:
        ids = b"".join([account_id.to_bytes(8, "little") for account_id, _ in look_ups])
        try:
            answer = await self.get_many(ids, consistency)
        except RingledgerClientError as error:
            kind = next((kind for kind in _KEEP_KIND if isinstance(error, kind)), Unavailable)
            for _, future in look_ups:
                if not future.done():
                    # an exception for each: one that many raise would mix their tracebacks
                    future.set_exception(kind(str(error)))
            return
        at = 0
        for account_id, future in look_ups:
            record = answer.accounts[at : at + ACCOUNT_BYTES]
            at += ACCOUNT_BYTES
            if future.done():
                continue
            if asset_number(record):
                future.set_result((record, answer.applied_sequence))
            else:
                future.set_exception(
                    NotFound("ACCOUNT_NOT_FOUND", f"account {account_id} does not exist")
                )


def pack_ids(ids: list[int]) -> bytes:
    """u64 little-endian each. Raises ValueError, naming the wrong one."""
    for account_id in ids:
        if not isinstance(account_id, int) or not 1 <= account_id <= U64_MAX:
            raise ValueError(f"account id is {account_id!r}: give an integer in 1 .. {U64_MAX}")
    return b"".join([account_id.to_bytes(8, "little") for account_id in ids])
