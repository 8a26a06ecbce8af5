"""The leader's stages, on one thread: ring, journal, state machine, reply ring, egress.

  1. submit    a client message goes into the command ring as one block, and so do the leader's
               own EXPIRE commands
  2. journal   what waits is sealed into a batch and handed to the journal
  3. deliver   the journal's report makes the oldest batch count, or ends the leadership
  4. apply     the kernel applies the batch and fills the reply ring
  5. reply     every message of the batch gets its replies, by its route

Natural batching: while one batch is in flight, the next one fills; a further one is sent only
when enough waits. Clock, journal and routes are passed in, so that the simulation drives this
very code. Nothing here blocks, except reading the journal after a foreign append.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, Protocol

import numpy as np

from cluster_core.batch import HEADER_BYTES, MAX_BATCH_BYTES, NO_LEADER, Kind, open_batch, seal
from cluster_core.errors import InvariantViolated, JournalError, JournalFault
from cluster_core.journal import Delivery, JournalRecord, JournalWriter
from cluster_core.reader_rule import Position, Verdict, judge
from cluster_core.record import (
    COMMAND,
    COMMAND_BYTES,
    MAX_MESSAGE_COMMANDS,
    REPLY,
    REPLY_BYTES,
    Operation,
)
from cluster_core.ring_buffer import RingBuffer
from cluster_core.state_machine import StateMachine
from cluster_core.tally import Tally

RING_CAPACITY: Final = 1 << 17
"""Commands between ingress and egress: 8 MiB of commands and 6 MiB of replies."""

MAX_BATCHES_IN_FLIGHT: Final = 2
"""While two are under way, the next one grows. From five on librdkafka's thread spins, polling a
queue that it may not send yet: at eight it took a fifth of two cores and halved the throughput."""

FURTHER_BATCH_COMMANDS: Final = 256
"""Commands that must wait before another batch joins those in flight: tiny ones burn the broker."""


EXPIRED_AT_ONCE: Final = 4_096
"""EXPIRE commands in one message: half a batch, so that clients' messages go beside them."""


class Fate(Enum):
    """What a caller without a reply may conclude when a leadership ends."""

    NOT_RUN = auto()
    UNKNOWN = auto()


class Route(Protocol):
    """Where a message's replies go. Two edges implement it; neither may raise."""

    def replied(self, token: Any, replies: memoryview, ledger_time_ns: int) -> None:
        """Take count * 48 bytes of replies; the view is valid during this call only."""

    def failed(self, token: Any, fate: Fate, reason: str) -> None:
        """The leadership ended before this message was answered."""


