"""Batches: up to 5,000 commands in one message, all or nothing or each for itself.

The ids of a keyed batch's members come from its key and their places, so a batch that is sent
again gets its first answers. An account or hold that isn't there is refused before anything is
sent: its asset, which tells the amount's decimals, can't be known.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import Any, Final, Literal

from client_app.answers import amount_text
from client_app.documents import Routes
from client_app.problems import Problem, http_status_of
from client_app.routes import Answer, Call
from client_app.schemas import (
    Batch,
    BatchAnswer,
    BatchCapture,
    BatchClose,
    BatchCreateAccount,
    BatchDeposit,
    BatchHold,
    BatchLimits,
    BatchLock,
    BatchRelease,
    BatchTransfer,
    BatchWithdraw,
    Json,
    Member,
)
from client_core import (
    LINEARIZABLE,
    Asset,
    Client,
    LedgerReply,
    NotFound,
    Side,
    Status,
    records,
)

_REMEMBERED_MAX: Final = 65_536
"""Accounts and holds whose asset is remembered, and batches whose key is."""

_LOOK_UPS_AT_ONCE: Final = 512

_NOT_THERE: Final = "there is no such account"
_WHY: Final = {
    Status.HOLD_NOT_OPEN: "there is no such hold any more (to send a batch again give its asset)"
}

_Kind = Literal["account", "hold"]
_Assets = dict[tuple[_Kind, int], Asset]


class BatchRoutes:
    """The handler over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger
        self._known: OrderedDict[tuple[_Kind, int], Asset] = OrderedDict()
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()

    def add_to(self, routes: Routes) -> None:
        """Add it."""
        routes.post("/api/v1/batches", self.batch, BatchAnswer)

    async def batch(self, call: Call, body: Batch) -> Answer:
        """Run commands next to each other, in one message: atomic or independent."""
        self._check_body(call.command_id, body)
        assets = await self._find_assets(body)
        commands: list[bytes] = []
        refused: dict[int, Status] = {}
        for index, member in enumerate(body.commands):
            subject = _subject(member)
            if subject is not None and subject not in assets:
                refused[index] = _missing(member)
                continue
            try:
                asset = None if subject is None else assets[subject]
                commands.append(_pack(member, call.key.command_id(index + 1), asset))
            except ValueError as error:
                raise Problem(
                    422, "INVALID_REQUEST", f"commands.{index}: {error}", more={"errors": []}
                ) from None
        if body.atomic and refused:
            index, status = next(iter(refused.items()))
            detail = f"command {index}: {_WHY.get(status, _NOT_THERE)}; nothing was done now"
            more = {"failed_command": index}
            raise Problem(http_status_of(status), status.name, detail, more=more)
        replies = await self._ledger.execute_all(commands, atomic=body.atomic) if commands else []
        return _answer(body, replies, refused)

    def _check_body(self, command_id: bytes, body: Batch) -> None:
        """Raises Problem if this key, as far as is remembered, came with another body.

        The ledger knows the members it has; a batch that grew would only be new at its end.
        """
        if _named_assets(body):
            # no part of the commands: it may be given only when they are sent again
            commands = [_without_asset(member) for member in body.commands]
            body = body.model_copy(update={"commands": commands})
        digest = blake2b(body.__pydantic_serializer__.to_json(body), digest_size=16).digest()
        if self._bodies.setdefault(command_id, digest) != digest:
            detail = "this Idempotency-Key came with another batch before"
            raise Problem(422, Status.COMMAND_ID_REUSED.name, detail)
        _forget(self._bodies)

    async def _find_assets(self, body: Batch) -> _Assets:
        """The asset of every account and hold that a member takes money from, if there is one."""
        subjects = {subject for member in body.commands if (subject := _subject(member))}
        named = _named_assets(body)
        assets: _Assets = {}
        unknown = []
        for subject in subjects:
            # a hold's too: when its batch is sent again it may have gone
            known = self._known.get(subject)
            if known is None:
                unknown.append(subject)
            else:
                assets[subject] = known
        for start in range(0, len(unknown), _LOOK_UPS_AT_ONCE):
            some = unknown[start : start + _LOOK_UPS_AT_ONCE]
            found = await asyncio.gather(
                *(self._find_asset(subject, named.get(subject)) for subject in some)
            )
            assets |= {subject: asset for subject, asset in zip(some, found, strict=True) if asset}
        for subject, number in named.items():
            if subject in assets and assets[subject].number != number:
                detail = f"hold {subject[1]} is of asset {assets[subject].number}, not {number}"
                raise Problem(422, "INVALID_REQUEST", detail)
        self._known |= assets
        _forget(self._known)
        return assets

    async def _find_asset(self, subject: tuple[_Kind, int], named: int | None) -> Asset | None:
        """None for what isn't there; of a hold that has gone, the asset that its member names."""
        kind, number = subject
        ask: Callable[..., Awaitable[Any]] = (
            self._ledger.account if kind == "account" else self._ledger.hold_of
        )
        try:
            found = await ask(number)
        except NotFound:
            # what was opened through another program a follower may not know yet
            try:
                found = await ask(number, consistency=LINEARIZABLE)
            except NotFound as error:
                # it never opens again, so no more than a first answer can come of it
                if error.reason != Status.HOLD_NOT_OPEN.name or named is None:
                    return None
                with contextlib.suppress(NotFound):
                    return await self._ledger.asset(named)
                return None
        asset: Asset = found.asset
        return asset


