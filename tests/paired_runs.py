"""Whether alternating runs of two programs differ, told apart from noise.

A machine's speed drifts, so each round measures both, one right after the other, and only their
ratio counts. The ratios' logarithms go into Wilcoxon's signed-rank test with its exact distribution
(no shape of noise is assumed but symmetry), and its confidence interval: the Hodges-Lehmann
estimate between two of the Walsh averages. Source: Hollander, Wolfe, Chicken, "Nonparametric
Statistical Methods", 3rd edition, 3.1 to 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_ROUNDS: Final = 200
Values = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """`ratio` is the new one's value over the old one's, with its confidence interval."""

    ratio: float
    lowest: float
    highest: float
    p_value: float

    @property
    def changed(self) -> bool:
        """Whether the interval leaves 1 out: noise alone would rarely do that."""
        return not self.lowest <= 1 <= self.highest

    def verdict(self, *, more_is_better: bool) -> str:
        """`better`, `worse`, or `no change seen`, and what it could have missed."""
        if self.changed:
            better = (self.ratio > 1) == more_is_better
            return "better" if better else "WORSE"
        unseen = max(self.highest, 1 / self.lowest) - 1
        return f"no change seen; one below {unseen:.1%} can hide"


def compare(old: Values, new: Values, risk: float = 0.05) -> Comparison:
    """Compare values of the same rounds. `risk` is the chance to call noise a change.

    Raises ValueError for unlike lengths, values not above 0, or too few rounds for that risk.
    """
    if len(old) != len(new) or len(old) > MAX_ROUNDS:
        raise ValueError(f"{len(old)} and {len(new)} values: give pairs, {MAX_ROUNDS} at most")
    if not all(value > 0 for value in (*old, *new)):
        raise ValueError("values must be above 0, for their ratio counts")
    if len(old) < rounds_needed(risk):
        raise ValueError(f"{len(old)} rounds: a risk of {risk:.2g} needs {rounds_needed(risk)}")
    logs = np.log(np.asarray(new) / np.asarray(old))
    first, second = np.triu_indices(len(logs))
    walsh = np.sort((logs[first] + logs[second]) / 2)
    chances = _chances(len(logs))
    # As many averages are cut off at each end as keep the two tails within the risk.
    tail = int(np.searchsorted(chances, risk / 2, side="right"))
    interval = walsh[tail - 1], walsh[len(walsh) - tail]
    positive = np.count_nonzero(walsh > 0) + np.count_nonzero(walsh == 0) / 2
    smaller = int(min(positive, len(walsh) - positive))
    return Comparison(
        float(np.exp(np.median(walsh))),
        float(np.exp(interval[0])),
        float(np.exp(interval[1])),
        min(1.0, 2 * float(chances[smaller])),
    )


def rounds_needed(risk: float) -> int:
    """How many rounds it takes before even the clearest result has no more than this risk."""
    return int(np.ceil(np.log2(2 / risk)))


def _chances(count: int) -> npt.NDArray[np.float64]:
    """P(signed-rank sum <= w) for w = 0, 1, ... of so many fair signs, exact."""
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1
    for rank in range(1, count + 1):
        ways[rank:] += ways[:-rank].copy()
    return np.asarray(np.cumsum(ways) / 2.0**count)
