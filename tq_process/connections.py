"""Breaks off a connection of a library that offers no way to."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path


def shut_down(host: str, port: int) -> bool:
    """Shut this process's TCP connections with ``host`` and ``port`` down; False if it has none.

    Their owner finds them closed by the other side. For 10,000 descriptors it takes some 30 ms, so
    call it in a thread.
    """
    wanted = _plain(host)
    found = False
    try:
        names = os.listdir(Path("/proc/self/fd"))  # noqa: PTH208  # names alone
    except OSError:
        return False  # this system does not show them
    for name in names:
        with suppress(OSError):  # it is no socket, or is closed by now
            connection = socket.socket(fileno=int(name))
            try:
                there = connection.getpeername()
                if there[1:2] == (port,) and _plain(there[0]) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    found = True
            finally:
                connection.detach()  # it is its owner's
    return found


def _plain(host: str) -> str:
    """Write an address in one form: with IPv4 addresses as such, also where a socket is of both."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
