"""Reads: answers from a view, in bounded steps. Nothing here writes."""
