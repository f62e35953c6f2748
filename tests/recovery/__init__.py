"""Backup, restore, recovery, and brokers of different versions."""
