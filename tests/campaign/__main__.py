"""`python -m tests.campaign --minutes N`: money moves, and a fault every few seconds.

Prints a table, writes it as JSON under build/, and ends with 0 only if nothing was lost, doubled,
wrong, out of order, invented or left unresolved, and all nodes agree in the end.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from cluster_app.journals import open_journal
from cluster_app.snapshot_store import open_snapshots
from tests.campaign.archived import Archived, check_archived, fetch
from tests.campaign.asked_history import ask_history
from tests.campaign.checks import check_histories
from tests.campaign.cluster import TOPIC, Cluster
from tests.campaign.faults import WHOLE_TIMEOUT_S
from tests.campaign.findings import Found
from tests.campaign.inflicted import Inflicted
from tests.campaign.nodes import NodeView, check_nodes, expected_nodes, view_nodes
from tests.campaign.replayed import Replayed, replay
from tests.campaign.report import Report, publish

RATE: Final = 9_000.0
"""Commands a second that the clients offer together: 20 million in less than an hour."""

_SETTLE_S: Final = 60.0
_CLIENTS_END_S: Final = 90.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults are inflicted")
    parser.add_argument("--seed", type=int, default=None, help="of the faults' order and places")
    parser.add_argument("--rate", type=float, default=RATE, help="commands/s offered")
    parser.add_argument("--folder", type=Path, default=None, help="keep everything in this folder")
    parser.add_argument("--json", type=Path, default=Path("build/campaign.json"))
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in [name for name in os.environ if name.startswith("RINGLEDGER_")]:
        del os.environ[name]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"campaign of {options.minutes:g} minutes, seed {seed}, in {folder}", flush=True)
    report = run(folder, options.minutes, seed, options.rate)
    publish(report, options.json)
    if report.is_clean and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if report.is_clean else 1


def run(folder: Path, minutes: float, seed: int, rate: float) -> Report:
    """One campaign in an empty folder, from the first start to the last check."""
    begun = time.monotonic()
    cluster = Cluster(folder, rate)
    try:
        cluster.start()
        started = time.monotonic()
        faults = Inflicted(cluster, started + 60 * minutes, random.Random(seed)).run()
        healed = time.monotonic()
        views, retries = _settle(cluster)
        ended = time.monotonic()
        journal = f"kafka://{cluster.kafka.bootstrap}/{TOPIC}"
        with closing(open_journal(journal)) as opened:
            replayed = replay(opened, folder)
        found = Found()
        archived = _history(cluster, replayed, random.Random(seed), found)
        snapshot = open_snapshots(cluster.postgres.url).newest()
    finally:
        cluster.kill()
    checked = check_histories(cluster.histories(), replayed, archived)
    checked.found.take(found)
    check_archived(archived, replayed, checked.found)
    check_nodes(expected_nodes(cluster), views, snapshot, replayed, checked.found)
    return Report(
        minutes=(healed - started) / 60,
        seed=seed,
        faults=faults,
        checked=checked,
        epochs=len(replayed.epochs),
        skipped_records=replayed.skipped_records,
        retries=retries,
        ended_by_themselves=cluster.ended_by_themselves,
        seconds={
            "start": started - begun,
            "faults": healed - started,
            "settle": ended - healed,
            "check": time.monotonic() - ended,
        },
    )


def _settle(cluster: Cluster) -> tuple[list[NodeView], int]:
    """Let the clients end, the nodes catch up, the learner save; what the nodes then hold."""
    for link in cluster.links:
        cluster.control.set(link, "open")
    cluster.wait_served(WHOLE_TIMEOUT_S)
    cluster.held.update(cluster.clients)
    for program in cluster.clients.values():
        program.process.send_signal(signal.SIGTERM)
    done = cluster.wait(
        _CLIENTS_END_S, lambda: not any(c.is_running for c in cluster.clients.values())
    )
    if not done:
        print("the clients did not get all answers in time", flush=True)
    retries = cluster.counts().retries
    views = view_nodes(cluster, _SETTLE_S)
    # it may have been killed a moment ago
    cluster.wait(WHOLE_TIMEOUT_S, lambda: cluster.nodes["learner"].is_ready)
    cluster.held.add("learner")
    cluster.nodes["learner"].stop()
    return views, retries


def _history(cluster: Cluster, replayed: Replayed, draw: random.Random, found: Found) -> Archived:
    """What the archiver kept: asked of its service here and there, then all of its store."""
    address = cluster.addresses["archiver"]
    ask_history(address, replayed, draw, found)
    cluster.held.add("archiver")
    # what it has answered from is kept: it needs no orderly end
    cluster.nodes["archiver"].kill()
    return fetch(cluster.postgres.conninfo, cluster.folder, len(replayed.commands))


if __name__ == "__main__":
    sys.exit(main())
