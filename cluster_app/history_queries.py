"""The questions that history answers, in SQL that both stores understand.

Each runs in one read transaction, looks at a bounded number of entries, and tells how far the
history goes. Whatever is asked at a time is asked at a sequence: `batches` says which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cluster_app.history_store import Execute
from cluster_app.history_tables import ENTRY_NAMES, HISTORY_NAMES, Extent

SCAN_ENTRIES_MAX: Final = 5_000
"""Entries of an account's debit or credit side that one call with a filter looks at."""

_ENTRIES: Final = f"SELECT {', '.join(ENTRY_NAMES)} FROM entries"
NO_ID_MARK: Final = ":no_id"
"""Stands for the id zero as each database writes it: a partial index is found by its very text."""

_NS_PER_MS: Final = 1_000_000
_ID_AHEAD_NS: Final = 2 * 10**9
_ID_BEHIND_NS: Final = 60 * 10**9
"""A UUIDv7 is first looked for among what was done from so much before its time to so much after:
the rest is looked at only when it isn't there."""

_U64: Final = 1 << 64
_I64_MAX: Final = (1 << 63) - 1
_SIDES: Final = ("debit", "credit")


class NotInHistory(Exception):
    """The moment lies beyond the history, or before what it keeps."""

    def __init__(self, message: str, *, beyond: bool) -> None:
        super().__init__(message)
        self.beyond = beyond


class Entry(NamedTuple):
    """A row of `entries`, its numbers as they are in the ledger."""

    sequence: int
    timestamp_ns: int
    command_id: bytes
    debit_account: int
    credit_account: int
    amount: int
    debit_balance: int
    credit_balance: int
    reference: int
    hold: int
    asset: int
    code: int
    operation: int
    status: int
    flags: int


class Balance(NamedTuple):
    """An account's posted balance; without an entry of its own `last_sequence` is None."""

    account_id: int
    asset: int
    posted: int
    last_sequence: int | None


class Moment(NamedTuple):
    """After a sequence, or after a ledger time; without either: now."""

    sequence: int | None = None
    timestamp_ns: int | None = None


@dataclass(frozen=True)
class StatementFilter:
    """What a statement shows: below a sequence, within times, of one operation or code."""

    before_sequence: int | None = None
    from_ns: int | None = None
    until_ns: int | None = None
    operation: int = 0
    code: int | None = None


def read_extent(execute: Execute) -> Extent | None:
    """How far the history goes as of this transaction; None before its first entry."""
    rows = execute(f"SELECT {', '.join(HISTORY_NAMES)} FROM history", ())
    return Extent.of(rows[0]) if rows else None


def statement(
    execute: Execute, extent: Extent, account_id: int, wanted: StatementFilter, limit: int
) -> tuple[list[Entry], int | None]:
    """(entries of an account, the newest first; where the next page begins, if there is one)."""
    below = extent.head.next_sequence
    if wanted.before_sequence is not None:
        below = min(below, wanted.before_sequence)
    if wanted.until_ns is not None:
        below = min(below, _sequence_after(execute, extent, wanted.until_ns - 1))
    floor = extent.first_sequence
    if wanted.from_ns is not None:
        floor = max(floor, _sequence_after(execute, extent, wanted.from_ns - 1))
    if below <= floor:
        return [], None
    conditions, values = "", []
    if wanted.operation:
        conditions, values = " AND operation = ?", [wanted.operation]
    if wanted.code is not None:
        conditions, values = f"{conditions} AND code = ?", [*values, wanted.code]
    scanned = floor
    if conditions:
        scanned = max(_scan_floor(execute, side, account_id, floor, below) for side in _SIDES)
    found: list[Entry] = []
    for side in _SIDES:
        # a transfer from an account to itself is refused, so no entry is on both sides
        found += _entries(
            execute,
            f"WHERE {side}_account = ? AND {side}_account <> 0 AND status = 1 AND sequence >= ? "
            f"AND sequence < ?{conditions} ORDER BY sequence DESC LIMIT ?",
            (_signed(account_id), scanned, below, *values, limit + 1),
        )
    found.sort(reverse=True)
    if len(found) > limit:
        return found[:limit], found[limit - 1].sequence
    return found, scanned if scanned > floor else None


