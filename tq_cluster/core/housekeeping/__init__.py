"""Housekeeping, one file per kind of work. Each is decided in slices of bounded rows."""
