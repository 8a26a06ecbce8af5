"""`python -m tests.bench_postgres`: the same transfers as one set-wise SQL function.

The peer that the engine is compared with, as a good administrator would build it on PostgreSQL:
1,000 transfers a call, a call is one transaction, synced before it is answered. Its client
costs next to nothing: all arrays are made, in binary, before the clock starts.

1. start a server  2. for 1, 2 and 4 connections: make the tables new, fund the accounts, warm up,
measure  3. compare every balance and the number of transfers with what was sent.
"""

import argparse
import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import pq

from client_app.bench_commands import AMOUNT_MOST, FUNDS, random_pairs
from client_app.bench_machine import NotMeasured, RunFailed
from client_core.command_ids import CommandIds, LedgerClock
from tests.bench_services import POSTGRES_SETTINGS, postgres

CALL_TRANSFERS: Final = 1_000
CONNECTIONS: Final = (1, 2, 4)
_WARM_UP_SHARE: Final = 10
"""A tenth of the transfers more, not counted."""

_MAX_TRANSFERS: Final = 10_000_000
"""Their arrays lie in memory, 56 bytes each."""

SCHEMA: Final = """
DROP TABLE IF EXISTS transfers, accounts;
-- Half of each page stays free: a new version of a row lands beside the old one and needs no
-- entry in the index (HOT).
CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    balance bigint NOT NULL CONSTRAINT never_below_zero CHECK (balance >= 0)
) WITH (fillfactor = 50);
-- No foreign keys: a trigger for each row would be dear, and the function finds unknown accounts.
CREATE TABLE transfers (
    id uuid PRIMARY KEY,
    debit_account bigint NOT NULL,
    credit_account bigint NOT NULL CHECK (credit_account <> debit_account),
    amount bigint NOT NULL CHECK (amount > 0)
);

-- Books the transfers whose ids are new, all or none; returns how many those were.
CREATE OR REPLACE FUNCTION book_transfers(
    ids uuid[], debits bigint[], credits bigint[], amounts bigint[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    booked bigint;
    changed bigint[];
    changes bigint[];
    found bigint;
BEGIN
    -- 1. Each id once, whoever else sends it: in the order of ids, so that calls never wait for
    -- each other in a circle.
    WITH new AS (
        INSERT INTO transfers (id, debit_account, credit_account, amount)
        SELECT * FROM unnest(ids, debits, credits, amounts) AS given (id, debit, credit, amount)
        ORDER BY given.id
        ON CONFLICT (id) DO NOTHING
        RETURNING debit_account, credit_account, amount
    ), net AS (
        SELECT side.account, sum(side.change)::bigint AS change
        FROM new, LATERAL (
            VALUES (new.debit_account, -new.amount), (new.credit_account, new.amount)
        ) AS side (account, change)
        GROUP BY side.account
    )
    SELECT (SELECT count(*) FROM new),
        array_agg(net.account ORDER BY net.account), array_agg(net.change ORDER BY net.account)
    INTO booked, changed, changes FROM net;
    IF booked = 0 THEN
        RETURN 0;
    END IF;
    -- 2. A nested loop over the arrays: accounts are locked in the order of ids again, and a row
    -- that another call held is read anew. `never_below_zero` raises.
    UPDATE accounts SET balance = balance + net.change
    FROM unnest(changed, changes) AS net (account, change) WHERE id = net.account;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found <> cardinality(changed) THEN
        RAISE EXCEPTION 'unknown accounts: % of % were found', found, cardinality(changed);
    END IF;
    RETURN booked;
END
$$;
"""

_FUND: Final = "INSERT INTO accounts SELECT id, %s FROM generate_series(1, %s) AS id"
_CALL: Final = b"SELECT book_transfers($1, $2, $3, $4)"
_STATEMENT: Final = b"book"
_ARRAY_OIDS: Final = (2951, 1016, 1016, 1016)
"""uuid[], bigint[] (pg_type.dat)."""

