"""`make mutation`: changes the kernel in one place at a time; the tests must notice.

cosmic-ray finds the places and makes the mutants; `tests/mutation.toml` says which of them. Each
one runs in a fork of this process, without JIT, against recorded scenarios and then the kernel's
unit tests. No file is changed. The session is cosmic-ray's own, under build/: `cr-report` and
`cr-html` read it.

Leaves with 1 when too few mutants were made or killed, or when one survived that `mutation.toml`
has no reason for.
"""

import argparse
import ast
import difflib
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Final

import cosmic_ray.commands
import pytest
from blake3 import blake3
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from tqdm import tqdm

from tests.kernel_scenarios import Scenario, record_scenarios, replay

ROOT: Final = Path(__file__).parents[1]
CONFIGURATION: Final = ROOT / "tests" / "mutation.toml"
SESSION: Final = ROOT / "build" / "mutation.sqlite"

REPLAY_CPU_S: Final = 8
"""Of processor time, for import and scenarios: four times what the kernel itself takes."""

ALL_CPU_S: Final = 40
"""With the unit tests, also the slow ones. A mutant that takes longer is killed."""

KILLED, INCOMPETENT = 1, 2
"""Exit codes of a judge, besides 0 for a survivor."""


@dataclass(frozen=True)
class Rule:
    """Which mutants, and why: each pattern that is given must match all of its text."""

    reason: str
    file: str = ".*"
    definition: str = ".*"
    operator: str = ".*"
    line: str = ".*"
    becomes: str = ".*"

    def matches(self, mutation: MutationSpec, line: str, becomes: str = "") -> bool:
        """`line` marks the «place» that is changed, `becomes` is the mutant's line."""
        pairs = (
            (self.file, mutation.module_path.name),
            (self.definition, mutation.definition_name or ""),
            (self.operator, mutation.operator_name.removeprefix("core/")),
            (self.line, line),
            (self.becomes, becomes),
        )
        return all(re.fullmatch(pattern, text) for pattern, text in pairs)


@dataclass(frozen=True)
class Plan:
    """What `mutation.toml` says; see there."""

    files: list[str]
    operators: list[str]
    unit_tests: list[str]
    slow_tests: list[str]
    left_out_tests: list[str]
    sample: int
    mutants_least: int
    killed_least_percent: float
    excluded: list[Rule]
    explained: list[Rule]

    @classmethod
    def read(cls) -> "Plan":
        with CONFIGURATION.open("rb") as file:
            fields = tomllib.load(file)
        for name in ("excluded", "explained"):
            fields[name] = [Rule(**rule) for rule in fields.get(name, [])]
        return cls(**fields)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutation", description=__doc__)
    parser.add_argument("--again", action="store_true", help="judge the last survivors once more")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not os.environ.get("NUMBA_DISABLE_JIT"):
        parser.error("set NUMBA_DISABLE_JIT=1: compiled, each mutant would take a minute")
    plan, began = Plan.read(), time.monotonic()
    scenarios = _in_a_fork(record_scenarios)
    child, output = _start_judge(None, scenarios, plan)
    if _wait_for(child) != 0:
        print(f"{_text(output)}\nThe tests fail without any mutation", file=sys.stderr)
        return 1
    SESSION.parent.mkdir(exist_ok=True)
    if not options.again:
        SESSION.unlink(missing_ok=True)
    with use_db(str(SESSION)) as session:
        if options.again:
            waiting = [item for item, result in session.completed_work_items if _survived(result)]
        else:
            cosmic_ray.commands.init(map(Path, plan.files), session, {})
            _skip_some(session, plan)
            waiting = _sample(session, plan)
        _judge_all(waiting, session, scenarios, plan, options.workers)
        return _report(session, plan, time.monotonic() - began)


def _in_a_fork(record: Any) -> Any:
    """A function's result, from a process of its own: what it imports stays out of this one."""
    with tempfile.TemporaryFile() as file:
        if (child := os.fork()) == 0:
            pickle.dump(record(), file)
            file.flush()
            os._exit(0)
        if _wait_for(child) != 0:
            raise SystemExit("recording the scenarios failed")
        file.seek(0)
        return pickle.load(file)


