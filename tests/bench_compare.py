"""`make bench-compare BASE=commit`: is this tree faster or slower than that commit, or is it noise?

Rows of tests/bench_engine.py run in turn on both trees, leader and client alike, the first of a
round changing each time; tests/paired_runs.py judges. Without BASE it is the commit of the
committed figures. With BASE=HEAD it compares a tree with itself: what noise looks like here.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import (
    BUILD,
    ROOT,
    SQLITE,
    NotMeasured,
    RunFailed,
    describe_commit,
    describe_machine,
    describe_versions,
)
from tests.bench_engine import ROWS, rows_named
from tests.bench_report import FORMAT, Figure, Options, Row
from tests.bench_services import kafka
from tests.figures.committed import FOLDER, Unfit, load
from tests.paired_runs import MAX_ROUNDS, Comparison, compare, rounds_needed

USUAL_ROWS: Final = ("transfers", "single", "open-loop", "kernel")
USUAL_ROUNDS: Final = 8
RISK: Final = 0.05
"""The chance that one of all figures is called changed by noise: each gets its share."""

_BUILD_TIMEOUT_S: Final = 900.0
_EDGE: Final = "cluster_app/edge"


@dataclass
class Pairs:
    """A figure's values, round by round."""

    row: Row
    figure: Figure
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0 nothing is worse, 1 something is or a run failed, 2 flags."""
    given = _read_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        rows = rows_named(*given.only)
        figures = sum(len(row.figures) for row in rows)
        risk = RISK / figures
        if given.rounds < rounds_needed(risk):
            needed = f"{figures} figures need --rounds {rounds_needed(risk)}, or fewer --only"
            raise RunFailed(f"{needed}: noise must stay unlikely in all of them together")
        with checkout(given.base or committed_base()) as (base, flags):
            # Its kernels compile now, not while a leader is waited for.
            _in_tree(base, "-m", "cluster_app", "warmup")
            broker = kafka() if given.kafka else nullcontext(SQLITE)
            with broker as journal:
                usual = Options(scale=given.scale, journal=journal, leader_flags=flags)
                pairs = alternate(rows, usual, base, given.rounds)
    except (NotMeasured, RunFailed, Unfit) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted", file=sys.stderr)
        return 130
    told = [(pair, compare(pair.old, pair.new, risk)) for pair in pairs]
    _publish(told, given)
    return int(any(_worse(pair, found) for pair, found in told))


def alternate(rows: Sequence[Row], usual: Options, base: Path, rounds: int) -> list[Pairs]:
    """Measure all rows in both trees, round after round; the first round, which may compile,
    doesn't count. Raises NotMeasured and RunFailed.
    """
    pairs = [
        Pairs(row, figure)
        for row in (row.on(usual.journal) for row in rows)
        for figure in row.figures
    ]
    trees = {
        "old": Options(**{**vars(usual), "tree": base}),
        "new": usual,
    }
    for number in range(rounds + 1):
        order = ("old", "new") if number % 2 else ("new", "old")
        for row in rows:
            for name in order:
                values = row.measure(trees[name]).values
                told = ", ".join(
                    f"{pair.figure.key} {pair.figure.shown(values[pair.figure.key])}"
                    for pair in pairs
                    if pair.row.name == row.name
                )
                print(f"round {number} {row.name} {name}: {told}", file=sys.stderr, flush=True)
                for pair in pairs:
                    if number and pair.row.name == row.name:
                        getattr(pair, name).append(values[pair.figure.key])
    return pairs


def committed_base() -> str:
    """The commit of the committed figures. Raises RunFailed and Unfit."""
    path = FOLDER / "throughput.json"
    if not path.exists():
        raise RunFailed("there are no committed figures yet: give BASE=commit")
    return str(load(path).json["commit"]["id"])


@contextmanager
def checkout(revision: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """That commit's tree under build/, ready to run, and flags for the leaders of both trees.

    Both run with the native edge, or both without it. Raises RunFailed.
    """
    commit = _commit_of(revision)
    tree = BUILD / "compare" / commit[:12]
    _remove(tree)
    tree.parent.mkdir(parents=True, exist_ok=True)
    _git("worktree", "add", "--detach", "--force", str(tree), commit)
    try:
        yield tree, _give_edge(tree, commit)
    finally:
        _remove(tree)


def _commit_of(revision: str) -> str:
    return _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()


def _give_edge(tree: Path, commit: str) -> tuple[str, ...]:
    ours = list((ROOT / _EDGE).glob("_native*.so"))
    if not (tree / _EDGE).exists():
        print(f"{commit[:8]} has no native edge: that is part of the comparison", file=sys.stderr)
        return ()
    if not ours:
        return ("--edge", "grpcio")
    if not _git("diff", "--name-only", commit, "--", _EDGE, "proto").strip():
        shutil.copy(ours[0], tree / _EDGE)
        return ("--edge", "native")
    print(f"building the native edge of {commit[:8]}", file=sys.stderr, flush=True)
    done = _in_tree(tree, "-c", "import setuptools; setuptools.setup()", "build_ext", "--inplace")
    if done.returncode or not list((tree / _EDGE).glob("_native*.so")):
        print(f"that failed, so both run grpc.aio: {done.stderr[-500:]}", file=sys.stderr)
        return ("--edge", "grpcio")
    return ("--edge", "native")


def _in_tree(tree: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python there, whatever it returns. Raises RunFailed when it takes too long."""
    try:
        return subprocess.run(
            (sys.executable, *arguments),
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        shown = " ".join(arguments)
        raise RunFailed(f"python {shown} took over {_BUILD_TIMEOUT_S:.0f} s") from None


def _remove(tree: Path) -> None:
    if tree.exists():
        subprocess.run(
            ("git", "worktree", "remove", "--force", str(tree)),
            cwd=ROOT,
            check=False,
            capture_output=True,
        )
        shutil.rmtree(tree, ignore_errors=True)


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip() or "there is no such commit here"
        raise RunFailed(f"git {' '.join(arguments)}: {said}")
    return done.stdout


def _worse(pair: Pairs, found: Comparison) -> bool:
    return found.changed and (found.ratio > 1) != pair.figure.more_is_better


def _publish(told: Sequence[tuple[Pairs, Comparison]], given: argparse.Namespace) -> None:
    figures = []
    for pair, found in told:
        verdict = found.verdict(more_is_better=pair.figure.more_is_better)
        print(
            f"{pair.figure.what}: {found.ratio:.3f} times the base "
            f"({found.lowest:.3f} to {found.highest:.3f}): {verdict}"
        )
        figures.append(
            {
                "row": pair.row.name,
                "key": pair.figure.key,
                "unit": pair.figure.unit,
                "old": pair.old,
                "new": pair.new,
                "ratio": found.ratio,
                "interval": [found.lowest, found.highest],
                "p_value": found.p_value,
                "verdict": verdict,
            }
        )
    about: dict[str, Any] = {
        "format": FORMAT,
        "target": "compare",
        "base": _commit_of(given.base or committed_base()),
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
        "scale": given.scale,
        "rounds": given.rounds,
        "figures": figures,
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(about, indent=1) + "\n")
    print(f"written to {given.json}")


def _read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_compare",
        description="Compare this tree with another commit by alternating runs on this machine.",
    )
    add = parser.add_argument
    names = [row.name for row in ROWS]
    add("--base", metavar="REVISION", help="a commit (that of tests/figures/throughput.json)")
    add(
        "--only",
        action="append",
        choices=names,
        default=[],
        metavar="NAME",
        help=f"may be repeated ({', '.join(USUAL_ROWS)}), of: {', '.join(names)}",
    )
    add("--rounds", type=int, default=USUAL_ROUNDS, metavar="N", help="that count (%(default)s)")
    add("--scale", type=float, default=0.3, metavar="F", help="of the counts (%(default)s)")
    add("--kafka", action="store_true", help="on a Kafka broker of its own (SQLite)")
    add("--json", type=Path, default=BUILD / "bench-compare.json", metavar="PATH")
    given = parser.parse_args(arguments)
    given.only = given.only or list(USUAL_ROWS)
    if not 0 < given.scale <= 1 or not 1 <= given.rounds <= MAX_ROUNDS:
        parser.error(f"give --scale above 0, 1 at most, and --rounds 1 to {MAX_ROUNDS}")
    return given


if __name__ == "__main__":
    sys.exit(main())
