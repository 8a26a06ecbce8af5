"""The batch: one journal record that holds a header and its commands, chained by BLAKE3.

HEADER, 128 bytes, before the body in the same journal value (little-endian):

  0 magic           8   b"RNGLEDGR"
  8 format_version  u16
 10 kind            u16
 12 count           u32  commands in the body (0 unless kind is COMMANDS)
 16 epoch           u64
 24 leader_id       16
 40 first_sequence  u64
 48 timestamp_ns    i64
 56 body_bytes      u32
 60 reserved        u32
 64 previous_chain  32
 96 digest          32   BLAKE3(header[0:96] | body); the chain moves on to it

EPOCH_START's body (`EpochStart`):

  0 window_capacity  u64  recent command ids kept
  8 id_ahead_ns      u64  how far a UUIDv7 may be ahead of its batch
 16 account_capacity u64
 24 hold_capacity    u64
 32 name_bytes       u16
 34 address_bytes    u16
 36 reserved         u32
 40 name, then address, both UTF-8
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from blake3 import blake3

from cluster_core.errors import JournalFault
from cluster_core.record import COMMAND_BYTES, MAX_MESSAGE_COMMANDS

MAGIC: Final = b"RNGLEDGR"
FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 128
MAX_BATCH_BYTES: Final = HEADER_BYTES + MAX_MESSAGE_COMMANDS * COMMAND_BYTES
CHAIN_START: Final = bytes(32)
NO_LEADER: Final = bytes(16)

_HEADER: Final = struct.Struct("<8sHHIQ16sQqII32s32s")
_SEALED: Final = 96
"""The digest covers the header up to here."""
_EPOCH_START: Final = struct.Struct("<QQQQHHI")
_MAX_TEXT_BYTES: Final = 255

if _HEADER.size != HEADER_BYTES or _EPOCH_START.size != 40:
    raise ImportError("batch header layout does not match the format")


class Kind(IntEnum):
    """What a batch is. Numbers are part of the journal format and never reused."""

    COMMANDS = 1
    EPOCH_START = 2
    EPOCH_END = 3
    HEARTBEAT = 4


@dataclass(frozen=True, slots=True)
class Header:
    """A batch's decoded header. Times are ns since the Unix epoch; chains are 32 bytes."""

    kind: Kind
    count: int
    epoch: int
    leader_id: bytes
    first_sequence: int
    timestamp_ns: int
    body_bytes: int
    previous_chain: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class LedgerParameters:
    """What the first EPOCH_START fixes for the whole life of a ledger.

    `window_capacity` recent command ids (a power of two), `id_ahead_ns` nanoseconds that a UUIDv7
    may be ahead of its batch, `account_capacity` accounts and `hold_capacity` open holds at most.
    """

    window_capacity: int = 1 << 22
    id_ahead_ns: int = 1_000_000_000
    account_capacity: int = 1 << 26
    hold_capacity: int = 1 << 22

    def __post_init__(self) -> None:
        if not 2 <= self.window_capacity <= 1 << 30 or self.window_capacity.bit_count() != 1:
            raise ValueError("window capacity must be a power of two in 2 .. 2^30")
        if not 0 <= self.id_ahead_ns <= 3_600_000_000_000:
            raise ValueError("ids may be ahead by 0 ns to one hour")
        if not 1 <= self.account_capacity <= 1 << 32:
            raise ValueError("account capacity must be in 1 .. 2^32")
        if not 1 <= self.hold_capacity <= 1 << 28:
            raise ValueError("hold capacity must be in 1 .. 2^28")


@dataclass(frozen=True, slots=True)
class EpochStart:
    """Body of an EPOCH_START: who leads, where it answers, and the ledger's parameters."""

    name: str
    address: str
    parameters: LedgerParameters

    def pack(self) -> bytes:
        """The body's bytes. Raises ValueError for a name or address over 255 bytes of UTF-8."""
        name, address = self.name.encode(), self.address.encode()
        if max(len(name), len(address)) > _MAX_TEXT_BYTES:
            raise ValueError(f"node name and address are {_MAX_TEXT_BYTES} bytes at most")
        fixed = self.parameters
        return (
            _EPOCH_START.pack(
                fixed.window_capacity,
                fixed.id_ahead_ns,
                fixed.account_capacity,
                fixed.hold_capacity,
                len(name),
                len(address),
                0,
            )
            + name
            + address
        )

    @staticmethod
    def unpack(body: bytes) -> "EpochStart":
        """The decoded body. Raises JournalFault when it is not one."""
        try:
            *parameters, name_bytes, address_bytes, _ = _EPOCH_START.unpack_from(body)
            name_end = _EPOCH_START.size + name_bytes
            if len(body) != name_end + address_bytes:
                raise ValueError(
                    f"{len(body)} bytes do not fit; a development version may have written it"
                )
            return EpochStart(
                body[_EPOCH_START.size : name_end].decode(),
                body[name_end:].decode(),
                LedgerParameters(*parameters),
            )
        except (struct.error, ValueError) as error:
            raise JournalFault(f"unreadable EPOCH_START body: {error}") from error


