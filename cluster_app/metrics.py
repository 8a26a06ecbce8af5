"""What a node shows to Prometheus: names, units and where each number comes from.

Nearly all are read at a scrape from counters that are there anyway; only the leader's tally is
counted for it, once a batch, by compiled code. Label values are names of enums: their number is
bounded.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cluster_app.http_side import NodeHealth
from cluster_app.lag import Lag
from cluster_app.window_span import WindowSpan
from cluster_core.pipeline import Pipeline
from cluster_core.reader_rule import Position
from cluster_core.record import Operation, Status
from cluster_core.replay import Replica
from cluster_core.state_machine import StateMachine
from cluster_core.tally import APPEND_BOUNDS_NS, SIZE_BOUNDS, Tally

_PREFIX: Final = "ringledger_"
_NS_PER_S: Final = 1e9


@dataclass(frozen=True)
class Reading:
    """One metric without labels, read at a scrape; `read` gives None while there is nothing."""

    name: str
    text: str
    read: Callable[[], float | None]
    counter: bool = False

    def family(self) -> GaugeMetricFamily | CounterMetricFamily:
        """The metric without its value."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        return kind(_PREFIX + self.name, self.text)


class Readings(Collector):
    """Collects readings; `read` is called on the thread that answers the scrape."""

    def __init__(self, registry: CollectorRegistry, *readings: Reading) -> None:
        self._readings = readings
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """The metrics without their values."""
        return [reading.family() for reading in self._readings]

    def collect(self) -> Iterable[Metric]:
        """The metrics that have a value now."""
        for reading in self._readings:
            value = reading.read()
            if value is not None:
                family = reading.family()
                family.add_metric([], value)
                yield family


