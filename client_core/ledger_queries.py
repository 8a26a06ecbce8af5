"""The queries of the ledger, and what they teach: which asset an account or a hold is of."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

from client_core import queries
from client_core.account_look_ups import MAX_QUERY_ACCOUNTS, AccountLookUps, pack_ids
from client_core.answers import (
    ACCOUNT_BYTES,
    Account,
    AccountChanges,
    AccountPage,
    AccountState,
    OpenHold,
    Totals,
    asset_number,
    read_account,
    read_asset,
    read_hold,
    read_totals,
    unpack_account,
)
from client_core.assets import Asset
from client_core.consistency import LINEARIZABLE, Consistency
from client_core.errors import NotFound, NotServed, Refused
from client_core.gathered_changes import gather
from client_core.queries import Reader
from client_core.records import U64_MAX, Operation, Status, check_range, unpack_fields
from proto import ledger_pb2

REMEMBERED_MAX: Final = 1 << 17
"""Accounts, and holds, whose asset is remembered: 20 MB at most; the oldest are forgotten first."""

LOOK_UPS_AT_ONCE: Final = 64
"""Queries under way for one `execute_all`."""

PAGE_MAX: Final = 1_000
WATCHED_MAX: Final = 10_000
_GATHER_S_MAX: Final = 60.0
_U32_MAX: Final = 2**32 - 1

_FILTERS: Final = {
    AccountState.OPEN: ledger_pb2.ACCOUNT_STATE_FILTER_OPEN,
    AccountState.LOCKED: ledger_pb2.ACCOUNT_STATE_FILTER_LOCKED,
    AccountState.CLOSED: ledger_pb2.ACCOUNT_STATE_FILTER_CLOSED,
}


class LedgerQueries:
    """Every query over one Reader. For one event loop.

    `consistency` says how new an answer must be (`client_core.consistency`); None is the reader's
    own: `read_your_writes` unless the client was told otherwise. Queries raise NotFound,
    Unavailable past their deadline, and NotServed for one that no node knows.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._look_ups = AccountLookUps(reader)
        self._one_by_one = False
        self._assets: dict[int, Asset] = {}
        self._account_assets: dict[int, int] = {}
        self._hold_assets: dict[int, int] = {}

    async def account(self, account_id: int, *, consistency: Consistency | None = None) -> Account:
        """One account. Raises NotFound. What many callers ask at once is one query."""
        check_range("account_id", account_id, 1, U64_MAX)
        if not self._one_by_one:
            try:
                record, applied = await self._look_ups.get(account_id, consistency)
            except NotServed:
                self._one_by_one = True
            else:
                number = asset_number(record)
                remember(self._account_assets, account_id, number)
                return unpack_account(record, await self.asset(number), applied)
        request = ledger_pb2.GetAccountRequest(account_id=account_id)
        answer = await self._reader.ask(queries.GET_ACCOUNT, request, consistency)
        remember(self._account_assets, account_id, answer.account.asset)
        asset = await self.asset(answer.account.asset)
        return read_account(answer.account, asset, answer.applied_sequence)

    async def accounts(
        self, ids: Sequence[int], *, consistency: Consistency | None = None
    ) -> list[Account | None]:
        """Up to 8,192 accounts as of one moment, in the order of `ids`; None for an unknown one."""
        if not 1 <= len(ids) <= MAX_QUERY_ACCOUNTS:
            raise ValueError(f"{len(ids)} account ids: give 1 to {MAX_QUERY_ACCOUNTS}")
        packed = pack_ids(list(ids))
        answer = await self._look_ups.get_many(packed, consistency)
        accounts: list[Account | None] = []
        for at in range(0, len(answer.accounts), ACCOUNT_BYTES):
            record = answer.accounts[at : at + ACCOUNT_BYTES]
            number = asset_number(record)
            if number:
                asset = self._assets.get(number) or await self.asset(number)
                accounts.append(unpack_account(record, asset, answer.applied_sequence))
            else:
                accounts.append(None)
        return accounts

    async def list_accounts(
        self,
        after: int = 0,
        page_size: int = 100,
        asset: int | None = None,
        state: AccountState | str | None = None,
        code: int | None = None,
        reference: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> AccountPage:
        """A page of 1 to 1,000 accounts with ids above `after`, rising; filters must all fit.

        `state` is "open", "locked" or "closed".
        """
        request = _list_request(after, page_size, asset, state, code, reference)
        answer = await self._reader.ask(queries.LIST_ACCOUNTS, request, consistency)
        found = [
            read_account(account, await self.asset(account.asset), answer.applied_sequence)
            for account in answer.accounts
        ]
        return AccountPage(tuple(found), answer.next_after_account_id, answer.applied_sequence)

    async def all_accounts(
        self,
        after: int = 0,
        page_size: int = PAGE_MAX,
        asset: int | None = None,
        state: AccountState | str | None = None,
        code: int | None = None,
        reference: int | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> AsyncGenerator[Account, None]:
        """Every account that fits, page after page; each page is as of its own moment."""
        while True:
            page = await self.list_accounts(
                after, page_size, asset, state, code, reference, consistency=consistency
            )
            for account in page.accounts:
                yield account
            if not page.next_after:
                return
            after = page.next_after

    async def watch(
        self,
        ids: Iterable[int],
        *,
        gather_s: float = 0.0,
        consistency: Consistency | None = None,
    ) -> AsyncGenerator[AccountChanges, None]:
        """What becomes of 1 to 10,000 accounts, until the iterator is closed.

        With `gather_s` (0 to 60 s) only the newest state of each account that changed meanwhile is
        given, once in so long at most: enough for eyes, and cheap under load.

        It goes on over another node when its own fails; what that may have left out is told by
        `missed_from_sequence`. Close it (`contextlib.aclosing`) when you leave its loop early.
        """
        wanted = list(dict.fromkeys(ids))
        if not 1 <= len(wanted) <= WATCHED_MAX:
            raise ValueError(f"{len(wanted)} account ids: give 1 to {WATCHED_MAX}")
        for account_id in wanted:
            check_range("account id", account_id, 1, U64_MAX)
        if not 0 <= gather_s <= _GATHER_S_MAX:
            raise ValueError(f"gather_s is {gather_s!r}: give 0 to {_GATHER_S_MAX:g} s")
        request = ledger_pb2.WatchRequest(account_ids=wanted)
        watched = self._reader.watch(request, consistency)
        async with aclosing(gather(watched, gather_s) if gather_s else watched) as responses:
            async for response in responses:
                changed = [
                    read_account(
                        account, await self.asset(account.asset), response.applied_sequence
                    )
                    for account in response.accounts
                ]
                missed = response.HasField("missed_from_sequence")
                yield AccountChanges(
                    tuple(changed),
                    response.applied_sequence,
                    response.missed_from_sequence if missed else None,
                )

    async def hold_of(self, hold_id: int, *, consistency: Consistency | None = None) -> OpenHold:
        """One open hold. Raises NotFound, its reason telling "never opened" from "gone"."""
        check_range("hold_id", hold_id, 1, U64_MAX)
        request = ledger_pb2.GetHoldRequest(hold_id=hold_id)
        answer = await self._reader.ask(queries.GET_HOLD, request, consistency)
        remember(self._hold_assets, hold_id, answer.hold.asset)
        return read_hold(answer, await self.asset(answer.hold.asset))

    async def totals(self, *, consistency: Consistency | None = None) -> Totals:
        """Sums and counts of every asset."""
        request = ledger_pb2.GetTotalsRequest()
        answer = await self._reader.ask(queries.GET_TOTALS, request, consistency)
        self._assets |= {asset.asset: read_asset(asset) for asset in answer.assets}
        return read_totals(answer)

    async def asset(self, number: int) -> Asset:
        """One registered asset, asked for only when it isn't known yet. Raises NotFound."""
        known = self._assets.get(number)
        if known is not None:
            return known
        await self.totals()
        if number not in self._assets:
            # another process may just have registered it, and a follower not know it yet
            await self.totals(consistency=LINEARIZABLE)
        try:
            return self._assets[number]
        except KeyError:
            raise NotFound("ASSET_NOT_FOUND", f"asset {number} is not registered") from None

    # Look-ups for commands. What another process has just opened a follower may not know yet: only
    # the leader says for sure that something isn't there.

    async def _find_account(self, account_id: int) -> Account:
        try:
            return await self.account(account_id)
        except NotFound:
            return await self.account(account_id, consistency=LINEARIZABLE)

    async def _find_hold(self, hold_id: int) -> OpenHold:
        try:
            return await self.hold_of(hold_id)
        except NotFound as error:
            if error.reason == Status.HOLD_NOT_OPEN.name:
                raise
            return await self.hold_of(hold_id, consistency=LINEARIZABLE)

    def _known_asset_of(self, account_id: int) -> Asset | None:
        """The asset of an account as far as it is remembered."""
        return self._assets.get(self._account_assets.get(account_id, 0))

    async def _asset_of(self, account_id: int, missing: Status) -> Asset:
        """The asset of an account. Raises Refused with the status `missing`."""
        number = self._account_assets.get(account_id)
        if number is not None:
            return await self.asset(number)
        try:
            return (await self._find_account(account_id)).asset
        except NotFound as error:
            raise Refused(missing, None, str(error)) from None

    async def _asset_of_hold(
        self, hold_id: int, given: int | None, *, needed: bool
    ) -> Asset | None:
        """The asset of a hold, None if it can't be known and isn't needed.

        The `given` number is believed only of a hold that is gone: of another asset, it would make
        another amount. Raises Refused, and ValueError when it isn't the hold's.
        """
        number = self._hold_assets.get(hold_id)
        try:
            if number is None:
                number = (await self._find_hold(hold_id)).asset.number
        except NotFound as error:
            if given is not None and error.reason == Status.HOLD_NOT_OPEN.name:
                return await self.asset(given)
            if not needed:
                return None
            missing = Status[error.reason]
            raise Refused(missing, None, f"{error}; to send a command again give asset=") from None
        if given not in (None, number):
            raise ValueError(f"asset is {given}, but hold {hold_id} is of asset {number}")
        return await self.asset(number)

    async def _look_up(self, commands: Sequence[bytes]) -> None:
        """Learn the assets of the accounts and holds that are named and exist already."""
        accounts: set[int] = set()
        holds: set[int] = set()
        for command in commands:
            fields = unpack_fields(command)
            if fields.operation in (Operation.CAPTURE, Operation.RELEASE):
                holds.add(fields.reference)
            else:
                accounts.add(fields.debit_account or fields.credit_account)
        await self._each(self._find_account, accounts - self._account_assets.keys() - {0})
        await self._each(self._find_hold, holds - self._hold_assets.keys() - {0})

    async def _each(self, look_up: Callable[[int], Awaitable[Any]], ids: set[int]) -> None:
        """Look all up, a limited number at a time; what is missing is left out."""
        if ids and not self._assets:
            await self.totals()

        async def unless_missing(number: int) -> None:
            with contextlib.suppress(NotFound):
                await look_up(number)

        ordered = sorted(ids)
        for start in range(0, len(ordered), LOOK_UPS_AT_ONCE):
            await asyncio.gather(*map(unless_missing, ordered[start : start + LOOK_UPS_AT_ONCE]))


def remember(table: dict[int, int], key: int, number: int) -> None:
    """Keep a key's asset number; the oldest is forgotten where there are too many."""
    if key not in table and len(table) >= REMEMBERED_MAX:
        del table[next(iter(table))]
    table[key] = number


def _list_request(
    after: int,
    page_size: int,
    asset: int | None,
    state: AccountState | str | None,
    code: int | None,
    reference: int | None,
) -> ledger_pb2.ListAccountsRequest:
    check_range("after", after, 0, U64_MAX)
    check_range("page_size", page_size, 1, PAGE_MAX)
    request = ledger_pb2.ListAccountsRequest(after_account_id=after, page_size=page_size)
    if asset is not None:
        check_range("asset", asset, 0, _U32_MAX)
        request.asset = asset
    if state is not None:
        try:
            request.state = _FILTERS[AccountState(state)]
        except ValueError:
            raise ValueError(f"state is {state!r}: give 'open', 'locked' or 'closed'") from None
    if code is not None:
        check_range("code", code, 0, _U32_MAX)
        request.code = code
    if reference is not None:
        check_range("reference", reference, 0, U64_MAX)
        request.reference = reference
    return request
