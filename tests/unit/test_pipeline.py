"""The leader's stages on a scripted journal: order, batching, fates, and when a term ends."""

from typing import Any

import numpy as np
import pytest

from cluster_core.batch import Kind, open_batch, seal
from cluster_core.errors import InvariantViolated
from cluster_core.journal import Delivery
from cluster_core.pipeline import (
    FURTHER_BATCH_COMMANDS,
    MAX_BATCHES_IN_FLIGHT,
    Fate,
)
from cluster_core.record import COMMAND, Operation, Status
from cluster_core.replay import Replica
from tests.held_leadership import Leadership


def test_nothing_is_applied_before_it_is_journaled_and_nothing_answered_before_applied() -> None:
    leader = Leadership()
    leader.submit(3, "a")
    leader.pipeline.journal_waiting()
    assert (leader.state.applied, leader.caller.replies) == (0, [])
    leader.deliver()
    assert leader.state.applied == 3
    [(token, replies, ledger_time_ns)] = leader.caller.replies
    assert (token, ledger_time_ns) == ("a", 1_000)
    assert list(replies["entity"]) == [1, 2, 3]
    assert set(replies["status"]) == {Status.OK}


def test_while_a_batch_is_in_flight_the_next_one_fills() -> None:
    leader = Leadership()
    for token in range(3):
        leader.submit(1, token)
        leader.pipeline.journal_waiting()
    assert len(leader.writer.values) == 1
    leader.deliver()
    leader.pipeline.journal_waiting()
    assert [open_batch(value).count for value in leader.writer.values] == [1, 2]


def test_further_batches_fly_only_when_enough_waits_and_never_too_many() -> None:
    leader = Leadership()
    for token in range(MAX_BATCHES_IN_FLIGHT + 3):
        leader.submit(FURTHER_BATCH_COMMANDS, token)
        leader.pipeline.journal_waiting()
    assert len(leader.writer.values) == MAX_BATCHES_IN_FLIGHT


def test_a_message_is_never_split_over_batches() -> None:
    leader = Leadership()
    leader.submit(1, "first")
    leader.pipeline.journal_waiting()
    for token, count in enumerate((5_000, 3_000, 500)):
        leader.submit(count, token)
    leader.deliver()
    leader.pipeline.journal_waiting()
    assert [open_batch(value).count for value in leader.writer.values] == [1, 8_000, 500]


def test_replies_find_their_messages_across_the_end_of_the_ring() -> None:
    leader = Leadership(capacity=16)
    for token in range(20):
        assert leader.submit(7, token)
        leader.pipeline.journal_waiting()
        leader.deliver()
    assert [token for token, _, _ in leader.caller.replies] == list(range(20))
    sequences = np.concatenate([replies["sequence"] for _, replies, _ in leader.caller.replies])
    assert list(sequences) == list(range(140))


def test_a_full_ring_takes_nothing_and_goes_on_after_the_replies() -> None:
    leader = Leadership(capacity=16)
    assert leader.submit(10, "a")
    assert not leader.submit(10, "b")
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert leader.submit(10, "b")


def test_a_failed_append_ends_the_term_and_tells_unknown_from_not_run() -> None:
    leader = Leadership()
    leader.submit(1, "in flight")
    leader.pipeline.journal_waiting()
    leader.submit(1, "waiting")
    leader.pipeline.delivered(Delivery(None, "disk full"))
    assert leader.pipeline.stopped_because == "disk full"
    assert leader.caller.fates == [("in flight", Fate.UNKNOWN), ("waiting", Fate.NOT_RUN)]
    leader.deliver()
    assert (leader.state.applied, leader.caller.replies) == (0, [])


def test_an_acknowledgement_without_an_offset_ends_the_term() -> None:
    leader = Leadership()
    leader.submit(1)
    leader.pipeline.journal_waiting()
    leader.pipeline.delivered(Delivery(None))
    assert "without an offset" in leader.pipeline.stopped_because


def test_an_offset_below_the_expected_ends_the_term() -> None:
    leader = Leadership()
    leader.submit(1)
    leader.pipeline.journal_waiting()
    leader.pipeline.delivered(Delivery(0))
    assert "below" in leader.pipeline.stopped_because


