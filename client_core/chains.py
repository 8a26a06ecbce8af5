"""What the replies to a chain say of the whole: done, refused, or not to be known any more."""

from collections.abc import Sequence
from typing import Final

from client_core.answers import LedgerReply
from client_core.errors import ChainRefused, IdInFuture, OutcomeUnsettled
from client_core.records import Status

_ID_REFUSALS: Final = frozenset(
    {Status.COMMAND_ID_REUSED, Status.COMMAND_ID_TOO_OLD, Status.COMMAND_ID_IN_FUTURE}
)


def check_chain(commands: bytes, replies: Sequence[LedgerReply]) -> None:
    """Return if the whole chain was done, now or when it was first sent; else raise.

    An id that is known as done, or too old to be known, tells that the chain, or a part of it in
    another message, ran before: OutcomeUnsettled, unless all of it is known as done. Else
    nothing of it was done: IdInFuture where waiting helps, or ChainRefused.
    """
    if all(reply.accepted for reply in replies):
        return
    for index, reply in enumerate(replies):
        if reply.status is Status.COMMAND_ID_TOO_OLD or (reply.accepted and reply.duplicate):
            known = "was run before" if reply.accepted else "has an id too old to be known"
            raise OutcomeUnsettled(
                commands,
                [reply.minor for reply in replies],
                f"nothing of the chain was run now, but command {index} of {len(replies)} {known}",
            )
    failed = _failed_index(replies)
    in_future = replies[failed].status is Status.COMMAND_ID_IN_FUTURE
    if in_future and not any(reply.duplicate for reply in replies):
        raise IdInFuture(f"command {failed} of {len(replies)}, so nothing of the chain was run")
    raise ChainRefused(failed, replies)


def _failed_index(replies: Sequence[LedgerReply]) -> int:
    """The command that a chain failed by: an id's own refusal before the others' CHAIN_ID_REUSED,
    and that before a duplicate's first status.
    """
    statuses = [reply.status for reply in replies]
    for index, status in enumerate(statuses):
        if status in _ID_REFUSALS:
            return index
    if Status.CHAIN_ID_REUSED in statuses:
        return statuses.index(Status.CHAIN_ID_REUSED)
    failed = set(statuses) - {Status.OK, Status.LINKED_FAILED} or {Status.LINKED_FAILED}
    return next(index for index, status in enumerate(statuses) if status in failed)
