"""The peers of `make bench-throughput`: what a reader can install, doing the same transfers.

Each moves random amounts between random pairs of 100,000 accounts, refuses to go below zero, keeps
every transfer under an id of its own, and syncs before it answers; where one does less, its row
says so. All arrays and requests are made before the clock starts, and sums are compared after it.
"""

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import psycopg

from client_app.bench_commands import FUNDS
from client_app.bench_machine import ROOT, NotMeasured, RunFailed, fresh_folder
from tests.bench_postgres import Transfers, fund, make_transfers
from tests.bench_postgres import measure as measure_set_wise
from tests.bench_report import Figure, Options, Outcome, Row
from tests.bench_services import POSTGRES_SETTINGS, first_line, postgres
from tests.server_process import free_ports, poll_until
from tests.service_programs import CACHE, java_program, postgres_programs

ACCOUNTS: Final = 100_000
CALL_TRANSFERS: Final = 1_000
_SET_TRANSFERS: Final = 600_000
_PGBENCH_CLIENTS: Final = (4, 16, 32)
_PGBENCH_S: Final = 6.0
_PGBENCH_LEAST_S: Final = 3.0
"""In less, a busy disk may not have synced one transaction."""

DISRUPTOR: Final = "com.lmax:disruptor:4.0.0"
_DISRUPTOR_PEER: Final = ROOT / "tests/disruptor_peer/Transfers.java"
_DISRUPTOR_TRANSFERS: Final = 4_000_000
_MAVEN_TIMEOUT_S: Final = 300.0
_START_TIMEOUT_S: Final = 10.0

_PGBENCH_SCRIPT: Final = """\
\\set debit random(1, :accounts)
\\set credit 1 + (:debit + random(0, :accounts - 2)) % :accounts
\\set amount random(1, 1000)
WITH booked AS (
    INSERT INTO transfers VALUES (uuidv7(), :debit::bigint, :credit::bigint, :amount::bigint)
)
UPDATE accounts
SET balance = balance + CASE id WHEN :debit::bigint THEN -(:amount::bigint) ELSE :amount::bigint END
WHERE id IN (:debit::bigint, :credit::bigint);
"""
"""One statement is one transaction: two round trips less than BEGIN and COMMIT around it."""


def _measure_postgres_set(options: Options) -> Outcome:
    with postgres() as server:
        try:
            transfers = options.count(_SET_TRANSFERS)
            result = measure_set_wise(server.conninfo, transfers, ACCOUNTS, seed=1)
        except psycopg.Error as error:
            raise RunFailed(f"PostgreSQL: {error}") from None
    values = {"rate": result["transfers_per_second"]}
    return Outcome(("python -m tests.bench_postgres",), result.pop("parameters"), values, result)


def _measure_postgres_one(options: Options) -> Outcome:
    """pgbench, a transaction for each transfer, the best of some numbers of connections."""
    programs = postgres_programs()
    if programs is None or not (programs / "pgbench").exists():
        raise NotMeasured("there is no pgbench")
    attempts = []
    with postgres() as server, fresh_folder() as folder:
        script = ROOT / folder / "transfer.sql"
        script.write_text(_PGBENCH_SCRIPT)
        for clients in _PGBENCH_CLIENTS:
            with psycopg.connect(server.conninfo, autocommit=True) as owner:
                fund(owner, ACCOUNTS)
                command = (
                    *(str(programs / "pgbench"), "--no-vacuum", "--protocol=prepared"),
                    *(f"--file={script}", f"--define=accounts={ACCOUNTS}", "--max-tries=100"),
                    *(f"--client={clients}", "--jobs=1", "--random-seed=1"),
                    f"--time={round(max(_PGBENCH_LEAST_S, _PGBENCH_S * options.scale))}",
                )
                said = _said((*command, server.conninfo))
                _check_tables(owner, int(_found(r"actually processed: (\d+)", said)))
            attempts.append(
                {
                    "clients": clients,
                    "tps": float(_found(r"tps = ([\d.]+)", said)),
                    "latency_ms": float(_found(r"latency average = ([\d.]+)", said)),
                }
            )
    best = max(attempts, key=lambda one: one["tps"])
    shown = "pgbench --protocol=prepared --file=transfer.sql"
    parameters = {"accounts": ACCOUNTS, "settings": POSTGRES_SETTINGS, "script": _PGBENCH_SCRIPT}
    values = {"rate": best["tps"], "mean": best["latency_ms"]}
    return Outcome((shown,), parameters, values, attempts)


