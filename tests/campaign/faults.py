"""The faults of a campaign. One counts only with commands under way and its effect seen.

Each kind is a function of the cluster: it does its harm, waits, heals, and returns the effect that
it saw, in words; nothing seen is an empty text, and the fault isn't counted. What died is started
again by `Cluster.supervise`.
"""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.campaign.cluster import HAS_STANDBY, Cluster
from tests.campaign.cluster import Program as OwnProgram
from tests.server_process import ServerProcess
from tests.service_programs import with_setpriv
from tests.services import KafkaBroker, takes_connections

WHOLE_TIMEOUT_S: Final = 60.0
"""How long everything may take to be well again before the next fault comes anyway."""

_EFFECT_TIMEOUT_S: Final = 10.0

_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True)
class Fault:
    """One fault; times are monotonic ns. It counts if `effect` isn't empty and commands were under
    way.
    """

    kind: str
    target: str
    begun_ns: int
    healed_ns: int
    in_flight: int
    effect: str

    @property
    def counts(self) -> bool:
        """Whether it did anything to anybody."""
        return bool(self.effect) and self.in_flight > 0


Choice = Callable[[Cluster, random.Random], str]
Harm = Callable[[Cluster, random.Random], tuple[str, str]]
"""Returns (target, effect)."""


def _program(cluster: Cluster, name: str) -> ServerProcess:
    return cluster.programs[name]


def kill(cluster: Cluster, name: str) -> str:
    """kill -9; the supervisor starts it again."""
    program = _program(cluster, name)
    # what was hit a moment ago may not be up again
    if not cluster.wait(_EFFECT_TIMEOUT_S, lambda: program.is_running):
        return ""
    # not the program's: its next process may have begun before we look
    process = program.process
    process.kill()
    return f"died by signal {-process.wait()}"


def _pids(cluster: Cluster, name: str) -> list[int]:
    pid = _program(cluster, name).process.pid
    if name != "postgres":
        return [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return [pid]
    return [pid, *map(int, children.split())]


def pause(cluster: Cluster, name: str, seconds: float) -> str:
    """SIGSTOP, and SIGCONT later; nothing else moves it meanwhile."""
    program = _program(cluster, name)
    if not cluster.wait(_EFFECT_TIMEOUT_S, lambda: program.is_running):
        return ""
    pids = _pids(cluster, name)
    _signal(pids, signal.SIGSTOP)
    before = _cpu_ticks(pids[0])
    try:
        cluster.wait(0.1)
        stopped = _state(pids[0]) == "T"
        cluster.wait(seconds)
        still = _cpu_ticks(pids[0]) == before and _state(pids[0]) == "T"
    finally:
        _signal(reversed(pids), signal.SIGCONT)
    return f"stood still for {seconds:.1f} s" if stopped and still else ""


def _signal(pids: "list[int] | Iterator[int]", number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["gone", *["0"] * 20]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12])


# Network


def cut(cluster: Cluster, link: str, seconds: float) -> str:
    """Nothing gets through; no connection ends."""
    cluster.control.set(link, "cut")
    try:
        cluster.wait(seconds)
        held = cluster.control.seen(link)
    finally:
        cluster.control.set(link, "open")
    return f"{held} bytes held back for {seconds:.1f} s" if held else ""


def slow(cluster: Cluster, link: str, seconds: float, delay_s: float) -> str:
    """Everything gets through later."""
    cluster.control.set(link, "delay", delay_s)
    try:
        cluster.wait(seconds)
        slowed = cluster.control.seen(link)
    finally:
        cluster.control.set(link, "open")
    return f"{slowed} bytes {delay_s * 1e3:.0f} ms later" if slowed else ""


def reset(cluster: Cluster, link: str, seconds: float) -> str:
    """All connections break, and new ones are refused."""
    broken = cluster.control.set(link, "reset")
    try:
        cluster.wait(seconds)
        broken = cluster.control.seen(link)
    finally:
        cluster.control.set(link, "open")
    return f"{broken} connections broken or refused" if broken else ""


