"""Faults at random moments; each is counted only once its effect was seen.

| fault | effect that is counted |
| --- | --- |
| crash, at a moment or at a step | a node with unanswered commands or the leadership was killed; a learner in the middle of a save |
| pause | a node was continued, and had been asked something or had led meanwhile |
| append lost, late, doubled, unreported, without offset, failed but stored, slow | of commands or of a candidacy |
| slow disk | a record was stored meanwhile |
| cut, isolation, slow network | it had unanswered messages |
| clock jump | the clock was read before it was set right |
| two candidates | two EPOCH_STARTs of one epoch, or one that deposed a living leader |
| torn snapshot | a restore refused it |
| store out of reach, slow, answer lost | somebody asked it |
"""  # noqa: E501 - a table

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.simulation.history import COMMANDS, EPOCH_START, JournalHistory, kind_of
from tests.simulation.journals import MS, AppendFate
from tests.simulation.nodes import Node, Site
from tests.simulation.world import Process, World

_FATES: Final = {
    AppendFate.LOST: "append lost",
    AppendFate.LATE: "append late",
    AppendFate.DOUBLED: "append doubled",
    AppendFate.UNREPORTED: "append unreported",
    AppendFate.NO_OFFSET: "append without offset",
    AppendFate.FAILED_BUT_STORED: "append failed but stored",
    AppendFate.SLOW: "append slow",
}


