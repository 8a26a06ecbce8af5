"""`make bench-history`: how fast history is written and asked.

A journal of transfers between 100,000 accounts with UUIDv7-like ids, archived into SQLite or a
PostgreSQL of its own with default durability; the rate is that of the second half of the rows, all
indexes in place. Then questions over gRPC, one after the other, from this process.
"""

import queue
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from random import Random
from typing import Any, Final

import grpc
import numpy as np

from client_app.bench_machine import ROOT, RunFailed, fresh_folder, resident_mb
from cluster_app.history_store import open_history
from cluster_app.journals import open_journal
from cluster_core.batch import CHAIN_START, EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Delivery
from cluster_core.record import COMMAND, Operation
from proto import ledger_pb2, ledger_pb2_grpc
from tests.archiver_process import ArchiverProcess
from tests.bench_report import Figure, Options, Outcome, Report, Row, run_rows, target
from tests.bench_services import postgres, server_versions
from tests.random_ledger import LEADER_ID

ACCOUNTS: Final = 100_000
BATCH: Final = 8_192
COMMANDS: Final = 10_000_000
QUESTIONS: Final = 500
QUESTIONED: Final = {
    "statement": "statement page of 50",
    "balance": "balance at a time",
    "command": "one command by id",
}
_P99_GOALS: Final = {"statement": (20.0, 5.0), "balance": (20.0, 5.0), "command": (10.0, 3.0)}
_TIMEOUT_S: Final = 600.0
_START_NS: Final = 1_700_000_000 * 10**9


def _measure(store: str) -> Callable[[Options], Outcome]:
    """Fill a journal, archive it, ask."""

    def measure(options: Options) -> Outcome:
        commands = 2 * ACCOUNTS + BATCH + options.count(COMMANDS)
        with ExitStack() as stack:
            folder = ROOT / stack.enter_context(fresh_folder())
            folder.chmod(0o755)
            journal = f"sqlite:///{folder / 'journal.db'}"
            ids = fill(journal, commands)
            history = f"sqlite:///{folder / 'history.db'}"
            if store == "postgres":
                history = stack.enter_context(postgres({})).url
            archiver = stack.enter_context(ArchiverProcess(folder, journal, history))
            written = write(history, archiver, commands)
            questions = options.count(QUESTIONS) + 1
            asked = ask(archiver.address, commands, ids, questions)
        parameters = {"commands": commands, "accounts": ACCOUNTS, "questions": questions}
        return Outcome((), parameters, written | asked, {})

    return measure


def _row(store: str, what: str, goals: tuple[float | None, float | None]) -> Row:
    asked = [
        Figure(f"{key}_{which}", f"{what}: {question}, {which}", "ms", *_goals(key, which))
        for key, question in QUESTIONED.items()
        for which in ("p50", "p99")
    ]
    figures = (
        Figure("rate", f"{what}: commands from the journal into it", "/s", *goals),
        Figure("memory", f"{what}: memory of the archiver, at most", "MB", 500, 300),
        *asked,
    )
    return Row(store, figures, _measure(store), axes={"store": store})


def _goals(key: str, which: str) -> tuple[float | None, float | None]:
    return _P99_GOALS[key] if which == "p99" else (None, None)


