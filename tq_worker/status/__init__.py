"""The status of a worker, for its heartbeats and its metrics."""
