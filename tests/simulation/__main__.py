"""`python -m tests.simulation --seed N --count M`: scenarios, and what fails in them."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.scenario import Report, run


def main() -> int:
    """Run the seeds; 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    given = parser.parse_args()
    begun, failed, effects = time.monotonic(), 0, Counter[str]()
    commands, begun_cpu = 0, time.process_time()
    for seed in range(given.seed, given.seed + given.count):
        report = run(seed, with_lines=given.trace)
        failed += bool(report.wrong)
        effects += report.took_effect
        commands += report.commands
        if given.trace and report.lines is not None:
            print("\n".join(report.lines))
        if report.wrong or given.count == 1:
            _print(report)
    took_s, cpu_s = time.monotonic() - begun, time.process_time() - begun_cpu
    print(
        f"{given.count} scenarios from seed {given.seed}, {failed} failed, {commands:,} commands, "
        f"{sum(effects.values()):,} faults that took effect, "
        f"{given.count / took_s:.2f} a second, {given.count / cpu_s:.2f} a second of a core"
    )
    for what, count in effects.most_common():
        print(f"  {what:26} {count:8,}")
    return int(failed > 0)


def _print(report: Report) -> None:
    print(
        f"seed {report.seed}: {'FAILED' if report.wrong else 'clean'}, "
        f"{report.commands} commands ({report.answered} answered, {report.unknown} calls unknown, "
        f"{report.reads} reads), {report.epochs} epochs, {report.hand_overs} handed over, "
        f"{report.skipped} records skipped, "
        f"{report.snapshots} snapshots, {report.restores} restores, "
        f"{report.virtual_s:.1f} s of virtual time, trace {report.trace}"
    )
    for line in report.wrong[:10]:
        print(f"  {line}")
    print("  " + ", ".join(f"{what} {n}" for what, n in sorted(report.took_effect.items())))


if __name__ == "__main__":
    sys.exit(main())
