"""Measures what the README promises in figures: `python -m benchmarks`, or `make bench`."""
