"""`python -m cluster_app ROLE ...`: the cluster's programs."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from cluster_app.errors import Exit

_INTERRUPTED: Final = 130
"""As a shell tells that SIGINT ended a program."""

_USAGE = """usage: python -m cluster_app ROLE [flags]

roles:
  leader   take commands, journal, apply and answer them; stand by while another one leads
  follower follow the journal and answer queries
  learner  follow the journal and keep a snapshot of it in SQLite or PostgreSQL
  archiver follow the journal and keep every command in SQLite or PostgreSQL
  audit    replay a journal and check it: digests, chain, sums; against the oracle if asked
  trim     verify the snapshots, then delete what lies below them from the journal
  export   move old history to Parquet files
  handover have a leader hand over to its standby
  warmup   compile the kernels into the cache and leave
  measure  measure a part alone: `measure kernel`, `measure replay`

`python -m cluster_app leader --help` shows the flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one role; returns the exit code: 0 well, 1 fault, 2 usage, 3 not leading, 130 Ctrl-C."""
    # read when grpc is imported: else anybody could fill the log with handshakes that fail
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    role, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        return _run(role, rest)
    except Exit as end:
        print(f"ringledger {role}: {end}", file=sys.stderr, flush=True)
        return end.exit_code
    except KeyboardInterrupt:
        print(f"ringledger {role}: interrupted", file=sys.stderr, flush=True)
        return _INTERRUPTED


_NODES: Final = ("leader", "follower", "learner", "archiver")
_TOOLS: Final = ("audit", "trim", "export", "handover", "measure")


def _run(role: str, arguments: list[str]) -> int:
    if role in _NODES:
        return _run_node(role, arguments)
    if role in _TOOLS:
        from cluster_core.errors import RingledgerError

        try:
            return int(importlib.import_module(f"cluster_app.{role}").main(arguments))
        except RingledgerError as error:
            return _failed(role, error)
    if role == "warmup":
        import cluster_core.entries
        import cluster_core.reading
        import cluster_core.state_machine  # noqa: F401

        return 0
    asked = role in ("-h", "--help", "help")
    print(_USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _run_node(role: str, arguments: list[str]) -> int:
    """A role's settings are read before the rest is imported: a wrong one is told at once."""
    from cluster_app import settings
    from cluster_app.logs import configure_logs

    kind: type[settings.NodeSettings] = getattr(settings, f"{role.capitalize()}Settings")
    read = settings.read_settings(kind, role, arguments)
    configure_logs(read.log_level)
    node = importlib.import_module(f"cluster_app.{role}")
    from cluster_core.errors import RingledgerError

    try:
        node.run(read)
    except RingledgerError as error:
        return _failed(role, error)
    return 0


def _failed(role: str, error: Exception) -> int:
    print(f"ringledger {role}: {error}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
