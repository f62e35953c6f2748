"""What a task queue is, as pure decisions over a view of the state."""
