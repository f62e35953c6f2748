"""tq beside other queues: the same work, on one machine, in one run."""
