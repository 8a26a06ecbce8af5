"""When a node may stand and whether it won: decisions driven step by step, without any clock."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster_core.batch import NO_LEADER, EpochStart, Kind, LedgerParameters, open_batch, seal
from cluster_core.candidacy import (
    CLOCK_DIFFERENCE_NS_MAX,
    Candidacy,
    Silence,
    clock_difference,
    epoch_end,
    somebody_lives,
)
from cluster_core.reader_rule import Position, Verdict, judge

START = EpochStart("node", "127.0.0.1:1", LedgerParameters(window_capacity=16, account_capacity=9))
LED = Position(next_offset=9, epoch=3, leader_id=b"L" * 16, next_sequence=5, chain=b"c" * 32)
ENDED = replace(LED, leader_id=NO_LEADER)


def drawn(*timeouts_s: float) -> Silence:
    left: Iterator[float] = iter(timeouts_s)
    return Silence(lambda: next(left))


def test_a_node_stands_after_its_own_silence_and_each_sign_of_life_draws_a_new_one() -> None:
    silence = drawn(1.2, 1.4)
    silence.heard(10.0)
    assert silence.left_s(LED, 10.5) == pytest.approx(0.7)
    silence.heard(11.0)
    assert silence.left_s(LED, 11.2) == pytest.approx(1.2)
    assert silence.left_s(LED, 12.5) == 0


def test_where_nobody_leads_nobody_waits() -> None:
    silence = drawn(1.0)
    silence.heard(0.0)
    assert silence.left_s(Position(), 0.0) == 0
    assert silence.left_s(ENDED, 0.0) == 0


def test_who_handed_over_lets_others_go_first_but_not_for_ever() -> None:
    silence = drawn(1.0, 1.5)
    silence.gives_way(0.0)
    silence.heard(0.1)
    assert silence.left_s(ENDED, 0.4) == pytest.approx(0.6)
    assert silence.left_s(ENDED, 1.0) == 0


def test_once_somebody_has_taken_the_epoch_nobody_gives_way_any_more() -> None:
    silence = drawn(1.0, 1.5)
    silence.gives_way(0.0)
    silence.heard(0.1)
    assert silence.left_s(LED, 0.2) == pytest.approx(1.4)
    assert silence.left_s(ENDED, 0.3) == 0


@pytest.mark.parametrize("position", [LED, ENDED, Position()])
def test_a_candidacy_counts_after_the_position_it_was_made_for_and_wins_by_its_id(
    position: Position,
) -> None:
    candidacy = Candidacy(position, START, b"B" * 16, 7)
    judgement = judge(position, position.next_offset, open_batch(candidacy.value))
    assert judgement.verdict is Verdict.COUNTS
    assert judgement.position.epoch == position.epoch + 1
    assert candidacy.has_won(judgement.position)
    assert not Candidacy(position, START, b"C" * 16, 7).has_won(judgement.position)


def test_of_two_candidacies_for_one_epoch_the_first_in_the_log_wins() -> None:
    first, second = (Candidacy(LED, START, name * 16, 7) for name in (b"1", b"2"))
    position = LED
    for offset, candidacy in enumerate((second, first), LED.next_offset):
        position = judge(position, offset, open_batch(candidacy.value)).position
    assert second.has_won(position)
    assert not first.has_won(position)


def test_time_never_goes_back_over_a_change_of_leaders() -> None:
    late = replace(LED, timestamp_ns=1_000)
    assert open_batch(Candidacy(late, START, b"B" * 16, 7).value).timestamp_ns == 1_000


def test_a_record_that_counted_meanwhile_shows_life_only_if_somebody_leads() -> None:
    beat, _ = seal(
        Kind.HEARTBEAT,
        epoch=3,
        leader_id=LED.leader_id,
        first_sequence=5,
        timestamp_ns=0,
        previous_chain=LED.chain,
    )
    after_beat = judge(LED, 9, open_batch(beat)).position
    assert somebody_lives(LED, after_beat)
    assert not somebody_lives(LED, replace(LED, next_offset=10))  # skipped records show nothing
    assert not somebody_lives(LED, judge(LED, 9, open_batch(epoch_end(LED))).position)


def test_clocks_agree_within_five_seconds_of_the_time_that_the_append_took() -> None:
    limit = CLOCK_DIFFERENCE_NS_MAX
    assert clock_difference(100, 100 - limit, 200) == ""
    assert clock_difference(100, 200 + limit, 200) == ""
    assert "clock is 6.0 s off" in clock_difference(7 * 10**9, 10**9, 8 * 10**9)
    assert "clock is -6.0 s off" in clock_difference(10**9, 8 * 10**9, 2 * 10**9)
