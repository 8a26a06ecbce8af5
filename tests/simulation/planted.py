"""Five bugs, put into the roles' code by hand: the simulation must find each of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from cluster_core import pipeline, replay
from cluster_core.batch import Header, Kind
from cluster_core.pipeline import Pipeline
from cluster_core.reader_rule import Judgement, Position, Verdict
from cluster_core.recent_commands import empty_window
from cluster_core.replay import Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import Snapshotter, TakenState
from tests.simulation.stand_ins import Patches


def reply_before_journaled(patches: Patches) -> None:
    """A batch is applied and answered as soon as it was handed to the journal."""
    journal_batch = Pipeline._journal_batch

    def journal_and_answer(self: Pipeline) -> None:
        journal_batch(self)
        if self._in_flight:
            self._apply(self._in_flight[-1])
            self._reply(self._in_flight[-1])

    def count(self: Pipeline, batch: Any, position: Position) -> None:
        self._in_flight.popleft()
        self.counted = position
        self.batches_counted += 1

    patches.put(Pipeline, "_journal_batch", journal_and_answer)
    patches.put(Pipeline, "_count", count)


def apply_out_of_order(patches: Patches) -> None:
    """Of two batches of one size in flight, the second is applied first."""
    apply = Pipeline._apply

    def apply_the_next(self: Pipeline, batch: Any) -> None:
        following = self._in_flight[0] if self._in_flight else None
        if (
            following is not None
            and following.kind is Kind.COMMANDS
            and len(following.value) == len(batch.value)
        ):
            self._in_flight[0] = replace(following, value=batch.value)
            batch = replace(batch, value=following.value)
        apply(self, batch)

    patches.put(Pipeline, "_apply", apply_the_next)
    patches.put(pipeline, "FURTHER_BATCH_COMMANDS", 1)


def skipped_reader_rule(patches: Patches) -> None:
    """Whoever replays takes every record as it comes."""

    def judge_nothing(position: Position, offset: int, header: Header) -> Judgement:
        counted = Position(
            offset + 1,
            header.epoch,
            header.leader_id,
            header.first_sequence + header.count,
            header.timestamp_ns,
            header.digest,
        )
        return Judgement(Verdict.COUNTS, "", counted)

    patches.put(replay, "judge", judge_nothing)


def snapshot_position_one_ahead(patches: Patches) -> None:
    """A snapshot says that it has one record more than it has."""
    take = Snapshotter.take

    def take_ahead(self: Snapshotter, now_ns: int) -> TakenState:
        taken = take(self, now_ns)
        position = taken.header.position
        ahead = replace(position, next_offset=position.next_offset + 1)
        return replace(taken, header=replace(taken.header, position=ahead))

    patches.put(Snapshotter, "take", take_ahead)


def window_not_in_snapshot(patches: Patches) -> None:
    """What is restored has forgotten the recent command ids."""
    finish = Restorer.finish

    def finish_without(self: Restorer) -> Replica:
        replica = finish(self)
        state = replica.state
        if state is None:
            raise AssertionError("a restored replica has a state")
        state._window = empty_window(state.parameters, state.hash_seed)
        state.books.ledger["window_entries"] = 0
        return replica

    patches.put(Restorer, "finish", finish_without)


PLANTED: Final[dict[str, Callable[[Patches], None]]] = {
    bug.__name__: bug
    for bug in (
        reply_before_journaled,
        apply_out_of_order,
        skipped_reader_rule,
        snapshot_position_one_ahead,
        window_not_in_snapshot,
    )
}
