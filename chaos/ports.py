"""Loopback ports that stay free while the process that owns them is down."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes ports for outgoing connections (32768 and up): no client
# can grab the port of a broker that was killed and is about to come back.
LOWEST, HIGHEST = 20_000, 32_000


def free_addresses(count: int) -> list[str]:
    """Pick ``count`` different loopback addresses on which nothing listens."""
    addresses: list[str] = []
    for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
        if len(addresses) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        addresses.append(f"{LOOPBACK}:{port}")
    return addresses
