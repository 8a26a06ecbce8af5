"""`python -m client_app COMMAND ...`: the programs on the clients' side."""

import argparse
import sys
from collections.abc import Sequence

from client_app import bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 failed, 2 wrong flags."""
    parser = argparse.ArgumentParser(
        prog="python -m client_app", description="Programs on the clients' side of ringledger."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench.add_arguments(
        commands.add_parser(
            "bench",
            help="put load on a leader and check its totals",
            description="Create and fund accounts, warm up, measure, and compare the server's "
            "totals with the sums of the replies.",
        )
    )
    return bench.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