def balance(
    execute: Execute, extent: Extent, account_id: int, moment: Moment
) -> tuple[Balance | None, int]:
    """(an account's balance, as of all commands below this sequence); None when it wasn't there.

    Raises NotInHistory.
    """
    below = sequence_below(execute, extent, moment)
    return _balance_below(execute, account_id, below), below


def balances(
    execute: Execute, extent: Extent, moment: Moment, after: int, limit: int
) -> tuple[list[Balance], int, int]:
    """(balances of accounts above `after`, the id that the next page begins after or 0, below).

    Ids are dense: the first one that has neither entries nor a balance carried forward is the
    first one that wasn't open. Raises NotInHistory.
    """
    below = sequence_below(execute, extent, moment)
    found: list[Balance] = []
    for account_id in range(after + 1, after + 1 + limit):
        known = _balance_below(execute, account_id, below)
        if known is None:
            return found, 0, below
        found.append(known)
    return found, after + limit, below


def command(execute: Execute, extent: Extent, command_id: bytes) -> Entry | None:
    """The entry of a command id: done, or refused if such are kept and it never was done."""
    # without an order: a database that knows nothing yet would look through `sequence` for it
    condition = f"WHERE command_id = ? AND command_id <> {NO_ID_MARK}"
    done: list[Entry] = []
    if is_uuid7(command_id):
        # it tells its time: nearly always one partition has it, and the others aren't looked at
        drawn_ns = int.from_bytes(command_id[:6], "big") * _NS_PER_MS
        first = _sequence_after(execute, extent, drawn_ns - _ID_AHEAD_NS)
        end = _sequence_after(execute, extent, drawn_ns + _ID_BEHIND_NS)
        done = _entries(
            execute,
            f"{condition} AND sequence >= ? AND sequence < ? AND status = 1 LIMIT 1",
            (command_id, first, end),
        )
    done = done or _entries(execute, f"{condition} AND status = 1 LIMIT 1", (command_id,))
    return next(iter(done or _entries(execute, f"{condition} LIMIT 1", (command_id,))), None)


def is_uuid7(command_id: bytes) -> bool:
    """Whether an id begins with its time, ms since 1970 in 48 bits (RFC 9562)."""
    return command_id[6] >> 4 == 7 and command_id[8] >> 6 == 2


def by_reference(
    execute: Execute, reference: int, operation: int, from_sequence: int, limit: int
) -> tuple[list[Entry], int | None]:
    """(commands with a reference, rising; where the next page begins, if there is one)."""
    condition = " AND operation = ?" if operation else ""
    values = (operation,) if operation else ()
    found = _entries(
        execute,
        f"WHERE reference = ? AND reference <> 0 AND sequence >= ?{condition} "
        "ORDER BY sequence LIMIT ?",
        (_signed(reference), min(from_sequence, _I64_MAX), *values, limit + 1),
    )
    if len(found) > limit:
        return found[:limit], found[limit].sequence
    return found, None


def changes(
    execute: Execute, extent: Extent, from_sequence: int, limit: int
) -> tuple[list[Entry], int]:
    """(entries from a sequence on, rising; where to go on). Raises NotInHistory."""
    if from_sequence < extent.first_sequence:
        raise NotInHistory(
            f"entries below sequence {extent.first_sequence} are not kept: begin there",
            beyond=False,
        )
    found = _entries(
        execute,
        "WHERE sequence >= ? AND sequence < ? ORDER BY sequence LIMIT ?",
        (min(from_sequence, _I64_MAX), extent.head.next_sequence, limit),
    )
    if len(found) == limit:
        return found, found[-1].sequence + 1
    return found, max(from_sequence, extent.head.next_sequence)


def day_sums(
    execute: Execute, from_day: int, until_day: int, asset: int
) -> list[tuple[int, int, int, int, int]]:
    """(day, asset, operation, commands, amount) of `[from_day, until_day)`, rising."""
    condition = " AND asset = ?" if asset else ""
    rows = execute(
        "SELECT day, asset, operation, commands, amount FROM day_totals WHERE day >= ? AND "
        f"day < ?{condition} ORDER BY day, asset, operation",
        (from_day, until_day, *((asset,) if asset else ())),
    )
    return [(*row[:4], int(row[4])) for row in rows]


