"""What callers and strangers can do to a cluster, each kind in a module: see ``__main__``."""
