"""A snapshot as tables: what people query with SQL, and what a restore reads.

All numbers are signed 64-bit integers, amounts in minor units of the asset, times in ns since the
Unix epoch. `reference` is the user's own u64 in two's complement. `debits_total` is
`credits_total - posted`. Every row of the first three tables carries its checksum
(`cluster_core/snapshot_rows.py`), a window segment and the header the first 8 bytes of a BLAKE3.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_core.batch import EpochStart, LedgerParameters
from cluster_core.errors import JournalFault, SnapshotRefused
from cluster_core.reader_rule import Position
from cluster_core.record import ACCOUNT, ASSET, HOLD
from cluster_core.restore import damaged
from cluster_core.snapshot import READ_FORMATS, SNAPSHOT_FORMAT, SnapshotHeader

NEWER_ADVICE: Final = (
    "use the newer program, or give a learner another --snapshots and start other nodes with "
    "--no-snapshot"
)

Columns = Sequence[npt.NDArray[np.int64]]
"""One array i64 [n] for each column of a table."""

ACCOUNTS: Final = (
    "account_id",
    "asset",
    "posted",
    "held",
    "floor",
    "ceiling",
    "version",
    "last_sequence",
    "credits_total",
    "debits_total",
    "state",
    "reference",
    "code",
    "open_holds",
    "opened_ns",
    "checksum",
)
HOLDS: Final = (
    "hold_id",
    "debit_account",
    "credit_account",
    "asset",
    "remaining",
    "expires_ns",
    "opened_sequence",
    "code",
    "checksum",
)
ASSETS: Final = (
    "asset",
    "symbol",
    "decimals",
    "external",
    "accounts",
    "held",
    "open_holds",
    "checksum",
)
SEGMENTS: Final = ("segment", "checksum", "data")
ROW_TABLES: Final = ("accounts", "holds", "assets", "window_segments")
HEADER_NUMBERS: Final = (
    "format",
    "epoch",
    "next_offset",
    "counted_offset",
    "applied",
    "timestamp_ns",
    "taken_ns",
    "accounts",
    "highest_asset",
    "next_hold",
    "open_holds",
    "window_entries",
    "window_capacity",
    "id_ahead_ns",
    "account_capacity",
    "hold_capacity",
    "checksum",
)
HEADER_BYTES: Final = (
    "ledger_id",
    "leader_id",
    "epoch_start",
    "chain",
    "state_digest",
    "evicted_id",
)
HEADER: Final = ("id", *HEADER_NUMBERS, *HEADER_BYTES)
"""The table `snapshot` has one row, with id 1."""


def account_columns(rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> Columns:
    """ACCOUNT [n] and checksums as the columns of ACCOUNTS."""
    derived = {"debits_total": rows["credits_total"] - rows["posted"], "checksum": sums}
    return [_as_i64(derived[name] if name in derived else rows[name]) for name in ACCOUNTS]


def hold_columns(rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> Columns:
    """HOLD [n] and checksums as the columns of HOLDS."""
    return [_as_i64(sums if name == "checksum" else rows[name]) for name in HOLDS]


def accounts_of(columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """`account_columns` back. Raises SnapshotDamaged where a value can't have been saved."""
    rows, sums = _records("accounts", ACCOUNTS, columns, ACCOUNT)
    debits = columns[ACCOUNTS.index("debits_total")]
    wrong = np.flatnonzero(rows["credits_total"] - rows["posted"] != debits)
    if len(wrong):
        number = rows["account_id"][wrong[0]]
        damaged(f"accounts: the row with account_id {number} was changed")
    return rows, sums