def seal(
    kind: Kind,
    *,
    epoch: int,
    leader_id: bytes,
    first_sequence: int,
    timestamp_ns: int,
    previous_chain: bytes,
    body: Sequence[bytes | memoryview] = (),
) -> tuple[bytes, bytes]:
    """Build one batch.

    `body`, in pieces as they lie in a ring, is count * 64 bytes of commands, an EPOCH_START body,
    or empty.
    Returns (the journal value, its digest: the next chain). Raises ValueError for what no reader
    would open again.
    """
    if len(leader_id) != len(NO_LEADER) or leader_id == NO_LEADER:
        raise ValueError("a leader id is 16 bytes, not all zero")
    if len(previous_chain) != len(CHAIN_START):
        raise ValueError("a chain is 32 bytes")
    body_bytes = sum(map(len, body))
    if not _body_fits(kind, body_bytes):
        raise ValueError(f"{kind.name} cannot have a body of {body_bytes} bytes")
    count = body_bytes // COMMAND_BYTES if kind is Kind.COMMANDS else 0
    sealed = _HEADER.pack(
        MAGIC,
        FORMAT_VERSION,
        kind,
        count,
        epoch,
        leader_id,
        first_sequence,
        timestamp_ns,
        body_bytes,
        0,
        previous_chain,
        CHAIN_START,
    )[:_SEALED]
    hasher = blake3(sealed)
    for piece in body:
        hasher.update(piece)
    digest = hasher.digest()
    return b"".join((sealed, digest, *body)), digest


def open_batch(value: bytes) -> Header:
    """Decode a journal value's header and check the whole value against its own digest.

    Raises JournalFault (without an offset: the reader adds it) for anything but an intact batch
    of a known version and kind.
    """
    if len(value) < HEADER_BYTES or value[:8] != MAGIC:
        raise JournalFault(
            "not a batch of a ringledger journal (foreign record): copy the records before it to a "
            "new journal, and let only ringledger write there"
        )
    (
        _magic,
        version,
        kind_number,
        count,
        epoch,
        leader_id,
        first_sequence,
        timestamp_ns,
        body_bytes,
        reserved,
        previous_chain,
        digest,
    ) = _HEADER.unpack_from(value)
    if version != FORMAT_VERSION:
        raise JournalFault(
            f"format version {version}, this program reads {FORMAT_VERSION}: use the newer program"
        )
    view = memoryview(value)
    if blake3(view[:_SEALED]).update(view[HEADER_BYTES:]).digest() != digest:
        raise JournalFault("digest does not match: the record is torn or altered")
    if kind_number not in _KINDS:
        raise JournalFault(f"unknown batch kind {kind_number}: use the newer program")
    kind = Kind(kind_number)
    commands = body_bytes // COMMAND_BYTES if kind is Kind.COMMANDS else 0
    if (
        len(value) - HEADER_BYTES != body_bytes
        or not _body_fits(kind, body_bytes)
        or count != commands
        or reserved
        or leader_id == NO_LEADER
    ):
        raise JournalFault(f"malformed {kind.name} batch: {count} commands, {body_bytes} bytes")
    return Header(
        kind,
        count,
        epoch,
        leader_id,
        first_sequence,
        timestamp_ns,
        body_bytes,
        previous_chain,
        digest,
    )


def _body_fits(kind: Kind, body_bytes: int) -> bool:
    if kind is Kind.COMMANDS:
        count, rest = divmod(body_bytes, COMMAND_BYTES)
        return rest == 0 and 1 <= count <= MAX_MESSAGE_COMMANDS
    if kind is Kind.EPOCH_START:
        return body_bytes >= _EPOCH_START.size
    return body_bytes == 0


_KINDS: Final = frozenset(int(kind) for kind in Kind)
