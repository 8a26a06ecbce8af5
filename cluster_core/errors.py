"""Faults of the core.

RingledgerError
├── InvalidCommands     a client's packed commands are structurally wrong (refused at ingress)
├── InvariantViolated   the program is wrong: stop, never limp on
├── JournalError
│   ├── JournalFault    the journal's content can't be followed; names offset and what to do
│   ├── JournalRefused  not a journal of ours, or one that another program version wrote
│   ├── JournalStopped  the writer can append no more (foreign writer, disk full, closed)
│   └── OffsetTrimmed   the position asked for lies below the first kept offset
└── SnapshotError
    ├── SnapshotDamaged   a row was changed, is missing or is too much; names it
    ├── SnapshotMoved     another learner has saved a snapshot since this one's base
    ├── SnapshotRefused   of another ledger, a newer format, or not what the journal says
    │   └── SnapshotOvertaken   the journal was trimmed beyond it: a newer one may be stored
    └── StoreUnavailable  the store takes or gives nothing now: trying again may help
"""


class RingledgerError(Exception):
    """Root of the faults raised by cluster_core."""


class InvalidCommands(RingledgerError):
    """Structurally wrong commands. `index` is the first wrong command, -1 for the whole message."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason if index < 0 else f"command {index}: {reason}")
        self.index = index
        self.reason = reason


class InvariantViolated(RingledgerError):
    """A cursor, sum or position contradicts the design."""


class JournalError(RingledgerError):
    """Root of what can go wrong between this process and its journal."""


class JournalFault(JournalError):
    """A record that must not be followed; the message holds its offset and what to do."""


class JournalRefused(JournalError):
    """The address leads to something that is not a journal this program can use."""


class JournalStopped(JournalError):
    """Appending has ended for good on this writer."""


class OffsetTrimmed(JournalError):
    """The offset asked for was trimmed away."""


class SnapshotError(RingledgerError):
    """Root of what can go wrong between this process and its snapshots."""


class SnapshotDamaged(SnapshotError):
    """A snapshot's rows are not what was saved; the message names the first wrong one."""


class SnapshotMoved(SnapshotError):
    """The stored snapshot is no longer the base that a delta was made for."""


class SnapshotRefused(SnapshotError):
    """A snapshot that this program must not begin from; the message says what to do."""


class SnapshotOvertaken(SnapshotRefused):
    """The journal doesn't reach back to the snapshot's last record any more."""


class StoreUnavailable(SnapshotError):
    """The snapshot store can't be reached, or refused a transaction."""
