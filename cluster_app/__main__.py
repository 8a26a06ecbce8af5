"""`python -m cluster_app ROLE ...`: the cluster's programs."""

import sys
from collections.abc import Sequence
from typing import Final

from cluster_app.errors import Exit

_INTERRUPTED: Final = 130
"""As a shell tells that SIGINT ended a program."""

_USAGE = """usage: python -m cluster_app ROLE [flags]

roles:
  leader   take commands, journal, apply and answer them
  learner  follow the journal and keep a snapshot of it in SQLite or PostgreSQL
  audit    replay a journal and check it: digests, chain, sums; against the oracle if asked
  warmup   compile the kernels into the cache and leave
  measure  measure a part alone: `measure kernel`, `measure replay`

`python -m cluster_app leader --help` shows the flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one role; returns the exit code: 0 well, 1 fault, 2 usage, 3 not leading, 130 Ctrl-C."""
    role, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        return _run(role, rest)
    except Exit as end:
        print(f"ringledger {role}: {end}", file=sys.stderr, flush=True)
        return end.exit_code
    except KeyboardInterrupt:
        print(f"ringledger {role}: interrupted", file=sys.stderr, flush=True)
        return _INTERRUPTED


def _run(role: str, arguments: list[str]) -> int:
    if role == "leader":
        from cluster_app.logs import configure_logs
        from cluster_app.settings import LeaderSettings, read_settings

        leading = read_settings(LeaderSettings, role, arguments)
        configure_logs(leading.log_level)
        from cluster_app import leader
        from cluster_core.errors import RingledgerError

        try:
            leader.run(leading)
        except RingledgerError as error:
            print(f"ringledger leader: {error}", file=sys.stderr, flush=True)
            return 1
        return 0
    if role == "learner":
        from cluster_app.logs import configure_logs
        from cluster_app.settings import LearnerSettings, read_settings

        learning = read_settings(LearnerSettings, role, arguments)
        configure_logs(learning.log_level)
        from cluster_app import learner
        from cluster_core.errors import RingledgerError

        try:
            learner.run(learning)
        except RingledgerError as error:
            print(f"ringledger learner: {error}", file=sys.stderr, flush=True)
            return 1
        return 0
    if role == "audit":
        from cluster_app import audit
        from cluster_core.errors import RingledgerError

        try:
            return audit.main(arguments)
        except RingledgerError as error:
            print(f"ringledger audit: {error}", file=sys.stderr, flush=True)
            return 1
    if role == "warmup":
        import cluster_core.state_machine  # noqa: F401

        return 0
    if role == "measure":
        from cluster_app import measure
        from cluster_core.errors import RingledgerError

        try:
            return measure.main(arguments)
        except RingledgerError as error:
            print(f"ringledger measure: {error}", file=sys.stderr, flush=True)
            return 1
    asked = role in ("-h", "--help", "help")
    print(_USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
