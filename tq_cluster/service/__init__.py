"""RPC in, RPC out: requests, replies, errors, forwarding, health."""
