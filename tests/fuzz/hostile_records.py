"""Random journal records for the reader of every role: `open_batch`, reader rule, replica.

Records of a sound journal are changed: bits, lengths, single header fields. Half of them are
sealed again with a right digest, as one would who means harm and may write to the journal.
"""

import struct
import time
from dataclasses import dataclass
from random import Random
from typing import Final

from blake3 import blake3

from cluster_core.batch import EpochStart, Kind, LedgerParameters, seal
from cluster_core.errors import JournalFault
from cluster_core.journal import JournalRecord
from cluster_core.reader_rule import Position
from cluster_core.replay import Replica
from tests.property.strategies import NS_PER_S, first_commands, packed

_START_NS: Final = 1_700_000_000 * NS_PER_S
_PARAMETERS: Final = LedgerParameters(
    window_capacity=1 << 8, account_capacity=1 << 6, hold_capacity=1 << 6
)
_LEADER: Final = b"L" * 16
_HEADER_FIELDS: Final = (
    *((8, "<H"), (10, "<H"), (12, "<I"), (16, "<Q"), (40, "<Q"), (48, "<q"), (56, "<I")),
    (60, "<I"),
)
_EXTREMES: Final = (0, 1, 2, 3, 4, 5, 64, 8_192, 8_193, 2**15 - 1, 2**31 - 1, 2**31, 2**63 - 1)
_SEALED, _HEADER_BYTES = 96, 128


@dataclass
class Tally:
    """What became of the records."""

    records: int = 0
    counted: int = 0
    skipped: int = 0
    refused: int = 0
    seconds: float = 0.0


def fuzz_records(seed: int, records: int, *, seconds_max: float = float("inf")) -> Tally:
    """Offer changed records to a replica. Raises AssertionError where it takes harm.

    A record that is refused or skipped leaves the state as it was; only JournalFault comes out.
    """
    draw, tally = Random(seed), Tally()
    replica = _begun()
    begun = time.monotonic()
    while tally.records < records and time.monotonic() - begun < seconds_max:
        value = _changed(draw, _next_record(draw, replica.position))
        state = replica.state
        assert state is not None
        before = state.applied, replica.position.chain
        offset = replica.position.next_offset
        tally.records += 1
        try:
            replica.take(JournalRecord(offset, value, _START_NS))
        except JournalFault as fault:
            tally.refused += 1
            told = str(fault)
            _check_told(told, offset)
            assert replica.position.next_offset == offset
        else:
            assert replica.position.next_offset == offset + 1
            if replica.position.chain != before[1]:
                tally.counted += 1
                continue
            tally.skipped += 1
        assert (state.applied, replica.position.chain) == before
        if draw.random() < 0.001:
            replica = _begun()
    tally.seconds = time.monotonic() - begun
    return tally


def _check_told(told: str, offset: int) -> None:
    assert told.startswith(f"journal offset {offset}: "), told
    assert len(told) < 1_000


def _begun() -> Replica:
    replica = Replica()
    start = EpochStart("node", "127.0.0.1:9500", _PARAMETERS).pack()
    for kind, body in ((Kind.EPOCH_START, start), (Kind.COMMANDS, packed(first_commands(8)))):
        epoch = replica.position.epoch + (kind is Kind.EPOCH_START)
        value = _sealed(kind, replica.position, body, epoch=epoch)
        replica.take(JournalRecord(replica.position.next_offset, value, _START_NS))
    return replica


def _sealed(kind: Kind, position: Position, body: bytes, *, epoch: int) -> bytes:
    value, _ = seal(
        kind,
        epoch=epoch,
        leader_id=_LEADER,
        first_sequence=position.next_sequence,
        timestamp_ns=min(max(position.timestamp_ns, _START_NS) + 1, 2**63 - 1),
        previous_chain=position.chain,
        body=(body,) if body else (),
    )
    return value


def _next_record(draw: Random, position: Position) -> bytes:
    """A sound record that would count."""
    kind = draw.choice((Kind.COMMANDS, Kind.COMMANDS, Kind.EPOCH_START, Kind.HEARTBEAT))
    body = b""
    if kind is Kind.COMMANDS:
        body = packed(first_commands(draw.randrange(1, 4)))
    elif kind is Kind.EPOCH_START:
        body = EpochStart("other", "127.0.0.1:9501", _PARAMETERS).pack()
    return _sealed(kind, position, body, epoch=position.epoch + (kind is Kind.EPOCH_START))


def _changed(draw: Random, value: bytes) -> bytes:
    data = bytearray(value)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 5))):
        kind = draw.random()
        if kind < 0.5 and len(data) >= _HEADER_BYTES:
            at, form = draw.choice(_HEADER_FIELDS)
            size = struct.calcsize(form)
            number = draw.choice(_EXTREMES) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, "little")
        elif kind < 0.85 and data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind < 0.93:
            del data[draw.randrange(len(data) + 1) :]
        else:
            data += draw.randbytes(draw.randrange(200))
    if draw.random() < 0.6 and len(data) >= _HEADER_BYTES:
        if draw.random() < 0.7:
            data[56:60] = (len(data) - _HEADER_BYTES).to_bytes(4, "little")
        digest = blake3(bytes(data[:_SEALED])).update(bytes(data[_HEADER_BYTES:])).digest()
        data[_SEALED:_HEADER_BYTES] = digest
    return bytes(data)