# Disks


@contextmanager
def _no_room(cluster: Cluster, name: str) -> Iterator[None]:
    """No file of these processes may grow: writing fails as on a full disk (EFBIG for ENOSPC)."""
    limited = _pids(cluster, name)
    _limit(limited, name, "4096:unlimited")
    try:
        yield
    finally:
        now = _pids(cluster, name) if _program(cluster, name).is_running else []
        _limit(sorted({*limited, *now}), name, "unlimited:unlimited")


def _limit(pids: list[int], name: str, size: str) -> None:
    """By a program of their own user's: another one's limits are not even root's in containers."""
    for pid in pids:
        command = ["prlimit", "--pid", str(pid), f"--fsize={size}"]
        subprocess.run(
            with_setpriv(command, unprivileged=name == "postgres"), capture_output=True, check=False
        )


def full_disk_of_broker(cluster: Cluster, name: str) -> str:
    """A broker that can't write its log halts; it comes back on a disk with room."""
    program = _program(cluster, name)
    cluster.held.add(name)
    try:
        with _no_room(cluster, name):
            halted = cluster.wait(_EFFECT_TIMEOUT_S, lambda: not program.is_running)
        if not halted:
            program.kill()
    finally:
        cluster.held.discard(name)
        cluster.expected.add(name)
    return f"halted with exit code {program.process.returncode}" if halted else ""


def full_disk_of_postgres(cluster: Cluster) -> str:
    """Transactions fail or the server restarts: snapshots and entries are not written meanwhile.

    The server's own log is on the full disk too, so those who write tell.
    """
    cluster.wait(_EFFECT_TIMEOUT_S, lambda: takes_connections(cluster.postgres.conninfo), 0.2)
    before = _no_room_seen(cluster)
    cluster.held.add("postgres")
    try:
        with _no_room(cluster, "postgres"):
            failed = cluster.wait(_EFFECT_TIMEOUT_S, lambda: _no_room_seen(cluster) > before)
    finally:
        cluster.held.discard("postgres")
        cluster.expected.add("postgres")
    return f"{_no_room_seen(cluster) - before} writes failed" if failed else ""


def _no_room_seen(cluster: Cluster) -> int:
    said = {
        "learner": b"the snapshot was not saved",
        "archiver": b"history can't be written",
    }
    return sum(cluster.nodes[name].log.read_bytes().count(text) for name, text in said.items())


# Clocks


def jump_clock(cluster: Cluster, offset_s: float) -> tuple[str, str]:
    """The clock of who leads next is wrong when it becomes the leader, for the leader is killed."""
    old = cluster.leader()
    heirs = [name for name in cluster.leaders if name != old] or [old]
    for name in heirs:
        cluster.clocks[name].set(round(offset_s * _NS_PER_S))
    if not old:
        return ",".join(heirs), ""
    kill(cluster, old)
    if HAS_STANDBY:
        cluster.wait(_EFFECT_TIMEOUT_S, lambda: cluster.leader() in heirs)
    else:
        cluster.wait(_EFFECT_TIMEOUT_S, lambda: cluster.nodes[old].is_ready)
    reads = sum(cluster.clocks[name].reads for name in heirs)
    leads = cluster.leader() in heirs
    for name in heirs:
        cluster.clocks[name].set(0)
    effect = f"led with a clock {offset_s:+.1f} s off" if leads else f"read {reads} times"
    return ",".join(heirs), effect if reads else ""


# Kinds


def _seconds(draw: random.Random, least: float = 0.3, most: float = 3.0) -> float:
    return draw.uniform(least, most)


def _links(cluster: Cluster, prefix: str) -> list[str]:
    return [link for link in cluster.links if link.startswith(prefix)]


def _leader(cluster: Cluster) -> str:
    return cluster.leader() or cluster.leaders[0]


def _other(cluster: Cluster) -> str:
    leader = _leader(cluster)
    return next((name for name in cluster.leaders if name != leader), leader)


