"""The worker's logs, counters and traces."""
