"""How far back the window goes, against the times at which its entries really were made."""

import random

from cluster_app.window_span import WindowSpan

CAPACITY = 1 << 12
SECOND_NS = 1_000_000_000


def test_it_is_never_more_than_the_truth_and_close_to_it_at_any_rate() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    span, made_ns = WindowSpan(), []
    now_ns = 0
    for rate in (1, 50, 3, 200, 1):
        for _ in range(3_000):
            now_ns += chosen.randint(1, SECOND_NS)
            made_ns += [now_ns] * chosen.randint(0, rate)
            span.note(len(made_ns), CAPACITY, now_ns)
            if not made_ns:
                continue
            truth_s = (now_ns - made_ns[max(len(made_ns) - CAPACITY, 0)]) / SECOND_NS
            told_s = span.seconds(now_ns)
            assert told_s is not None
            late = made_ns[
                min(max(len(made_ns) - CAPACITY, 0) + CAPACITY // 256 + rate, len(made_ns) - 1)
            ]
            assert (now_ns - late) / SECOND_NS - 1 <= told_s <= truth_s


def test_without_an_entry_there_is_none() -> None:
    span = WindowSpan()
    span.note(0, CAPACITY, 7)
    assert span.seconds(7) is None


def test_from_a_restored_snapshot_on_it_counts_from_there() -> None:
    span = WindowSpan()
    span.note(3 * CAPACITY, CAPACITY, 10 * SECOND_NS)
    assert span.seconds(10 * SECOND_NS) == 0
    span.note(3 * CAPACITY + 1, CAPACITY, 15 * SECOND_NS)
    assert span.seconds(15 * SECOND_NS) == 5


def test_when_an_older_state_is_restored_nothing_of_the_newer_one_is_left() -> None:
    span = WindowSpan()
    span.note(3 * CAPACITY, CAPACITY, 10 * SECOND_NS)
    span.note(2 * CAPACITY, CAPACITY, 8 * SECOND_NS)
    assert span.seconds(9 * SECOND_NS) == 1
