"""The state on disk, and the same interface in memory."""
