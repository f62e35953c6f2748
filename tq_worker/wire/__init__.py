"""The protocol between the worker and its handler processes."""
