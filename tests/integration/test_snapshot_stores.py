"""One suite for both snapshot stores: what is saved comes back, whole or not at all."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cluster_app.errors import StoreRefuses, UsageError
from cluster_app.snapshot_store import SnapshotStore, open_snapshots
from cluster_app.snapshot_tables import ACCOUNTS, ASSETS, HEADER, HOLDS, SEGMENTS
from cluster_core.batch import LedgerParameters
from cluster_core.errors import (
    SnapshotDamaged,
    SnapshotMoved,
    SnapshotRefused,
    StoreUnavailable,
)
from cluster_core.replay import Replica
from cluster_core.restore import Restorer
from cluster_core.snapshot import (
    SNAPSHOT_FORMAT,
    SnapshotDelta,
    Snapshotter,
    segment_checksum,
)
from cluster_core.snapshot_rows import words_of
from cluster_core.window_segments import ENTRY_BYTES, SEGMENT_ENTRIES
from tests.property.strategies import NS_PER_S
from tests.random_ledger import RandomLedger
from tests.services import Postgres
from tests.snapshot_rows import move, replica_of
from tests.store_address import TABLES, Address, PostgresAddress, SqliteAddress

PARAMETERS = LedgerParameters(8_192, NS_PER_S, 1_000, 800)


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    if request.param == "sqlite":
        return SqliteAddress(tmp_path)
    return PostgresAddress(request.getfixturevalue("postgres"))


class Saved:
    """A random ledger whose snapshots are saved to a store, one delta after the other."""

    def __init__(self, address: Address, seed: int = 3) -> None:
        self.store = open_snapshots(address.url)
        self.ledger = RandomLedger(seed, PARAMETERS)
        self.replica = replica_of(self.ledger.machine)
        self.snapshotter = Snapshotter(self.replica, None)

    def run(self, commands: int) -> None:
        if commands:
            self.ledger.run_some(commands)
        move(self.replica, self.replica.counted_offset + 1)

    def take(self) -> SnapshotDelta:
        return self.snapshotter.take(self.ledger.now_ns).finish()

    def save(self, commands: int = 300) -> SnapshotDelta:
        self.run(commands)
        delta = self.take()
        self.store.save(delta)
        self.snapshotter.go_on_from(delta.new_base)
        return delta


def restore(store: SnapshotStore) -> Replica:
    restorer = store.restore(lambda header: Restorer(header, hash_seed=9), lambda _: None)
    assert restorer is not None
    replica = restorer.finish()
    assert restorer.rows == restorer.total_rows
    return replica


def check_restored(saved: Saved) -> None:
    restored = restore(saved.store)
    assert restored.state is not None
    assert restored.state.digest() == saved.ledger.machine.digest()
    assert restored.position == saved.replica.position
    assert restored.ledger_id == saved.replica.ledger_id
    assert restored.leader == saved.replica.leader
    assert restored.counted_offset == saved.replica.counted_offset


def test_an_absent_store_has_no_snapshot_and_is_not_created_by_asking(address: Address) -> None:
    store = open_snapshots(address.url)
    assert store.newest() is None
    assert store.restore(Restorer, lambda _: None) is None
    assert store.read_base() is None
    if isinstance(address, SqliteAddress):
        assert not address.path.exists()
    else:
        assert address.sql("SELECT to_regclass('accounts')") == [(None,)]


def test_a_chain_of_deltas_comes_back_as_the_state(address: Address) -> None:
    saved = Saved(address)
    for commands in (0, 400, 0, 1_000, 1, 20_000, 300):
        delta = saved.save(commands) if commands < 8_000 else save_many(saved, commands)
        assert saved.store.newest() == delta.header
        check_restored(saved)
    assert saved.ledger.machine.open_holds > 10


def save_many(saved: Saved, commands: int) -> SnapshotDelta:
    """More than the window holds."""
    for _ in range(0, commands, 4_000):
        saved.run(4_000)
    return saved.save(0)


def test_a_delta_for_another_base_changes_nothing(address: Address) -> None:
    saved, other = Saved(address), Saved(address)
    saved.save()
    other.run(10)
    with pytest.raises(SnapshotMoved):
        other.store.save(other.take())
    first = saved.save().new_base
    saved.save()
    saved.snapshotter.go_on_from(first)
    saved.run(100)
    stale = saved.take()
    with pytest.raises(SnapshotMoved):
        saved.store.save(stale)
    header = saved.store.newest()
    assert header is not None
    restored = restore(saved.store).state
    assert restored is not None
    assert restored.digest() == header.state_digest


def test_a_learner_goes_on_from_what_another_one_saved(address: Address) -> None:
    saved = Saved(address)
    late = Snapshotter(saved.replica, saved.save().new_base)
    saved.save()
    saved.run(500)
    late.go_on_from(saved.store.read_base())
    delta = late.take(1).finish()
    saved.store.save(delta)
    check_restored(saved)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE accounts SET posted = posted + 1 WHERE account_id = 7", "account_id 7"),
        ("UPDATE accounts SET debits_total = 5 WHERE account_id = 8", "account_id 8"),
        ("UPDATE accounts SET state = state + 65536 WHERE account_id = 9", "account_id 9"),
        ("UPDATE accounts SET checksum = checksum # 1 WHERE account_id = 10", "account_id 10"),
        ("UPDATE accounts SET account_id = 999 WHERE account_id = 11", "account_id 999"),
        ("DELETE FROM accounts WHERE account_id = 12", "account_id 12 is missing"),
        ("UPDATE holds SET remaining = remaining + 1 WHERE hold_id = HOLD", "hold_id HOLD"),
        ("DELETE FROM holds WHERE hold_id = HOLD", "holds: "),
        ("UPDATE assets SET external = external - 1 WHERE asset = 2", "asset 2"),
        ("UPDATE assets SET symbol = 'EURO' WHERE asset = 2", "asset 2"),
        ("DELETE FROM assets WHERE asset = 2", "asset 2 is missing"),
        ("UPDATE window_segments SET checksum = 5 WHERE segment = 0", "segment 0"),
        ("DELETE FROM window_segments WHERE segment = 0", "window_segments: "),
        ("UPDATE snapshot SET applied = applied + 1", "snapshot: its one row"),
        ("UPDATE snapshot SET window_capacity = 3", "snapshot: its one row"),
    ],
)
def test_a_changed_row_of_each_table_is_named(address: Address, change: str, named: str) -> None:
    saved = Saved(address)
    saved.save()
    hold = str(address.sql("SELECT max(hold_id) FROM holds")[0][0])
    statement = change.replace("HOLD", hold)
    if isinstance(address, SqliteAddress):
        statement = statement.replace("checksum # 1", "~checksum")
    address.sql(statement)
    with pytest.raises(SnapshotDamaged, match=named.replace("HOLD", hold)):
        restore(saved.store)


def test_an_older_row_with_its_own_checksum_is_not_taken(address: Address) -> None:
    saved = Saved(address)
    saved.save()
    listed = ", ".join(ACCOUNTS)
    before = address.sql(f"SELECT {listed} FROM accounts ORDER BY account_id")
    saved.save(1_000)
    after = address.sql(f"SELECT {listed} FROM accounts ORDER BY account_id")
    old = next(row for row, new in zip(before, after, strict=False) if row != new)
    address.sql(f"DELETE FROM accounts WHERE account_id = {old[0]}")
    address.sql(f"INSERT INTO accounts({listed}) VALUES ({', '.join(map(str, old))})")
    with pytest.raises(SnapshotDamaged, match="another snapshot"):
        restore(saved.store)


def test_a_flipped_byte_of_a_window_segment_is_named(address: Address) -> None:
    saved = Saved(address)
    saved.save()
    if isinstance(address, SqliteAddress):
        flipped = "substr(data, 1, 99) || x'55' || substr(data, 101)"
        address.sql(f"UPDATE window_segments SET data = CAST({flipped} AS BLOB)")
    else:
        address.sql("UPDATE window_segments SET data = set_byte(data, 99, get_byte(data, 99) # 1)")
    with pytest.raises(SnapshotDamaged, match="segment 0"):
        restore(saved.store)


def test_more_rows_than_one_statement_takes_come_back(address: Address) -> None:
    saved = Saved(address)
    assert max(len(saved.save(3_000).accounts) for _ in range(3)) > 60
    check_restored(saved)


def test_a_whole_snapshot_replaces_whatever_rows_there_were(address: Address) -> None:
    saved = Saved(address)
    saved.save(1_000)
    address.sql("UPDATE accounts SET posted = posted + 1 WHERE account_id = 7")
    address.sql("DELETE FROM window_segments")
    saved.snapshotter = Snapshotter(saved.replica, None, saved.store.newest())
    saved.save()
    check_restored(saved)


def test_a_newer_format_is_refused(address: Address) -> None:
    saved = Saved(address)
    saved.save()
    newer = SNAPSHOT_FORMAT + 1
    address.sql(f"UPDATE snapshot SET format = {newer}")
    with pytest.raises(
        SnapshotRefused, match=f"format {newer}.* reads {SNAPSHOT_FORMAT} and older"
    ):
        saved.store.newest()
    if isinstance(address, SqliteAddress):
        address.sql(f"PRAGMA user_version = {newer}")
    else:
        address.sql("UPDATE ringledger_version SET version_num = '0002'")
    for ask in (saved.store.newest, saved.store.read_base):
        with pytest.raises(SnapshotRefused, match=f"format {newer}|revision 0002"):
            ask()
    fresh = open_snapshots(address.url)
    with pytest.raises(SnapshotRefused, match=f"format {newer}|revision 0002"):
        fresh.save(saved.take())


def make_format_1(address: Address, saved: Saved) -> None:
    """The store as the first program would have written it: its segments are bytes in order."""
    header, window = saved.store.newest(), saved.ledger.machine.window
    assert header is not None
    for number in range(-(-header.filled // SEGMENT_ENTRIES)):
        rows = slice(number * SEGMENT_ENTRIES, min((number + 1) * SEGMENT_ENTRIES, header.filled))
        data = b"".join(
            column[rows].tobytes()
            for column in (window.ids, window.fingerprints, words_of(window.replies))
        )
        literal = f"X'{data.hex()}'" if isinstance(address, SqliteAddress) else f"'\\x{data.hex()}'"
        address.sql(
            f"UPDATE window_segments SET data = {literal}, "
            f"checksum = {segment_checksum(number, data)} WHERE segment = {number}"
        )
    address.sql(f"UPDATE snapshot SET format = 1, checksum = {header.checksum(1)}")
    if isinstance(address, SqliteAddress):
        address.sql("PRAGMA user_version = 1")


def test_a_snapshot_of_format_1_is_read_and_the_next_is_of_the_present_one(
    address: Address,
) -> None:
    saved = Saved(address)
    while saved.ledger.machine.window_entries < 2 * SEGMENT_ENTRIES:
        saved.run(1_000)
    saved.save()
    make_format_1(address, saved)
    assert restore(saved.store).state is not None
    saved.save(20)
    check_restored(saved)  # of its two segments the older one is as it was
    assert address.sql("SELECT format FROM snapshot") == [(SNAPSHOT_FORMAT,)]
    lengths = address.sql("SELECT length(data) FROM window_segments ORDER BY 1")
    assert [length == SEGMENT_ENTRIES * ENTRY_BYTES for (length,) in lengths] == [False, True]
    if isinstance(address, SqliteAddress):
        assert address.sql("PRAGMA user_version") == [(SNAPSHOT_FORMAT,)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE accounts SET posted = 'much' WHERE account_id = 4", "account_id 4"),
        ("UPDATE window_segments SET data = CAST(data AS TEXT)", "segment 0"),
        ("UPDATE assets SET decimals = 'two' WHERE asset = 2", "asset 2"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, change: str, named: str) -> None:
    address = SqliteAddress(tmp_path)
    saved = Saved(address)
    saved.save()
    address.sql(change)
    with pytest.raises(SnapshotDamaged, match=named):
        restore(saved.store)


def test_balances_shows_amounts_with_their_decimals(address: Address) -> None:
    saved = Saved(address)
    saved.save(2_000)
    machine = saved.ledger.machine
    rows = address.sql("SELECT account_id, symbol, posted, held FROM balances ORDER BY account_id")
    assert len(rows) == machine.accounts
    for account_id, symbol, posted, held in rows:
        account: Any = machine.account(account_id)
        asset: Any = machine.asset(int(account["asset"]))
        unit = Decimal(1).scaleb(-int(asset["decimals"]))
        assert symbol == int(asset["symbol"]).to_bytes(8, "little").rstrip(b"\0").decode()
        for shown, stored in ((posted, account["posted"]), (held, account["held"])):
            assert Decimal(shown) == int(stored) * unit
            assert str(shown) == str((int(stored) * unit).quantize(unit))


def test_both_stores_have_the_same_columns(tmp_path: Path, postgres: Postgres) -> None:
    questions = (
        "SELECT name FROM pragma_table_info('{}')",
        (
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = '{}' AND table_schema = current_schema()"
        ),
    )
    names: list[dict[str, list[str]]] = []
    addresses: tuple[Address, ...] = (SqliteAddress(tmp_path), PostgresAddress(postgres))
    for address, question in zip(addresses, questions, strict=True):
        Saved(address).save()
        names.append(
            {table: sorted(n for (n,) in address.sql(question.format(table))) for table in TABLES}
        )
    columns: Sequence[Sequence[str]] = (HEADER, ACCOUNTS, HOLDS, ASSETS, SEGMENTS)
    assert names[0] == names[1]
    assert names[0] == dict(zip(TABLES, map(sorted, columns), strict=True))


def test_the_migrations_make_what_the_schema_says(postgres: Postgres) -> None:
    import sqlalchemy
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from cluster_app.snapshot_schema import VERSION_TABLE, metadata

    address = PostgresAddress(postgres)
    Saved(address).save()
    engine = sqlalchemy.create_engine(address.url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        differences = [str(one) for one in compare_metadata(context, metadata)]
        # other tests of this server leave a table of theirs
        assert [one for one in differences if "kept" not in one] == []


def test_a_foreign_or_torn_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE accounts(name TEXT)")
    text = tmp_path / "text.db"
    text.write_text("these are no snapshots, but enough bytes to be taken for a header" * 9)
    saved = Saved(SqliteAddress(tmp_path))
    saved.run(1)
    for path, reason in ((foreign, "another application"), (text, "not a SQLite database")):
        store = open_snapshots(f"sqlite:///{path}")
        with pytest.raises(SnapshotRefused, match=reason):
            store.newest()
        with pytest.raises(SnapshotRefused, match=reason):
            store.save(saved.take())


@pytest.mark.parametrize("table", TABLES)
def test_a_foreign_table_in_the_schema_is_refused_untouched(postgres: Postgres, table: str) -> None:
    address = PostgresAddress(postgres)
    address.sql(f"CREATE TABLE {table}(id int)")
    address.sql(f"INSERT INTO {table} VALUES (7)")
    saved = Saved(address)
    assert saved.store.newest() is None
    with pytest.raises(SnapshotRefused, match="another program's tables") as told:
        saved.save()
    assert f'"{table}" already exists' in str(told.value)
    assert "ringledger:ringledger" not in str(told.value)
    assert address.sql(f"SELECT * FROM {table}") == [(7,)]
    assert address.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


def test_a_schema_of_our_own_beside_foreign_tables_does(postgres: Postgres) -> None:
    address = PostgresAddress(postgres)
    address.sql("CREATE TABLE accounts(id int)")
    address.sql("DROP SCHEMA IF EXISTS ledger CASCADE")
    address.sql("CREATE SCHEMA ledger")
    address.url += "?options=-csearch_path%3Dledger"
    saved = Saved(address)
    saved.save()
    check_restored(saved)


def test_an_unreachable_server_is_told_without_the_password() -> None:
    store = open_snapshots("postgresql+psycopg://user:topsecret@127.0.0.1:1/ledger")
    with pytest.raises(StoreUnavailable) as told:
        store.newest()
    assert not isinstance(told.value, StoreRefuses)
    assert "topsecret" not in str(told.value) + store.name
    assert "127.0.0.1" in str(told.value)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (":ringledger@", ":topsecret@", "password authentication failed"),
        ("//ringledger:", "//nobody:", "password authentication failed"),
        ("/ringledger", "/nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_a_server_that_refuses_is_told_from_one_that_is_not_there(
    postgres: Postgres, right: str, wrong: str, said: str
) -> None:
    before, found, after = postgres.url.rpartition(right)
    assert found
    with pytest.raises(StoreRefuses, match=said) as told:
        open_snapshots(before + wrong + after).newest()
    assert "topsecret" not in str(told.value)


def test_a_table_that_may_not_be_read_is_a_refusal(postgres: Postgres) -> None:
    address = PostgresAddress(postgres)
    Saved(address).save()
    address.sql("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    address.sql("GRANT USAGE ON SCHEMA public TO stranger")
    stranger = address.url.replace("//ringledger:ringledger@", "//stranger:stranger@")
    with pytest.raises(StoreRefuses, match="permission denied"):
        open_snapshots(stranger).newest()
    address.sql("DROP OWNED BY stranger")
    address.sql("DROP ROLE stranger")


@pytest.mark.parametrize("url", ["", "sqlite:///", "mysql://a:topsecret@b/c", "snapshots.db"])
def test_an_unknown_address_is_a_usage_error_without_the_password(url: str) -> None:
    with pytest.raises(UsageError) as told:
        open_snapshots(url)
    assert "topsecret" not in str(told.value)
