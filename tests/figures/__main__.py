"""`make figures`: take what was measured, draw the plots, write BENCHMARK.md's tables anew.

1. build/bench-*.json -> tests/figures/*.json  2. tests/figures/*.svg  3. the tables
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client_app.bench_machine import BUILD, ROOT
from tests.figures.committed import FOLDER, Unfit, committed, take
from tests.figures.plots import draw_all
from tests.figures.tables import NoBlock, with_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code: 0 well, 1 the tables are old or the figures unfit."""
    parser = argparse.ArgumentParser(prog="python -m tests.figures", description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD, metavar="PATH", help="(build)")
    parser.add_argument("--check", action="store_true", help="only say whether the tables are old")
    parser.add_argument("--anyway", action="store_true", help="also take trial runs, for trying")
    given = parser.parse_args(arguments)
    document = ROOT / "BENCHMARK.md"
    try:
        if not given.check:
            print("\n".join(take(given.build, anyway=given.anyway)) or "nothing new was measured")
        envelopes = committed()
        old = document.read_text()
        new = with_tables(old, envelopes)
        if given.check:
            if new != old:
                print("BENCHMARK.md's tables are not of the figures: make figures")
            return int(new != old)
        for path in draw_all(envelopes, FOLDER):
            print(f"drawn {path.relative_to(ROOT)}")
        document.write_text(new)
    except (Unfit, NoBlock) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
