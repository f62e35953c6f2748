"""The command tq-worker: its options, its checks, its start."""
