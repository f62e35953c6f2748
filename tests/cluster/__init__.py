"""Clusters of broker processes for tests; `chaos.processes` does the work."""
