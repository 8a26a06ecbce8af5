"""The tables of history format 1."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE history (
        id bigint PRIMARY KEY CHECK (id = 1),
        format bigint NOT NULL,
        ledger_id bytea NOT NULL,
        next_offset bigint NOT NULL,
        counted_offset bigint NOT NULL,
        next_sequence bigint NOT NULL,
        timestamp_ns bigint NOT NULL,
        chain bytea NOT NULL,
        first_sequence bigint NOT NULL,
        refused bigint NOT NULL,
        partition_rows bigint NOT NULL,
        state_offset bigint NOT NULL
    )
    """,
    """
    CREATE TABLE entries (
        sequence bigint NOT NULL,
        timestamp_ns bigint NOT NULL,
        command_id uuid NOT NULL,
        debit_account bigint NOT NULL,
        credit_account bigint NOT NULL,
        amount bigint NOT NULL,
        debit_balance bigint NOT NULL,
        credit_balance bigint NOT NULL,
        reference bigint NOT NULL,
        hold bigint NOT NULL,
        asset integer NOT NULL,
        code bigint NOT NULL,
        operation smallint NOT NULL,
        status smallint NOT NULL,
        flags smallint NOT NULL
    ) PARTITION BY RANGE (sequence)
    """,
    "ALTER TABLE entries ADD PRIMARY KEY (sequence)",
    """
    CREATE TABLE partitions (
        first_sequence bigint PRIMARY KEY,
        end_sequence bigint NOT NULL,
        exported_to text NOT NULL DEFAULT ''
    )
    """,
    "CREATE TABLE batches (first_sequence bigint PRIMARY KEY, timestamp_ns bigint NOT NULL)",
    "CREATE INDEX batches_by_time ON batches (timestamp_ns, first_sequence)",
    """
    CREATE TABLE day_totals (
        day bigint,
        asset bigint,
        operation bigint,
        commands bigint NOT NULL,
        amount numeric NOT NULL,
        PRIMARY KEY (day, asset, operation)
    )
    """,
    """
    CREATE TABLE balances_below (
        account_id bigint,
        below_sequence bigint,
        posted bigint NOT NULL,
        PRIMARY KEY (account_id, below_sequence)
    )
    """,
    """
    CREATE VIEW postings AS
    SELECT debit_account AS account_id, sequence, timestamp_ns, command_id, operation, asset, code,
           reference, hold, CASE WHEN operation IN (3, 4, 7) THEN -amount ELSE 0 END AS change,
           debit_balance AS balance, credit_account AS other_account
    FROM entries WHERE debit_account <> 0 AND status = 1
    UNION ALL
    SELECT credit_account, sequence, timestamp_ns, command_id, operation, asset, code,
           reference, hold, CASE WHEN operation IN (2, 4, 7) THEN amount ELSE 0 END,
           credit_balance, debit_account
    FROM entries WHERE credit_account <> 0 AND status = 1
    """,
)


def upgrade() -> None:
    """Make all tables, indexes and the view."""
    for statement in _TABLES:
        op.execute(statement)


def downgrade() -> None:
    """Drop everything; the journal still has it, but for what was trimmed."""
    op.execute("DROP VIEW postings")
    for table in ("entries", "partitions", "batches", "day_totals", "balances_below", "history"):
        op.execute(f"DROP TABLE {table} CASCADE")
