"""Breaking a cluster on purpose, and judging what it did: processes, a ledger, a checker."""
