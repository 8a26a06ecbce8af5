"""What can go wrong between a caller and the ledger.

RingledgerClientError
├── Refused             the ledger judged the command and said no (`Reply.raise_for_status` only)
├── InvalidRequest      structurally wrong, nothing was run: correct it, don't retry
├── Retryable           surely not run: send it again with the same command id
│   ├── NotLeader       this node doesn't lead; `leader` is who does, if known
│   ├── Unavailable     the node can't be reached, or the stream ended before the command was sent
│   ├── StreamBusy      waited past its deadline without being sent, or too many wait
│   └── StreamClosed    the stream was closed by its owner
└── OutcomeUnknown      sent and not answered: send it again with the same command id

A business outcome is a value, `Reply.status`; only what is listed here is raised.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from client_core.records import Reply, Status

_COMMAND_BYTES: Final = 64
_ID_BYTES: Final = 16


class RingledgerClientError(Exception):
    """Root of the faults raised by client_core."""


class Refused(RingledgerClientError):
    """A reply whose status is not OK, raised only when a caller asks for it."""

    def __init__(self, status: "Status", reply: "Reply") -> None:
        super().__init__(f"refused: {status.name}")
        self.status = status
        self.reply = reply


class InvalidRequest(RingledgerClientError):
    """The node refused the message whole for its structure; none of it was run."""


class Retryable(RingledgerClientError):
    """Surely not run: sending it again is safe even without a command id."""


class NotLeader(Retryable):
    """The node doesn't lead (any more). `leader` is the leader's address, empty if unknown."""

    def __init__(self, leader: str, why: str = "this node does not lead") -> None:
        super().__init__(f"{why} (leader: {leader or 'unknown'})")
        self.leader = leader


class Unavailable(Retryable):
    """The node could not be reached, or its stream ended before the command was sent."""


class StreamBusy(Retryable):
    """Never sent: its deadline passed while it waited its turn, or too many were waiting."""


class StreamClosed(Retryable):
    """Never sent: the stream is closed."""


class OutcomeUnknown(RingledgerClientError):
    """Sent but not answered: it may have been run or may still be run.

    Sending the same commands again settles it, as long as they carry command ids.
    """

    def __init__(self, commands: bytes, why: str) -> None:
        super().__init__(f"outcome unknown: {why}")
        self.commands = commands

    @property
    def command_ids(self) -> list[bytes]:
        """The ids (16 bytes each) of the commands in question, in their order."""
        return [
            self.commands[at : at + _ID_BYTES]
            for at in range(0, len(self.commands), _COMMAND_BYTES)
        ]