class NodeMetrics:
    """One node's registry, its health, and what fills them as the node's parts come to be."""

    def __init__(self, role: str, node_id: str) -> None:
        """`role` is leader, follower, learner or archiver."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.health = NodeHealth()
        self._replica: Callable[[], Replica | None] = lambda: None
        self._pipeline: Pipeline | None = None
        self._newest_term: Pipeline | None = None
        self._lag: Callable[[], Lag | None] = lambda: None
        self._snapshots: SnapshotMetrics | None = None
        self._window_span = WindowSpan()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info(f"{_PREFIX}node", "This node", registry=self.registry).info(
            {"role": role, "node_id": node_id}
        )
        Readings(
            self.registry,
            Reading("ready", "1 when the node serves", lambda: self.health.is_ready),
            *self._position_readings(),
            *self._state_readings(),
            *self._lag_readings(),
        )

    def observe(self) -> None:
        """Say that the node's own thread goes on, and note what no scrape can see.

        The thread that applies calls it a few times a second, wherever it may.
        """
        self.health.beat()
        self.note_window()

    def note_window(self) -> None:
        """Keep up how far the window goes back; after each read of a replay."""
        state, position = self._state(), self._position()
        if state is not None and position is not None:
            self._window_span.note(
                state.window_entries, state.parameters.window_capacity, position.timestamp_ns
            )

    def follow(self, replica: Callable[[], Replica | None]) -> None:
        """From now on show the replica that this gives: position, state, replay."""
        self._replica = replica

    def show(self, replica: Replica | None) -> None:
        """From now on show this replica; None lets go of the one before."""
        self._replica = lambda: replica

    def lead(self, pipeline: Pipeline, open_streams: Callable[[], int]) -> None:
        """Show a leader's stages; from now on, until `stand_by`, the position is the pipeline's."""
        is_first = self._newest_term is None
        self._pipeline = self._newest_term = pipeline
        if not is_first:
            return
        _Answered(self.registry, lambda: (self._newest_term or pipeline).tally)
        Readings(
            self.registry,
            Reading(
                "in_flight_commands",
                "Commands taken and not answered yet",
                lambda: self._of_term(lambda term: term.in_flight_commands),
            ),
            Reading(
                "ring_fill_ratio",
                "Part of the command ring that is taken; at 1 the streams are not read",
                lambda: self._of_term(lambda term: term.in_flight_commands / term.ring_capacity),
            ),
            Reading("command_streams", "Open command streams", open_streams),
        )

    def stand_by(self) -> None:
        """The term has ended: the replica shows the position again. Counters keep what they had."""
        self._pipeline = None

    def _of_term(self, read: Callable[[Pipeline], float]) -> float:
        term = self._pipeline
        return 0.0 if term is None else read(term)

    def leads(self) -> None:
        """Show whether this node leads; for one that may."""
        Readings(
            self.registry,
            Reading("leading", "1 while this node leads", lambda: self._pipeline is not None),
        )

    def lag(self, lag: Callable[[], Lag]) -> None:
        """From now on show how far a node that follows is behind the journal."""
        self._lag = lag

    def workers(self, serving: Callable[[], int]) -> Counter:
        """Show how many query workers serve: without any the node is not ready.

        Returns the counter of those that another one had to replace.
        """
        Readings(
            self.registry,
            Reading("query_workers", "Query workers that serve", serving),
        )
        self.health.doubt(lambda: "" if serving() else "no query worker serves")
        return Counter(
            f"{_PREFIX}replaced_query_workers_total",
            "Query workers that died and were replaced",
            registry=self.registry,
        )

    def snapshots(self, stored: Callable[[], tuple[int, int] | None]) -> "SnapshotMetrics":
        """From now on show a learner's snapshots.

        `stored` gives (taken_ns, applied) of what the store holds, None without a snapshot.
        """
        if self._snapshots is None:
            self._snapshots = SnapshotMetrics(self.registry)
        self._snapshots.stored = stored
        return self._snapshots

    def _position(self) -> Position | None:
        if self._pipeline is not None:
            return self._pipeline.counted
        replica = self._replica()
        return replica.position if replica else None

    def _state(self) -> StateMachine | None:
        replica = self._replica()
        return replica.state if replica else None

    def _of_position(self, read: Callable[[Position], float]) -> Callable[[], float | None]:
        def reading() -> float | None:
            position = self._position()
            return None if position is None else read(position)

        return reading

    def _of_state(self, read: Callable[[StateMachine], float]) -> Callable[[], float | None]:
        def reading() -> float | None:
            state = self._state()
            return None if state is None else read(state)

        return reading

    def _of_replica(self, read: Callable[[Replica], float]) -> Callable[[], float | None]:
        def reading() -> float | None:
            replica = self._replica()
            return None if replica is None else read(replica)

        return reading

    def _skipped(self, replica: Replica) -> int:
        led = self._pipeline
        return replica.skipped_records + (led.skipped_records if led else 0)

    def _position_readings(self) -> Sequence[Reading]:
        return (
            Reading(
                "applied_sequence",
                "All commands below this sequence are applied here",
                self._of_position(lambda position: position.next_sequence),
            ),
            Reading(
                "journal_offset",
                "The journal is read or written up to this offset",
                self._of_position(lambda position: position.next_offset),
            ),
            Reading(
                "epoch",
                "The leader's term that was counted last",
                self._of_position(lambda position: position.epoch),
            ),
            Reading(
                "ledger_time_seconds",
                "Ledger time, since the Unix epoch",
                self._of_position(lambda position: position.timestamp_ns / _NS_PER_S),
            ),
            Reading(
                "replayed_commands_total",
                "Commands applied by reading the journal",
                self._of_replica(lambda replica: replica.replayed_commands),
                counter=True,
            ),
            Reading(
                "skipped_records_total",
                "Records read that don't count: lost races and late writes of older leaders",
                self._of_replica(self._skipped),
                counter=True,
            ),
        )

    def _state_readings(self) -> Sequence[Reading]:
        return (
            Reading("accounts", "Accounts", self._of_state(lambda state: state.accounts)),
            Reading(
                "account_capacity",
                "Accounts at most, for ever",
                self._of_state(lambda state: state.parameters.account_capacity),
            ),
            Reading("open_holds", "Open holds", self._of_state(lambda state: state.open_holds)),
            Reading(
                "hold_capacity",
                "Open holds at most, for ever",
                self._of_state(lambda state: state.parameters.hold_capacity),
            ),
            Reading(
                "window_entries",
                "Command ids in the window of recent ones",
                self._of_state(
                    lambda state: min(state.window_entries, state.parameters.window_capacity)
                ),
            ),
            Reading(
                "window_capacity",
                "Command ids that the window holds at most",
                self._of_state(lambda state: state.parameters.window_capacity),
            ),
            Reading(
                "window_span_seconds",
                "Ledger time that the window goes back, at least: so long any id is safe",
                self._span,
            ),
        )

    def _lag_readings(self) -> Sequence[Reading]:
        def commands() -> float | None:
            lag = self._lag()
            return lag.commands if lag else None

        def seconds() -> float | None:
            lag = self._lag()
            return lag.seconds if lag else None

        return (
            Reading(
                "lag_commands",
                "Journaled commands that are not applied here, at the last look",
                commands,
            ),
            Reading(
                "lag_seconds",
                "Ledger time between what is applied here and the journal's newest record",
                seconds,
            ),
        )

    def _span(self) -> float | None:
        position = self._position()
        return None if position is None else self._window_span.seconds(position.timestamp_ns)


class _Answered(Collector):
    """A tally as Prometheus's counters and histograms."""

    def __init__(self, registry: CollectorRegistry, tally: Callable[[], Tally]) -> None:
        self._tally = tally
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return list(_tally_families())

    def collect(self) -> Iterable[Metric]:
        tally = self._tally()
        commands, duplicates, sizes, appends = _tally_families()
        counts = tally.commands
        for operation in Operation:
            for status in Status:
                count = int(counts[operation, status])
                # one that never came is left out, but for OK, so that each operation has a start
                if count or status is Status.OK:
                    commands.add_metric([operation.name, status.name], count)
        for operation, count in zip(Operation, tally.duplicates[1:].tolist(), strict=True):
            duplicates.add_metric([operation.name], count)
        sizes.add_metric(
            [],
            _cumulative([float(bound) for bound in SIZE_BOUNDS], [*tally.batch_sizes.tolist(), 0]),
            sum_value=float(counts.sum()),
        )
        appends.add_metric(
            [],
            _cumulative(
                [bound / _NS_PER_S for bound in APPEND_BOUNDS_NS], tally.append_times.tolist()
            ),
            sum_value=tally.append_sum_ns / _NS_PER_S,
        )
        return commands, duplicates, sizes, appends


