"""The reader rule: which journal records count. One pure function, used by every role.

The journal itself elects and fences: an EPOCH_START counts only where it continues the chain, so
it is a compare-and-set on the log, and everything that a deposed leader appends later is skipped
by every reader alike. The order of the checks is normative; a bounded state search found a
counterexample for each when loosened (see ARCHITECTURE.md).
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from cluster_core.batch import CHAIN_START, NO_LEADER, Header, Kind


@dataclass(frozen=True, slots=True)
class Position:
    """All that a reader must remember between two records; a snapshot carries it whole."""

    next_offset: int = 0
    epoch: int = 0
    leader_id: bytes = NO_LEADER
    next_sequence: int = 0
    timestamp_ns: int = 0
    chain: bytes = CHAIN_START

    @property
    def has_leader(self) -> bool:
        """False before the first epoch and after an EPOCH_END."""
        return self.leader_id != NO_LEADER


class Verdict(Enum):
    """COUNTS: apply it. SKIP: move on, count it in a metric. STOP: say so and end."""

    COUNTS = auto()
    SKIP = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, its reason in a few words, and the position after the record."""

    verdict: Verdict
    reason: str
    position: Position


def judge(position: Position, offset: int, header: Header) -> Judgement:
    """Apply the reader rule to one intact record (its digest was checked by `open_batch`)."""
    if offset != position.next_offset:
        return Judgement(
            Verdict.STOP,
            f"offset {offset} where {position.next_offset} was expected: "
            "go back to the newest snapshot",
            position,
        )
    passed = replace(position, next_offset=offset + 1)
    if header.kind is Kind.EPOCH_START:
        return _judge_epoch_start(position, passed, header)
    if header.epoch < position.epoch:
        return Judgement(Verdict.SKIP, f"late write of epoch {header.epoch}", passed)
    if header.epoch > position.epoch:
        return Judgement(
            Verdict.STOP,
            f"epoch {header.epoch} without its EPOCH_START was seen",
            position,
        )
    if not position.has_leader:
        if position.epoch == 0:
            return Judgement(Verdict.STOP, "the journal does not begin with an epoch", position)
        return Judgement(Verdict.SKIP, "write after the epoch's end", passed)
    if header.leader_id != position.leader_id:
        return Judgement(Verdict.STOP, "two leaders in one epoch", position)
    if not _chains(position, header):
        return Judgement(Verdict.SKIP, "does not continue the chain", passed)
    leader_id = NO_LEADER if header.kind is Kind.EPOCH_END else position.leader_id
    return Judgement(
        Verdict.COUNTS,
        "",
        _counted(passed, header, epoch=position.epoch, leader_id=leader_id),
    )


def _judge_epoch_start(position: Position, passed: Position, header: Header) -> Judgement:
    if header.epoch <= position.epoch:
        return Judgement(Verdict.SKIP, f"candidacy for past epoch {header.epoch}", passed)
    if header.epoch > position.epoch + 1:
        return Judgement(
            Verdict.STOP,
            f"EPOCH_START of epoch {header.epoch} after epoch {position.epoch}",
            position,
        )
    if not _chains(position, header):
        return Judgement(Verdict.SKIP, "candidacy that lost a race", passed)
    return Judgement(
        Verdict.COUNTS,
        "",
        _counted(passed, header, epoch=header.epoch, leader_id=header.leader_id),
    )


def _chains(position: Position, header: Header) -> bool:
    return (
        header.first_sequence == position.next_sequence and header.previous_chain == position.chain
    )


def _counted(passed: Position, header: Header, *, epoch: int, leader_id: bytes) -> Position:
    return Position(
        passed.next_offset,
        epoch,
        leader_id,
        header.first_sequence + header.count,
        header.timestamp_ns,
        header.digest,
    )
