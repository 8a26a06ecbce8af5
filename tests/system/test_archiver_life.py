"""Archivers as real processes: killed, overtaken, and with a database that fails under them."""

import time
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import psycopg
import pytest

from cluster_app.history_store import open_history
from cluster_app.journals import open_journal
from cluster_core.batch import CHAIN_START, EpochStart, Kind, LedgerParameters, seal
from cluster_core.journal import Delivery
from tests.archiver_process import ArchiverProcess
from tests.integration.test_archiver import archived_below, history_of
from tests.leader_process import journal_url
from tests.property.strategies import packed
from tests.random_ledger import LEADER_ID, START_NS
from tests.reference import CREATE_ACCOUNT, DEPOSIT, NO_ID, TRANSFER, Command
from tests.server_process import poll_until
from tests.services import Postgres
from tests.store_address import Address, PostgresAddress

BATCH = 2_048
BATCHES = 600
COMMANDS = BATCH * BATCHES
DEADLINE_S = 60.0
PARTITION_ROWS = 50_000
KILLS = 8
"""Of each database; with those between Kafka and PostgreSQL more than 20."""


@pytest.fixture(params=["sqlite", "postgres"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """An empty history of each kind."""
    return history_of(request, tmp_path)


def fill(url: str, batches: int = BATCHES) -> int:
    """A journal of transfers between 100 accounts; returns the number of commands."""
    import queue

    deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    random, chain, sequence, now_ns = Random(4), CHAIN_START, 0, START_NS
    parameters = LedgerParameters(1_024, 10**9, 1_000, 200)
    opening = [Command(operation=CREATE_ACCOUNT, asset=1) for _ in range(100)]
    opening += [Command(credit_account=n, amount=10**12, operation=DEPOSIT) for n in range(1, 101)]
    transfers = [
        Command(
            NO_ID,
            debit_account=random.randrange(1, 51),
            credit_account=random.randrange(51, 101),
            amount=random.randrange(1, 50),
            operation=TRANSFER,
        )
        for _ in range(BATCH)
    ]
    bodies = [packed(opening)] + [packed(transfers)] * batches
    with (
        closing(open_journal(url)) as journal,
        closing(journal.writer(0, deliveries.put)) as writer,
    ):
        for number in range(-1, len(bodies)):
            kind = Kind.EPOCH_START if number < 0 else Kind.COMMANDS
            start = EpochStart("leader", "127.0.0.1:9500", parameters).pack()
            body = start if number < 0 else bodies[number]
            now_ns += 1_000_000
            value, chain = seal(
                kind,
                epoch=1,
                leader_id=LEADER_ID,
                first_sequence=sequence,
                timestamp_ns=now_ns,
                previous_chain=chain,
                body=(body,),
            )
            writer.append(value)
            assert deliveries.get(timeout=DEADLINE_S).offset is not None
            sequence += len(body) // 64 if number >= 0 else 0
    return sequence


@pytest.fixture(scope="module")
def big_journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    url = journal_url(tmp_path_factory.mktemp("big"))
    return url, fill(url)


def assert_whole(history: Address, commands: int) -> None:
    """Every command is there once, and its balances follow from the ones before."""
    count, first, last = history.sql("SELECT count(*), min(sequence), max(sequence) FROM entries")[
        0
    ]
    assert (count, first, last) == (commands, 0, commands - 1)
    assert history.sql("SELECT sum(commands) FROM day_totals")[0][0] == commands
    changed = dict(history.sql("SELECT account_id, sum(change) FROM postings GROUP BY account_id"))
    for account in (1, 50, 51, 100):
        newest = history.sql(
            f"SELECT balance FROM postings WHERE account_id = {account} "
            "ORDER BY sequence DESC LIMIT 1"
        )
        assert newest[0][0] == changed[account]


def flags(*more: str) -> tuple[str, ...]:
    return ("--partition-rows", str(PARTITION_ROWS), "--state-interval-s", "0.5", *more)


@pytest.mark.timeout(400)
def test_killed_at_random_in_a_backfill_every_command_is_there_once(
    big_journal: tuple[str, int], history: Address, tmp_path: Path
) -> None:
    url, commands = big_journal
    random = Random(7)
    seen = set()
    for number in range(KILLS):
        with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
            before = archived(history)
            archiver.wait_until(lambda: _reads(archiver))
            if number % 2 and before < commands:  # on a slow machine few would get further
                archiver.wait_until(lambda before=before: archived(history) > before)
            deadline = time.monotonic() + random.uniform(0.0, 1.2)
            archiver.wait_until(lambda deadline=deadline: time.monotonic() > deadline)
            archiver.kill()
            seen.add(archived(history))
            assert archived(history) >= before
            assert_nothing_halved(history)
    with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
        archiver.wait_ready().stop()
    assert_whole(history, commands)
    assert len(seen) > 2


def _reads(archiver: ArchiverProcess) -> bool:
    """Whether it has opened its journal."""
    for file in list(Path(f"/proc/{archiver.process.pid}/fd").iterdir()):
        with suppress(FileNotFoundError):
            if "journal.db" in str(file.readlink()):
                return True
    return False


def _resident_bytes(archiver: ArchiverProcess) -> int:
    pages = int(Path(f"/proc/{archiver.process.pid}/statm").read_text().split()[1])
    return pages * 4_096


def archived(history: Address) -> int:
    try:
        return archived_below(history)
    except Exception:  # noqa: BLE001 - there is none yet
        return 0


def assert_nothing_halved(history: Address) -> None:
    """Transactions are there whole. PostgreSQL may finish the last one after its client's end."""
    entries = below = -1
    while below != archived(history):
        below = archived(history)
        entries = count_entries(history)
    assert entries == below


def count_entries(history: Address) -> int:
    try:
        return int(history.sql("SELECT count(*) FROM entries")[0][0])
    except Exception:  # noqa: BLE001 - there is none yet
        return 0


@pytest.mark.timeout(300)
def test_postgres_killed_in_a_transaction_loses_and_doubles_nothing(
    big_journal: tuple[str, int], tmp_path: Path
) -> None:
    url, commands = big_journal
    with Postgres(tmp_path / "postgres") as server:
        history = PostgresAddress(server)
        with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
            for _ in range(3):
                before = archived(history)
                archiver.wait_until(lambda before=before: archived(history) > before)
                server.kill()
                archiver.wait_until(lambda: archiver.events("history can't be written"))
                server.start()
                server.wait_ready()
            archiver.wait_ready().stop()
        assert_whole(history, commands)


@pytest.mark.timeout(300)
def test_a_second_archiver_in_a_backfill_is_harmless(
    big_journal: tuple[str, int], history: Address, tmp_path: Path
) -> None:
    url, commands = big_journal
    with (
        ArchiverProcess(tmp_path, url, history.url, *flags()) as one,
        ArchiverProcess(tmp_path, url, history.url, *flags()) as two,
    ):
        one.wait_ready()
        two.wait_ready()
        one.kill()
        two.stop()
    assert_whole(history, commands)


@pytest.mark.timeout(300)
def test_a_journal_trimmed_below_its_history_ends_it_with_a_clear_line(
    history: Address, tmp_path: Path
) -> None:
    url = journal_url(tmp_path)
    fill(url, 20)
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        archiver.wait_ready().kill()  # without a saved state
    with closing(open_journal(url)) as journal:
        journal.trim(journal.end_offset() - 2)
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        code, log = archiver.wait_exit()
    assert code == 1
    assert "has a state that is not beyond this history" in log
    assert "Traceback" not in log


@pytest.mark.timeout(300)
def test_an_archiver_with_a_saved_state_goes_on_over_a_trim(
    history: Address, tmp_path: Path
) -> None:
    from cluster_app.__main__ import main
    from cluster_app.recovery import recover
    from cluster_app.snapshot_store import open_snapshots
    from cluster_core.snapshot import Snapshotter

    url = journal_url(tmp_path)
    commands = fill(url, 20)
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        archiver.wait_ready().stop()
    snapshots = f"sqlite:///{tmp_path / 'learned.db'}"
    with closing(open_journal(url)) as journal:
        replica, _ = recover(journal, None, lambda: False)
        from tests.journal_replay import replay

        replay(journal, replica, journal.end_offset())
        open_snapshots(snapshots).save(Snapshotter(replica, None).take(1).finish())
    arguments = ["trim", "--journal", url, "--snapshots", snapshots, "--history", history.url]
    assert main([*arguments, "--margin-commands", "0"]) == 0
    with closing(open_journal(url)) as journal:
        extent = open_history(history.url).extent()
        assert extent is not None
        assert 0 < journal.start_offset() == extent.state_offset
    with ArchiverProcess(tmp_path, url, history.url) as archiver:
        archiver.wait_ready().stop()
    assert_whole(history, commands)


@pytest.mark.timeout(300)
def test_memory_stays_flat_while_postgres_takes_nothing(
    big_journal: tuple[str, int], postgres: Postgres, tmp_path: Path
) -> None:
    url, commands = big_journal
    history = PostgresAddress(postgres)
    history.sql("DROP SCHEMA IF EXISTS ringledger_archiver CASCADE")
    with ArchiverProcess(tmp_path, url, history.url, *flags()) as archiver:
        archiver.wait_until(lambda: archived(history) > 0)
        with psycopg.connect(postgres.conninfo) as lock:
            lock.execute("SELECT * FROM history FOR UPDATE")
            held = archived(history)
            sizes: list[int] = []
            deadline = time.monotonic() + 12

            def looked_long_enough() -> bool:
                sizes.append(_resident_bytes(archiver))
                return time.monotonic() > deadline

            assert poll_until(looked_long_enough, 30)
            assert archived(history) == held
            lock.rollback()
        settled = sizes[len(sizes) // 2 :]
        assert max(settled) - min(settled) < 8 << 20
        archiver.wait_ready().stop()
    assert_whole(history, commands)
