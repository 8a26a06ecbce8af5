"""The reader rule, branch by branch, as section 5 of the design gives it."""

from dataclasses import replace
from typing import Any, Final

import pytest

from cluster_core.batch import CHAIN_START, NO_LEADER, Header, Kind
from cluster_core.reader_rule import Position, Verdict, judge

LEADER: Final = b"L" * 16
OTHER: Final = b"O" * 16
CHAIN: Final = b"c" * 32
DIGEST: Final = b"d" * 32

LED: Final = Position(
    next_offset=10,
    epoch=5,
    leader_id=LEADER,
    next_sequence=100,
    timestamp_ns=1_000,
    chain=CHAIN,
)
ENDED: Final = replace(LED, leader_id=NO_LEADER)
EMPTY: Final = Position()

NEXT: Final = Header(
    kind=Kind.COMMANDS,
    count=3,
    epoch=5,
    leader_id=LEADER,
    first_sequence=100,
    timestamp_ns=2_000,
    body_bytes=192,
    previous_chain=CHAIN,
    digest=DIGEST,
)
BEAT: Final = replace(NEXT, kind=Kind.HEARTBEAT, count=0, body_bytes=0)
END: Final = replace(BEAT, kind=Kind.EPOCH_END)
START: Final = replace(BEAT, kind=Kind.EPOCH_START, epoch=6, leader_id=OTHER, body_bytes=40)
FIRST: Final = replace(START, epoch=1, first_sequence=0, previous_chain=CHAIN_START)

COUNTED: Final = Position(11, 5, LEADER, 100, 2_000, DIGEST)
"""After a record without commands; all of it comes from the record but the offset."""


@pytest.mark.parametrize(
    ("position", "header", "after"),
    [
        pytest.param(LED, NEXT, replace(COUNTED, next_sequence=103), id="commands"),
        pytest.param(LED, BEAT, COUNTED, id="heartbeat"),
        pytest.param(LED, END, replace(COUNTED, leader_id=NO_LEADER), id="epoch end"),
        pytest.param(LED, START, replace(COUNTED, epoch=6, leader_id=OTHER), id="takeover"),
        pytest.param(
            ENDED, START, replace(COUNTED, epoch=6, leader_id=OTHER), id="start after an end"
        ),
        pytest.param(
            LED,
            replace(START, leader_id=LEADER),
            replace(COUNTED, epoch=6),
            id="start of the same leader",
        ),
        pytest.param(
            EMPTY, FIRST, Position(1, 1, OTHER, 0, 2_000, DIGEST), id="the ledger's first record"
        ),
    ],
)
def test_a_record_that_continues_the_chain_counts_and_becomes_the_position(
    position: Position, header: Header, after: Position
) -> None:
    judgement = judge(position, position.next_offset, header)
    assert judgement.verdict is Verdict.COUNTS
    assert judgement.position == after


CHAIN_BREAKS: Final[list[dict[str, Any]]] = [
    {"first_sequence": 99},
    {"first_sequence": 103},
    {"previous_chain": DIGEST},
    {"previous_chain": CHAIN_START},
    {"first_sequence": 0, "previous_chain": CHAIN_START},
]

PAST_EPOCHS: Final[list[dict[str, Any]]] = [
    {"epoch": 4},
    {"epoch": 0},
    {"epoch": 4, "leader_id": OTHER},
]
NEWER_EPOCHS: Final[list[dict[str, Any]]] = [
    {"epoch": 6},
    {"epoch": 9},
    {"epoch": 6, "leader_id": OTHER},
]

SKIPPED: Final = [
    *[
        pytest.param(LED, replace(START, epoch=epoch), "candidacy for past epoch", id=f"{epoch}")
        for epoch in (0, 1, 4, 5)
    ],
    pytest.param(
        LED, replace(START, epoch=5, leader_id=LEADER), "candidacy for past", id="start twice"
    ),
    pytest.param(ENDED, replace(START, epoch=5), "candidacy for past epoch", id="start, ended"),
    *[
        pytest.param(LED, replace(START, **change), "lost a race", id=f"start, {change}")
        for change in CHAIN_BREAKS
    ],
    *[
        pytest.param(position, replace(header, **change), "late write", id=f"{header.kind} late")
        for position in (LED, ENDED)
        for header in (NEXT, BEAT, END)
        for change in PAST_EPOCHS
    ],
    *[
        pytest.param(LED, replace(header, **change), "chain", id=f"{header.kind} {change}")
        for header in (NEXT, BEAT, END)
        for change in CHAIN_BREAKS
    ],
    *[
        pytest.param(
            ENDED, replace(header, leader_id=leader), "after the epoch's end", id=f"{header.kind}"
        )
        for header in (NEXT, BEAT, END)
        for leader in (LEADER, OTHER)
    ],
]


