"""PostgreSQL's binary COPY, made and read by numpy: no Python for each row.

All columns are bigint and never null, so every row has the same bytes: the number of fields (i16),
then a length (i32, 8) and a value (i64) for each, big-endian (PostgreSQL 18, COPY, "Binary
Format").
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import pq

from cluster_app.snapshot_tables import Columns

COPY_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END: Final = b"\xff\xff"
_WRITE_BYTES: Final = 1 << 20


def _layout(columns: int) -> np.dtype[Any]:
    pairs = [[(f"length_{i}", ">i4"), (f"value_{i}", ">i8")] for i in range(columns)]
    return np.dtype([("fields", ">i2"), *(field for pair in pairs for field in pair)])


def copy_in(
    connection: psycopg.Connection[Any], table: str, names: Sequence[str], chunks: Iterable[Columns]
) -> int:
    """COPY columns into a table, a chunk at a time; returns the bytes sent."""
    layout, sent = _layout(len(names)), 0
    statement = f"COPY {table}({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(statement.encode()) as copy:
        copy.write(COPY_BEGIN)
        for columns in chunks:
            rows = np.empty(len(columns[0]), layout)
            rows["fields"] = len(names)
            for i, values in enumerate(columns):
                rows[f"length_{i}"] = 8
                rows[f"value_{i}"] = values
            data = rows.view(np.uint8).data
            for at in range(0, len(data), _WRITE_BYTES):
                copy.write(data[at : at + _WRITE_BYTES])
            sent += len(data)
        copy.write(COPY_END)
    return sent


def copy_blobs_in(
    connection: psycopg.Connection[Any],
    table: str,
    names: Sequence[str],
    rows: Iterable[tuple[int, int, bytes]],
) -> int:
    """COPY rows of two numbers and a bytea into a table; returns the bytes of the last."""
    sent = 0
    statement = f"COPY {table}({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(statement.encode()) as copy:
        copy.write(COPY_BEGIN)
        for first, second, data in rows:
            numbers = b"".join(
                (8).to_bytes(4, "big") + number.to_bytes(8, "big", signed=True)
                for number in (first, second)
            )
            copy.write(b"\0\3" + numbers + len(data).to_bytes(4, "big"))
            copy.write(data)
            sent += len(data)
        copy.write(COPY_END)
    return sent


def copy_out(
    connection: psycopg.Connection[Any], table: str, names: Sequence[str], chunk_rows: int
) -> Iterator[Columns]:
    """COPY a table's columns out, at most `chunk_rows` rows at a time.

    By libpq's own calls: psycopg's `copy` takes twice as long, for it goes through its generators
    with each row. Raises psycopg.OperationalError when the connection is lost.
    """
    layout = _layout(len(names))
    libpq = connection.pgconn
    statement = f"COPY {table}({', '.join(names)}) TO STDOUT (FORMAT BINARY)"
    result = libpq.exec_(statement.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.OperationalError(result.error_message.decode(errors="replace").strip())
    buffer, wanted = bytearray(), len(COPY_BEGIN) + chunk_rows * layout.itemsize
    skip = len(COPY_BEGIN)
    while True:
        length, data = libpq.get_copy_data(0)
        if length < 0:
            break
        buffer += data
        if len(buffer) >= wanted:
            yield _columns(bytes(buffer), skip, layout, len(names))
            buffer.clear()
            skip, wanted = 0, chunk_rows * layout.itemsize
    ended = libpq.get_result()
    while libpq.get_result() is not None:
        pass
    if length == -2 or ended is None or ended.status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.OperationalError(libpq.error_message.decode(errors="replace").strip())
    del buffer[-len(COPY_END) :]
    if len(buffer) > skip:
        yield _columns(bytes(buffer), skip, layout, len(names))


def _columns(data: bytes, skip: int, layout: np.dtype[Any], count: int) -> Columns:
    rows = np.frombuffer(data, layout, (len(data) - skip) // layout.itemsize, skip)
    return [rows[f"value_{i}"].astype(np.int64) for i in range(count)]
