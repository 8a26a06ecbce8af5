"""What can go wrong between a caller and the ledger.

RingledgerClientError
├── Refused             the ledger judged the command and said no (`Ledger`, `raise_for_status`)
│   └── ChainRefused    all or nothing, and it was nothing; `index` is the command that failed
├── NotFound            a query named an account, open hold or asset that isn't there
├── InvalidRequest      structurally wrong, nothing was run: correct it, don't retry
├── Unauthenticated     the node wants another token or certificate; nothing was run
├── NotServed           the node doesn't know this query: it is older, or of another role
├── Retryable           surely not run: send it again with the same command id
│   ├── NotLeader       this node doesn't lead; `leader` is who does, if known
│   ├── Unavailable     the node can't be reached, or the stream ended before the command was sent
│   │   └── Behind      a read: the node had not yet applied what was asked for
│   ├── StreamBusy      waited past its deadline without being sent, or too many wait
│   ├── StreamClosed    the stream was closed by its owner
│   └── IdInFuture      its id is ahead of ledger time: wait a second first
└── OutcomeUnknown      sent and not answered: send it again with the same command id
    └── OutcomeUnsettled    sending it again doesn't tell: ask history, or read the state

`Client` retries by itself until its deadline: Retryable then says "surely not run, and no more
time", OutcomeUnknown "it may have been run". Both keep what the last node said.

On a stream a business outcome is a value, `Reply.status`; only what is listed here is raised.

What CHAIN_ID_REUSED leaves open: the chain was not run this time. A member whose id is known has
done its work if its reply is OK, as a part of this chain or in another message. A member without
an id is answered CHAIN_ID_REUSED also when the chain is sent again that was done: give every
member an id, then a chain that is sent again gets its first replies.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from client_core.answers import LedgerReply
    from client_core.records import Reply, Status

_COMMAND_BYTES: Final = 64
_ID_BYTES: Final = 16


class RingledgerClientError(Exception):
    """Root of the faults raised by client_core."""


class Refused(RingledgerClientError):
    """A status that is not OK, raised only where a caller asks for it.

    `reply` is None when a look-up had told the same and nothing was sent.
    """

    def __init__(self, status: "Status", reply: "Reply | None", why: str = "") -> None:
        super().__init__(f"refused: {status.name}" + (f": {why}" if why else ""))
        self.status = status
        self.reply = reply


class ChainRefused(Refused):
    """Commands that stand or fall together: none of them did anything.

    `index` and `status` are those of the command that failed, `replies` all replies in order.
    """

    def __init__(self, index: int, replies: "Sequence[LedgerReply]") -> None:
        failed = replies[index]
        super().__init__(failed.status, failed.minor, f"command {index} of {len(replies)}")
        self.index = index
        self.replies = replies


class NotFound(RingledgerClientError):
    """What a query named isn't there.

    `reason` is ACCOUNT_NOT_FOUND, HOLD_NOT_FOUND (never opened), HOLD_NOT_OPEN (captured,
    released or expired) or ASSET_NOT_FOUND.
    """

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class InvalidRequest(RingledgerClientError):
    """The node refused the message whole for its structure; none of it was run.

    Of history: `reason` is BEYOND_HISTORY for a moment that it hasn't reached, NOT_KEPT for one
    that it doesn't keep.
    """

    def __init__(self, why: str, reason: str = "") -> None:
        super().__init__(why)
        self.reason = reason


class Unauthenticated(RingledgerClientError):
    """The node wants a token or a certificate that this client doesn't have; nothing was run."""


class NotServed(RingledgerClientError):
    """The node doesn't know this query: its program is older, or its role another."""


class Retryable(RingledgerClientError):
    """Surely not run: sending it again is safe even without a command id."""


class NotLeader(Retryable):
    """The node doesn't lead (any more). `leader` is the leader's address, empty if unknown."""

    def __init__(self, leader: str, why: str = "this node does not lead") -> None:
        super().__init__(f"{why} (leader: {leader or 'unknown'})")
        self.leader = leader


class Unavailable(Retryable):
    """The node could not be reached, or its stream ended before the command was sent."""


class Behind(Unavailable):
    """A read wanted a sequence that the node had not applied within the deadline."""


class StreamBusy(Retryable):
    """Never sent: its deadline passed while it waited its turn, or too many were waiting."""


class StreamClosed(Retryable):
    """Never sent: the stream is closed."""


class IdInFuture(Retryable):
    """The command id is more than a second ahead of ledger time: wait, then send it again."""

    def __init__(self, why: str = "wait and send it again") -> None:
        super().__init__(f"COMMAND_ID_IN_FUTURE: {why}")


class OutcomeUnknown(RingledgerClientError):
    """Sent but not answered: it may have been run or may still be run.

    Sending the same commands again settles it, as long as they carry command ids.
    """

    def __init__(self, commands: bytes, why: str) -> None:
        super().__init__(f"outcome unknown: {why}")
        self.commands = commands

    @property
    def command_id(self) -> bytes:
        """The id (16 bytes) of the first command in question: send that again with it."""
        return self.commands[:_ID_BYTES]

    @property
    def command_ids(self) -> list[bytes]:
        """The ids (16 bytes each) of the commands in question, in their order."""
        return [
            self.commands[at : at + _ID_BYTES]
            for at in range(0, len(self.commands), _COMMAND_BYTES)
        ]


class OutcomeUnsettled(OutcomeUnknown):
    """Answered, but what an earlier sending did can't be told, and sending again won't tell.

    The id is older than what the window of recent ids remembers (COMMAND_ID_TOO_OLD), or only a
    part of a chain is known. Ask history or read the state. `replies` are those of `commands`, in
    minor units.
    """

    def __init__(self, commands: bytes, replies: "Sequence[Reply]", why: str) -> None:
        super().__init__(commands, f"{why}: ask history or read the state")
        self.replies = replies
