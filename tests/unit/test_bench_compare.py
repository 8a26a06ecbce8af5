"""`make bench-compare`: both trees in turn, and another commit's tree, there and gone again."""

from pathlib import Path

import pytest

from client_app.bench_machine import BUILD, ROOT, RunFailed
from tests.bench_compare import alternate, checkout, main
from tests.bench_report import Figure, Options, Outcome, Row


def test_rounds_alternate_and_the_first_does_not_count(tmp_path: Path) -> None:
    seen = []

    def measure(options: Options) -> Outcome:
        seen.append("new" if options.tree == ROOT else "old")
        return Outcome((), {}, {"rate": float(len(seen)), "p99": 1.0})

    figures = (Figure("rate", "made up", "/s"), Figure("p99", "made up", "ms"))
    rate, p99 = alternate([Row("made-up", figures, measure)], Options(), tmp_path, rounds=3)
    assert seen == ["new", "old", "old", "new", "new", "old", "old", "new"]
    assert (rate.old, rate.new) == ([3.0, 6.0, 7.0], [4.0, 5.0, 8.0])
    assert (p99.old, p99.new) == ([1.0] * 3, [1.0] * 3)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_other_commits_tree_is_there_and_gone_afterwards() -> None:
    with checkout("HEAD") as (tree, _):
        assert tree.is_relative_to(BUILD)
        assert (tree / "cluster_app/__main__.py").exists()
    assert not tree.exists()


def test_a_commit_that_is_not_there_is_told() -> None:
    with pytest.raises(RunFailed, match="git rev-parse"), checkout("no-such-commit"):
        pass


def test_too_few_rounds_for_so_many_figures_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "HEAD", "--rounds", "7"]) == 1
    assert "5 figures need --rounds 8, or fewer --only" in capsys.readouterr().err
