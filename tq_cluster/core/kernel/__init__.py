"""What every decision uses: the batch, queues, transitions, request ids, validation."""