def _check_tables(owner: psycopg.Connection, booked: int) -> None:
    [[rows]] = owner.execute("SELECT count(*) FROM transfers").fetchall()
    [[total]] = owner.execute("SELECT sum(balance)::bigint FROM accounts").fetchall()
    if rows != booked or total != ACCOUNTS * FUNDS:
        raise RunFailed(f"PostgreSQL keeps {rows} of {booked} transfers, the sum is {total}")


_SQLITE_SCHEMA: Final = """
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0)
);
CREATE TABLE transfers (
    id BLOB PRIMARY KEY, debit_account INTEGER NOT NULL, credit_account INTEGER NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)
) WITHOUT ROWID;
"""
_SQLITE_STATEMENTS: Final = (
    ("INSERT INTO transfers VALUES (?1, ?2, ?3, ?4)", (0, 1, 2, 3)),
    ("UPDATE accounts SET balance = balance - ?1 WHERE id = ?2", (3, 1)),
    ("UPDATE accounts SET balance = balance + ?1 WHERE id = ?2", (3, 2)),
)


def _sqlite(call: int, transfers: int) -> Callable[[Options], Outcome]:
    """Tables in SQLite, `call` transfers a transaction."""

    def measure(options: Options) -> Outcome:
        sent = make_transfers(options.count(transfers), ACCOUNTS, seed=1)
        rows = list(_plain(sent))
        calls = [
            [
                [[row[at] for at in order] for row in rows[first : first + call]]
                for _, order in _SQLITE_STATEMENTS
            ]
            for first in range(0, len(rows), call)
        ]
        with fresh_folder() as folder, closing(_sqlite_tables(ROOT / folder)) as database:
            start = time.perf_counter()
            for parts in calls:
                database.execute("BEGIN IMMEDIATE")
                for (statement, _), part in zip(_SQLITE_STATEMENTS, parts, strict=True):
                    database.executemany(statement, part)
                database.execute("COMMIT")
            seconds = time.perf_counter() - start
            found = database.execute("SELECT balance FROM accounts ORDER BY id").fetchall()
        if [balance for (balance,) in found] != sent.balances(ACCOUNTS).tolist():
            raise RunFailed("SQLite's balances differ from what was sent")
        parameters = {"accounts": ACCOUNTS, "transfers": len(sent), "transfers_a_call": call}
        return Outcome((), parameters, {"rate": len(sent) / seconds}, {"seconds": seconds})

    return measure


def _sqlite_tables(folder: Path) -> sqlite3.Connection:
    """Funded accounts; WAL, and a sync for each transaction, as our journal has it."""
    database = sqlite3.connect(folder / "peer.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -262144"):
        database.execute(f"PRAGMA {pragma}")
    database.executescript(_SQLITE_SCHEMA)
    database.execute("BEGIN")
    funded = ((account, FUNDS) for account in range(1, ACCOUNTS + 1))
    database.executemany("INSERT INTO accounts VALUES (?, ?)", funded)
    database.execute("COMMIT")
    return database


_REDIS_SCRIPT: Final = """
for at = 1, #ARGV, 4 do
    local id, debit, credit = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local amount = tonumber(ARGV[at + 3])
    if redis.call('SETNX', id, debit .. ' ' .. credit .. ' ' .. amount) == 1 then
        if tonumber(redis.call('HGET', 'accounts', debit)) < amount then
            return redis.error_reply('too little on ' .. debit)
        end
        redis.call('HINCRBY', 'accounts', debit, -amount)
        redis.call('HINCRBY', 'accounts', credit, amount)
    end
end
return #ARGV / 4
"""
_REDIS_CONNECTIONS: Final = 16


