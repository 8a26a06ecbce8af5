"""One scenario: a cluster, clients, faults; then peace, a last snapshot, and the verdict."""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

from cluster_app.errors import Exit
from cluster_app.recovery import recover
from cluster_core import pipeline, snapshot
from cluster_core.errors import RingledgerError
from cluster_core.journal import JournalRecord
from cluster_core.replay import Replica
from tests.simulation.clients import Clients
from tests.simulation.faults import Faults
from tests.simulation.history import JournalHistory
from tests.simulation.journals import Log, SimJournal
from tests.simulation.network import Network
from tests.simulation.nodes import PARAMETERS, Node, Site, roles_in
from tests.simulation.snapshots import SimStore
from tests.simulation.stand_ins import Patches, running
from tests.simulation.verdict import Oracle, judge_calls, run_oracle
from tests.simulation.world import NS_PER_S, Stuck, World

COMMANDS_WANTED: Final = 1_000
EFFECTS_WANTED: Final = 5
SCENARIO_S_MAX: Final = 150.0
QUIET_S_MAX: Final = 60.0


@dataclass
class Report:
    """How a scenario ended. `wrong` is empty when everything held."""

    seed: int
    wrong: list[str]
    trace: str
    commands: int = 0
    answered: int = 0
    unknown: int = 0
    epochs: int = 0
    skipped: int = 0
    snapshots: int = 0
    restores: int = 0
    reads: int = 0
    hand_overs: int = 0
    virtual_s: float = 0.0
    took_effect: Counter[str] = field(default_factory=Counter)
    lines: list[str] | None = None


def run(
    seed: int, *, plant: Callable[[Patches], None] = lambda _: None, with_lines: bool = False
) -> Report:
    """Run one seed. `plant` puts bugs into the roles' code."""
    with _collected_at_the_end():
        return _run(seed, plant, with_lines=with_lines)


def _run(seed: int, plant: Callable[[Patches], None], *, with_lines: bool) -> Report:
    world = World(seed)
    world.lines = [] if with_lines else None
    draw = Random(seed)
    log = Log(world, is_kafka=draw.random() < 0.6)
    site = Site(world, log, SimStore(world), Network(world))
    site.election_timeout_s = draw.choice((0.6, 1.0, 1.0))
    site.nodes = [Node(f"node-{n}", "leader") for n in (1, 2, 3)]
    site.nodes += [Node("learner-1", "learner"), Node("reader-1", "reader")]
    if draw.random() < 0.3:
        site.nodes.append(Node("learner-2", "learner"))
    patches = roles_in(site)
    # so that several small batches are in flight, too
    patches.put(pipeline, "FURTHER_BATCH_COMMANDS", draw.choice((1, 2, 8, 64, 256)))
    # less memory to be taken from the system for each node
    patches.put(snapshot, "_KEPT_ROWS", 1 << 10)
    patches.put_default(pipeline.Pipeline.__init__, "capacity", 1 << 14)
    plant(patches)
    clients = Clients(world, Random(seed + 1), COMMANDS_WANTED)
    faults = Faults(world, site)
    report = Report(seed, [], "")
    with patches.in_place(), running(world):
        try:
            _play(world, site, clients, faults, draw)
        except Stuck as stuck:
            report.wrong.append(f"stuck: {stuck}")
        _fill(report, world, site, clients, faults)
    return report


@contextmanager
def _collected_at_the_end() -> Iterator[None]:
    """No collection in the middle: what it would run must not depend on when it comes.

    Coroutines of killed processes are never awaited: that is no news.
    """
    gc.freeze()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()


def _play(world: World, site: Site, clients: Clients, faults: Faults, draw: Random) -> None:
    faults.begin()
    for node in site.nodes:
        world.post(draw.randrange(NS_PER_S), partial(site.start, node))
    clients.start(3)

    def enough() -> bool:
        done = clients.issued >= COMMANDS_WANTED and faults.effects >= EFFECTS_WANTED
        return done or bool(site.failures or clients.failures)

    world.run(enough, SCENARIO_S_MAX)
    faults.end()
    clients.stop = True
    # somebody must lead again, and every call must come to its end
    world.run(lambda: clients.running == 0, QUIET_S_MAX)
    world.run(lambda: bool(faults.history.leader), QUIET_S_MAX)
    site.is_over = True
    for node in site.nodes:
        if node.role == "learner" and node.is_up:
            site.stop(node)
    learners = [node for node in site.nodes if node.role == "learner"]
    world.run(lambda: not any(node.is_up for node in learners), QUIET_S_MAX)


def _fill(report: Report, world: World, site: Site, clients: Clients, faults: Faults) -> None:
    """The verdict, while the roles' code is still in its place."""
    wrong = report.wrong
    wrong += site.failures + clients.failures + faults.history.wrong
    history = JournalHistory()
    for record in site.log.records:
        history.take(record.offset, record.value)
    oracle = run_oracle(history, PARAMETERS)
    wrong += judge_calls(clients, oracle)
    if not wrong:
        wrong += _judge_states(site, site.log.records, history, oracle)
    report.trace = world.trace_digest()
    report.commands = clients.issued
    report.answered = sum(call.count for call in clients.calls if call.replies)
    report.unknown = sum(call.outcome.name == "UNKNOWN" for call in clients.calls)
    report.epochs, report.skipped = history.epoch, history.skipped
    report.snapshots, report.restores = site.store.saves, site.store.restores
    report.reads = len(clients.reads)
    report.hand_overs = site.hand_overs
    report.virtual_s = world.now_ns / NS_PER_S
    report.took_effect = faults.took_effect
    report.lines = world.lines


def _judge_states(
    site: Site, records: list[JournalRecord], history: JournalHistory, oracle: Oracle
) -> list[str]:
    """Cold replay, snapshot and rest, and what readers have: all as the oracle's."""
    wrong: list[str] = []
    expected = oracle.digests[history.next_sequence]
    cold = Replica(hash_seed=7)
    for record in records:
        cold.take(record)
    replicas: list[tuple[str, Any]] = [("a cold replay", cold)]
    try:
        restored, base = recover(SimJournal(site.log), site.store, lambda: False)
    except (RingledgerError, Exit) as error:
        if not site.store.tables.is_torn:
            wrong.append(f"the snapshot can't be restored: {error}")
    else:
        if base is None and site.store.saves:
            wrong.append("there is no snapshot")
        for record in records[restored.position.next_offset :]:
            restored.take(record)
        replicas.append(("snapshot and rest", restored))
    for node in site.nodes:
        if node.replica is not None and node.is_up:
            for record in records[node.replica.position.next_offset :]:
                node.replica.take(record)
            replicas.append((node.name, node.replica))
    for name, replica in replicas:
        if replica.state is None or replica.state.digest() != expected:
            wrong.append(f"{name} has another state than the oracle")
        if replica.position.chain != history.chain:
            wrong.append(f"{name} follows another history")
    return wrong
