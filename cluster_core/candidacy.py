"""When a node may stand for leadership, and whether it won: decisions without clock or journal.

Whoever drives them brings time, randomness, journal and waiting; `cluster_app/election.py` does so
with real ones and threads, a simulation with its own, one step after the other:

    silence = Silence(draw_timeout_s)               # draw_timeout_s() gives the next timeout
    replica.take(every record of the journal)       # what was written before is no sign of life
    silence.heard(now_s)
    while (wait_s := silence.left_s(replica.position, now_s)) > 0:
        read for at most wait_s; replica.take(record); silence.heard(now_s) if one counted
    replica.take(the rest of the journal); one that counts, with a leader alive: begin again
    candidacy = Candidacy(replica.position, start, a fresh leader id, now_ns)
    append candidacy.value with a writer of its own, wait for its delivery
    replica.take(every record up to the delivery's offset)
    candidacy.has_won(replica.position)             # then: the pipeline goes on from there

A candidacy that failed, for whatever reason, is over: purge its writer, and stand again only with
a new one. Nothing here depends on timing being right: a wrong suspicion costs a switch, never a
wrong answer, for the reader rule alone decides what counts.
"""

from collections.abc import Callable
from typing import Final

from cluster_core.batch import EpochStart, Kind, seal
from cluster_core.reader_rule import Position

CLOCK_DIFFERENCE_NS_MAX: Final = 5_000_000_000
"""A candidate whose wall clock is farther off the journal's own doesn't lead."""


class Silence:
    """How long a node that follows has heard nothing; times are seconds of any monotonic clock.

    `draw_timeout_s` gives the silence after which it may stand. It is asked anew after each sign
    of life, so that two standbys seldom stand at once, and never again and again.
    """

    def __init__(self, draw_timeout_s: Callable[[], float]) -> None:
        self._draw_timeout_s = draw_timeout_s
        self._silent_at_s = 0.0
        self._gives_way_until_s: float | None = None

    def heard(self, now_s: float) -> None:
        """A record was counted, or the wait begins: the time runs anew."""
        self._silent_at_s = now_s + self._draw_timeout_s()

    def gives_way(self, now_s: float) -> None:
        """This node has just handed its epoch over: others may take it first."""
        self.heard(now_s)
        self._gives_way_until_s = self._silent_at_s

    def left_s(self, position: Position, now_s: float) -> float:
        """How long it must wait still; 0 when it may stand.

        Nobody waits where nobody leads: before the first epoch, and after an EPOCH_END.
        """
        if position.has_leader:
            self._gives_way_until_s = None
            return max(self._silent_at_s - now_s, 0.0)
        if self._gives_way_until_s is not None:
            return max(self._gives_way_until_s - now_s, 0.0)
        return 0.0


class Candidacy:
    """One try for the epoch after `position`, with a leader id that was never used before.

    `value` is the EPOCH_START to append; `now_ns` is this node's wall clock.
    """

    def __init__(
        self, position: Position, start: EpochStart, leader_id: bytes, now_ns: int
    ) -> None:
        self.leader_id: Final = leader_id
        self.sent_ns: Final = now_ns
        self.value, _ = seal(
            Kind.EPOCH_START,
            epoch=position.epoch + 1,
            leader_id=leader_id,
            first_sequence=position.next_sequence,
            timestamp_ns=max(now_ns, position.timestamp_ns),
            previous_chain=position.chain,
            body=(start.pack(),),
        )

    def has_won(self, position: Position) -> bool:
        """Whether it leads: `position` is the reader's, just after it has read this value."""
        return position.leader_id == self.leader_id


def somebody_lives(before: Position, now: Position) -> bool:
    """Whether a leader has written since the position was `before`: the candidacy ends."""
    return now.has_leader and now.chain != before.chain


def epoch_end(position: Position) -> bytes:
    """The EPOCH_END with which a leader that hasn't begun gives its epoch back."""
    value, _ = seal(
        Kind.EPOCH_END,
        epoch=position.epoch,
        leader_id=position.leader_id,
        first_sequence=position.next_sequence,
        timestamp_ns=position.timestamp_ns,
        previous_chain=position.chain,
    )
    return value


def clock_difference(before_ns: int, appended_ns: int, after_ns: int) -> str:
    """Why the clocks disagree, for a record stored between two looks at ours; "" if they agree."""
    if before_ns - CLOCK_DIFFERENCE_NS_MAX <= appended_ns <= after_ns + CLOCK_DIFFERENCE_NS_MAX:
        return ""
    off_ns = before_ns - appended_ns if appended_ns < before_ns else after_ns - appended_ns
    return f"this machine's clock is {off_ns / 1e9:.1f} s off the journal's: set the clock"