def _named_assets(body: Batch) -> dict[tuple[_Kind, int], int]:
    """The asset numbers that members give for their holds."""
    return {
        ("hold", member.hold): member.asset
        for member in body.commands
        if isinstance(member, (BatchCapture, BatchRelease)) and member.asset is not None
    }


def _without_asset(member: Member) -> Member:
    if isinstance(member, (BatchCapture, BatchRelease)):
        return member.model_copy(update={"asset": None})
    return member


def _subject(member: Any) -> tuple[_Kind, int] | None:
    """Whose asset a member's amounts are of."""
    match member:
        case BatchDeposit():
            return "account", member.credit_account
        case BatchWithdraw() | BatchTransfer() | BatchHold():
            return "account", member.debit_account
        case BatchLimits():
            return "account", member.account
        case BatchCapture() | BatchRelease():
            # without an amount it is all that is held, and needs no decimals
            return None if member.amount is None else ("hold", member.hold)
    return None


def _missing(member: Any) -> Status:
    if isinstance(member, BatchDeposit):
        return Status.CREDIT_ACCOUNT_NOT_FOUND
    if isinstance(member, (BatchCapture, BatchRelease)):
        return Status.HOLD_NOT_OPEN
    return Status.DEBIT_ACCOUNT_NOT_FOUND


def _pack(member: Any, command_id: bytes, asset: Asset | None) -> bytes:
    """The member's 64 bytes. Raises ValueError."""
    match member:
        case BatchCreateAccount():
            return records.create_account(
                command_id, asset=member.asset, reference=member.reference, code=member.code
            )
        case BatchLock():
            side = (Side.DEBITS * member.debits) | (Side.CREDITS * member.credits)
            build = records.lock if member.operation == "lock" else records.unlock
            return build(command_id, member.account, Side(side))
        case BatchClose():
            return records.close_account(command_id, member.account, code=member.code)
        case BatchRelease():
            amount = _part(asset, member.amount)
            return records.release(command_id, member.hold, amount, code=member.code)
        case BatchCapture():
            return records.capture(
                command_id,
                member.hold,
                _part(asset, member.amount),
                balancing=member.balancing,
                keep_rest_held=member.keep_rest_held,
                code=member.code,
            )
        case BatchLimits():
            ceiling = records.AMOUNT_MAX if member.ceiling is None else member.ceiling
            return records.set_limits(
                command_id,
                member.account,
                floor=_minor(asset, member.floor),
                ceiling=ceiling if isinstance(ceiling, int) else _minor(asset, ceiling),
                code=member.code,
            )
    return _pack_posting(member, command_id, _minor(asset, member.amount))


def _pack_posting(member: Any, command_id: bytes, amount: int) -> bytes:
    expected: dict[str, Any] = {"expected_version": member.expected_version, "code": member.code}
    match member:
        case BatchDeposit():
            return records.deposit(command_id, member.credit_account, amount, **expected)
        case BatchWithdraw():
            return records.withdraw(command_id, member.debit_account, amount, **expected)
        case BatchHold():
            expected["timeout_s"] = member.timeout_s
            return records.hold(
                command_id, member.debit_account, member.credit_account, amount, **expected
            )
    return records.transfer(
        command_id,
        member.debit_account,
        member.credit_account,
        amount,
        balancing=member.balancing,
        **expected,
    )


def _minor(asset: Asset | None, amount: str | None) -> int:
    return 0 if asset is None or amount is None else asset.to_minor(amount)


def _part(asset: Asset | None, amount: str | None) -> int:
    """Of a hold, in minor units; 0, all that is held, only where no amount is given."""
    if asset is None or amount is None:
        return 0
    minor = asset.to_minor(amount)
    if not minor:
        raise ValueError("the amount must be above zero; without one it is all that is held")
    return minor


def _answer(body: Batch, replies: Iterable[LedgerReply], refused: dict[int, Status]) -> Answer:
    answered = iter(replies)
    results: list[Json] = []
    accepted = fresh = 0
    for index, member in enumerate(body.commands):
        if index in refused:
            results.append({"status": refused[index].name})
            continue
        reply = next(answered)
        accepted += reply.accepted
        fresh += not reply.duplicate and reply.status is not Status.COMMAND_ID_REUSED
        results.append(_result(member, reply))
    if not fresh and any(result["status"] == Status.COMMAND_ID_REUSED.name for result in results):
        detail = "this Idempotency-Key came with another batch before; nothing was done now"
        raise Problem(422, Status.COMMAND_ID_REUSED.name, detail)
    content = {"accepted": accepted, "refused": len(results) - accepted, "results": results}
    return Answer(content, replayed=not fresh and len(refused) < len(results))


def _result(member: Any, reply: LedgerReply) -> Json:
    result: Json = {"status": reply.status.name, "replayed": reply.duplicate}
    if not reply.accepted:
        return result
    result["sequence"] = reply.sequence
    if reply.entity:
        key = "account" if isinstance(member, BatchCreateAccount) else "hold"
        result[key] = reply.entity
    if hasattr(member, "amount"):
        result["amount"] = amount_text(reply.asset, reply.minor.amount)
        if hasattr(member, "debit_account") or isinstance(member, BatchCapture):
            result["debit_balance"] = amount_text(reply.asset, reply.minor.debit_balance)
        if hasattr(member, "credit_account") or isinstance(member, BatchCapture):
            result["credit_balance"] = amount_text(reply.asset, reply.minor.credit_balance)
    return result


def _forget(table: OrderedDict[Any, Any]) -> None:
    while len(table) > _REMEMBERED_MAX:
        table.popitem(last=False)
