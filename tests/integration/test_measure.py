"""The measurements of the state machine alone, with tiny counts: they run and add up."""

import json

import pytest

from cluster_app.errors import UsageError
from cluster_app.measure import main
from cluster_app.measure_kernel import measure_growth, measure_kernel
from cluster_app.measured_commands import CHAIN, KERNEL_BATCH, CommandSource
from cluster_core.record import CommandFlag, Operation


def test_the_mix_has_the_shares_that_it_says() -> None:
    source = CommandSource(1_000, 1)
    source.holds(0, 200_000)
    _, commands = source.mix(0, 100 * KERNEL_BATCH)
    linked = (commands["flags"] & CommandFlag.LINKED) != 0
    counts = {operation: int((commands["operation"] == operation).sum()) for operation in Operation}
    draws = len(commands) - int(linked.sum())
    resolved = counts[Operation.CAPTURE] + counts[Operation.RELEASE]
    chains = int((linked[1:] < linked[:-1]).sum())
    singles = counts[Operation.TRANSFER] - CHAIN * chains
    shares = [singles, counts[Operation.DEPOSIT], counts[Operation.HOLD], resolved, chains]
    expected = (0.60, 0.15, 0.10, 0.10, 0.05)
    assert [count / draws for count in shares] == pytest.approx(expected, abs=0.01)
    assert not linked[KERNEL_BATCH - 1 :: KERNEL_BATCH].any()


def test_the_mix_runs_without_a_refusal() -> None:
    result = measure_kernel(200, 9_000, 3_000, seed=1, mixed=True)
    assert result["commands"] == 9 * KERNEL_BATCH
    assert result["open_holds"] > 100_000


def test_growth_tells_bytes_and_the_slowest_batch_of_accounts_and_holds() -> None:
    result = measure_growth(200_000, 50_000, 1_000, seed=1)
    for grown, count in (("account", 199_900), ("hold", 50_000)):
        assert result[grown]["count"] == count
        assert result[grown]["bytes_each"] > 40
        assert result[grown]["slowest_batch_ms"] > 0


def test_growth_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--accounts", "5000", "--holds", "100", "--warm-up", "100", "--json")
    assert main(("growth", *flags)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["accounts,", "holds,"]
    assert json.loads(lines[2])["hold"]["count"] == 100


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="--holds is 0"):
        main(("growth", "--holds", "0"))
