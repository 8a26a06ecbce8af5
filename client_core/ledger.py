"""Ledger: every operation and query of the ledger, with exact decimal amounts.

Amounts are Decimal, int or str, in the asset's decimals, and never rounded (`client_core.assets`).
A look-up finds an account's asset the first time it is named; assets of accounts never change, so
they are remembered. What a look-up doesn't find is refused as the ledger would, without sending.
"""

import contextlib
from collections.abc import Sequence
from typing import Protocol

from client_core import records
from client_core.answers import LedgerReply
from client_core.assets import Amount, Asset
from client_core.chains import check_chain
from client_core.command_ids import CommandIds
from client_core.command_stream import CommandStream
from client_core.errors import RingledgerClientError
from client_core.ledger_queries import LedgerQueries, remember
from client_core.messages import link
from client_core.queries import NodeReader, Reader
from client_core.records import (
    AMOUNT_MAX,
    COMMAND_BYTES,
    MAX_MESSAGE_COMMANDS,
    Operation,
    Reply,
    Side,
    Status,
    unpack_fields,
    unpack_replies,
)


class Commands(Protocol):
    """Where commands go: one node's CommandStream, or a LeaderStream."""

    command_ids: CommandIds

    async def submit(self, command: bytes, deadline_s: float | None = None) -> Reply:
        """One packed command."""

    async def submit_many(self, packed: bytes, deadline_s: float | None = None) -> bytes:
        """Packed commands in one message."""


