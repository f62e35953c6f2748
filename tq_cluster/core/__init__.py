"""The rules of the task queue, as pure decisions over a view of the state."""
