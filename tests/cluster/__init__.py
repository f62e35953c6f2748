"""Clusters of broker processes for tests; `chaos.cluster.processes` does the work."""
