"""Bytes that no peer would send, fed to the raft port."""