def holds_of(columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """`hold_columns` back. Raises SnapshotDamaged where a value can't have been saved."""
    return _records("holds", HOLDS, columns, HOLD)


def asset_rows(rows: npt.NDArray[Any], sums: npt.NDArray[np.int64]) -> list[tuple[Any, ...]]:
    """ASSET [n] and checksums as rows of ASSETS, the symbol as text."""
    return [
        (
            int(row["number"]),
            int(row["symbol"]).to_bytes(8, "little").rstrip(b"\0").decode("ascii"),
            *(int(row[name]) for name in ASSETS[2:-1]),
            checksum,
        )
        for row, checksum in zip(rows, sums.tolist(), strict=True)
    ]


def assets_of(
    stored: Iterable[Sequence[Any]],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """`asset_rows` back. Raises SnapshotDamaged where a value can't have been saved."""
    listed = list(stored)
    rows = np.zeros(len(listed), ASSET)
    sums = np.zeros(len(listed), np.int64)
    for row, (number, symbol, *numbers, checksum), index in zip(
        rows, listed, range(len(listed)), strict=True
    ):
        try:
            row["number"] = number
            row["symbol"] = int.from_bytes(symbol.encode("ascii").ljust(8, b"\0"), "little")
            for name, value in zip(ASSETS[2:-1], numbers, strict=True):
                row[name] = value
            sums[index] = checksum
        except (ValueError, OverflowError, TypeError, AttributeError):
            damaged(f"assets: the row with asset {number} was changed")
    return rows, sums


def header_values(header: SnapshotHeader) -> dict[str, Any]:
    """The row of `snapshot`, by column."""
    position, fixed = header.position, header.parameters
    return {
        "id": 1,
        "format": SNAPSHOT_FORMAT,
        "epoch": position.epoch,
        "next_offset": position.next_offset,
        "counted_offset": header.counted_offset,
        "applied": position.next_sequence,
        "timestamp_ns": position.timestamp_ns,
        "taken_ns": header.taken_ns,
        "accounts": header.accounts,
        "highest_asset": header.highest_asset,
        "next_hold": header.next_hold,
        "open_holds": header.open_holds,
        "window_entries": header.window_entries,
        "window_capacity": fixed.window_capacity,
        "id_ahead_ns": fixed.id_ahead_ns,
        "account_capacity": fixed.account_capacity,
        "hold_capacity": fixed.hold_capacity,
        "checksum": header.checksum(),
        "ledger_id": header.ledger_id,
        "leader_id": position.leader_id,
        "epoch_start": header.epoch_start,
        "chain": position.chain,
        "state_digest": header.state_digest,
        "evicted_id": header.evicted_id,
    }


def header_of(row: Mapping[str, Any]) -> SnapshotHeader:
    """`header_values` back. Raises SnapshotRefused for another format, SnapshotDamaged."""
    if row["format"] not in READ_FORMATS:
        raise SnapshotRefused(
            f"the snapshot has format {row['format']}, this program reads {SNAPSHOT_FORMAT} "
            f"and older: {NEWER_ADVICE}"
        )
    try:
        parameters = LedgerParameters(
            row["window_capacity"],
            row["id_ahead_ns"],
            row["account_capacity"],
            row["hold_capacity"],
        )
        header = SnapshotHeader(
            bytes(row["ledger_id"]),
            parameters,
            Position(
                row["next_offset"],
                row["epoch"],
                bytes(row["leader_id"]),
                row["applied"],
                row["timestamp_ns"],
                bytes(row["chain"]),
            ),
            row["counted_offset"],
            bytes(row["epoch_start"]),
            row["accounts"],
            row["highest_asset"],
            row["next_hold"],
            row["open_holds"],
            row["window_entries"],
            bytes(row["evicted_id"]),
            bytes(row["state_digest"]),
            row["taken_ns"],
        )
        if EpochStart.unpack(header.epoch_start).parameters != parameters:
            raise ValueError("parameters differ")
        sound = header.checksum(row["format"]) == row["checksum"]
    except (ValueError, TypeError, OverflowError, JournalFault, struct.error):
        sound = False
    if not sound:
        damaged("snapshot: its one row was changed")
    return header


def _as_i64(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return values.view(np.int64) if values.dtype == np.uint64 else values.astype(np.int64)


def _records(
    table: str, names: Sequence[str], columns: Columns, dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    by_name = dict(zip(names, columns, strict=True))
    rows = np.zeros(len(columns[0]), dtype)
    for name, values in by_name.items():
        if name in (dtype.names or ()):
            rows[name] = values
            if rows[name].itemsize < 8:
                wrong = np.flatnonzero(rows[name] != values)
                if len(wrong):
                    damaged(f"{table}: the row with {names[0]} {columns[0][wrong[0]]} was changed")
    return rows, np.ascontiguousarray(by_name["checksum"], np.int64)