_UUID_OID: Final = 2950
_BIGINT_OID: Final = 20
_ARRAY_HEADER: Final = struct.Struct(">iiIii")
"""An array on the wire (array_send): dimensions, has nulls, element's type, length, first index.
Each element follows behind its own length in bytes."""

Call = tuple[bytes, bytes, bytes, bytes]
"""The binary arrays of one call."""


@dataclass(frozen=True)
class Transfers:
    """Random transfers: ids (n, 2) big-endian u64, accounts from 1, amounts int64 [n]."""

    ids: npt.NDArray[np.uint64]
    debits: npt.NDArray[np.int64]
    credits: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.amounts)

    def calls(self) -> Iterator[Call]:
        """Arrays of CALL_TRANSFERS, the last ones maybe shorter."""
        for at in range(0, len(self), CALL_TRANSFERS):
            part = slice(at, at + CALL_TRANSFERS)
            yield (
                packed_uuids(self.ids[part]),
                packed_bigints(self.debits[part]),
                packed_bigints(self.credits[part]),
                packed_bigints(self.amounts[part]),
            )

    def balances(self, accounts: int) -> npt.NDArray[np.int64]:
        """What these transfers make of `accounts` funded ones: int64 [accounts]."""
        balances = np.full(accounts, FUNDS, np.int64)
        np.subtract.at(balances, self.debits - 1, self.amounts)
        np.add.at(balances, self.credits - 1, self.amounts)
        return balances


def make_transfers(count: int, accounts: int, seed: int) -> Transfers:
    """Uniformly random pairs of distinct accounts, amounts as in our bench, rising UUIDv7 ids."""
    random = np.random.Generator(np.random.SFC64(seed))
    debit, credit = random_pairs(random, accounts, count)
    return Transfers(
        CommandIds(LedgerClock(time.time_ns())).take(count),
        debit.astype(np.int64) + 1,
        credit.astype(np.int64) + 1,
        random.integers(1, AMOUNT_MOST + 1, count, np.int64),
    )


def packed_uuids(ids: npt.NDArray[np.uint64]) -> bytes:
    """uuid[] of ids (n, 2), on the wire."""
    elements = np.empty(len(ids), [("bytes", ">i4"), ("value", ">u8", 2)])
    elements["bytes"], elements["value"] = 16, ids
    return _ARRAY_HEADER.pack(1, 0, _UUID_OID, len(ids), 1) + elements.tobytes()