def test_a_late_write_of_somebody_deposed_between_two_batches_is_skipped_and_counted() -> None:
    leader = Leadership()
    late, _ = seal(
        Kind.HEARTBEAT,
        epoch=0,
        leader_id=b"O" * 16,
        first_sequence=0,
        timestamp_ns=0,
        previous_chain=bytes(32),
    )
    leader.append_foreign(late)
    for token in range(2):
        leader.submit(1, token)
        leader.pipeline.journal_waiting()
        leader.deliver()
    assert leader.pipeline.skipped_records == 1
    assert [token for token, _, _ in leader.caller.replies] == [0, 1]
    assert leader.pipeline.counted.next_offset == 4


def test_another_leader_between_two_batches_ends_the_term_unanswered() -> None:
    leader = Leadership()
    leader.append_successor()
    leader.submit(1, "late")
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert "another leader" in leader.pipeline.stopped_because
    assert leader.caller.fates == [("late", Fate.UNKNOWN)]
    assert leader.state.applied == 0


def test_a_hold_that_falls_due_as_the_epoch_ends_is_left_to_the_next_leader() -> None:
    leader = Leadership()
    assert leader.pipeline.submit(hold_commands().tobytes(), leader.caller, "holds")
    leader.pipeline.journal_waiting()
    leader.deliver()
    leader.pipeline.end_epoch()
    leader.now_ns += 20_000_000_000
    leader.deliver()
    leader.pipeline.expire_holds()
    leader.pipeline.journal_waiting()
    assert leader.pipeline.idle
    assert leader.state.open_holds == 2


def test_a_foreign_record_ends_the_term_and_is_named_by_its_offset() -> None:
    leader = Leadership()
    leader.append_foreign(b"not a batch")
    leader.submit(1, "late")
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert leader.pipeline.stopped_because.startswith("journal offset 1: ")
    assert leader.caller.fates == [("late", Fate.UNKNOWN)]
    assert leader.writer.purged


def hold_commands() -> np.ndarray[Any, Any]:
    """Two accounts, 100 on the first, and of it a hold of 40 for 10 s and one without a time."""
    commands = np.zeros(5, COMMAND)
    commands["operation"][:2] = Operation.CREATE_ACCOUNT
    commands["asset"][:2] = 1
    commands["operation"][2] = Operation.DEPOSIT
    commands["operation"][3:] = Operation.HOLD
    commands["debit_account"][3:] = 1
    commands["credit_account"][2:] = (1, 2, 2)
    commands["amount"][2:] = (100, 40, 5)
    commands["timeout_s"][3] = 10
    return commands


def test_a_hold_past_its_time_is_expired_once_and_replay_agrees() -> None:
    leader = Leadership()
    assert leader.pipeline.submit(hold_commands().tobytes(), leader.caller, "holds")
    leader.pipeline.journal_waiting()
    leader.deliver()
    leader.now_ns += 10_000_000_000 - 1
    leader.pipeline.expire_holds()
    assert leader.pipeline.idle
    leader.now_ns += 1
    for _ in range(2):  # while the first are under way, no others are submitted
        leader.pipeline.expire_holds()
    leader.pipeline.journal_waiting()
    leader.deliver()
    leader.pipeline.expire_holds()
    assert leader.pipeline.idle
    assert [open_batch(value).count for value in leader.writer.values] == [5, 1]
    account = leader.state.account(1)
    assert account is not None
    assert (account["posted"], account["held"], leader.state.open_holds) == (100, 5, 1)
    replica = Replica()
    for record in leader.journal.reader(0).read(0):
        replica.take(record)
    assert replica.state is not None
    assert replica.state.digest() == leader.state.digest()


def test_a_heartbeat_is_only_written_when_nothing_is_in_flight() -> None:
    leader = Leadership()
    leader.submit(1)
    leader.pipeline.journal_waiting()
    leader.pipeline.heartbeat()
    assert len(leader.writer.values) == 1
    leader.deliver()
    leader.pipeline.heartbeat()
    assert open_batch(leader.writer.values[-1]).kind is Kind.HEARTBEAT


