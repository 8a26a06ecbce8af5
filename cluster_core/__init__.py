"""The ledger itself: records, ring, batch, reader rule, state machine, pipeline. No I/O."""
