"""Simulated machines, their network, and the processes on them, on virtual time."""
