"""A Redis server for the queues that keep their tasks in one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.processes import Servers, need
from chaos.cluster.ports import free_addresses

URL = "TQ_PEERS_URL"
"""Environment variable: where a worker finds its server."""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a server that appends every write to a file and syncs it once a second."""
    (address,) = free_addresses(1)
    host, _, port = address.rpartition(":")
    options = ["--bind", host, "--port", port, "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "everysec"]
    with Servers(folder) as servers:
        redis = servers.start("redis", [need("redis-server"), *options])
        servers.await_address(redis, address)
        yield f"redis://{address}/0"
