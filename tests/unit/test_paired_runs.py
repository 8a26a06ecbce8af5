"""The statistics of `make bench-compare`, on made-up numbers."""

import itertools

import numpy as np
import pytest

from tests.paired_runs import MAX_ROUNDS, compare, rounds_needed

SLOW_MINUTES = np.array([1.0, 0.8, 0.7, 1.0, 1.2, 0.9, 0.75, 1.1])
"""A machine whose speed drifts by a third from one round to the next."""


def test_a_drift_that_both_share_is_no_change() -> None:
    found = compare(SLOW_MINUTES * 1_000, SLOW_MINUTES[::1] * 1_000)
    assert (found.ratio, found.changed, found.p_value) == (1.0, False, 1.0)


def test_a_small_change_shows_through_a_large_drift() -> None:
    jitter = np.array([1.0, 1.005, 0.995, 1.01, 0.99, 1.0, 1.003, 0.998])
    found = compare(SLOW_MINUTES * 1_000, SLOW_MINUTES * 1_050 * jitter)
    assert found.changed
    assert 1.03 < found.lowest < 1.05 < found.highest < 1.07
    assert found.verdict(more_is_better=True) == "better"
    assert found.verdict(more_is_better=False) == "WORSE"


def test_noise_alone_is_called_a_change_no_more_often_than_the_risk_says() -> None:
    random = np.random.default_rng(7)
    noise = np.exp(random.normal(0, 0.1, (2_000, 2, 8)))
    false_alarms = sum(compare(old, new).changed for old, new in noise)
    assert false_alarms <= 0.06 * len(noise)


def test_a_change_of_three_times_the_noise_is_nearly_always_seen() -> None:
    random = np.random.default_rng(8)
    noise = np.exp(random.normal(0, 0.03, (500, 2, 8)))
    seen = sum(compare(old, new * 0.9).changed for old, new in noise)
    assert seen >= 0.97 * len(noise)


def test_the_exact_chances_are_those_of_all_signs() -> None:
    """Against every assignment of signs to eight ranks, counted one by one."""
    ranks = np.arange(1, 9)
    sums = [ranks[np.array(signs)].sum() for signs in itertools.product((True, False), repeat=8)]
    old = np.ones(8)
    for negative in (0, 1, 3, 5):
        # one pair is smaller, at rank `negative`: the signed-rank sum of the smaller side
        new = np.exp(ranks * np.where(ranks == negative, -1, 1) / 100)
        expected = min(1.0, 2 * np.mean([one <= negative for one in sums]))
        assert compare(old, new).p_value == pytest.approx(expected)


def test_the_interval_leaves_one_out_exactly_when_the_test_says_so() -> None:
    random = np.random.default_rng(9)
    for _ in range(300):
        found = compare(np.ones(9), np.exp(random.normal(0.05, 0.08, 9)), 0.05)
        assert found.changed == (found.p_value <= 0.05)


def test_one_wild_round_changes_little() -> None:
    wild = np.array([1.02, 1.03, 1.01, 1.02, 1.03, 1.02, 1.01, 40.0])
    found = compare(np.ones(8), wild)
    assert 1.01 < found.ratio < 1.04


def test_what_is_not_seen_says_how_much_can_hide() -> None:
    found = compare(np.ones(8), np.array([0.9, 1.1, 0.95, 1.05, 0.98, 1.02, 1.0, 1.01]))
    assert not found.changed
    assert found.verdict(more_is_better=True).startswith("no change seen; one below ")


@pytest.mark.parametrize(("risk", "rounds"), [(0.05, 6), (0.01, 8), (0.005, 9)])
def test_few_rounds_can_prove_nothing(risk: float, rounds: int) -> None:
    assert rounds_needed(risk) == rounds
    ones = [1.0] * rounds
    compare(ones, ones, risk)
    with pytest.raises(ValueError, match=f"needs {rounds}"):
        compare(ones[1:], ones[1:], risk)


def test_values_that_make_no_ratios_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        compare([1.0] * 8, [*[1.0] * 7, 0.0])
    with pytest.raises(ValueError, match="give pairs"):
        compare([1.0] * 8, [1.0] * 7)
    with pytest.raises(ValueError, match="give pairs"):
        compare([1.0] * (MAX_ROUNDS + 1), [1.0] * (MAX_ROUNDS + 1))