def _wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _unjudged(source: str) -> set[int]:
    """Lines of annotations and decorators: without JIT nobody looks at them."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        found: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            found.append(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation if isinstance(node, ast.arg) else None)
        for part in found:
            if part is not None:
                lines |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    return lines


def _skip_some(session: WorkDB, plan: Plan) -> None:
    """Take out what the plan doesn't want or excludes, and what stands in annotations."""
    wanted = re.compile("|".join(plan.operators))
    unjudged = {Path(file): _unjudged((ROOT / file).read_text()) for file in plan.files}
    excluded: dict[str, list[str]] = {"operator": [], "annotation": []}
    for item in session.work_items:
        (mutation,) = item.mutations
        line = _marked_line(mutation)
        why = [rule.reason for rule in plan.excluded if rule.matches(mutation, line)][:1]
        if not wanted.fullmatch(mutation.operator_name.removeprefix("core/")):
            why = ["operator"]
        elif mutation.start_pos[0] in unjudged[mutation.module_path]:
            why = ["annotation"]
        for reason in why:
            excluded.setdefault(reason, []).append(item.job_id)
    for reason, jobs in excluded.items():
        result = WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output=reason)
        session.set_multiple_results(jobs, result)


def _marked_line(mutation: MutationSpec) -> str:
    """The line that a mutation begins on, with «» around what it changes."""
    (row, start), (last_row, end) = mutation.start_pos, mutation.end_pos
    line = mutation.module_path.read_text().split("\n")[row - 1]
    end = end if row == last_row else len(line)
    return f"{line[:start]}«{line[start:end]}»{line[end:]}".strip()


def _sample(session: WorkDB, plan: Plan) -> list[WorkItem]:
    """Some of the mutants that are left, drawn by a hash of what they change.

    So a change of the kernel exchanges those of the changed lines, and no others.
    """
    seen: Counter[str] = Counter()
    keyed: list[tuple[bytes, WorkItem]] = []
    items = session.pending_work_items
    for item in sorted(items, key=lambda item: item.mutations[0].occurrence):
        (mutation,) = item.mutations
        place = f"{mutation.module_path} {mutation.definition_name} {_marked_line(mutation)}"
        key = f"{place} {mutation.operator_name}"
        seen[key] += 1
        keyed.append((blake3(f"{key} {seen[key]}".encode()).digest(), item))
    keyed.sort(key=lambda pair: pair[0])
    result = WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="not in the sample")
    session.set_multiple_results([item.job_id for _, item in keyed[plan.sample :]], result)
    return [item for _, item in keyed[: plan.sample]]


def _survived(result: WorkResult) -> bool:
    survived: bool = result.test_outcome == TestOutcome.SURVIVED
    return survived


def _judge_all(
    waiting: list[WorkItem],
    session: WorkDB,
    scenarios: Sequence[Scenario],
    plan: Plan,
    workers: int,
) -> None:
    """Judge mutants, some at a time."""
    count = len(waiting)
    running: dict[int, tuple[Any, IO[bytes]]] = {}
    with tqdm(total=count, unit=" mutants", mininterval=5) as bar:
        while waiting or running:
            while waiting and len(running) < workers:
                item = waiting.pop()
                child, output = _start_judge(item.mutations[0], scenarios, plan)
                running[child] = (item, output)
            child, status = os.wait()
            item, output = running.pop(child)
            text = _text(output)
            code = os.waitstatus_to_exitcode(status)
            outcomes = {0: TestOutcome.SURVIVED, INCOMPETENT: TestOutcome.INCOMPETENT}
            outcome = outcomes.get(code, TestOutcome.KILLED)
            if code == -signal.SIGXCPU:
                text = "timeout"
            diff = "\n".join(_diff(item.mutations[0])) if code == 0 else ""
            session.set_result(item.job_id, WorkResult(WorkerOutcome.NORMAL, text, outcome, diff))
            bar.update()