def test_ledger_time_never_goes_back() -> None:
    leader = Leadership()
    times = []
    for now_ns in (5_000, 3_000, 9_000):
        leader.now_ns = now_ns
        leader.pipeline.heartbeat()
        leader.deliver()
        times.append(leader.pipeline.counted.timestamp_ns)
    assert times == [5_000, 5_000, 9_000]


def test_the_epoch_ends_only_when_everything_is_answered() -> None:
    leader = Leadership()
    leader.submit(1)
    with pytest.raises(InvariantViolated):
        leader.pipeline.end_epoch()
    leader.pipeline.journal_waiting()
    leader.deliver()
    leader.pipeline.end_epoch()
    leader.deliver()
    assert not leader.pipeline.counted.has_leader


def test_a_replica_of_the_journal_has_the_leaders_digest_and_chain() -> None:
    leader = Leadership()
    for count in (1, 300, 17):
        leader.submit(count)
        leader.pipeline.journal_waiting()
        leader.deliver()
    replica = Replica(hash_seed=99)
    for record in leader.journal.reader(0).read(0):
        replica.take(record)
    assert replica.state is not None
    assert replica.state.digest() == leader.state.digest()
    assert replica.position == leader.pipeline.counted


def test_a_batch_in_flight_is_no_barrier_and_the_heartbeat_after_it_is() -> None:
    leader = Leadership()
    leader.submit(1)
    leader.pipeline.journal_waiting()
    wanted = leader.pipeline.barrier()
    leader.pipeline.journal_waiting()
    assert len(leader.writer.values) == 1
    leader.deliver()
    assert leader.pipeline.batches_counted < wanted
    leader.pipeline.journal_waiting()
    assert open_batch(leader.writer.values[-1]).kind is Kind.HEARTBEAT
    leader.deliver()
    assert leader.pipeline.batches_counted == wanted


def test_commands_that_wait_are_the_barrier_and_no_heartbeat_follows_them() -> None:
    leader = Leadership()
    leader.submit(3)
    wanted = leader.pipeline.barrier()
    leader.pipeline.journal_waiting()
    leader.deliver()
    leader.pipeline.journal_waiting()
    assert [open_batch(value).kind for value in leader.writer.values] == [Kind.COMMANDS]
    assert leader.pipeline.batches_counted == wanted
    assert leader.state.applied == 3


def test_all_who_ask_before_a_batch_is_sealed_share_it_as_their_barrier() -> None:
    leader = Leadership()
    assert len({leader.pipeline.barrier() for _ in range(100)}) == 1
    leader.pipeline.journal_waiting()
    assert len(leader.writer.values) == 1
    later = leader.pipeline.barrier()
    leader.deliver()
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert (len(leader.writer.values), leader.pipeline.batches_counted) == (2, later)


def test_a_barrier_of_a_deposed_leader_never_counts() -> None:
    leader = Leadership()
    leader.append_successor()
    wanted = leader.pipeline.barrier()
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert leader.pipeline.deposed
    assert leader.pipeline.batches_counted < wanted
    with pytest.raises(InvariantViolated):
        leader.pipeline.barrier()


def test_the_end_of_the_epoch_is_a_barrier_for_those_who_asked_before_it() -> None:
    leader = Leadership()
    wanted = leader.pipeline.barrier()
    leader.pipeline.end_epoch()
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert [open_batch(value).kind for value in leader.writer.values] == [Kind.EPOCH_END]
    assert leader.pipeline.batches_counted == wanted


def test_a_look_is_worth_it_once_another_batch_could_be_sealed() -> None:
    leader = Leadership()
    assert leader.pipeline.enough == 1
    leader.submit(1)
    for _ in range(2):
        assert leader.pipeline.enough == FURTHER_BATCH_COMMANDS
        leader.pipeline.journal_waiting()
    leader.submit(10)
    assert leader.pipeline.enough == FURTHER_BATCH_COMMANDS - 10
    leader.submit(FURTHER_BATCH_COMMANDS)
    for _ in range(2):
        assert leader.pipeline.enough == FURTHER_BATCH_COMMANDS
        leader.pipeline.journal_waiting()
    leader.submit(10)
    assert leader.pipeline.enough == FURTHER_BATCH_COMMANDS  # two are in flight
    leader.deliver()
    leader.deliver()
    leader.pipeline.journal_waiting()
    leader.deliver()
    assert leader.pipeline.enough == 1
