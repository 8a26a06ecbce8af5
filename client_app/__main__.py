"""`python -m client_app COMMAND ...`: the programs on the clients' side."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

from client_app import bench

_APPS: Final = {
    "admin": "serve the console and the REST API",
    "user": "serve people their own accounts",
    "token": "print a token for the user app, for development",
}


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
    for name, about in _APPS.items():
        commands.add_parser(name, help=about, add_help=False)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in _APPS:
        # their packages are an extra, and their settings also come from the environment
        try:
            return _run_of(given[0])(given[1:])
        except ModuleNotFoundError as error:
            print(f"error: {error.name} isn't installed: the extra `apps` has it", file=sys.stderr)
            return 1
    return bench.run(parser.parse_args(given))


def _run_of(name: str) -> Callable[[Sequence[str]], int]:
    if name == "admin":
        from client_app.admin import run
    elif name == "user":
        from client_app.user import run
    else:
        from client_app.user_tokens import run
    return run


if __name__ == "__main__":
    sys.exit(main())
