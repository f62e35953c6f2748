"""Compares the processor time a task of this checkout with that of an earlier commit."""
