"""A node, put together: the only place that picks the real clock, ports, disk and randomness."""
