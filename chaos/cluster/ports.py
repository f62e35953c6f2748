"""Loopback ports that stay free while the process that owns them is down."""

from __future__ import annotations

import os
import random
import socket

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes ports for outgoing connections (32768 and up): no client
# can grab the port of a broker that was killed and is about to come back.
LOWEST, HIGHEST = 20_000, 32_000
VARIABLE = "TQ_CHAOS_PORTS"
"""Environment variable: the ports to choose from, such as `20000-25999`. It is for several
processes that choose on one machine at a time: another process could choose a port that is chosen
but not yet bound."""


def choice() -> range:
    """The ports to choose from."""
    first, _, last = os.environ.get(VARIABLE, "").partition("-")
    return range(int(first), int(last) + 1) if last else range(LOWEST, HIGHEST)


def share(number: int, of: int) -> str:
    """The value of VARIABLE for one of several processes that choose: `number` counts from 0."""
    each = (HIGHEST - LOWEST) // of
    first = LOWEST + number * each
    return f"{first}-{first + each - 1}"


class HeldPorts:
    """Addresses that no other process's `free_addresses` picks until they are given back.

    Without this, a cluster that starts while a broker of ours is down may get its port. Our clients
    then talk to that cluster: it takes their tasks, and they are lost with it.
    """

    def __init__(self, count: int) -> None:
        self._sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        for port in random.sample(choice(), len(choice())):
            if len(self.addresses) == count:
                break
            holder = socket.socket()
            try:
                # Not shared yet: this fails if any socket is bound there, listening or not.
                holder.bind((LOOPBACK, port))
            except OSError:
                holder.close()
                continue
            # From here on a broker, which shares the port, can bind and listen beside it.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sockets.append(holder)
            self.addresses.append(f"{LOOPBACK}:{port}")

    def give_back(self) -> None:
        """Release the addresses."""
        for holder in self._sockets:
            holder.close()
        self._sockets.clear()


def free_addresses(count: int) -> list[str]:
    """Pick ``count`` different loopback addresses on which nothing listens, and hold none."""
    held = HeldPorts(count)
    held.give_back()
    return held.addresses