def _tally_families() -> tuple[
    CounterMetricFamily, CounterMetricFamily, HistogramMetricFamily, HistogramMetricFamily
]:
    return (
        CounterMetricFamily(
            f"{_PREFIX}commands_total",
            "Commands answered, those that the leader journals itself among them",
            labels=("operation", "status"),
        ),
        CounterMetricFamily(
            f"{_PREFIX}duplicate_commands_total",
            "Commands answered with the first reply to their id, also in ringledger_commands_total",
            labels=("operation",),
        ),
        HistogramMetricFamily(f"{_PREFIX}batch_size_commands", "Commands in a journaled batch"),
        HistogramMetricFamily(
            f"{_PREFIX}journal_append_seconds",
            "From a batch's sealing to the journal's report, HEARTBEATs among them",
        ),
    )


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus's buckets: (le, count of all up to it); `counts` has one more, for +Inf."""
    buckets, total = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


class SnapshotMetrics:
    """A learner's snapshots: counted as they are saved, their age read at a scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stored: Callable[[], tuple[int, int] | None] = lambda: None
        Readings(
            registry,
            Reading(
                "snapshot_age_seconds", "Time since the stored snapshot was taken", self._age_s
            ),
            Reading(
                "snapshot_applied_sequence",
                "All commands below this sequence are in the stored snapshot",
                self._applied,
            ),
        )
        self._saved = Counter(f"{_PREFIX}snapshots_total", "Snapshots saved", registry=registry)
        self._failures = Counter(
            f"{_PREFIX}snapshot_failures_total",
            "Snapshots that could not be saved; the next one contains them",
            registry=registry,
        )
        self._rows = _last(registry, "rows", "Rows that the newest snapshot changed")
        self._bytes = _last(registry, "bytes", "Bytes that the newest snapshot sent to the store")
        self._duration = _last(
            registry, "duration_seconds", "How long the newest snapshot took to finish and save"
        )
        self._stop = _last(
            registry, "stop_seconds", "How long replay stood still for the newest snapshot"
        )

    def saved(self, *, rows: int, sent_bytes: int, duration_s: float, stop_s: float) -> None:
        """A snapshot was stored."""
        self._rows.set(rows)
        self._bytes.set(sent_bytes)
        self._duration.set(duration_s)
        self._stop.set(stop_s)
        self._saved.inc()

    def failed(self) -> None:
        """A snapshot was not stored."""
        self._failures.inc()

    def _age_s(self) -> float | None:
        stored = self.stored()
        return None if stored is None else max(time.time() - stored[0] / _NS_PER_S, 0.0)

    def _applied(self) -> float | None:
        stored = self.stored()
        return None if stored is None else stored[1]


def _last(registry: CollectorRegistry, name: str, text: str) -> Gauge:
    return Gauge(f"{_PREFIX}snapshot_{name}", text, registry=registry)