ROWS: Final = (
    _row("postgres", "PostgreSQL", (100e3, 300e3)),
    _row("sqlite", "SQLite", (100e3, 300e3)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen stores; returns the exit code."""

    def measure(options: Options) -> list[Report]:
        return run_rows(ROWS, options)

    names = [row.name for row in ROWS]
    return target("history", measure, arguments, names=names, versions=server_versions)


def fill(url: str, commands: int) -> list[bytes]:
    """A journal of so many transfers; returns the ids of some of them."""
    generator, deliveries = np.random.default_rng(1), queue.SimpleQueue[Delivery]()
    start = EpochStart("leader", "127.0.0.1:9500", LedgerParameters())
    ids: list[bytes] = []
    with (
        closing(open_journal(url)) as journal,
        closing(journal.writer(0, deliveries.put)) as writer,
    ):
        chain, sequence, now_ns = CHAIN_START, 0, _START_NS
        for number, body in enumerate([start.pack(), *opening()]):
            value, chain = sealed(number, body, sequence, now_ns, chain)
            writer.append(value)
            sequence += len(body) // 64 if number else 0
        while sequence < commands:
            now_ns += 8 * 10**6
            batch = transfers(generator, now_ns)
            ids.append(batch[:1].tobytes()[:16])
            value, chain = sealed(1, batch.tobytes(), sequence, now_ns, chain)
            writer.append(value)
            sequence += len(batch)
            while deliveries.qsize():
                deliveries.get()
    return ids


def opening() -> Iterator[bytes]:
    """Accounts, and money for each."""
    for operation in (Operation.CREATE_ACCOUNT, Operation.DEPOSIT):
        commands = np.zeros(ACCOUNTS, COMMAND)
        commands["operation"] = operation
        if operation is Operation.DEPOSIT:
            commands["credit_account"] = np.arange(1, ACCOUNTS + 1)
            commands["amount"] = 10**12
        else:
            commands["asset"] = 1
        for at in range(0, ACCOUNTS, BATCH):
            yield commands[at : at + BATCH].tobytes()


def transfers(generator: Any, now_ns: int) -> Any:
    """COMMAND [BATCH] with ids that rise like UUIDv7s."""
    commands = np.zeros(BATCH, COMMAND)
    commands["operation"] = Operation.TRANSFER
    commands["debit_account"] = generator.integers(1, ACCOUNTS // 2, BATCH)
    commands["credit_account"] = generator.integers(ACCOUNTS // 2, ACCOUNTS + 1, BATCH)
    commands["amount"] = generator.integers(1, 1_000, BATCH)
    ids = generator.integers(0, 256, (BATCH, 16), dtype=np.uint8)
    ids[:, :6] = np.frombuffer((now_ns // 10**6).to_bytes(6, "big"), np.uint8)
    ids[:, 6] = 0x70 | (ids[:, 6] & 0x0F)
    ids[:, 8] = 0x80 | (ids[:, 8] & 0x3F)
    words = ids.view("<u8")
    commands["id_0"], commands["id_1"] = words[:, 0], words[:, 1]
    return commands


def sealed(
    number: int, body: bytes, sequence: int, now_ns: int, chain: bytes
) -> tuple[bytes, bytes]:
    """One journal value, and its digest."""
    return seal(
        Kind.COMMANDS if number else Kind.EPOCH_START,
        epoch=1,
        leader_id=LEADER_ID,
        first_sequence=sequence,
        timestamp_ns=now_ns,
        previous_chain=chain,
        body=(body,),
    )


def write(history: str, archiver: ArchiverProcess, commands: int) -> dict[str, float]:
    """Wait until all is archived; the rate of the second half, and the memory. Raises RunFailed."""
    begun, marks = time.monotonic(), [(0.0, 0)]
    peak_mb = 0.0
    store = open_history(history)
    while marks[-1][1] < commands:
        if time.monotonic() - begun > _TIMEOUT_S:
            raise RunFailed(f"{marks[-1][1]:,} commands were archived in {_TIMEOUT_S:.0f} s")
        time.sleep(0.1)  # a benchmark's clock, no wait for something
        extent = store.extent()
        done = extent.head.next_sequence if extent else 0
        if done != marks[-1][1]:
            marks.append((time.monotonic() - begun, done))
        if archiver.process.poll() is not None:
            raise RunFailed(f"the archiver: {archiver.log[-1_000:]}")
        peak_mb = max(peak_mb, resident_mb(archiver.process.pid, "VmHWM"))
    archiver.wait_ready()
    half = next(mark for mark in marks if mark[1] >= commands // 2)
    if half == marks[-1]:
        half = marks[0]  # so few that they came at once
    rate = (marks[-1][1] - half[1]) / (marks[-1][0] - half[0])
    return {"rate": rate, "memory": peak_mb}


def ask(address: str, commands: int, ids: list[bytes], times: int) -> dict[str, float]:
    """The times of each question, by QUESTIONED's keys, in ms."""
    random = Random(2)
    with channel(address) as stub:

        def account() -> int:
            return random.randrange(1, ACCOUNTS)

        def at() -> ledger_pb2.HistoryMoment:
            span_ns = (commands - 2 * ACCOUNTS) // BATCH * 8 * 10**6 + 2
            return ledger_pb2.HistoryMoment(
                timestamp_ns=_START_NS + span_ns // 2 + random.randrange(span_ns // 2)
            )

        questions: dict[str, Callable[[], object]] = {
            "statement": lambda: stub.GetStatement(
                ledger_pb2.GetStatementRequest(account_id=account(), page_size=50)
            ),
            "balance": lambda: stub.GetBalance(
                ledger_pb2.GetBalanceRequest(account_id=account(), at=at())
            ),
            "command": lambda: stub.FindCommand(
                ledger_pb2.FindCommandRequest(command_id=random.choice(ids))
            ),
        }
        return {
            f"{key}_{which}": took_ms
            for key, question in questions.items()
            for which, took_ms in time_each(question, times).items()
        }


@contextmanager
def channel(address: str) -> Iterator[ledger_pb2_grpc.HistoryServiceStub]:
    """A connection to the archiver."""
    with grpc.insecure_channel(address) as opened:
        yield ledger_pb2_grpc.HistoryServiceStub(opened)


def time_each(question: Callable[[], object], times: int) -> dict[str, float]:
    """Ask so many times: the median and the 99th percentile."""
    times_ms = []
    for _ in range(times):
        begun = time.perf_counter()
        question()
        times_ms.append((time.perf_counter() - begun) * 1e3)
    p99 = statistics.quantiles(times_ms, n=100)[98]
    return {"p50": statistics.median(times_ms), "p99": p99}


if __name__ == "__main__":
    sys.exit(main())
