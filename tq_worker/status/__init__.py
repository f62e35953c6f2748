"""How a worker is: what its heartbeats and its metrics say of it."""
