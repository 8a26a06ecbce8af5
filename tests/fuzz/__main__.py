"""`python -m tests.fuzz --cases N`: hostile messages and records, many more than the tests take."""

import argparse
import sys

from tests.fuzz.hostile_commands import fuzz_decoder
from tests.fuzz.hostile_records import fuzz_records


def main() -> int:
    """Fuzz; an AssertionError names the bytes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="messages for the decoder")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    tally = fuzz_decoder(given.seed, given.cases)
    print(
        f"packed command decoder: {tally.messages:,} messages, {tally.taken:,} taken with "
        f"{tally.commands:,} commands, {tally.refused:,} refused, "
        f"{len(tally.statuses)} different statuses, {tally.seconds:.1f} s"
    )
    records = fuzz_records(given.seed, max(given.cases // 10, 1))
    print(
        f"journal reader: {records.records:,} records, {records.counted:,} counted, "
        f"{records.skipped:,} skipped, {records.refused:,} refused, {records.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