def _broker(cluster: Cluster, draw: random.Random) -> str:
    """Half of the time the one that leads the partition."""
    led_by, _ = cluster.partition()
    if led_by > 0 and draw.random() < 0.5:
        return f"broker-{led_by}"
    return f"broker-{draw.randint(1, len(cluster.kafka.brokers))}"


def _replication(cluster: Cluster) -> str:
    """The way by which other brokers copy the journal."""
    return f"replication-{max(cluster.partition()[0], 1)}"


def _killing(choose: Choice) -> Harm:
    def harm(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
        name = choose(cluster, draw)
        return name, kill(cluster, name)

    return harm


def _pausing(choose: Choice, most_s: float) -> Harm:
    def harm(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
        name = choose(cluster, draw)
        return name, pause(cluster, name, _seconds(draw, 0.5, most_s))

    return harm


def _cutting(choose: Choice) -> Harm:
    def harm(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
        link = choose(cluster, draw)
        return link, cut(cluster, link, _seconds(draw))

    return harm


def _slowing(choose: Choice) -> Harm:
    def harm(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
        link = choose(cluster, draw)
        return link, slow(cluster, link, _seconds(draw, 1.0, 3.0), draw.uniform(0.005, 0.15))

    return harm


def _resetting(choose: Choice) -> Harm:
    def harm(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
        link = choose(cluster, draw)
        return link, reset(cluster, link, _seconds(draw, 0.1, 1.5))

    return harm


def _leaders_link(cluster: Cluster, draw: random.Random) -> str:
    """One that commands need."""
    leader = _leader(cluster)
    standby = _other(cluster)
    links = [f"clients-{leader}", f"kafka-{leader}", f"kafka-{standby}", _replication(cluster)]
    return draw.choice(links)


_USERS: Final = {
    "kafka-followers": "follower-1",
    "kafka-learner": "learner",
    "kafka-archiver": "archiver",
    "postgres": "learner",
    "history": "archiver",
    "queries-1": "follower-1",
    "queries-2": "follower-2",
}
"""Links of those who read the journal or answer queries, and whose they are."""


def _readers_link(cluster: Cluster, draw: random.Random) -> str:
    """One whose user isn't just starting."""
    return _busy_link(cluster, draw, list(_USERS))


def _archivers_link(cluster: Cluster, draw: random.Random) -> str:
    return _busy_link(cluster, draw, ["kafka-archiver", "history"])


def _busy_link(cluster: Cluster, draw: random.Random, links: list[str]) -> str:
    def ready() -> list[str]:
        return [link for link in links if cluster.nodes[_USERS[link]].is_ready]

    cluster.wait(_EFFECT_TIMEOUT_S, lambda: bool(ready()), every_s=0.2)
    return draw.choice(ready() or links)


def _has_ended(broker: KafkaBroker) -> Callable[[], bool]:
    return lambda: not broker.is_running


def _restart_broker(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
    """Each broker in turn is stopped in an orderly way; all are in sync again before the next."""
    del draw
    broker = cluster.next_broker()
    name = f"broker-{broker.node_id}"
    cluster.held.add(name)
    try:
        broker.process.send_signal(signal.SIGTERM)
        ended = cluster.wait(30.0, _has_ended(broker))
    finally:
        cluster.held.discard(name)
        cluster.expected.add(name)
    return name, f"stopped with exit code {broker.process.returncode}" if ended else ""


def _stop_leader(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
    """SIGTERM: EPOCH_END, and nobody need wait for silence."""
    del draw
    name = _leader(cluster)
    node = _program(cluster, name)
    cluster.held.add(name)
    try:
        node.process.send_signal(signal.SIGTERM)
        cluster.wait(_EFFECT_TIMEOUT_S, lambda: not node.is_running)
    finally:
        cluster.held.discard(name)
        cluster.expected.add(name)
    code = node.process.returncode
    return name, "stopped cleanly" if code == 0 else f"ended with exit code {code}"


def _hand_over(cluster: Cluster, draw: random.Random) -> tuple[str, str]:
    """Planned: the leader drains, and the standby takes over at once."""
    del draw
    old = _leader(cluster)
    endpoints = ",".join(cluster.addresses[name] for name in cluster.leaders)
    flags = ("cluster_app", "handover", "--endpoints", endpoints)
    asked = OwnProgram("handover", cluster.folder, *flags)
    asked.start()
    cluster.wait(_EFFECT_TIMEOUT_S, lambda: not asked.is_running)
    new = cluster.leader()
    return old, f"handed over to {new}" if new not in ("", old) else ""


def _any_follower(cluster: Cluster, draw: random.Random) -> str:
    return draw.choice(cluster.followers)


def _any_reader(cluster: Cluster, draw: random.Random) -> str:
    return draw.choice([*cluster.followers, "learner", "archiver"])


def _any_clients(cluster: Cluster, draw: random.Random) -> str:
    return draw.choice(list(cluster.clients))


Kinds = dict[str, tuple[Harm, int]]
"""Kind -> (harm, how often in a round of all kinds)."""

ROLLING_RESTART: Final = "brokers restarted in turn"
"""A round has all of them, one right after the other."""

ON_COMMANDS_WAY: Final[Kinds] = {
    "kill -9 of the leader": (_killing(lambda c, _: _leader(c)), 5),
    "kill -9 of the standby": (_killing(lambda c, _: _other(c)), 1 if HAS_STANDBY else 0),
    "kill -9 of a broker": (_killing(_broker), 2),
    "leader stopped by SIGTERM": (_stop_leader, 1),
    "planned hand-over": (_hand_over, 2 if HAS_STANDBY else 0),
    "leader frozen": (_pausing(lambda c, _: _leader(c), 4.0), 2),
    "standby frozen": (_pausing(lambda c, _: _other(c), 4.0), 1 if HAS_STANDBY else 0),
    "broker frozen": (_pausing(_broker, 5.0), 1),
    "leader cut off from clients": (_cutting(lambda c, _: f"clients-{_leader(c)}"), 1),
    "leader cut off from Kafka": (_cutting(lambda c, _: f"kafka-{_leader(c)}"), 2),
    "replication cut": (_cutting(lambda c, _: _replication(c)), 1),
    "leader's network slow": (_slowing(_leaders_link), 2),
    "leader's connections reset": (_resetting(_leaders_link), 2),
    "full disk of a broker": (lambda c, d: (n := _broker(c, d), full_disk_of_broker(c, n)), 1),
    "clock jump": (lambda c, d: jump_clock(c, d.choice((-1, 1)) * d.uniform(0.5, 4.5)), 1),
    ROLLING_RESTART: (_restart_broker, 3),
}
"""What commands need. One at a time, and only once brokers, leader and standby are well: two
together would take more from them than they can do without, and tell nothing of how soon they
recover."""

BESIDE: Final[Kinds] = {
    "kill -9 of a follower": (_killing(_any_follower), 1),
    "kill -9 of the learner": (_killing(lambda c, _: "learner"), 1),
    "kill -9 of the archiver": (_killing(lambda c, _: "archiver"), 2),
    "kill -9 of PostgreSQL": (_killing(lambda c, _: "postgres"), 1),
    "kill -9 of four clients": (_killing(_any_clients), 1),
    "reader of the journal frozen": (_pausing(_any_reader, 3.0), 2),
    "archiver cut off": (_cutting(_archivers_link), 2),
    "PostgreSQL frozen": (_pausing(lambda c, _: "postgres", 3.0), 1),
    "four clients frozen": (_pausing(_any_clients, 3.0), 1),
    "reader's link cut": (_cutting(_readers_link), 2),
    "reader's network slow": (_slowing(_readers_link), 2),
    "reader's connections reset": (_resetting(_readers_link), 2),
    "full disk of PostgreSQL": (lambda c, _: ("postgres", full_disk_of_postgres(c)), 1),
}
"""What the others need. One at a time, beside those on the commands' way."""