class _Expiries:
    """The route of the leader's own EXPIRE commands: one message of them at a time."""

    def __init__(self) -> None:
        self.under_way = False

    def replied(self, token: Any, replies: memoryview, ledger_time_ns: int) -> None:
        self.under_way = False

    def failed(self, token: Any, fate: Fate, reason: str) -> None:
        """The next leader expires what this one did not."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    kind: Kind
    value: bytes
    end_sequence: int
    after: Position
    """The position once this batch counts; its next_offset is not known yet."""


class Pipeline:
    """One leadership: begins after its EPOCH_START counted, ends with EPOCH_END or by `stop`.

    `position` is the reader's position after EPOCH_START, `clock_ns` the leader's clock,
    `read_journal(from_offset, to_offset)` the records in that closed range. The state must have
    applied exactly what the position says.
    """

    def __init__(
        self,
        state: StateMachine,
        writer: JournalWriter,
        position: Position,
        *,
        clock_ns: Callable[[], int],
        read_journal: Callable[[int, int], Iterable[JournalRecord]],
        capacity: int = RING_CAPACITY,
    ) -> None:
        if state.applied != position.next_sequence:
            raise InvariantViolated(
                f"state has applied {state.applied}, the journal says {position.next_sequence}"
            )
        self.counted = position
        self.stopped_because = ""
        self.deposed = False
        self.skipped_records = 0
        self.batches = 0
        self.batches_counted = 0
        self._barrier = 0
        self._sealed = position
        self._state = state
        self._writer = writer
        self._clock_ns = clock_ns
        self._read_journal = read_journal
        self._commands = RingBuffer(capacity, COMMAND_BYTES, first_sequence=state.applied)
        self._applied = self._commands.add_reader("applied")
        self._replies = RingBuffer(capacity, REPLY_BYTES, first_sequence=state.applied)
        self._reply_records = self._replies.array(REPLY)
        self._replied = self._replies.add_reader("replied")
        self.tally = Tally(self._commands, self._replies)
        self._waiting: deque[tuple[int, Route, Any]] = deque()
        self._unanswered: deque[tuple[int, Route, Any]] = deque()
        self._in_flight: deque[_InFlight] = deque()
        self._expiries = _Expiries()

    # 1. ingress

    def submit(self, packed: bytes | memoryview, route: Route, token: Any) -> bool:
        """Take one client message: count * 64 bytes that `read_message` found well formed.

        Returns False, taking nothing, when the ring has no room for it now.
        """
        first = self._commands.put(packed)
        if first is None:
            return False
        self._waiting.append((self._commands.published, route, token))
        return True

    def expire_holds(self) -> None:
        """Submit EXPIRE for holds whose time has passed, the oldest first.

        The batch that carries them is not older than the clock is now, so the kernel agrees.
        """
        due_ns = self._state.next_expiry_ns
        if due_ns is None or self._expiries.under_way or self.stopped_because:
            return
        if not self._sealed.has_leader:
            return  # the epoch has ended: the next leader expires them
        now_ns = max(self._clock_ns(), self._sealed.timestamp_ns)
        if due_ns > now_ns:
            return
        holds = self._state.expired_holds(now_ns, EXPIRED_AT_ONCE)
        commands = np.zeros(len(holds), COMMAND)
        commands["operation"] = Operation.EXPIRE
        commands["reference"] = holds
        self._expiries.under_way = self.submit(commands.tobytes(), self._expiries, None)

    # 2. journal

    def journal_waiting(self) -> None:
        """Seal and append what waits, as far as natural batching allows.

        Reads wait for a batch too: a HEARTBEAT where no commands wait.
        """
        while (self._waiting or self._barrier > self.batches) and not self.stopped_because:
            if self._in_flight and (
                self._unsealed < FURTHER_BATCH_COMMANDS
                or len(self._in_flight) >= MAX_BATCHES_IN_FLIGHT
            ):
                return
            if self._waiting:
                self._journal_batch()
            else:
                self._append(Kind.HEARTBEAT)

    @property
    def enough(self) -> int:
        """How many more commands are worth a look after the coming `journal_waiting`.

        Fewer would wait for a delivery. While as many batches as may be are in flight any number
        would, but may go into the ring meanwhile.
        """
        unsealed = self._unsealed
        if not self._in_flight:
            return FURTHER_BATCH_COMMANDS if unsealed else 1
        if len(self._in_flight) < MAX_BATCHES_IN_FLIGHT and unsealed < FURTHER_BATCH_COMMANDS:
            return FURTHER_BATCH_COMMANDS - unsealed
        return FURTHER_BATCH_COMMANDS

    @property
    def has_full_batch(self) -> bool:
        """Whether more wouldn't make the next batch larger."""
        return self._unsealed >= MAX_MESSAGE_COMMANDS

    @property
    def _unsealed(self) -> int:
        return self._commands.published - self._sealed.next_sequence

    def barrier(self) -> int:
        """Ask for a batch, the next to be sealed, and tell its number from 1 on.

        Once `batches_counted` has reached it, the state is not older than this call: nobody else
        led before that batch counted. Those in flight already prove nothing of the kind. One
        batch serves all that ask before it is sealed; `journal_waiting` appends it.
        """
        if self.stopped_because or not self._sealed.has_leader:
            raise InvariantViolated("a barrier after the end of the term")
        self._barrier = self.batches + 1
        return self._barrier

    def _journal_batch(self) -> None:
        first = self._sealed.next_sequence
        end = first
        while self._waiting and self._waiting[0][0] - first <= MAX_MESSAGE_COMMANDS:
            message = self._waiting.popleft()
            end = message[0]
            self._unanswered.append(message)
        self._append(Kind.COMMANDS, end - first, self._commands.views(first, end))

    def heartbeat(self) -> None:
        """Append a HEARTBEAT, unless a batch in flight already speaks for this leader."""
        if not self._in_flight and not self.stopped_because:
            self._append(Kind.HEARTBEAT)

    def end_epoch(self) -> None:
        """Append EPOCH_END. Only when `idle`: nothing may follow it."""
        if not self.idle:
            raise InvariantViolated("EPOCH_END while commands wait for their replies")
        self._append(Kind.EPOCH_END)

    def _append(self, kind: Kind, count: int = 0, body: tuple[memoryview, ...] = ()) -> None:
        last = self._sealed
        if not last.has_leader:
            raise InvariantViolated("an append after EPOCH_END")
        timestamp_ns = max(self._clock_ns(), last.timestamp_ns)
        value, digest = seal(
            kind,
            epoch=last.epoch,
            leader_id=last.leader_id,
            first_sequence=last.next_sequence,
            timestamp_ns=timestamp_ns,
            previous_chain=last.chain,
            body=body,
        )
        if len(value) > MAX_BATCH_BYTES:
            raise InvariantViolated(f"a batch of {len(value)} bytes")
        self._sealed = replace(
            last,
            leader_id=NO_LEADER if kind is Kind.EPOCH_END else last.leader_id,
            next_sequence=last.next_sequence + count,
            timestamp_ns=timestamp_ns,
            chain=digest,
        )
        self._in_flight.append(_InFlight(kind, value, self._sealed.next_sequence, self._sealed))
        self.batches += 1
        try:
            self._writer.append(value)
        except JournalError as error:
            self.stop(str(error))

    # 3. delivery

    def delivered(self, delivery: Delivery) -> None:
        """Take the journal's report about the oldest batch in flight.

        Anything but a counted record ends this leadership; later reports are ignored.
        """
        if self.stopped_because:
            return
        if not self._in_flight:
            raise InvariantViolated("the journal reported an append that is not in flight")
        batch = self._in_flight[0]
        if delivery.offset is None:
            self.stop(
                delivery.error or "the journal acknowledged without an offset",
                deposed=delivery.foreign_writer,
            )
        elif delivery.offset < self.counted.next_offset:
            self.stop(
                f"the journal stored a batch at offset {delivery.offset}, "
                f"below {self.counted.next_offset}"
            )
        elif delivery.offset == self.counted.next_offset:
            self._count(batch, replace(batch.after, next_offset=delivery.offset + 1))
        else:
            self._read_through(batch, delivery.offset)

    def _read_through(self, batch: _InFlight, offset: int) -> None:
        """Somebody else appended before this batch: only reading tells whether it counts."""
        position = self.counted
        try:
            for record in self._read_journal(position.next_offset, offset):
                try:
                    header = open_batch(record.value)
                except JournalFault as fault:
                    self.stop(f"journal offset {record.offset}: {fault}")
                    return
                judgement = judge(position, record.offset, header)
                position = judgement.position
                if judgement.verdict is Verdict.STOP:
                    self.stop(f"journal offset {record.offset}: {judgement.reason}")
                    return
                if record.offset == offset:
                    if judgement.verdict is not Verdict.COUNTS or record.value != batch.value:
                        self.stop(
                            f"epoch {position.epoch} was taken by another leader", deposed=True
                        )
                        return
                    self._count(batch, position)
                    return
                self.skipped_records += judgement.verdict is Verdict.SKIP
        except JournalError as error:
            self.stop(f"cannot read back a batch at offset {offset}: {error}")
            return
        self.stop(f"cannot read back a batch at offset {offset}: the journal ends before it")

    def _count(self, batch: _InFlight, position: Position) -> None:
        self._in_flight.popleft()
        self.counted = position
        if batch.kind is Kind.COMMANDS:
            self._apply(batch)
            self._reply(batch)
        else:
            self._count_answers(batch, batch.end_sequence)
        self.batches_counted += 1
        self._check_cursors()

    # 4. state machine

    def _apply(self, batch: _InFlight) -> None:
        commands = np.frombuffer(batch.value, COMMAND, offset=HEADER_BYTES)
        first = self._replies.claim(len(commands))
        if first != self._state.applied:
            raise InvariantViolated(f"replies begin at {first}, state at {self._state.applied}")
        self._state.apply_into(commands, batch.after.timestamp_ns, self._reply_records)
        self._replies.publish(first, batch.end_sequence)
        self._count_answers(batch, first)
        self._applied.advance(batch.end_sequence)

    def _count_answers(self, batch: _InFlight, first: int) -> None:
        append_ns = self._clock_ns() - batch.after.timestamp_ns
        self.tally.count(first, batch.end_sequence, append_ns)

    # 5. egress

    def _reply(self, batch: _InFlight) -> None:
        ledger_time_ns, unanswered = batch.after.timestamp_ns, self._unanswered
        low = self._replied.sequence
        while unanswered and unanswered[0][0] <= batch.end_sequence:
            high, route, token = unanswered.popleft()
            views = self._replies.views(low, high)
            replies = views[0] if len(views) == 1 else memoryview(b"".join(views))
            route.replied(token, replies, ledger_time_ns)
            low = high
        self._replied.advance(low)

    def _check_cursors(self) -> None:
        replied, applied = self._replied.sequence, self._applied.sequence
        journaled, published = self.counted.next_sequence, self._commands.published
        if not replied <= applied <= journaled <= published:
            raise InvariantViolated(
                f"replied {replied}, applied {applied}, journaled {journaled}, "
                f"published {published}"
            )

    # the end

    @property
    def applied(self) -> int:
        """All commands below this sequence are in the state."""
        return self._state.applied

    @property
    def in_flight_commands(self) -> int:
        """Commands that were taken and not answered yet, from any thread."""
        return max(self._commands.published - self._replied.sequence, 0)

    @property
    def ring_capacity(self) -> int:
        """Commands that the ring holds."""
        return self._commands.capacity

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing is in flight."""
        return not self._waiting and not self._in_flight

    def stop(self, reason: str, *, deposed: bool = False) -> None:
        """End this leadership for good and tell every unanswered caller what it may conclude.

        `deposed`: because somebody else leads, not for a fault.
        """
        if self.stopped_because:
            return
        self.stopped_because = reason
        self.deposed = deposed
        unknown, not_run = list(self._unanswered), list(self._waiting)
        self._unanswered.clear()
        self._waiting.clear()
        self._in_flight.clear()
        self._writer.purge()
        for _, route, token in unknown:
            route.failed(token, Fate.UNKNOWN, reason)
        for _, route, token in not_run:
            route.failed(token, Fate.NOT_RUN, reason)