def packed_bigints(values: npt.NDArray[np.int64]) -> bytes:
    """bigint[] of values [n], on the wire."""
    elements = np.empty(len(values), [("bytes", ">i4"), ("value", ">i8")])
    elements["bytes"], elements["value"] = 8, values
    return _ARRAY_HEADER.pack(1, 0, _BIGINT_OID, len(values), 1) + elements.tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure on a server of our own; returns the exit code: 0 well, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench_postgres", description="Transfers through one SQL function."
    )
    parser.add_argument("--transfers", type=int, default=1_000_000, metavar="N", help="(1000000)")
    parser.add_argument("--accounts", type=int, default=100_000, metavar="N", help="(100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    if not 1 <= given.transfers <= _MAX_TRANSFERS or given.accounts < 2:
        parser.error(f"give 1 to {_MAX_TRANSFERS} transfers, and 2 accounts or more")
    try:
        with postgres() as server:
            result = measure(server.conninfo, given.transfers, given.accounts, given.seed)
    except (NotMeasured, RunFailed, psycopg.Error) as error:
        print(f"bench_postgres: {error}", file=sys.stderr)
        return 1
    for attempt in result["attempts"]:
        rate = attempt["transfers_per_second"]
        print(f"{attempt['connections']} connections: {rate:,.0f} transfers/s")
    if given.json:
        print(json.dumps(result))
    return 0


def measure(conninfo: str, transfers: int, accounts: int, seed: int) -> dict[str, Any]:
    """Each number of connections in CONNECTIONS on new tables; the best one is the figure.

    Raises RunFailed and what psycopg raises.
    """
    attempts = [attempt(conninfo, count, transfers, accounts, seed) for count in CONNECTIONS]
    best = max(attempts, key=lambda one: float(one["transfers_per_second"]))
    with psycopg.connect(conninfo) as connection:
        version = connection.info.server_version
    return {
        "transfers_per_second": best["transfers_per_second"],
        "connections": best["connections"],
        "attempts": attempts,
        "postgres_version": f"{version // 10_000}.{version % 10_000}",
        "parameters": {
            "transfers": transfers,
            "accounts": accounts,
            "transfers_a_call": CALL_TRANSFERS,
            "settings": POSTGRES_SETTINGS,
            "seed": seed,
        },
    }


def attempt(
    conninfo: str, connections: int, transfers: int, accounts: int, seed: int
) -> dict[str, Any]:
    """One measured run on new tables. Raises RunFailed and what psycopg raises."""
    warm = make_transfers(-(-transfers // _WARM_UP_SHARE), accounts, seed)
    measured = make_transfers(transfers, accounts, seed + 1)
    phases = [list(part.calls()) for part in (warm, measured)]
    with psycopg.connect(conninfo, autocommit=True) as owner, ExitStack() as opened:
        fund(owner, accounts)
        lines = [
            opened.enter_context(psycopg.connect(conninfo, autocommit=True))
            for _ in range(connections)
        ]
        for line in lines:
            _checked(line.pgconn.prepare(_STATEMENT, _CALL, _ARRAY_OIDS))
        booked = _send(lines, phases[0])
        owner.execute("CHECKPOINT")
        start = time.perf_counter()
        booked += _send(lines, phases[1])
        seconds = time.perf_counter() - start
        check(owner, (warm, measured), accounts, booked)
    return {
        "connections": connections,
        "seconds": round(seconds, 6),
        "transfers_per_second": round(transfers / seconds, 1),
    }


def fund(owner: psycopg.Connection, accounts: int) -> None:
    """Make the tables new, with so many funded accounts."""
    owner.execute(SCHEMA)
    owner.execute(_FUND, (FUNDS, accounts))
    owner.execute("VACUUM ANALYZE accounts")


def check(
    connection: psycopg.Connection, sent: Sequence[Transfers], accounts: int, booked: int
) -> None:
    """Compare the tables with what was sent. Raises RunFailed when anything differs."""
    count = sum(map(len, sent))
    rows = connection.execute("SELECT count(*) FROM transfers").fetchall()
    if (booked, rows[0][0]) != (count, count):
        raise RunFailed(f"{count} transfers were sent, {booked} booked, {rows[0][0]} are kept")
    rows = connection.execute("SELECT balance FROM accounts ORDER BY id").fetchall()
    balances = np.array(rows, np.int64).ravel()
    expected = sum(part.balances(accounts) - FUNDS for part in sent) + FUNDS
    if not np.array_equal(balances, expected):
        raise RunFailed("the balances differ from what was sent")
    if int(balances.sum()) != accounts * FUNDS:
        raise RunFailed("the sum of all balances has changed")


def _send(lines: Sequence[psycopg.Connection], calls: Sequence[Call]) -> int:
    """Divide the calls over the connections, a thread each; how many transfers were booked."""
    with ThreadPoolExecutor(len(lines)) as senders:
        parts = [calls[at :: len(lines)] for at in range(len(lines))]
        return sum(senders.map(_send_all, lines, parts))


def _send_all(line: psycopg.Connection, calls: Sequence[Call]) -> int:
    booked = 0
    for call in calls:
        # libpq waits without the interpreter's lock.
        result = _checked(line.pgconn.exec_prepared(_STATEMENT, call, (1, 1, 1, 1), 1))
        booked += int.from_bytes(result.get_value(0, 0) or b"", "big")
    return booked


def _checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise RunFailed(result.error_message.decode(errors="replace").strip())
    return result


if __name__ == "__main__":
    sys.exit(main())