def sequence_below(execute: Execute, extent: Extent, moment: Moment) -> int:
    """The sequence below which everything had happened at a moment.

    Raises NotInHistory for a moment that the history hasn't reached or doesn't keep.
    """
    end = extent.head.next_sequence
    if moment.sequence is not None:
        if moment.sequence >= end:
            raise NotInHistory(
                f"the history is complete below sequence {end}, not yet up to {moment.sequence}: "
                "ask again later",
                beyond=True,
            )
        below = moment.sequence + 1
    elif moment.timestamp_ns is not None:
        if moment.timestamp_ns > extent.head.timestamp_ns:
            raise NotInHistory(
                f"the history is complete up to ledger time {extent.head.timestamp_ns} ns, not "
                f"yet up to {moment.timestamp_ns}: ask again later",
                beyond=True,
            )
        below = _sequence_after(execute, extent, moment.timestamp_ns)
    else:
        below = end
    if below < extent.first_sequence and not execute(
        "SELECT 1 FROM partitions WHERE exported_to <> '' AND end_sequence = ?", (below,)
    ):
        exported = execute(
            "SELECT exported_to FROM partitions WHERE first_sequence <= ? AND end_sequence > ?",
            (below, below),
        )
        told = f"; they were exported to {exported[0][0]}" if exported else ""
        raise NotInHistory(
            f"entries below sequence {extent.first_sequence} are not kept{told}", beyond=False
        )
    return below


def _sequence_after(execute: Execute, extent: Extent, timestamp_ns: int) -> int:
    """The first sequence whose ledger time is later, or the history's end."""
    timestamp_ns = max(min(timestamp_ns, _I64_MAX), -_I64_MAX)
    rows = execute(
        "SELECT first_sequence FROM batches WHERE timestamp_ns > ? ORDER BY timestamp_ns, "
        "first_sequence LIMIT 1",
        (timestamp_ns,),
    )
    return int(rows[0][0]) if rows else extent.head.next_sequence


def _scan_floor(execute: Execute, side: str, account_id: int, floor: int, below: int) -> int:
    """The least sequence that a bounded look at one side of an account reaches."""
    rows = execute(
        f"SELECT sequence FROM entries WHERE {side}_account = ? AND {side}_account <> 0 AND "
        "status = 1 AND sequence >= ? AND sequence < ? ORDER BY sequence DESC LIMIT 1 OFFSET ?",
        (_signed(account_id), floor, below, SCAN_ENTRIES_MAX - 1),
    )
    return int(rows[0][0]) if rows else floor


def _balance_below(execute: Execute, account_id: int, below: int) -> Balance | None:
    newest: tuple[int, int, int] | None = None
    for side in _SIDES:
        rows = execute(
            f"SELECT sequence, {side}_balance, asset FROM entries WHERE {side}_account = ? AND "
            f"{side}_account <> 0 AND status = 1 AND sequence < ? ORDER BY sequence DESC LIMIT 1",
            (_signed(account_id), below),
        )
        if rows and (newest is None or rows[0][0] > newest[0]):
            newest = rows[0]
    if newest is not None:
        return Balance(account_id, newest[2], newest[1], newest[0])
    rows = execute(
        "SELECT posted FROM balances_below WHERE account_id = ? AND below_sequence <= ? "
        "ORDER BY below_sequence DESC LIMIT 1",
        (_signed(account_id), below),
    )
    return Balance(account_id, 0, rows[0][0], None) if rows else None


def _entries(execute: Execute, where: str, values: Sequence[Any]) -> list[Entry]:
    return [_entry(row) for row in execute(f"{_ENTRIES} {where}", values)]


def _entry(row: tuple[Any, ...]) -> Entry:
    entry = Entry(*row)
    packed = entry.command_id
    return entry._replace(
        command_id=bytes(packed) if isinstance(packed, bytes) else packed.bytes,
        debit_account=entry.debit_account % _U64,
        credit_account=entry.credit_account % _U64,
        reference=entry.reference % _U64,
        hold=entry.hold % _U64,
        asset=entry.asset % (1 << 32),
    )


def _signed(number: int) -> int:
    """A u64 as the databases hold it."""
    return number - _U64 if number > _I64_MAX else number
