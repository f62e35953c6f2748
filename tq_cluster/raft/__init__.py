"""The replicated log: proposals, leadership, the journal, peers, snapshots."""
