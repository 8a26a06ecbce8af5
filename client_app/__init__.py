"""Programs for people that use a ledger."""
