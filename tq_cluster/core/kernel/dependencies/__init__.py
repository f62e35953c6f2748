"""Tasks that wait for other tasks."""
