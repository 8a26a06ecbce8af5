"""History as tables: the columns, and entries as rows of PostgreSQL's COPY or of SQLite.

Numbers are signed; ids, accounts and references above 2^63 - 1 are in two's complement. Amounts
and balances are minor units, times ns since the Unix epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster_core.record import Status

HISTORY_FORMAT: Final = 1
NO_STATE: Final = -1
DAY_NS: Final = 86_400 * 10**9


class Column(NamedTuple):
    """A column of `entries`: its bytes, and the field of ENTRY that it shows."""

    name: str
    width: int


ENTRY_COLUMNS: Final = (
    Column("sequence", 8),
    Column("timestamp_ns", 8),
    Column("command_id", 16),
    Column("debit_account", 8),
    Column("credit_account", 8),
    Column("amount", 8),
    Column("debit_balance", 8),
    Column("credit_balance", 8),
    Column("reference", 8),
    Column("hold", 8),
    Column("asset", 4),
    Column("code", 8),
    Column("operation", 2),
    Column("status", 2),
    Column("flags", 2),
)
ENTRY_NAMES: Final = tuple(column.name for column in ENTRY_COLUMNS)
BATCH_NAMES: Final = ("first_sequence", "timestamp_ns")
HEAD_NAMES: Final = (
    "next_offset",
    "counted_offset",
    "next_sequence",
    "timestamp_ns",
    "chain",
)
HISTORY_NAMES: Final = (
    "id",
    "format",
    "ledger_id",
    *HEAD_NAMES,
    "first_sequence",
    "refused",
    "partition_rows",
    "state_offset",
)

INDEXES: Final = (
    ("by_debit", "(debit_account, sequence)", "debit_account <> 0 AND status = 1"),
    ("by_credit", "(credit_account, sequence)", "credit_account <> 0 AND status = 1"),
    ("by_reference", "(reference, sequence)", "reference <> 0"),
)
"""Of each partition, beside `by_command_id` and the primary key `sequence`."""

_OK: Final = int(Status.OK)
_LOW: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Head:
    """How far a history goes: all below `next_sequence`, up to the record at `counted_offset`."""

    next_offset: int = 0
    counted_offset: int = -1
    next_sequence: int = 0
    timestamp_ns: int = 0
    chain: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Extent:
    """A history: whose it is, from where to where it goes, and how it is kept.

    `first_sequence`: entries below are not in the tables, they were exported or are older than the
    history. `state_offset` is the newest journal record in the archiver's own saved state,
    NO_STATE before the first: a trim must leave it in the journal.
    """

    ledger_id: bytes
    head: Head
    first_sequence: int
    refused: bool
    partition_rows: int
    state_offset: int = NO_STATE

    def values(self) -> tuple[Any, ...]:
        """The row of `history`, by HISTORY_NAMES."""
        return (
            1,
            HISTORY_FORMAT,
            self.ledger_id,
            *head_values(self.head),
            self.first_sequence,
            int(self.refused),
            self.partition_rows,
            self.state_offset,
        )

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "Extent":
        """From a row of `history`."""
        _, _, ledger_id, offset, counted, sequence, time_ns, chain, *rest = row
        first, refused, partition_rows, state_offset = rest
        return cls(
            bytes(ledger_id),
            Head(offset, counted, sequence, time_ns, bytes(chain)),
            first,
            bool(refused),
            partition_rows,
            state_offset,
        )


def head_values(head: Head) -> tuple[Any, ...]:
    """A head's values, by HEAD_NAMES."""
    return (
        head.next_offset,
        head.counted_offset,
        head.next_sequence,
        head.timestamp_ns,
        head.chain,
    )


@dataclass(frozen=True)
class Chunk:
    """What is added to a history at a time: from `base` to `head`.

    `entries` ENTRY [n] rise by sequence; `batches` i64 [m, 2] are first sequences and ledger times.
    """

    base: Head
    head: Head
    entries: npt.NDArray[Any]
    batches: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DayTotal:
    """What one chunk adds to a day of an asset: amounts moved by one operation."""

    day: int
    asset: int
    operation: int
    commands: int
    amount: int


def day_totals(entries: npt.NDArray[Any]) -> Iterator[DayTotal]:
    """Sums of what was done, by UTC day (days since 1970), asset and operation; exact."""
    done = entries[entries["status"] == _OK]
    if not len(done):
        return
    days = done["timestamp_ns"] // DAY_NS
    keys = (
        (days.astype(np.int64) << 32)
        | (done["asset"].astype(np.int64) << 16)
        | done["operation"].astype(np.int64)
    )
    unique, places = np.unique(keys, return_inverse=True)
    counts = np.bincount(places, minlength=len(unique))
    high, low = np.zeros(len(unique), np.int64), np.zeros(len(unique), np.int64)
    # in halves: the sum of a chunk may pass 2^63
    np.add.at(high, places, done["amount"] >> 32)
    np.add.at(low, places, done["amount"] & _LOW)
    for row, key in enumerate(unique.tolist()):
        yield DayTotal(
            key >> 32,
            (key >> 16) & 0xFFFF,
            key & 0xFFFF,
            int(counts[row]),
            (int(high[row]) << 32) + int(low[row]),
        )


def command_ids(entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The 16 bytes of each entry's command id, V16 [n]."""
    ids = np.empty((len(entries), 2), "<u8")
    ids[:, 0], ids[:, 1] = entries["id_0"], entries["id_1"]
    return ids.view("V16").reshape(-1)


def entry_rows(entries: npt.NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """Python values of each entry, by ENTRY_NAMES; the command id as bytes."""
    columns: list[Any] = []
    for column in ENTRY_COLUMNS:
        if column.name == "command_id":
            packed = command_ids(entries).tobytes()
            columns.append([packed[at : at + 16] for at in range(0, len(packed), 16)])
        else:
            values = entries[column.name]
            if values.dtype == np.uint64:
                values = (
                    values.view(np.int64)
                    if values.flags.c_contiguous
                    else (values.astype(np.int64))
                )
            columns.append(values.tolist())
    return zip(*columns, strict=True)


_COPY_LAYOUT: Final = np.dtype(
    [
        ("fields", ">i2"),
        *(
            field
            for column in ENTRY_COLUMNS
            for field in (
                (f"length_{column.name}", ">i4"),
                (column.name, "V16" if column.width == 16 else f">i{column.width}"),
            )
        ),
    ]
)


def copy_rows(entries: npt.NDArray[Any]) -> memoryview:
    """The entries as rows of PostgreSQL's binary COPY."""
    rows = np.empty(len(entries), _COPY_LAYOUT)
    rows["fields"] = len(ENTRY_COLUMNS)
    for column in ENTRY_COLUMNS:
        rows[f"length_{column.name}"] = column.width
        if column.width == 16:
            rows[column.name] = command_ids(entries)
        else:
            rows[column.name] = entries[column.name]
    return rows.view(np.uint8).data
