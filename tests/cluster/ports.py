"""Ports for `tq-cluster dev`, which counts up from the first."""

from __future__ import annotations

import socket

from chaos.cluster.ports import choice, free_addresses

OFFSETS = (0, 1, 2, 100, 101, 102)


def free_base_port() -> int:
    """A base port from which all ports that dev needs are free."""
    while True:
        base_port = int(free_addresses(1)[0].split(":")[1])
        needed = [base_port + offset for offset in OFFSETS]
        if needed[-1] in choice() and all(is_free(port) for port in needed):
            return base_port


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
