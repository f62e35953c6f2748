"""The stored state: its view, its tables and their keys, rows and chunks."""
