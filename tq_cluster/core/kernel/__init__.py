"""The shared parts of every decision: batch, queues, transitions, request ids, validation."""