class Ledger(LedgerQueries):
    """Typed calls over one open CommandStream: `Ledger(stream)`. For one event loop.

    Every operation takes `command_id`, 16 bytes: draw one by `new_id` and give it again to repeat
    a command whose outcome is unknown; without one an id is drawn. Operations raise ValueError
    and TypeError for arguments that can't be sent, Refused for a status that is not OK (an id too
    old is OutcomeUnsettled, one ahead of time IdInFuture), and the stream's errors. Queries raise
    NotFound and Unavailable after `query_timeout_s`.
    """

    def __init__(self, stream: CommandStream, *, query_timeout_s: float = 5.0) -> None:
        self._begin(stream, NodeReader(stream.channel, query_timeout_s, stream.security))

    def _begin(self, stream: Commands, reader: Reader) -> None:
        LedgerQueries.__init__(self, reader)
        self._stream = stream

    def new_id(self) -> bytes:
        """A command id for one command: a UUIDv7 drawn from ledger time."""
        return self._stream.command_ids.next_id()

    # Operations

    async def register_asset(
        self, number: int, symbol: str, decimals: int, *, command_id: bytes | None = None
    ) -> LedgerReply:
        """Register asset `number` (1 .. 4095) with 0 .. 18 decimals."""
        command = records.register_asset(
            self._id(command_id), asset=number, symbol=symbol, decimals=decimals
        )
        return await self._execute(command, None)

    async def create_account(
        self,
        asset: int = 1,
        *,
        reference: int = 0,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Open an account of asset number `asset`; its id is the reply's `entity`."""
        command = records.create_account(
            self._id(command_id), asset=asset, reference=reference, code=code
        )
        reply = await self._execute(command, None)
        remember(self._account_assets, reply.entity, asset)
        return reply

    async def deposit(
        self,
        credit_account: int,
        amount: Amount,
        *,
        expected_version: int = 0,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Bring money in from outside; `expected_version` (0 for any) is the account's."""
        asset = await self._asset_of(credit_account, Status.CREDIT_ACCOUNT_NOT_FOUND)
        command = records.deposit(
            self._id(command_id),
            credit_account,
            _positive(asset, amount),
            expected_version=expected_version,
            code=code,
        )
        return await self._execute(command, asset)

    async def withdraw(
        self,
        debit_account: int,
        amount: Amount,
        *,
        expected_version: int = 0,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Take money out of the ledger."""
        asset = await self._asset_of(debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        command = records.withdraw(
            self._id(command_id),
            debit_account,
            _positive(asset, amount),
            expected_version=expected_version,
            code=code,
        )
        return await self._execute(command, asset)

    async def transfer(
        self,
        debit_account: int,
        credit_account: int,
        amount: Amount,
        *,
        balancing: bool = False,
        expected_version: int = 0,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Move money between two accounts; `balancing` moves what is available, up to it."""
        asset = self._known_asset_of(debit_account) or await self._asset_of(
            debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND
        )
        command = records.transfer(
            self._id(command_id),
            debit_account,
            credit_account,
            _positive(asset, amount),
            balancing=balancing,
            expected_version=expected_version,
            code=code,
        )
        return await self._execute(command, asset)

    async def hold(
        self,
        debit_account: int,
        credit_account: int,
        amount: Amount,
        *,
        timeout_s: int = 0,
        expected_version: int = 0,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Reserve money; the hold's id is the reply's `entity`. `timeout_s` 0 is never."""
        asset = await self._asset_of(debit_account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        command = records.hold(
            self._id(command_id),
            debit_account,
            credit_account,
            _positive(asset, amount),
            timeout_s=timeout_s,
            expected_version=expected_version,
            code=code,
        )
        reply = await self._execute(command, asset)
        remember(self._hold_assets, reply.entity, asset.number)
        return reply

    async def capture(
        self,
        hold_id: int,
        amount: Amount | None = None,
        *,
        balancing: bool = False,
        keep_rest_held: bool = False,
        asset: int | None = None,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Move what a hold reserved, all of it or `amount`, and free the rest.

        `asset`, the hold's asset number, is only needed to send a capture again from another
        process after its hold has gone: then nothing else tells it. Raises ValueError if it isn't
        the hold's.
        """
        of_hold = await self._asset_of_hold(hold_id, asset, needed=amount is not None)
        command = records.capture(
            self._id(command_id),
            hold_id,
            _part(of_hold, amount),
            balancing=balancing,
            keep_rest_held=keep_rest_held,
            code=code,
        )
        return await self._execute(command, of_hold)

    async def release(
        self,
        hold_id: int,
        amount: Amount | None = None,
        *,
        asset: int | None = None,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Free what a hold reserved, all of it or `amount`; `asset` as in `capture`."""
        of_hold = await self._asset_of_hold(hold_id, asset, needed=amount is not None)
        command = records.release(self._id(command_id), hold_id, _part(of_hold, amount), code=code)
        return await self._execute(command, of_hold)

    async def lock(
        self, account: int, side: Side = Side.BOTH, *, command_id: bytes | None = None
    ) -> LedgerReply:
        """Lock an account against debits, credits or both."""
        asset = await self._asset_of(account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        return await self._execute(records.lock(self._id(command_id), account, side), asset)

    async def unlock(
        self, account: int, side: Side = Side.BOTH, *, command_id: bytes | None = None
    ) -> LedgerReply:
        """Take an account's locks off again."""
        asset = await self._asset_of(account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        return await self._execute(records.unlock(self._id(command_id), account, side), asset)

    async def close_account(
        self, account: int, *, code: int = 0, command_id: bytes | None = None
    ) -> LedgerReply:
        """Close an account for ever; it must be empty and without open holds."""
        asset = await self._asset_of(account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        return await self._execute(
            records.close_account(self._id(command_id), account, code=code), asset
        )

    async def set_limits(
        self,
        account: int,
        *,
        floor: Amount = 0,
        ceiling: Amount | None = None,
        code: int = 0,
        command_id: bytes | None = None,
    ) -> LedgerReply:
        """Set both limits of an account's balance; `ceiling` None is no ceiling."""
        asset = await self._asset_of(account, Status.DEBIT_ACCOUNT_NOT_FOUND)
        command = records.set_limits(
            self._id(command_id),
            account,
            floor=asset.to_minor(floor),
            ceiling=AMOUNT_MAX if ceiling is None else asset.to_minor(ceiling),
            code=code,
        )
        return await self._execute(command, asset)

    async def execute_all(
        self, commands: Sequence[bytes], *, atomic: bool = False
    ) -> list[LedgerReply]:
        """Run packed commands next to each other; their replies in order.

        `commands`, 1 to 8,192, are those of `client_core.transfer` and its like, with ids by
        `new_id` and amounts by `Asset.to_minor`. With `atomic` all or nothing: raises
        ChainRefused, naming the command that failed, when nothing was done; OutcomeUnsettled when
        a part was known before; IdInFuture. Else every status is a value.
        """
        if not 1 <= len(commands) <= MAX_MESSAGE_COMMANDS:
            raise ValueError(f"{len(commands)} commands: give 1 to {MAX_MESSAGE_COMMANDS}")
        wrong = [len(command) for command in commands if len(command) != COMMAND_BYTES]
        if wrong:
            raise ValueError(f"a command is {COMMAND_BYTES} bytes, one of these is {wrong[0]}")
        await self._look_up(commands)
        packed = link(commands) if atomic else b"".join(commands)
        answered = unpack_replies(await self._stream.submit_many(packed))
        numbers = self._assets_of(commands, answered)
        if set(numbers) - self._assets.keys() - {None}:
            # the commands were run: what fails now must not take their replies away
            with contextlib.suppress(RingledgerClientError):
                await self.totals()
        replies = [
            LedgerReply(reply, self._assets.get(number or 0))
            for reply, number in zip(answered, numbers, strict=True)
        ]
        if atomic:
            check_chain(packed, replies)
        return replies

    async def submit(self, command: bytes) -> Reply:
        """Send one packed command until it is answered; its reply, refused or not, is the value.

        `command` is one of `client_core.transfer` and its like. Nothing is looked up: amounts are
        minor units, and what isn't there the ledger refuses. Raises the stream's errors.
        """
        return await self._stream.submit(command)

    # How they are carried out

    def _id(self, given: bytes | None) -> bytes:
        return self.new_id() if given is None else given

    async def _execute(self, command: bytes, asset: Asset | None) -> LedgerReply:
        reply = await self._stream.submit(command)
        return LedgerReply(reply.raise_for_status(command), asset)

    def _assets_of(
        self, commands: Sequence[bytes], replies: Sequence[records.Reply]
    ) -> list[int | None]:
        """Each command's asset number as far as it is known, with what the commands opened."""
        numbers: list[int | None] = []
        for command, reply in zip(commands, replies, strict=True):
            fields = unpack_fields(command)
            if fields.operation in (Operation.CAPTURE, Operation.RELEASE):
                number = self._hold_assets.get(fields.reference)
            elif fields.operation in (Operation.CREATE_ACCOUNT, Operation.REGISTER_ASSET):
                number = fields.asset
            else:
                account = fields.debit_account or fields.credit_account
                number = self._account_assets.get(account)
            if reply.accepted and number is not None:
                if fields.operation == Operation.CREATE_ACCOUNT:
                    remember(self._account_assets, reply.entity, number)
                elif fields.operation == Operation.HOLD:
                    remember(self._hold_assets, reply.entity, number)
            numbers.append(number)
        return numbers


def _positive(asset: Asset, amount: Amount) -> int:
    minor = asset.to_minor(amount)
    if minor <= 0:
        raise ValueError(f"the amount is {amount} {asset.symbol}: give more than zero")
    return minor


def _part(asset: Asset | None, amount: Amount | None) -> int:
    """A capture's or release's amount in minor units; 0, all that is held, for None."""
    return 0 if amount is None or asset is None else _positive(asset, amount)