@pytest.mark.parametrize(("position", "header", "reason"), SKIPPED)
def test_a_record_of_the_past_is_skipped_and_moves_only_the_offset(
    position: Position, header: Header, reason: str
) -> None:
    judgement = judge(position, position.next_offset, header)
    assert judgement.verdict is Verdict.SKIP
    assert reason in judgement.reason
    assert judgement.position == replace(position, next_offset=position.next_offset + 1)


OTHER_LEADERS: Final[list[dict[str, Any]]] = [
    {"leader_id": OTHER},
    {"leader_id": OTHER, "previous_chain": DIGEST},
]

STOPPED: Final = [
    *[
        pytest.param(LED, 10, replace(START, epoch=epoch), "EPOCH_START of epoch", id=f"{epoch}")
        for epoch in (7, 2**64 - 1)
    ],
    pytest.param(
        LED, 10, replace(START, epoch=7, first_sequence=0), "EPOCH_START of epoch 7", id="gap"
    ),
    pytest.param(EMPTY, 0, replace(FIRST, epoch=2), "EPOCH_START of epoch 2", id="first of all"),
    *[
        pytest.param(position, 10, replace(header, **change), "without its EPOCH_START", id="newer")
        for position in (LED, ENDED)
        for header in (NEXT, BEAT, END)
        for change in NEWER_EPOCHS
    ],
    pytest.param(
        EMPTY, 0, replace(NEXT, epoch=1), "without its EPOCH_START", id="commands before any epoch"
    ),
    *[
        pytest.param(LED, 10, replace(header, **change), "two leaders", id=f"{header.kind} other")
        for header in (NEXT, BEAT, END)
        for change in OTHER_LEADERS
    ],
    *[
        pytest.param(LED, offset, header, "newest snapshot", id=f"{header.kind} at {offset}")
        for offset in (0, 9, 11, 12)
        for header in (NEXT, START, BEAT, END, replace(NEXT, epoch=4), replace(NEXT, epoch=6))
    ],
]


@pytest.mark.parametrize(("position", "offset", "header", "reason"), STOPPED)
def test_a_record_that_can_not_be_stops_the_reader_where_it_is(
    position: Position, offset: int, header: Header, reason: str
) -> None:
    judgement = judge(position, offset, header)
    assert judgement.verdict is Verdict.STOP
    assert reason in judgement.reason
    assert judgement.position == position


def test_nothing_of_a_deposed_leader_counts_after_the_next_epoch_began() -> None:
    position = judge(LED, 10, START).position
    for late in (NEXT, BEAT, END):
        judgement = judge(position, position.next_offset, late)
        assert judgement.verdict is Verdict.SKIP
        position = judgement.position
    own = replace(NEXT, epoch=6, leader_id=OTHER, previous_chain=START.digest)
    assert judge(position, 14, own).verdict is Verdict.COUNTS


def test_of_two_candidates_for_one_epoch_the_first_in_the_journal_wins() -> None:
    won = judge(LED, 10, replace(START, leader_id=b"1" * 16, digest=b"1" * 32))
    lost = judge(won.position, 11, replace(START, leader_id=b"2" * 16, digest=b"2" * 32))
    assert (won.verdict, lost.verdict) == (Verdict.COUNTS, Verdict.SKIP)
    assert lost.position.leader_id == b"1" * 16


def test_after_a_batch_that_does_not_chain_nothing_later_of_that_leader_does() -> None:
    lost, after_lost = replace(NEXT, digest=b"1" * 32), replace(NEXT, first_sequence=103)
    after_lost = replace(after_lost, previous_chain=lost.digest, digest=b"2" * 32)
    first = judge(LED, 10, after_lost)
    second = judge(
        first.position,
        11,
        replace(after_lost, first_sequence=106, previous_chain=after_lost.digest),
    )
    assert (first.verdict, second.verdict) == (Verdict.SKIP, Verdict.SKIP)
    assert replace(second.position, next_offset=10) == LED


@pytest.mark.parametrize(("position", "has_leader"), [(EMPTY, False), (LED, True), (ENDED, False)])
def test_an_epoch_has_a_leader_from_its_start_to_its_end(
    position: Position, has_leader: bool
) -> None:
    assert position.has_leader is has_leader


def test_a_record_without_a_leader_id_never_counts() -> None:
    leaderless = replace(BEAT, leader_id=NO_LEADER)
    assert judge(ENDED, 10, leaderless).verdict is Verdict.SKIP
    first = replace(leaderless, epoch=0, first_sequence=0, previous_chain=CHAIN_START)
    assert judge(EMPTY, 0, first).verdict is Verdict.STOP