@dataclass
class Faults:
    """What is done to the nodes, and what it did."""

    world: World
    site: Site
    history: JournalHistory = field(default_factory=JournalHistory)
    took_effect: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    """Faults that took effect, of all kinds."""
    on: bool = True
    _raced: set[int] = field(default_factory=set)
    """Epochs with more than one candidate, each counted once."""

    def begin(self) -> None:
        """Watch the log, and do the first one soon."""
        log, store = self.site.log, self.site.store
        log.on_stored = self._stored
        log.on_fate = self._met_its_fate
        store.on_fault = lambda what: None if what == "torn snapshot" else self._took(what)
        self.site.on_torn = lambda: self._took("torn snapshot")
        self._again()

    def end(self) -> None:
        """Undo what lasts."""
        self.on = False
        site = self.site
        site.network.heal()
        site.log.slow_ns = site.store.slow_ns = 0
        site.log.fates.clear()
        site.store.reachable = True
        site.store.tear_next = site.store.lose_answer = False
        for node in site.nodes:
            node.wall_offset_ns = 0
            if node.process is not None:
                node.process.wall_offset_ns = 0
                node.process.steps_left = 0
                node.process.go_on()

    # when

    def _again(self) -> None:
        self.world.post(self.world.between(150 * MS, 1_400 * MS), self._next)

    def _next(self) -> None:
        if not self.on:
            return
        kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (5, self._crash),
            (6, self._crash_at_a_step),
            (4, self._pause),
            (8, self._append),
            (2, self._slow_disk),
            (3, self._cut),
            (2, self._isolate),
            (1, self._slow_network),
            (2, self._jump),
            (3, self._two_candidates),
            (2, self._tear),
            (2, self._hand_over),
            (3, self._store),
        )
        [inject] = self.world.random.choices(
            [kind for _, kind in kinds], [weight for weight, _ in kinds]
        )
        self.world.note(f"fault {inject.__name__}")
        inject()
        self._again()

    def _later(self, low_ms: int, high_ms: int, undo: Callable[[], None]) -> None:
        self.world.post(self.world.between(low_ms * MS, high_ms * MS), undo)

    def _took(self, what: str) -> None:
        if self.on:
            self.took_effect[what] += 1
            self.effects += 1

    # whom

    def _a_node(self) -> Node:
        """The leader more often than others."""
        nodes = self.site.nodes
        leading = [node for node in nodes if node.name == self.history.leader]
        if leading and self.world.random.random() < 0.6:
            return leading[0]
        return self.world.random.choice(nodes)

    def _is_busy(self, process: Process) -> bool:
        return any(
            link.server is process and link.unanswered > 0
            for link in self.site.network.links.values()
        )

    def _matters(self, node: Node) -> bool:
        process = node.process
        if process is None or not process.alive:
            return False
        if node.role == "learner":
            return self.site.store.saving
        return self._is_busy(process) or node.name == self.history.leader

    # nodes

    def _crash(self) -> None:
        node = self._a_node()
        self.injected["crash"] += 1
        if node.process is not None:
            if self._matters(node):
                self._took("crash")
            node.process.kill()

    def _crash_at_a_step(self) -> None:
        node = self._a_node()
        process = node.process
        if process is None or not process.alive or process.steps_left:
            return
        self.injected["crash at a step"] += 1
        process.steps_left = self.world.random.randrange(1, 60)

        def died() -> None:
            if process.steps_left == 0 and self._matters_dying(node, process):
                self._took("crash at a step")

        process.on_death.insert(0, died)

    def _matters_dying(self, node: Node, process: Process) -> bool:
        if node.role == "learner":
            return self.site.store.saving
        return self._is_busy(process) or node.name == self.history.leader

    def _pause(self) -> None:
        node = self._a_node()
        process = node.process
        if process is None or not process.alive or process.paused:
            return
        self.injected["pause"] += 1
        mattered = self._matters(node)
        process.pause()

        def go_on() -> None:
            if process.alive and process.paused:
                if process.deferred and (mattered or self._is_busy(process)):
                    self._took("pause")
                process.go_on()

        self._later(100, 4_000, go_on)

    def _jump(self) -> None:
        node = self._a_node()
        process = node.process
        if process is None or not process.alive:
            return
        self.injected["clock jump"] += 1
        draw = self.world.random
        jump_ns = draw.choice((-1, 1)) * draw.choice((50, 900, 3_000, 8_000, 100_000)) * MS
        node.wall_offset_ns = process.wall_offset_ns = jump_ns
        process.clock_was_read = False

        def set_right() -> None:
            now = node.process
            node.wall_offset_ns = 0
            if now is not None:
                now.wall_offset_ns = 0
                if now.clock_was_read:
                    self._took("clock jump")

        self._later(500, 5_000, set_right)

    def _two_candidates(self) -> None:
        """One that deposes the leader; or the leader dies and the others stand at once."""
        servers = [node for node in self.site.nodes if node.role == "leader"]
        self.injected["two candidates"] += 1
        for node in self.world.random.sample(servers, 2):
            if node.name != self.history.leader or self.world.random.random() < 0.3:
                node.takeover = True
                if node.process is not None and not self._is_busy(node.process):
                    node.process.kill()
                    self.site.start(node)

    def _hand_over(self) -> None:
        """No fault, but what an operator may do in the middle of some."""
        leads = [node for node in self.site.nodes if node.name == self.history.leader]
        others = [node for node in self.site.nodes if node.role == "leader" and node not in leads]
        if leads:
            offset = self.history.end_offset - self.world.random.choice((0, 1, 10))
            standby = self.world.random.choice(others)
            self.site.hand_over(leads[0], standby, max(offset, 0))

    # journal

    def _append(self) -> None:
        fate = self.world.random.choice(list(_FATES))
        self.injected[_FATES[fate]] += 1
        self.site.log.fates.append(fate)

    def _met_its_fate(self, fate: AppendFate, value: bytes) -> None:
        if kind_of(value) in (COMMANDS, EPOCH_START):
            self._took(_FATES[fate])

    def _slow_disk(self) -> None:
        log = self.site.log
        self.injected["slow disk"] += 1
        log.slow_ns, end = self.world.between(20 * MS, 400 * MS), log.end

        def over() -> None:
            log.slow_ns = 0
            if log.end > end:
                self._took("slow disk")

        self._later(300, 2_500, over)

    def _stored(self, record: Any) -> None:
        history, led = self.history, self.history.leader
        races, deposed = history.lost_races, history.deposed
        history.take(record.offset, record.value)
        alive = any(node.name == led and node.is_up for node in self.site.nodes)
        if history.lost_races > races or (history.deposed > deposed and alive):
            if history.epoch not in self._raced:
                self._took("two candidates")
            self._raced.add(history.epoch)

    # network

    def _cut(self) -> None:
        network = self.site.network
        links = list(network.links.values())
        if not links:
            return
        self.injected["cut"] += 1
        busy = [link for link in links if link.unanswered > 0]
        link = self.world.random.choice(busy or links)
        if link.unanswered > 0:
            self._took("cut")
        network.cut(link)

    def _isolate(self) -> None:
        node = self._a_node()
        self.injected["isolation"] += 1
        if node.process is not None and self._is_busy(node.process):
            self._took("isolation")
        self.site.network.isolate(node.name)
        self._later(200, 3_000, lambda: self.site.network.cut_off.discard(node.name))

    def _slow_network(self) -> None:
        network = self.site.network
        self.injected["slow network"] += 1
        network.delay_ns = self.world.between(20 * MS, 700 * MS)
        if any(link.unanswered > 0 for link in network.links.values()):
            self._took("slow network")

        def over() -> None:
            network.delay_ns = 0

        self._later(200, 2_000, over)

    # snapshots

    def _tear(self) -> None:
        self.injected["torn snapshot"] += 1
        self.site.store.tear_next = True

    def _store(self) -> None:
        store = self.site.store
        kind = self.world.random.choice(("out of reach", "slow", "answer"))
        self.injected[f"store: {kind}"] += 1
        if kind == "answer":
            store.lose_answer = True
        elif kind == "slow":
            store.slow_ns = self.world.between(100 * MS, 1_500 * MS)
        else:
            store.reachable = False
        saves = store.asked

        def over() -> None:
            if kind == "slow" and store.asked > saves:
                self._took("store slow")
            store.slow_ns = 0
            store.reachable = True

        self._later(300, 3_000, over)
