"""What the journal says, read once more and independently: header, chain and epochs by hand.

It imports nothing of cluster_core, as the oracle doesn't, so that a fault of the roles' own reader
can't hide itself here.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

_HEADER: Final = struct.Struct("<8sHHIQ16sQqII32s32s")
COMMANDS, EPOCH_START, EPOCH_END = 1, 2, 3
_HEADER_BYTES: Final = 128


@dataclass(frozen=True)
class Batch:
    """One counted batch of commands."""

    first_sequence: int
    timestamp_ns: int
    commands: bytes


@dataclass
class JournalHistory:
    """The counted records so far: batches, epochs, and who led them."""

    epoch: int = 0
    leader_id: bytes = bytes(16)
    leader: str = ""
    """The name of the present leader's node, "" while nobody leads."""
    next_sequence: int = 0
    chain: bytes = bytes(32)
    end_offset: int = 0
    batches: list[Batch] = field(default_factory=list)
    skipped: int = 0
    lost_races: int = 0
    deposed: int = 0
    wrong: list[str] = field(default_factory=list)

    def take(self, offset: int, value: bytes) -> bool:
        """Read the next record; whether it counts."""
        if offset != self.end_offset:
            self.wrong.append(f"offset {offset} follows {self.end_offset}")
        self.end_offset = offset + 1
        _, _, kind, count, epoch, leader_id, first, timestamp_ns, _, _, previous, digest = (
            _HEADER.unpack_from(value)
        )
        if blake3(value[:96] + value[_HEADER_BYTES:]).digest() != digest:
            self.wrong.append(f"offset {offset} is torn")
        continues = first == self.next_sequence and previous == self.chain
        if kind == EPOCH_START:
            if epoch != self.epoch + 1 or not continues:
                self.lost_races += 1
                self.skipped += 1
                return False
            self.deposed += self.leader_id != bytes(16)
            self.leader = _name(value[_HEADER_BYTES:])
        elif epoch > self.epoch or (
            epoch == self.epoch and leader_id != self.leader_id and any(self.leader_id)
        ):
            self.wrong.append(f"offset {offset} is of a leader that was never elected")
            return False
        elif leader_id != self.leader_id or epoch < self.epoch or not continues:
            self.skipped += 1
            return False
        self.epoch, self.leader_id, self.chain = epoch, leader_id, digest
        if kind == COMMANDS:
            self.batches.append(Batch(first, timestamp_ns, value[_HEADER_BYTES:]))
            self.next_sequence += count
        elif kind == EPOCH_END:
            self.leader_id, self.leader = bytes(16), ""
        return True


def kind_of(value: bytes) -> int:
    """What a record is."""
    kind: int = _HEADER.unpack_from(value)[2]
    return kind


def _name(body: bytes) -> str:
    (name_bytes,) = struct.unpack_from("<H", body, 32)
    return body[40 : 40 + name_bytes].decode()
