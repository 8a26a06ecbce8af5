"""The export: old partitions of a history to Parquet files, one each, and out of the database.

What stays behind are the balances as of the partition's end, of the accounts that it changed: so
every balance from there on is still known. A partition is removed only when its file is complete
and synced, in one transaction with those balances. The archiver may go on meanwhile.
"""

import argparse
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster_app.errors import Fault, UsageError
from cluster_app.history_store import HistoryStore, Partition, open_history
from cluster_app.history_tables import ENTRY_NAMES, Extent
from cluster_app.logs import configure_logs

READ_ROWS: Final = 65_536
"""Entries that are read at a time, and a row group of the file."""

_READ_TIMEOUT_S: Final = 600.0
_SIDES: Final = ("debit", "credit")


@dataclass(frozen=True)
class ExportSettings:
    """What `export` takes. `history` is secret: it may hold a password."""

    before_sequence: int
    folder: Path
    history: str = field(repr=False)


def main(arguments: Sequence[str]) -> int:
    """Export what the flags name and print each file; returns 0.

    Raises Fault for a history that isn't there, UsageError, StoreUnavailable.
    """
    settings = read_settings(arguments)
    configure_logs("info")
    _parquet()
    store = open_history(settings.history)
    extent = store.extent()
    if extent is None:
        raise Fault(f"{store.name} has no history")
    exported = 0
    for partition in old_partitions(store, extent, settings.before_sequence):
        path = export(store, partition, settings.folder)
        exported += 1
        print(f"exported sequences={partition.first}..{partition.end - 1} file={path}", flush=True)
    if not exported:
        print(
            f"nothing to export: no whole partition lies below {settings.before_sequence}",
            flush=True,
        )
    return 0


def read_settings(arguments: Sequence[str]) -> ExportSettings:
    """Settings from flags and environment; argparse itself ends on an unknown flag."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app export",
        description="Move old partitions of a history to Parquet files. Their closing balances "
        "stay in the database. The archiver may go on meanwhile.",
    )
    parser.add_argument(
        "--history",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="the history, as for an archiver; also RINGLEDGER_HISTORY",
    )
    parser.add_argument(
        "--before-sequence",
        metavar="N",
        required=True,
        help="partitions that end at or below this sequence are exported",
    )
    parser.add_argument("--to", metavar="FOLDER", required=True, help="where the files go")
    given = parser.parse_args(arguments)
    history = getattr(given, "history", os.environ.get("RINGLEDGER_HISTORY", ""))
    if not history:
        raise UsageError("name the history: --history sqlite:///PATH")
    if not given.before_sequence.isdecimal() or int(given.before_sequence) >= 1 << 63:
        raise UsageError("--before-sequence must be 0 or more")
    return ExportSettings(int(given.before_sequence), Path(given.to), history)


def old_partitions(store: HistoryStore, extent: Extent, below: int) -> list[Partition]:
    """Those that are complete and end at or below a sequence, rising."""
    with closing(store.reader(_READ_TIMEOUT_S)) as reader:
        rows = reader.read(
            lambda execute: execute(
                "SELECT first_sequence, end_sequence FROM partitions WHERE exported_to = '' AND "
                "end_sequence <= ? ORDER BY first_sequence",
                (min(below, extent.head.next_sequence),),
            )
        )
    return [Partition(*row) for row in rows]


def export(store: HistoryStore, partition: Partition, folder: Path) -> Path:
    """Write one partition's file, then remove the partition. Raises Fault when it can't be."""
    path = (folder / f"{partition.table}.parquet").absolute()
    # a name of its own: another export of this partition must not write into a whole file
    scratch = path.with_suffix(f".{secrets.token_hex(4)}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(store, partition, scratch)
        _sync(scratch)
        scratch.rename(path)
        _sync(folder)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}: nothing was removed") from error
    finally:
        scratch.unlink(missing_ok=True)
    ids, posted = closing_balances(store, partition)
    try:
        store.begin()
        store.add_balances(partition.end, ids, posted)
        store.remove_partition(replace(partition, exported_to=str(path)), partition.end)
        store.commit()
    finally:
        store.rollback()
    return path


def closing_balances(store: HistoryStore, partition: Partition) -> tuple[Any, Any]:
    """(u64 ids, i64 balances) of the accounts that a partition changed, as of its end."""
    newest: dict[int, tuple[int, int]] = {}
    with closing(store.reader(_READ_TIMEOUT_S)) as reader:
        for side in _SIDES:
            rows = reader.read(
                lambda execute, side=side: execute(  # type: ignore[misc]
                    f"SELECT e.{side}_account, e.sequence, e.{side}_balance FROM "
                    f"{partition.table} e JOIN (SELECT {side}_account AS account, max(sequence) "
                    f"AS newest FROM {partition.table} WHERE {side}_account <> 0 AND status = 1 "
                    f"GROUP BY {side}_account) m ON e.sequence = m.newest",
                    (),
                )
            )
            for account, sequence, posted in rows:
                if account not in newest or newest[account][0] < sequence:
                    newest[account] = (sequence, posted)
    ids = sorted(newest)
    return (
        np.array(ids, np.uint64),
        np.array([newest[account][1] for account in ids], np.int64),
    )


def _write(store: HistoryStore, partition: Partition, path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {
        "command_id": pa.binary(16),
        "asset": pa.int32(),
        "operation": pa.int16(),
        "status": pa.int16(),
        "flags": pa.int16(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in ENTRY_NAMES])
    with ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in _read(store, partition):
            columns = list(zip(*rows, strict=True))
            at = ENTRY_NAMES.index("command_id")
            columns[at] = tuple(one if isinstance(one, bytes) else one.bytes for one in columns[at])
            arrays = [
                pa.array(values, kind.type) for values, kind in zip(columns, schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _read(store: HistoryStore, partition: Partition) -> Iterator[list[tuple[Any, ...]]]:
    at = partition.first
    with closing(store.reader(_READ_TIMEOUT_S)) as reader:
        while True:
            rows = reader.read(
                lambda execute, at=at: execute(  # type: ignore[misc]
                    f"SELECT {', '.join(ENTRY_NAMES)} FROM {partition.table} WHERE sequence >= ? "
                    "ORDER BY sequence LIMIT ?",
                    (at, READ_ROWS),
                )
            )
            if not rows:
                return
            yield rows
            at = rows[-1][0] + 1


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parquet() -> None:
    """Raises UsageError without the extra."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"export: {error}: install the extra, pip install 'ringledger[history]'"
        ) from None
