"""The tables of snapshots, formats 1 and 2."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_HEADER_BYTES = ("ledger_id", "leader_id", "epoch_start", "chain", "state_digest", "evicted_id")
_BALANCES = """
CREATE VIEW balances AS
SELECT a.account_id,
       CASE WHEN a.reference < 0 THEN a.reference + 18446744073709551616::numeric
            ELSE a.reference::numeric END AS reference,
       a.code,
       s.symbol,
       (a.posted || 'e-' || s.decimals)::numeric AS posted,
       (a.held || 'e-' || s.decimals)::numeric AS held,
       ((a.posted::numeric - a.held - a.floor) || 'e-' || s.decimals)::numeric AS available,
       a.state,
       a.version,
       a.last_sequence
FROM accounts a JOIN assets s USING (asset)
"""


def upgrade() -> None:
    """Make all tables, indexes and the view."""
    _create(
        "snapshot",
        "id",
        "format epoch next_offset counted_offset applied timestamp_ns taken_ns accounts "
        "highest_asset next_hold open_holds window_entries window_capacity id_ahead_ns "
        "account_capacity hold_capacity checksum",
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in _HEADER_BYTES),
    )
    _create(
        "accounts",
        "account_id",
        "asset posted held floor ceiling version last_sequence credits_total debits_total state "
        "reference code open_holds opened_ns checksum",
        fillfactor=50,
    )
    _create(
        "holds",
        "hold_id",
        "debit_account credit_account asset remaining expires_ns opened_sequence code checksum",
    )
    _create(
        "assets",
        "asset",
        "decimals external accounts held open_holds checksum",
        sa.Column("symbol", sa.Text, nullable=False),
    )
    _create(
        "window_segments",
        "segment",
        "checksum",
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    # ids, fingerprints and digests: compressing them takes time and gives nothing
    op.execute("ALTER TABLE window_segments ALTER COLUMN data SET STORAGE EXTERNAL")
    op.create_index(
        "accounts_by_reference",
        "accounts",
        ["reference"],
        postgresql_where=sa.text("reference <> 0"),
    )
    op.create_index("holds_by_debit_account", "holds", ["debit_account"])
    op.execute(_BALANCES)


def downgrade() -> None:
    """Drop everything; the journal still has it all."""
    op.execute("DROP VIEW balances")
    for table in ("window_segments", "assets", "holds", "accounts", "snapshot"):
        op.drop_table(table)


def _create(table: str, key: str, numbers: str, *others: Any, fillfactor: int = 100) -> None:
    op.create_table(
        table,
        sa.Column(key, sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in numbers.split()),
        *others,
        postgresql_with={"fillfactor": fillfactor},
    )