def _start_judge(
    mutation: MutationSpec | None, scenarios: Sequence[Scenario], plan: Plan
) -> tuple[int, IO[bytes]]:
    """Fork a judge of a mutant, or of the kernel as it is; returns its id and its output."""
    output = tempfile.TemporaryFile()  # noqa: SIM115 (whoever waits for the judge closes it)
    sys.stdout.flush()
    if (child := os.fork()) != 0:
        return child, output
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (REPLAY_CPU_S, ALL_CPU_S + 1))
    code = KILLED
    try:
        code = _judge(mutation, scenarios, plan)
    except BaseException as fault:  # noqa: BLE001 (whatever a mutant raises, it is noticed)
        print(f"{type(fault).__name__}: {fault}")
    finally:
        sys.stdout.flush()
        os._exit(code)


def _text(output: IO[bytes]) -> str:
    """What a judge has printed."""
    output.seek(0)
    with output:
        return output.read().decode(errors="replace")


def _judge(mutation: MutationSpec | None, scenarios: Sequence[Scenario], plan: Plan) -> int:
    """Put a mutant into its module's place, then run everything that could notice it."""
    if mutation is not None:
        try:
            _import_mutant(mutation.module_path, _mutated(mutation))
        except Exception as fault:  # noqa: BLE001
            print(f"not even importable: {fault}")
            return INCOMPETENT
    for scenario in scenarios:
        replay(scenario)
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_CPU_S, ALL_CPU_S + 1))
    options = ["-x", "-q", "--assert=plain", "--tb=line", "-p", "no:cacheprovider"]
    files, slow = plan.unit_tests, plan.slow_tests
    if mutation is not None:  # a file's own tests first, and the slow ones of its own alone
        own = mutation.module_path.stem
        files = sorted(files, key=lambda file: own not in file)
        slow = [test for test in slow if own not in test]
    options += [f"--deselect={test}" for test in slow + plan.left_out_tests]
    return KILLED if pytest.main([*options, *files]) != 0 else 0


def _mutated(mutation: MutationSpec) -> str:
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    mutated: str = mutate_code(mutation.module_path.read_text(), operator, mutation.occurrence)
    return mutated


def _import_mutant(path: Path, source: str) -> None:
    name = ".".join(path.with_suffix("").parts)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(source, path, "exec"), module.__dict__)


def _diff(mutation: MutationSpec) -> Iterator[str]:
    before, path = mutation.module_path.read_text(), str(mutation.module_path)
    after = _mutated(mutation)
    return difflib.unified_diff(before.split("\n"), after.split("\n"), path, path, "", "", 0, "")


def _report(session: WorkDB, plan: Plan, took_s: float) -> int:
    """Print the counts, and each survivor with its reason."""
    survivors: dict[str, list[str]] = {}
    outcomes: Counter[str] = Counter()
    timeouts, operators = 0, Counter[str]()
    for item, result in session.completed_work_items:
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            outcomes[f"excluded: {result.output}"] += 1
            continue
        outcomes[result.test_outcome.value] += 1
        timeouts += result.output == "timeout"
        (mutation,) = item.mutations
        operators[mutation.operator_name] += 1
        if result.test_outcome == TestOutcome.SURVIVED:
            *_, becomes = result.diff.split("\n")[:5]
            line, becomes = _marked_line(mutation), becomes[1:].strip()
            rules = [rule for rule in plan.explained if rule.matches(mutation, line, becomes)]
            reasons = [rule.reason for rule in rules]
            where = f"{mutation.module_path}:{mutation.start_pos[0]} {mutation.definition_name}"
            text = f"  {where}\n    - {line}\n    + {becomes}"
            survivors.setdefault(reasons[0] if reasons else "NO REASON", []).append(text)
    for reason, texts in sorted(survivors.items()):
        print(f"Survived, {len(texts)}: {reason}", *texts, sep="\n")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    killed, survived = outcomes["killed"], outcomes["survived"]
    judged = killed + survived
    percent = 100 * killed / max(judged, 1)
    print(
        f"{judged} mutants, {killed} killed ({percent:.1f} %, {timeouts} by time), "
        f"{survived} survived, {took_s / 60:.1f} minutes"
    )
    if "NO REASON" in survivors:
        print("Write a test for what survived, or a reason into tests/mutation.toml")
        return 1
    enough = judged >= plan.mutants_least
    return 0 if enough and percent >= plan.killed_least_percent else 1


if __name__ == "__main__":
    sys.exit(main())
