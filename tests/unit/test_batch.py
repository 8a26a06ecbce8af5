"""A batch is bytes: pinned by golden files, opened again whole, refused when anything is off."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from cluster_core.batch import (
    CHAIN_START,
    FORMAT_VERSION,
    HEADER_BYTES,
    MAX_BATCH_BYTES,
    EpochStart,
    Header,
    Kind,
    LedgerParameters,
    open_batch,
    seal,
)
from cluster_core.errors import JournalFault
from cluster_core.record import MAX_MESSAGE_COMMANDS

GOLDEN: Final = Path(__file__).parent / "golden"
DIGEST: Final = slice(96, 128)
EPOCH_START: Final = EpochStart("node-é", "127.0.0.1:9500", LedgerParameters())
FIELDS: Final[dict[str, Any]] = {
    "epoch": 0x0102030405060708,
    "leader_id": bytes(range(0xA0, 0xB0)),
    "first_sequence": 0x1112131415161718,
    "timestamp_ns": 0x2122232425262728,
    "previous_chain": bytes(range(0xC0, 0xE0)),
}


def golden(name: str) -> bytes:
    """The bytes of a hex text; what follows a `#` is a remark."""
    lines = (GOLDEN / f"{name}.hex").read_text("utf-8").splitlines()
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in lines))


BODIES: Final = {
    Kind.COMMANDS: golden("command"),
    Kind.EPOCH_START: EPOCH_START.pack(),
    Kind.EPOCH_END: b"",
    Kind.HEARTBEAT: b"",
}


def resealed(value: bytes, offset: int, format_: str, field: int) -> bytes:
    """`value` with one field changed and its digest made right again."""
    changed = bytearray(value)
    struct.pack_into("<" + format_, changed, offset, field)
    changed[DIGEST] = blake3(changed[:96]).update(changed[HEADER_BYTES:]).digest()
    return bytes(changed)


@pytest.mark.parametrize("kind", Kind)
def test_a_sealed_batch_is_its_golden_bytes(kind: Kind) -> None:
    value, digest = seal(kind, **FIELDS, body=(BODIES[kind],))
    assert value == golden(f"batch_{kind.name.lower()}")
    assert digest == value[DIGEST] == blake3(value[:96] + value[HEADER_BYTES:]).digest()


@pytest.mark.parametrize("kind", Kind)
def test_golden_bytes_open_as_the_batch(kind: Kind) -> None:
    value = golden(f"batch_{kind.name.lower()}")
    assert open_batch(value) == Header(
        kind=kind,
        count=1 if kind is Kind.COMMANDS else 0,
        body_bytes=len(BODIES[kind]),
        digest=value[DIGEST],
        **FIELDS,
    )


def test_numbers_of_the_format_are_never_changed() -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        "COMMANDS": 1,
        "EPOCH_START": 2,
        "EPOCH_END": 3,
        "HEARTBEAT": 4,
    }
    assert (FORMAT_VERSION, HEADER_BYTES, MAX_BATCH_BYTES) == (1, 128, 128 + 8_192 * 64)
    assert bytes(32) == CHAIN_START


def test_an_epoch_start_body_is_its_golden_bytes_and_reads_back() -> None:
    body = golden("epoch_start_body")
    assert EPOCH_START.pack() == body
    assert EpochStart.unpack(body) == EPOCH_START


@given(
    kind=st.sampled_from(Kind),
    epoch=st.integers(0, 2**64 - 1),
    leader_id=st.binary(min_size=16, max_size=16).filter(any),
    first_sequence=st.integers(0, 2**64 - 1),
    timestamp_ns=st.integers(-(2**63), 2**63 - 1),
    previous_chain=st.binary(min_size=32, max_size=32),
    count=st.integers(1, 5),
    fill=st.binary(min_size=64, max_size=64),
)
def test_what_is_sealed_opens_again(kind: Kind, count: int, fill: bytes, **fields: Any) -> None:
    body = {Kind.COMMANDS: fill * count, Kind.EPOCH_START: EPOCH_START.pack()}.get(kind, b"")
    value, digest = seal(kind, **fields, body=(memoryview(body)[:32], memoryview(body)[32:]))
    header = open_batch(value)
    assert header == Header(
        kind=kind,
        count=count if kind is Kind.COMMANDS else 0,
        body_bytes=len(body),
        digest=digest,
        **fields,
    )
    assert value[HEADER_BYTES:] == body


def test_the_largest_batch_opens_again() -> None:
    value, _ = seal(Kind.COMMANDS, **FIELDS, body=(bytes(64 * MAX_MESSAGE_COMMANDS),))
    assert len(value) == MAX_BATCH_BYTES
    assert open_batch(value).count == MAX_MESSAGE_COMMANDS


@pytest.mark.parametrize("kind", Kind)
def test_every_flipped_bit_is_found(kind: Kind) -> None:
    value = golden(f"batch_{kind.name.lower()}")
    for position in range(len(value)):
        for bit in range(8):
            flipped = bytearray(value)
            flipped[position] ^= 1 << bit
            with pytest.raises(JournalFault):
                open_batch(bytes(flipped))


@pytest.mark.parametrize("kind", Kind)
def test_every_torn_or_lengthened_batch_is_found(kind: Kind) -> None:
    value = golden(f"batch_{kind.name.lower()}")
    for size in range(len(value)):
        with pytest.raises(JournalFault):
            open_batch(value[:size])
    for tail in (b"\0", bytes(64), value):
        with pytest.raises(JournalFault, match="torn or altered"):
            open_batch(value + tail)


@pytest.mark.parametrize("value", [b"", b"x", b"RNGLEDGR", bytes(128), b"{}" * 100])
def test_a_foreign_record_is_called_one(value: bytes) -> None:
    with pytest.raises(JournalFault, match="not a batch of a ringledger journal"):
        open_batch(value)


@pytest.mark.parametrize("version", [0, 2, 65_535])
@pytest.mark.parametrize("digest_is_right", [True, False])
def test_another_format_version_is_named_whatever_its_digest_means(
    version: int, digest_is_right: bool
) -> None:
    value = resealed(golden("batch_commands"), 8, "H", version)
    if not digest_is_right:
        value = value[:96] + bytes(32) + value[128:]
    with pytest.raises(JournalFault, match=f"format version {version}, this program reads 1"):
        open_batch(value)


@pytest.mark.parametrize("kind", [0, 5, 65_535])
def test_an_unknown_kind_is_named(kind: int) -> None:
    with pytest.raises(JournalFault, match=f"unknown batch kind {kind}: use the newer program"):
        open_batch(resealed(golden("batch_commands"), 10, "H", kind))


@pytest.mark.parametrize(
    ("name", "offset", "field"),
    [
        ("batch_commands", 12, 0),
        ("batch_commands", 12, 2),
        ("batch_commands", 12, 2**32 - 1),
        ("batch_commands", 56, 0),
        ("batch_commands", 56, 128),
        ("batch_epoch_start", 56, 0),
        ("batch_heartbeat", 56, 64),
        ("batch_heartbeat", 12, 9),
        ("batch_heartbeat", 60, 1),
    ],
)
def test_counts_and_lengths_that_disagree_are_refused(name: str, offset: int, field: int) -> None:
    with pytest.raises(JournalFault, match=r"malformed [A-Z_]+ batch: \d+ commands, \d+ bytes"):
        open_batch(resealed(golden(name), offset, "I", field))


def test_more_commands_than_a_batch_may_hold_are_refused() -> None:
    value, _ = seal(Kind.COMMANDS, **FIELDS, body=(bytes(64 * MAX_MESSAGE_COMMANDS),))
    larger = resealed(value + bytes(64), 12, "I", MAX_MESSAGE_COMMANDS + 1)
    larger = resealed(larger, 56, "I", 64 * (MAX_MESSAGE_COMMANDS + 1))
    with pytest.raises(JournalFault, match="malformed COMMANDS batch: 8193 commands"):
        open_batch(larger)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Kind.COMMANDS, {"body": (bytes(65),)}),
        (Kind.COMMANDS, {"body": ()}),
        (Kind.COMMANDS, {"body": (bytes(64 * (MAX_MESSAGE_COMMANDS + 1)),)}),
        (Kind.HEARTBEAT, {"body": (bytes(64),)}),
        (Kind.EPOCH_START, {"body": (bytes(39),)}),
        (Kind.HEARTBEAT, {"leader_id": bytes(16)}),
        (Kind.HEARTBEAT, {"leader_id": b"short"}),
        (Kind.HEARTBEAT, {"previous_chain": bytes(31)}),
    ],
)
def test_what_no_reader_would_open_is_not_sealed(kind: Kind, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"leader id|chain|body"):
        seal(kind, **{**FIELDS, **change})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        golden("epoch_start_body")[:39],
        golden("epoch_start_body")[:-1],
        golden("epoch_start_body") + b"x",
        golden("epoch_start_body").replace("é".encode(), b"\xff\xff"),
        bytes(40),
        bytes.fromhex("0000400000000000 00ca9a3b00000000 0000000400000000 07000e0000000000")
        + b"leader-127.0.0.1:9500",
    ],
)
def test_an_unreadable_epoch_start_body_is_a_fault(body: bytes) -> None:
    with pytest.raises(JournalFault, match="unreadable EPOCH_START body"):
        EpochStart.unpack(body)


def test_texts_of_an_epoch_start_have_a_limit() -> None:
    longest = replace(EPOCH_START, name="n" * 255, address="é" * 127)
    assert EpochStart.unpack(longest.pack()) == longest
    for wrong in (replace(EPOCH_START, name="n" * 256), replace(EPOCH_START, address="é" * 128)):
        with pytest.raises(ValueError, match="255 bytes"):
            wrong.pack()


@pytest.mark.parametrize(
    "wrong",
    [
        {"window_capacity": 0},
        {"window_capacity": 1},
        {"window_capacity": 1000},
        {"window_capacity": 1 << 31},
        {"id_ahead_ns": -1},
        {"id_ahead_ns": 3_600_000_000_001},
        {"account_capacity": 0},
        {"account_capacity": (1 << 32) + 1},
        {"hold_capacity": 0},
        {"hold_capacity": (1 << 28) + 1},
    ],
)
def test_ledger_parameters_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|may be"):
        LedgerParameters(**wrong)