def _redis(call: int, transfers: int, fsync: str) -> Callable[[Options], Outcome]:
    """A script of `call` transfers in Redis (or Valkey), on 16 connections with one call each."""

    def measure(options: Options) -> Outcome:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            raise NotMeasured("neither valkey-server nor redis-server (apt-get install redis)")
        sent = make_transfers(options.count(transfers), ACCOUNTS, seed=1)
        rows = [b"%b %d %d %d" % row for row in _plain_hex(sent)]
        with fresh_folder() as folder, _redis_server(program, ROOT / folder, fsync) as port:
            lines = [_Line(port) for _ in range(_REDIS_CONNECTIONS)]
            try:
                for first in range(1, ACCOUNTS + 1, CALL_TRANSFERS):
                    some = range(first, min(first + CALL_TRANSFERS, ACCOUNTS + 1))
                    funded = (part for one in some for part in (b"%d" % one, b"%d" % FUNDS))
                    lines[0].ask(_resp(b"HSET", b"accounts", *funded))
                sha = lines[0].ask(_resp(b"SCRIPT", b"LOAD", _REDIS_SCRIPT.encode()))
                calls = [
                    _resp(b"EVALSHA", sha, b"0", *b" ".join(rows[at : at + call]).split())
                    for at in range(0, len(rows), call)
                ]
                seconds = _time_calls(lines, calls)
                _check_redis(lines[0], sent)
            finally:
                for line in lines:
                    line.close()
        parameters = {
            "program": first_line(program, "--version"),
            "appendfsync": fsync,
            "transfers": len(sent),
            "transfers_a_call": call,
            "connections": _REDIS_CONNECTIONS,
        }
        return Outcome((), parameters, {"rate": len(sent) / seconds}, {"seconds": seconds})

    return measure


def _time_calls(lines: Sequence["_Line"], calls: Sequence[bytes]) -> float:
    """Each connection has one call under way until none is left; the seconds that took."""
    start = time.perf_counter()
    for at, call in enumerate(calls):
        line = lines[at % len(lines)]
        if at >= len(lines):
            line.answer()
        line.send(call)
    for line in lines[: len(calls)]:
        line.answer()
    return time.perf_counter() - start


def _check_redis(line: "_Line", sent: Transfers) -> None:
    wanted = sent.balances(ACCOUNTS).tolist()
    for account in (1, ACCOUNTS // 2, ACCOUNTS):
        found = int(line.ask(_resp(b"HGET", b"accounts", b"%d" % account)))
        if found != wanted[account - 1]:
            raise RunFailed(f"account {account} has {found}, not {wanted[account - 1]}")


@contextmanager
def _redis_server(program: str, folder: Path, fsync: str) -> Iterator[int]:
    [port] = free_ports(1)
    flags = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "auto-aof-rewrite-percentage": "0",
    }
    told = [part for name, value in flags.items() for part in (f"--{name}", value)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen((program, *told), stdout=log, stderr=log)
    try:

        def serves() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
            return True

        if not poll_until(serves, _START_TIMEOUT_S):
            raise RunFailed(f"{program} did not start")
        yield port
    finally:
        process.terminate()
        process.wait()


def _disruptor(how: str) -> Callable[[Options], Outcome]:
    """The LMAX pattern in Java: tests/disruptor_peer says what it does and what it leaves out."""

    def measure(options: Options) -> Outcome:
        java, jar = java_program(), _disruptor_jar()
        if java is None:
            raise NotMeasured("there is no java on PATH")
        transfers = options.count(_DISRUPTOR_TRANSFERS)
        with fresh_folder() as folder:
            arguments = (str(ROOT / folder / "journal"), str(transfers), str(ACCOUNTS), how)
            said = _said((java, "-Xmx2g", "-cp", str(jar), str(_DISRUPTOR_PEER), *arguments))
        result = json.loads(said)
        if result["refused"]:
            raise RunFailed(f"the Disruptor refused {result['refused']} transfers")
        parameters = {"accounts": ACCOUNTS, "transfers": transfers, "disruptor": DISRUPTOR}
        shown = (
            f"java -cp disruptor.jar {_DISRUPTOR_PEER.name} JOURNAL {transfers} {ACCOUNTS} {how}"
        )
        return Outcome((shown,), parameters, {"rate": transfers / result["seconds"]}, result)

    return measure


def _disruptor_jar() -> Path:
    """The library from Maven's registry, fetched the first time. Raises NotMeasured."""
    group, name, version = DISRUPTOR.split(":")
    jar = CACHE / f"{name}-{version}.jar"
    if jar.exists():
        return jar
    if shutil.which("mvn") is None:
        raise NotMeasured("the Disruptor is fetched by Maven, and there is no mvn on PATH")
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
    flags = (f"-Dartifact={group}:{name}:{version}", f"-DoutputDirectory={CACHE}")
    try:
        done = subprocess.run(
            ("mvn", "--quiet", "--batch-mode", goal, *flags),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_MAVEN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"Maven took over {_MAVEN_TIMEOUT_S:.0f} s") from None
    if done.returncode or not jar.exists():
        raise NotMeasured(f"Maven could not fetch {DISRUPTOR}: {done.stdout[-300:]}")
    return jar


class _Line:
    """A connection that speaks RESP: a request out, a short answer back."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def send(self, request: bytes) -> None:
        """One request."""
        self._socket.sendall(request)

    def answer(self) -> bytes:
        """A status, a number or a short text. Raises RunFailed."""
        line = self._file.readline()
        if line.startswith(b"$"):
            return self._file.read(int(line[1:]) + 2)[:-2]
        if not line.startswith((b"+", b":")):
            raise RunFailed(f"the server says {line!r}")
        return line[1:].strip()

    def ask(self, request: bytes) -> bytes:
        """Send, and wait for the answer."""
        self.send(request)
        return self.answer()

    def close(self) -> None:
        """Disconnect."""
        self._file.close()
        self._socket.close()


def _resp(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in parts)


def _plain(sent: Transfers) -> Iterator[tuple[bytes, int, int, int]]:
    """(id, debit, credit, amount) of each."""
    ids = sent.ids.astype(">u8").tobytes()
    columns = (sent.debits.tolist(), sent.credits.tolist(), sent.amounts.tolist())
    for at, row in enumerate(zip(*columns, strict=True)):
        yield ids[16 * at : 16 * at + 16], *row


def _plain_hex(sent: Transfers) -> Iterator[tuple[bytes, int, int, int]]:
    for ident, debit, credit, amount in _plain(sent):
        yield ident.hex().encode(), debit, credit, amount


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{Path(command[0]).name}: {done.stderr[-500:]}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RunFailed(f"its report has no {pattern}: {text[-500:]}")
    return match[1]


def _rate(what: str) -> tuple[Figure, ...]:
    return (Figure("rate", what, "/s"),)


PEER_ROWS: Final = (
    Row(
        "peer-postgres-set",
        _rate("PostgreSQL, one set-wise SQL function, 1,000 a call, synced"),
        _measure_postgres_set,
    ),
    Row(
        "peer-postgres-one",
        (
            *_rate("PostgreSQL, pgbench, a transaction each, synced"),
            Figure("mean", "the same: mean time of one", "ms"),
        ),
        _measure_postgres_one,
    ),
    Row(
        "peer-sqlite-set",
        _rate("SQLite, tables, 1,000 a transaction, synced"),
        _sqlite(1_000, 500_000),
    ),
    Row("peer-sqlite-one", _rate("SQLite, tables, a transaction each, synced"), _sqlite(1, 10_000)),
    Row(
        "peer-redis-set",
        _rate("Redis (or Valkey), a script of 1,000 a call, synced (appendfsync always)"),
        _redis(1_000, 500_000, "always"),
    ),
    Row(
        "peer-redis-one",
        _rate("Redis (or Valkey), a script call each, 16 at once, synced"),
        _redis(1, 100_000, "always"),
    ),
    Row(
        "peer-redis-unsynced",
        _rate("Redis (or Valkey), 1,000 a call, a power cut loses a second (everysec)"),
        _redis(1_000, 500_000, "everysec"),
    ),
    Row(
        "peer-disruptor",
        _rate("LMAX Disruptor in Java, journal file synced each batch; one process, no network"),
        _disruptor("sync"),
    ),
    Row(
        "peer-disruptor-unsynced",
        _rate("the same, journal file in the page cache"),
        _disruptor("cache"),
    ),
)
